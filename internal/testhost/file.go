package testhost

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const systemProfile = "/nix/var/nix/profiles/system"

// path is where the host's absolute path is on this machine. No part of it may be a link that is absolute: the kernel would
// follow it into this machine.
func (h *Host) path(logical string) string {
	if h.machine != nil { // as its processes see it, with its /run
		return filepath.Join("/proc", strconv.Itoa(h.machine.leader), "root", logical)
	}
	return filepath.Join(h.root, logical)
}

// Write makes a file of the host, all of it at once.
func (h *Host) Write(logical, content string, mode os.FileMode) {
	h.tb.Helper()
	h.must(h.write(logical, strings.NewReader(content), mode))
}

// Install copies a file of this machine to the host.
func (h *Host) Install(from, logical string, mode os.FileMode) {
	h.tb.Helper()
	source, err := os.Open(from)
	h.must(err)
	defer source.Close()
	h.must(h.write(logical, source, mode))
}

func (h *Host) write(logical string, content io.Reader, mode os.FileMode) error {
	at := h.path(logical)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if err := copyTo(at+".new", content, mode); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if err := os.Rename(at+".new", at); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return nil
}

// copyTo keeps this process from forking while the file is open for writing: a child that inherited the descriptor would make
// the start of an executable fail with ETXTBSY.
func copyTo(at string, content io.Reader, mode os.FileMode) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(at, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// Read is the content of a file of the host, "" if there is none.
func (h *Host) Read(logical string) string {
	h.tb.Helper()
	text, err := os.ReadFile(h.path(logical))
	if !errors.Is(err, fs.ErrNotExist) {
		h.must(err)
	}
	return string(text)
}

// Exists reports whether the host has the file, or link.
func (h *Host) Exists(logical string) bool {
	_, err := os.Lstat(h.path(logical))
	return err == nil
}

// Remove removes a file of the host, if it is there.
func (h *Host) Remove(logical string) {
	h.tb.Helper()
	if err := os.Remove(h.path(logical)); !errors.Is(err, fs.ErrNotExist) {
		h.must(err)
	}
}

func (h *Host) link(logical string) string {
	h.tb.Helper()
	text, err := os.Readlink(h.path(logical))
	if !errors.Is(err, fs.ErrNotExist) {
		h.must(err)
	}
	return text
}

// Running is the store path of the running system, "" if there is none.
func (h *Host) Running() string { return h.link("/run/current-system") }

// Booted is the store path of the booted system, "" if there is none.
func (h *Host) Booted() string { return h.link("/run/booted-system") }

// Profile is the store path that the system profile leads to, "" if there is none.
func (h *Host) Profile() string {
	generation := h.link(systemProfile)
	if generation == "" {
		return ""
	}
	return h.link(path.Join(path.Dir(systemProfile), generation))
}

// BootDefault is the store path of what the loader boots when nobody chooses. It is read from the loader's files by this
// package, which knows of them only what package simhost writes.
func (h *Host) BootDefault() string {
	h.tb.Helper()
	pattern, preferred := "", ""
	for line := range strings.Lines(h.Read("/boot/loader/loader.conf")) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name {
		case "default":
			pattern = value
		case "preferred":
			preferred = value
		}
	}
	if preferred != "" {
		pattern = preferred
	}
	entries, err := os.ReadDir(h.path("/boot/loader/entries"))
	h.must(err)
	var found []string
	for _, entry := range entries {
		matched, err := path.Match(pattern, entry.Name())
		h.must(err)
		if matched {
			found = append(found, entry.Name())
		}
	}
	if len(found) != 1 {
		h.tb.Fatalf("%s: the default %q of the boot loader is %d entries: %q", h.name, pattern, len(found), found)
	}
	for word := range strings.FieldsSeq(h.Read("/boot/loader/entries/" + found[0])) {
		if closure, ok := strings.CutPrefix(word, "init="); ok {
			return strings.TrimSuffix(closure, "/init")
		}
	}
	h.tb.Fatalf("%s: %s has no init=", h.name, found[0])
	return ""
}

// Add puts a closure into the host's store and returns its store path.
func (h *Host) Add(c simhost.Closure) string {
	h.tb.Helper()
	scratch := h.tb.TempDir()
	tree := filepath.Join(scratch, "toplevel")
	h.must(c.WriteTree(tree, h.place))
	toplevel, err := h.place(c.StoreName(), tree)
	h.must(err)
	return toplevel
}

// place puts a tree into the store. What is the same as something that was placed before is that.
func (h *Host) place(name, tree string) (string, error) {
	digest, err := digestOf(tree)
	if err != nil {
		return "", err
	}
	key := name + " " + digest
	if placed, known := h.placed[key]; known {
		return placed, nil
	}
	// Not below /tmp, which a running host has mounted a file system of its own on.
	inbox := "/var/lib/testhost-inbox"
	if err := os.RemoveAll(h.path(inbox)); err != nil {
		return "", fmt.Errorf("clear inbox: %w", err)
	}
	if err := runTool(h.tb.Context(), "cp", "-RPp", tree, h.path(inbox)); err != nil {
		return "", err
	}
	added := h.Exec("nix", "store", "add-path", "--name", name, inbox)
	storePath := strings.TrimSpace(added.Stdout)
	if added.Code != 0 || !strings.HasPrefix(storePath, "/nix/store/") {
		return "", fmt.Errorf("add %s to the store: %s", name, added)
	}
	h.placed[key] = storePath
	return storePath, nil
}

// Knob sets a knob of package simhost for every closure, over reboots; "" takes it away.
func (h *Host) Knob(name, value string) {
	h.tb.Helper()
	h.knob("/etc/sim", name, value)
}

// KnobFor sets a knob for one closure, over reboots; "" takes it away.
func (h *Host) KnobFor(toplevel, name, value string) {
	h.tb.Helper()
	h.knob("/etc/sim/"+path.Base(toplevel), name, value)
}

func (h *Host) knob(dir, name, value string) {
	h.tb.Helper()
	if value == "" {
		h.Remove(path.Join(dir, name))
		return
	}
	h.Write(path.Join(dir, name), value+"\n", 0o644)
}

// ChooseOnce is the operator's choice in the boot menu of the next boot: an entry, or a closure that has one.
func (h *Host) ChooseOnce(entryOrClosure string) {
	h.tb.Helper()
	h.Write("/etc/sim/boot-once", entryOrClosure+"\n", 0o644)
}

// AwaitPoint waits until a switch waits or hangs at a point of package simhost.
func (h *Host) AwaitPoint(point string) {
	h.tb.Helper()
	h.Eventually("a switch has come to the point "+point, func() (string, bool) {
		return strings.TrimSpace(h.Read(simhost.SwitchLog)), h.Exists("/run/sim/at-" + point)
	})
}

// Go lets a switch that waits at a point go on.
func (h *Host) Go(point string) {
	h.tb.Helper()
	h.Write("/run/sim/go-"+point, "", 0o644)
}

// Switches are the runs of switch-to-configuration that the host has seen.
func (h *Host) Switches() []simhost.SwitchRecord {
	h.tb.Helper()
	records, err := simhost.ParseSwitches(h.Read(simhost.SwitchLog))
	h.must(err)
	return records
}
