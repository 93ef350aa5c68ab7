package system

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// tree is a directory that looks like a host; paths are logical.
type tree struct {
	t    testing.TB
	root string
}

func newTree(t testing.TB) *tree {
	t.Helper()
	return &tree{t: t, root: t.TempDir()}
}

func (tr *tree) at(logical string) string { return filepath.Join(tr.root, logical) }

func (tr *tree) file(logical, content string) *tree {
	tr.t.Helper()
	tr.write(logical, content, 0o644)
	return tr
}

func (tr *tree) write(logical, content string, mode os.FileMode) {
	tr.t.Helper()
	at := tr.at(logical)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(content), mode); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) dir(logical string) *tree {
	tr.t.Helper()
	if err := os.MkdirAll(tr.at(logical), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	return tr
}

func (tr *tree) link(logical, text string) *tree {
	tr.t.Helper()
	at := tr.at(logical)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.Symlink(text, at); err != nil {
		tr.t.Fatal(err)
	}
	return tr
}

func (tr *tree) remove(logical string) *tree {
	tr.t.Helper()
	if err := os.RemoveAll(tr.at(logical)); err != nil {
		tr.t.Fatal(err)
	}
	return tr
}

func (tr *tree) efiVar(name, value string) *tree {
	tr.t.Helper()
	return tr.file(path.Join(efiVarsDir, name+"-"+loaderVendor), string(efiString(value)))
}

// host is a Host on the tree whose machine is x86_64 and which never sleeps.
func (tr *tree) host(opts ...Option) *Host {
	h := New(tr.root, append([]Option{WithPause(func(context.Context, time.Duration) error { return nil })}, opts...)...)
	h.uname = func() string { return "x86_64" }
	return h
}

func efiString(value string) []byte {
	data := []byte{7, 0, 0, 0}
	for _, unit := range append(utf16.Encode([]rune(value)), 0) {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	return data
}

// storePathOf makes a store path of a name; the same name gives the same path.
func storePathOf(name string) string {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	var hash [32]byte
	sum := uint64(14695981039346656037)
	for i := range hash {
		for _, c := range name {
			sum = (sum ^ uint64(c) ^ uint64(i)) * 1099511628211
		}
		hash[i] = alphabet[sum>>40%32]
	}
	return "/nix/store/" + string(hash[:]) + "-" + name
}

// closure lays out a toplevel as NixOS does, and returns its store path.
func (tr *tree) closure(label string) string {
	tr.t.Helper()
	top := storePathOf("nixos-system-test-" + label)
	kernel, modules := storePathOf("linux-6.12.1"), storePathOf("linux-6.12.1-modules")
	initrd, firmware := storePathOf("initrd-linux-6.12.1"), storePathOf("firmware")
	systemd, etc, units := storePathOf("systemd-258.3"), storePathOf("etc-"+label), storePathOf("system-units-"+label)
	tr.file(top+"/nixos-version", label+"\n").
		file(top+"/system", "x86_64-linux").
		file(top+"/kernel-params", "loglevel=4 quiet").
		file(top+"/init-interface-version", "systemd 2\n").
		file(top+"/activate", "#!/bin/sh\n").
		link(top+"/kernel", kernel+"/bzImage").file(kernel+"/bzImage", "kernel").
		link(top+"/kernel-modules", modules).dir(modules).
		link(top+"/initrd", initrd+"/initrd").file(initrd+"/initrd", "initrd").
		link(top+"/firmware", firmware+"/lib/firmware").dir(firmware+"/lib/firmware").
		link(top+"/systemd", systemd).file(systemd+"/lib/systemd/systemd", "systemd").
		link(top+"/etc", etc+"/etc").
		dir(etc + "/etc").dir(units).dir(top + "/specialisation")
	if _, err := os.Lstat(tr.at(etc + "/etc/systemd/system")); errors.Is(err, fs.ErrNotExist) {
		tr.link(etc+"/etc/systemd/system", units)
	}
	tr.write(top+"/bin/switch-to-configuration", "#!/bin/sh\n", 0o755)
	return top
}

func (tr *tree) units(label string) string { return storePathOf("system-units-" + label) }

func TestPathJoinsBelowTheRoot(t *testing.T) {
	h := New("/srv/host")
	for logical, want := range map[string]string{
		"/run/current-system":   "/srv/host/run/current-system",
		"run":                   "/srv/host/run",
		"/../../etc/passwd":     "/srv/host/etc/passwd",
		"/":                     "/srv/host/",
		"/nix/store/../../boot": "/srv/host/boot",
	} {
		if got := h.Path(logical); got != want {
			t.Errorf("Path(%q) = %q, want %q", logical, got, want)
		}
	}
	if got := New("").Path("/etc"); got != "/etc" {
		t.Errorf("the real host's /etc is %q", got)
	}
	if got := New("/srv/host/").Root(); got != "/srv/host" {
		t.Errorf("Root() = %q", got)
	}
}

func TestResolveStaysBelowTheRoot(t *testing.T) {
	tr := newTree(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.file("/etc/inside", "inside").
		link("/absolute", "/etc/inside").
		link("/relative", "etc/inside").
		link("/upward", strings.Repeat("../", 30)+"etc/inside").
		link("/deep/link", "../../../../etc/inside").
		link("/outside", secret).
		link("/outside-upward", strings.Repeat("../", 30)+secret[1:]).
		link("/chain", "/absolute").
		link("/dir", "/etc").
		link("/loop-a", "/loop-b").link("/loop-b", "loop-a").
		link("/self", "self/self").
		file("/plain", "x")
	h := tr.host()
	for logical, want := range map[string]string{
		"/etc/inside":        "/etc/inside",
		"/absolute":          "/etc/inside",
		"/relative":          "/etc/inside",
		"/upward":            "/etc/inside",
		"/deep/link":         "/etc/inside",
		"/chain":             "/etc/inside",
		"/dir/inside":        "/etc/inside",
		"/dir/../dir/inside": "/etc/inside",
		"/":                  "/",
	} {
		got, err := h.Resolve(logical)
		if err != nil || got != want {
			t.Errorf("Resolve(%q) = %q, %v; want %q", logical, got, err, want)
		}
	}
	for logical, want := range map[string]error{
		"/outside":        fs.ErrNotExist,
		"/outside-upward": fs.ErrNotExist,
		"/missing/below":  fs.ErrNotExist,
		"/loop-a":         unix.ELOOP,
		"/self":           unix.ELOOP,
		"/plain/below":    unix.ENOTDIR,
	} {
		if got, err := h.Resolve(logical); !errors.Is(err, want) {
			t.Errorf("Resolve(%q) = %q, %v; want error %v", logical, got, err, want)
		}
		if data, err := h.ReadFile(logical); err == nil {
			t.Errorf("ReadFile(%q) = %q", logical, data)
		}
	}
}

func TestReadFileIsBoundedAndDoesNotBlock(t *testing.T) {
	tr := newTree(t)
	tr.file("/full", strings.Repeat("x", maxFile)).file("/over", strings.Repeat("x", maxFile+1)).dir("/dir")
	if err := unix.Mkfifo(tr.at("/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := tr.host()
	if data, err := h.ReadFile("/full"); err != nil || len(data) != maxFile {
		t.Errorf("a file of the greatest size: %d bytes, %v", len(data), err)
	}
	if _, err := h.ReadFile("/over"); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a file that is too large: %v", err)
	}
	for _, other := range []string{"/dir", "/pipe"} {
		if _, err := h.ReadFile(other); !errors.Is(err, errNotRegular) {
			t.Errorf("ReadFile(%s): %v", other, err)
		}
	}
}
