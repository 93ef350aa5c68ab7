package testhost

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// Programs and files of the simulated firmware and stage 2.
const (
	stageTwoScript = "/usr/local/lib/sim/stage-2"
	stageTwoUnit   = "/etc/systemd/system/sim-stage-2.service"
)

// Options are what a host is made with.
type Options struct {
	Name        string // host name
	EntryFormat string // as in simhost.Options
	First       simhost.Closure
	Network     *Network // the one that it is connected to; nil: none
}

// Host is a machine. Its methods end the test when the machine does not do as it should.
type Host struct {
	tb     testing.TB
	name   string
	dir    string // a tmpfs of this host: the layers of the overlay, the console's log
	root   string // the overlay
	placed map[string]string

	machine *machine // nil while it is off
	cable   *cable   // to its network; nil: none
}

// New lays out a host over the base tree, as an installer leaves it: its first closure is in the store, in the profile and
// the boot default. It is off.
func New(tb testing.TB, base string, opts Options) *Host {
	tb.Helper()
	dir, release, err := newWorkDirectory(opts.Name)
	if err != nil {
		tb.Fatal(err)
	}
	h := &Host{tb: tb, name: opts.Name, dir: dir, root: filepath.Join(dir, "root"), placed: map[string]string{}}
	if opts.Network != nil {
		h.cable = opts.Network.newCable()
	}
	tb.Cleanup(func() {
		h.stop()
		if err := clearAway(dir); err != nil {
			tb.Error(err)
		}
		release()
	})
	if err := h.mount(base); err != nil {
		tb.Fatal(err)
	}
	h.layOut(opts)
	return h
}

// mount puts the overlay together. Its upper layer is in memory: an end-to-end suite waits for enough already.
func (h *Host) mount(base string) error {
	if err := syscall.Mount("tmpfs", h.dir, "tmpfs", 0, "mode=0755,size=4g"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	upper, work := filepath.Join(h.dir, "upper"), filepath.Join(h.dir, "work")
	for _, dir := range []string{upper, work, h.root} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make layer: %w", err)
		}
	}
	layers := "lowerdir=" + base + ",upperdir=" + upper + ",workdir=" + work
	if err := syscall.Mount("overlay", h.root, "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

func (h *Host) layOut(opts Options) {
	h.tb.Helper()
	for _, dir := range []string{"/boot/loader/entries", "/etc/sim", "/var/log"} {
		h.must(os.MkdirAll(h.path(dir), 0o755))
	}
	format := opts.EntryFormat
	if format == "" {
		format = simhost.EntryFormatGeneration
	}
	h.Write("/etc/NIXOS", "", 0o644)
	h.Write("/etc/hostname", h.name+"\n", 0o644)
	h.Write("/etc/machine-id", strings.Repeat("5e", 16)+"\n", 0o444)
	h.Write("/etc/sim/"+simhost.KnobEntryFormat, format+"\n", 0o644)
	h.Write(stageTwoScript, string(simhost.Scripts()[simhost.StageTwoScript]), 0o755)
	h.Write(stageTwoUnit, simhost.EarlyUnit(stageTwoScript), 0o644)
	h.Enable("sim-stage-2.service", "sysinit.target")

	first := h.Add(opts.First)
	h.Run("nix-env", "--profile", systemProfile, "--set", first)
	h.Run("/bin/sh", first+"/sim/install-boot-loader", first)
}

// Enable makes a target of the next boot want a unit.
func (h *Host) Enable(unit, target string) {
	h.tb.Helper()
	wants := h.path("/etc/systemd/system/" + target + ".wants")
	h.must(os.MkdirAll(wants, 0o755))
	h.must(os.Symlink("/etc/systemd/system/"+unit, filepath.Join(wants, unit)))
}

func (h *Host) must(err error) {
	h.tb.Helper()
	if err != nil {
		h.tb.Fatalf("%s: %v", h.name, err)
	}
}
