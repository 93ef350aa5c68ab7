package system

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

// maxHashed bounds the file that ClosurePath reads whole to hash it; the largest
// regular files of a toplevel are scripts.
const maxHashed = 256 << 20

// Components is what a closure brings. A path is where the closure's link leads;
// "" means that the closure does not have the component, as a container has no
// kernel.
type Components struct {
	Closure string
	// Version is the label of the closure (nixos-version), System its Nix system.
	Version string
	System  string

	// SystemdPath is the store path of systemd, SystemdVersion the version in its
	// name. A mass rebuild changes the path of an unchanged version.
	SystemdPath    string
	SystemdVersion string
	// DBus is the implementation of the system bus: DBusDaemon, DBusBroker or "".
	DBus string

	// Kernel, KernelModules, Initrd and Firmware are paths, KernelParams the
	// content of kernel-params.
	Kernel        string
	KernelModules string
	Initrd        string
	KernelParams  string
	Firmware      string

	// InitInterface is the content of init-interface-version. A switch across a
	// difference ends with 100 and takes effect on reboot.
	InitInterface string

	// Inhibitors is the content of switch-inhibitors (NixOS 26.05 and later), nil
	// if the closure has none or if it is not the flat JSON object that it should
	// be; NixOS itself takes both as empty.
	Inhibitors           map[string]string
	InhibitorsUnparsable bool
}

// The implementations of the system bus, in the words of NixOS's
// services.dbus.implementation.
const (
	DBusDaemon = "dbus"
	DBusBroker = "broker"
)

// Components reads what a closure brings. Anything may be absent but the closure
// itself, for which the error is fs.ErrNotExist.
func (h *Host) Components(closure string) (Components, error) {
	return newWalk(h).components(closure)
}

func (w *walk) components(closure string) (Components, error) {
	c, err := w.readComponents(closure)
	if err != nil {
		return Components{}, fmt.Errorf("read components of %s: %w", closure, err)
	}
	return c, nil
}

func (w *walk) readComponents(closure string) (Components, error) {
	info, err := w.stat(closure)
	if err != nil {
		return Components{}, err
	}
	if !info.IsDir() {
		return Components{}, errors.New("not a directory")
	}
	c := Components{Closure: closure}
	var errs []error
	for file, to := range map[string]*string{
		"nixos-version":          &c.Version,
		"system":                 &c.System,
		"kernel-params":          &c.KernelParams,
		"init-interface-version": &c.InitInterface,
	} {
		text, err := w.readText(path.Join(closure, file))
		*to, errs = text, append(errs, err)
	}
	for link, to := range map[string]*string{
		"systemd":        &c.SystemdPath,
		"kernel":         &c.Kernel,
		"kernel-modules": &c.KernelModules,
		"initrd":         &c.Initrd,
		"firmware":       &c.Firmware,
	} {
		target, err := w.lead(path.Join(closure, link))
		*to, errs = target, append(errs, err)
	}
	c.SystemdVersion = versionInName(c.SystemdPath)
	c.Inhibitors, c.InhibitorsUnparsable, err = w.inhibitors(closure)
	errs = append(errs, err)
	c.DBus, err = w.dbusOf(closure, c.Inhibitors)
	return c, errors.Join(append(errs, err)...)
}

// versionInName is the version in the name of a store path, which begins after
// the first dash that a digit follows (Nix's DrvName): "258.3" of
// "/nix/store/<hash>-systemd-minimal-258.3".
func versionInName(storePath string) string {
	_, name, _ := strings.Cut(path.Base(storePath), "-")
	for i := 0; i+1 < len(name); i++ {
		if name[i] == '-' && isDigit(name[i+1]) {
			return name[i+1:]
		}
	}
	return ""
}

// inhibitors reads switch-inhibitors of a closure.
func (w *walk) inhibitors(closure string) (inhibitors map[string]string, unparsable bool, err error) {
	data, err := w.readFile(path.Join(closure, "switch-inhibitors"), maxFile)
	switch {
	case absent(err):
		return nil, false, nil
	case errors.Is(err, ErrTooLarge):
		return nil, true, nil
	case err != nil:
		return nil, false, err
	}
	inhibitors, ok := parseInhibitors(data)
	return inhibitors, !ok, nil
}

// parseInhibitors parses the flat JSON object of names and opaque strings. A
// value that is no string is kept as its JSON text: NixOS compares it as well.
func parseInhibitors(data []byte) (map[string]string, bool) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || object == nil {
		return nil, false
	}
	inhibitors := make(map[string]string, len(object))
	for name, raw := range object {
		var text string
		if bytes.HasPrefix(raw, []byte(`"`)) && json.Unmarshal(raw, &text) == nil {
			inhibitors[name] = text
			continue
		}
		var compact bytes.Buffer
		if json.Compact(&compact, raw) != nil {
			return nil, false
		}
		inhibitors[name] = compact.String()
	}
	return inhibitors, true
}

// dbusOf tells which implementation of the system bus a closure starts: by the
// inhibitor of that name, else by its units. With the broker NixOS makes
// dbus.service an alias of dbus-broker.service.
func (w *walk) dbusOf(closure string, inhibitors map[string]string) (string, error) {
	if implementation := inhibitors["dbus-implementation"]; implementation != "" {
		return implementation, nil
	}
	units := path.Join(closure, "etc/systemd/system")
	for _, unit := range []string{"dbus-broker.service", "dbus.service"} {
		leads, err := w.lead(path.Join(units, unit))
		if err != nil {
			return "", err
		}
		if leads == "" || leads == "/dev/null" {
			continue
		}
		if unit == "dbus-broker.service" || path.Base(leads) == "dbus-broker.service" {
			return DBusBroker, nil
		}
		return DBusDaemon, nil
	}
	return "", nil
}

// ClosurePath is a value by which two closures can be compared at a path within
// them: where a symlink leads, "sha256:<hex>" of the content of a regular file,
// "" if nothing is there. A directory has no value.
func (h *Host) ClosurePath(closure, rel string) (string, error) {
	value, err := newWalk(h).closurePath(closure, rel)
	if err != nil {
		return "", fmt.Errorf("read %s of %s: %w", rel, closure, err)
	}
	return value, nil
}

func (w *walk) closurePath(closure, rel string) (string, error) {
	if !filepath.IsLocal(rel) || path.Clean(rel) == "." {
		return "", errors.New("not a path within a closure")
	}
	at := path.Join(closure, rel)
	dir, err := w.resolve(path.Dir(at))
	if err != nil {
		return "", ignoreAbsent(err)
	}
	at = path.Join(dir, path.Base(at))
	if _, err := w.readlink(at); err == nil {
		return w.lead(at)
	} else if absent(err) {
		return "", nil
	}
	return w.hash(at)
}

func (w *walk) hash(logical string) (string, error) {
	info, err := w.stat(logical)
	switch {
	case err != nil:
		return "", ignoreAbsent(err)
	case info.IsDir():
		return "", &fs.PathError{Op: "hash", Path: logical, Err: errors.New("is a directory")}
	case info.Size() > maxHashed:
		return "", ErrTooLarge
	}
	f, err := w.open(logical)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, maxHashed)); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}
