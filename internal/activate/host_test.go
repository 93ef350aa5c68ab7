package activate_test

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// storePathOf is a store path of that name, always the same one.
func storePathOf(name string) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	var hash strings.Builder
	for _, b := range sha256.Sum256([]byte(name)) {
		hash.WriteByte(digits[b%32])
	}
	return "/nix/store/" + hash.String() + "-" + name
}

// closure describes a system closure. An empty field is a component that it does not have.
type closure struct {
	name       string // after "nixos-system-"
	label      string
	system     string
	systemd    string // name of its store path
	kernel     string
	modules    string
	initrd     string
	params     string
	firmware   string
	dbus       string // system.DBusDaemon, system.DBusBroker
	init       string
	inhibitors string // the file as it is
	noSwitch   bool
	files      map[string]string // more files, by their path in the closure
}

// nixos is a closure with everything in it.
func nixos() closure {
	return closure{
		name: "web1", label: "26.05", system: "x86_64-linux",
		systemd: "systemd-258.3", kernel: "linux-6.12.1", modules: "linux-6.12.1-modules", initrd: "initrd-linux-6.12.1",
		params: "loglevel=4", firmware: "firmware-1", dbus: system.DBusDaemon, init: "systemd 2",
	}
}

func (c closure) path() string { return storePathOf("nixos-system-" + c.name + "-" + c.label) }

// root is a directory that looks like a NixOS host.
type root struct {
	t   testing.TB
	dir string
}

// newRoot has a booted and running closure, which is the profile's, too, and a boot id; no boot loader.
func newRoot(t testing.TB, running closure) *root {
	t.Helper()
	r := &root{t: t, dir: t.TempDir()}
	r.file("/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
	r.file("/proc/sys/kernel/hostname", "web1\n")
	r.add(running)
	r.link("/run/booted-system", running.path())
	r.link("/run/current-system", running.path())
	r.link("/nix/var/nix/profiles/system", "system-1-link")
	r.link("/nix/var/nix/profiles/system-1-link", running.path())
	return r
}

func (r *root) host() *system.Host { return system.New(r.dir) }

func (r *root) at(logical string) string { return filepath.Join(r.dir, logical) }

func (r *root) file(logical, content string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.at(logical)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.at(logical), []byte(content), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

func (r *root) link(logical, to string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.at(logical)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	_ = os.Remove(r.at(logical))
	if err := os.Symlink(to, r.at(logical)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *root) remove(logical string) {
	r.t.Helper()
	if err := os.RemoveAll(r.at(logical)); err != nil {
		r.t.Fatal(err)
	}
}

// add puts a closure into the store and returns its path.
func (r *root) add(c closure) string {
	r.t.Helper()
	top := c.path()
	r.file(top+"/nixos-version", c.label)
	r.file(top+"/system", c.system)
	if !c.noSwitch {
		r.file(top+"/bin/switch-to-configuration", "#!/bin/sh\nexit 1\n")
	}
	for link, leads := range map[string]string{
		"systemd":        c.systemd,
		"kernel":         under(c.kernel, "/bzImage"),
		"kernel-modules": c.modules,
		"initrd":         under(c.initrd, "/initrd"),
		"firmware":       under(c.firmware, "/lib/firmware"),
	} {
		if leads != "" {
			name, rest, _ := strings.Cut(leads, "/")
			r.link(top+"/"+link, storePathOf(name)+under("/", rest))
		}
	}
	for file, content := range map[string]string{"kernel-params": c.params, "init-interface-version": c.init, "switch-inhibitors": c.inhibitors} {
		if content != "" {
			r.file(top+"/"+file, content)
		}
	}
	switch c.dbus {
	case system.DBusBroker:
		r.file(top+"/etc/systemd/system/dbus-broker.service", "[Service]\n")
	case system.DBusDaemon:
		r.file(top+"/etc/systemd/system/dbus.service", "[Service]\n")
	}
	for file, content := range c.files {
		r.file(top+"/"+file, content)
	}
	return top
}

// under is name+rest, "" if either is missing.
func under(name, rest string) string {
	if name == "" || rest == "" {
		return ""
	}
	return name + rest
}

// program puts a program into the running system, where the runner finds it below a root directory.
func (r *root) program(name, script string) {
	r.t.Helper()
	running, err := r.host().Resolve("/run/current-system")
	if err != nil {
		r.t.Fatal(err)
	}
	r.file(running+"/sw/bin/"+name, "#!/bin/sh\n"+script+"\n")
}

// runner is one for the root, whose attempts are processes.
func (r *root) runner(more ...func(*activate.Options)) *activate.Runner {
	r.t.Helper()
	state := r.at("/var/lib/nixfleet-agent")
	if err := os.MkdirAll(state, 0o700); err != nil {
		r.t.Fatal(err)
	}
	opt := activate.Options{Host: r.host(), Launcher: execLauncher(state, r.dir), StateDir: state, Now: now}
	for _, change := range more {
		change(&opt)
	}
	return activate.NewRunner(opt)
}

// walkFiles calls do for each file below a directory, none if it is not there.
func walkFiles(dir string, do func(file string)) error {
	return filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			do(file)
		}
		return err
	})
}
