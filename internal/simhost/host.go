package simhost

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Formats of boot entries that are in the field.
const (
	EntryFormatGeneration = "generation" // nixos-generation-N.conf
	EntryFormatHashed     = "hashed"     // nixos-SHA256.conf
)

// maxHops is how many links are followed before a path counts as a loop, as in Linux.
const maxHops = 40

// Options are what a host is created with.
type Options struct {
	EntryFormat string  // EntryFormatGeneration if empty
	Hostname    string  // "simhost" if empty
	First       Closure // generation 1, booted and running; NixOS(Hostname, "25.11.1") if its Name is empty
}

// Host is a directory that looks like a NixOS host.
type Host struct {
	root string
}

// Create lays out a host below root, which must be empty or absent, and boots its first closure.
func Create(root string, opts Options) (*Host, error) {
	if opts.EntryFormat == "" {
		opts.EntryFormat = EntryFormatGeneration
	}
	if opts.Hostname == "" {
		opts.Hostname = "simhost"
	}
	if opts.First.Name == "" {
		opts.First = NixOS(opts.Hostname, "25.11.1")
	}
	if entries, err := os.ReadDir(root); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("create host: %s is not empty", root)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("create host: %w", err)
	}
	h, err := Open(root)
	if err != nil {
		return nil, err
	}
	if err := h.layOut(opts); err != nil {
		return nil, err
	}
	first, err := h.AddClosure(opts.First)
	if err != nil {
		return nil, err
	}
	if err := h.SetProfile(first); err != nil {
		return nil, err
	}
	if err := h.installBootLoader(first); err != nil {
		return nil, err
	}
	return h, h.Boot()
}

// Open is the host that lies below root.
func Open(root string) (*Host, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open host: %w", err)
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, fmt.Errorf("open host: %w", err)
	}
	if root == "/" {
		return nil, fmt.Errorf("open host: the root directory of this machine is not a simulated host")
	}
	return &Host{root: root}, nil
}

func (h *Host) layOut(opts Options) error {
	for _, dir := range []string{
		"/boot/loader/entries", "/etc/sim", "/etc/systemd/system", "/nix/cache", "/nix/store", "/nix/var/nix/gcroots",
		"/nix/var/nix/profiles", "/proc/sys/kernel/random", "/run", "/tmp", "/var/lib", "/var/log",
	} {
		if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
			return fmt.Errorf("lay out host: %w", err)
		}
	}
	machineID, err := randomHex(16)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"/etc/NIXOS":                      "",
		"/etc/hostname":                   opts.Hostname + "\n",
		"/etc/machine-id":                 machineID + "\n",
		"/etc/os-release":                 "ID=nixos\nNAME=NixOS\n",
		"/etc/sim/" + KnobEntryFormat:     opts.EntryFormat + "\n",
		"/proc/sys/kernel/hostname":       opts.Hostname + "\n",
		"/proc/sys/kernel/random/boot_id": "",
	} {
		if err := replaceFile(h.Path(name), content); err != nil {
			return err
		}
	}
	return nil
}

// Root is the directory that the host lies below.
func (h *Host) Root() string { return h.root }

// Path is where the host's absolute path is on this machine.
func (h *Host) Path(logical string) string { return filepath.Join(h.root, logical) }

// Resolve follows every link in the host's absolute path, within the host, and returns the host's path of what is behind them.
func (h *Host) Resolve(logical string) (string, error) {
	resolved, rest := "", logical
	for hops := 0; rest != ""; {
		var head string
		head, rest, _ = strings.Cut(rest, "/")
		switch head {
		case "", ".":
			continue
		case "..":
			resolved = path.Dir("/" + resolved)
			continue
		}
		text, err := os.Readlink(h.Path(path.Join("/", resolved, head)))
		if err != nil {
			resolved = path.Join("/", resolved, head)
			continue
		}
		if hops++; hops > maxHops {
			return "", fmt.Errorf("resolve %s: too many links", logical)
		}
		if path.IsAbs(text) {
			resolved = ""
		}
		rest = text + "/" + rest
	}
	if _, err := os.Lstat(h.Path(resolved)); err != nil {
		return "", fmt.Errorf("resolve %s: %w", logical, err)
	}
	return resolved, nil
}

// Running is the store path of the running system, "" if there is none.
func (h *Host) Running() string { return h.resolveOrEmpty("/run/current-system") }

// Booted is the store path of the system that was booted, "" if there is none.
func (h *Host) Booted() string { return h.resolveOrEmpty("/run/booted-system") }

// Profile is the store path that the system profile leads to, "" if there is none.
func (h *Host) Profile() string { return h.resolveOrEmpty("/nix/var/nix/profiles/system") }

func (h *Host) resolveOrEmpty(logical string) string {
	resolved, err := h.Resolve(logical)
	if err != nil {
		return ""
	}
	return resolved
}

// AddClosure puts the closure and what it links to into the store and returns its store path, which follows from the content.
func (h *Host) AddClosure(c Closure) (string, error) {
	b := builder{put: h.putInto(h.Path(storeDirectory), h.Path("/nix/var/nix/db/references"), ""), tools: true}
	return b.closure(c)
}

// AddToCache puts the closure and what it links to into the simulated binary cache only; nix-store --realise fetches them.
func (h *Host) AddToCache(c Closure) (string, error) {
	b := builder{put: h.putInto(h.Path("/nix/cache"), h.Path("/nix/cache"), ".references"), tools: true}
	return b.closure(c)
}

// putInto writes trees to a directory under their base names, and the references of NAME to NAME+suffix in another.
func (h *Host) putInto(dir, references, suffix string) put {
	return func(name string, t tree, refers []string, salt string) (string, error) {
		storePath := storePathOf(name, t, salt)
		base := path.Base(storePath)
		if _, err := os.Lstat(filepath.Join(dir, base)); err == nil {
			return storePath, nil
		}
		if err := os.MkdirAll(references, 0o755); err != nil {
			return "", fmt.Errorf("record references: %w", err)
		}
		if err := replaceFile(filepath.Join(references, base+suffix), strings.Join(append(refers, ""), "\n")); err != nil {
			return "", err
		}
		scratch, err := os.MkdirTemp(dir, ".new-*")
		if err != nil {
			return "", fmt.Errorf("make scratch directory: %w", err)
		}
		defer os.RemoveAll(scratch)
		if err := t.write(filepath.Join(scratch, base)); err != nil {
			return "", err
		}
		if err := os.Rename(filepath.Join(scratch, base), filepath.Join(dir, base)); err != nil {
			return "", fmt.Errorf("add to store: %w", err)
		}
		return storePath, nil
	}
}

// SetProfile sets the system profile, as `nix-env --profile … --set` does.
func (h *Host) SetProfile(toplevel string) error {
	tool, err := h.Tool(toplevel, "nix-env")
	if err != nil {
		return err
	}
	return run(tool, "--profile", "/nix/var/nix/profiles/system", "--set", toplevel)
}

// Tool is where the program of that name in the closure's sw/bin is on this machine.
func (h *Host) Tool(toplevel, name string) (string, error) {
	resolved, err := h.Resolve(toplevel + "/sw/bin/" + name)
	if err != nil {
		return "", err
	}
	return h.Path(resolved), nil
}

func (h *Host) installBootLoader(toplevel string) error {
	return run(h.Path(toplevel+"/sim/install-boot-loader"), toplevel)
}

// run runs a script to its end. What it wrote is in the error if it fails.
func run(script string, args ...string) error {
	output, err := exec.Command("/bin/sh", append([]string{script}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", filepath.Base(script), err, strings.TrimSpace(string(output)))
	}
	return nil
}

func replaceFile(at, content string) error {
	if err := os.WriteFile(at+".new", []byte(content), 0o644); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if err := os.Rename(at+".new", at); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return nil
}

func replaceLink(at, text string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("make link: %w", err)
	}
	if err := os.Remove(at); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("make link: %w", err)
	}
	if err := os.Symlink(text, at); err != nil {
		return fmt.Errorf("make link: %w", err)
	}
	return nil
}

func randomHex(n int) (string, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return hex.EncodeToString(b), nil
}
