package system

import (
	"fmt"
	"path"
	"strings"
)

// The boot loaders of BootDefault.Loader.
const (
	LoaderSystemdBoot = "systemd-boot"
	LoaderGRUB        = "grub"
	LoaderExtlinux    = "extlinux" // U-Boot's generic extlinux.conf, as NixOS writes it on ARM
	LoaderNone        = "none"     // no boot loader configuration was found
	LoaderUnknown     = "unknown"  // one may be there, but it cannot be told which, or what it boots
)

// What decided the default entry, in BootDefault.Via.
const (
	ViaOneShot      = "one-shot"             // LoaderEntryOneShot: the next boot only
	ViaPreferredVar = "LoaderEntryPreferred" // an EFI variable, skips entries that used up their tries
	ViaPreferred    = "preferred"            // loader.conf, skips entries that used up their tries
	ViaDefaultVar   = "LoaderEntryDefault"   // an EFI variable
	ViaDefault      = "default"              // the configuration of the loader
	ViaSaved        = "saved"                // the entry booted last (systemd-boot's @saved, GRUB's saved_entry)
	ViaNextEntry    = "next_entry"           // GRUB's one-shot entry
	ViaFirstEntry   = "first-entry"          // nothing names one: the first of the menu
)

// BootDefault is what a reboot would boot, found by the rules of the boot loader
// itself, not by the names of its entries.
type BootDefault struct {
	// Loader is one of the Loader constants.
	Loader string
	// Closure is the toplevel that the default entry boots, a specialisation
	// child if the entry names one. "" if it cannot be told; then Reason says why.
	Closure string
	// Entry is the file name or, for GRUB and extlinux, the title or label of the
	// default entry.
	Entry string
	// Via is what decided, one of the Via constants.
	Via string
	// Pinned says that a choice kept outside of the configuration decided, a
	// variable of the firmware or of GRUB's environment: installing another
	// configuration does not change the default until that choice is taken back.
	Pinned bool
	// Reason says in words why Closure is "".
	Reason string
}

func (d BootDefault) because(format string, args ...any) BootDefault {
	d.Closure, d.Reason = "", fmt.Sprintf(format, args...)
	return d
}

// boots sets the closure from the init program of the chosen entry.
func (d BootDefault) boots(w *walk, init string) BootDefault {
	if init == "" {
		return d.because("entry %q does not boot a NixOS system: it has no init=", d.Entry)
	}
	toplevel, err := w.toplevelOf(init)
	if err != nil {
		return d.because("entry %q boots %s: %v", d.Entry, init, err)
	}
	d.Closure, d.Reason = toplevel, ""
	return d
}

// toplevelOf is the toplevel that an init= of the kernel command line belongs
// to: the directory of the init program. It need not exist any more; a path
// below a closure or a profile is followed.
func (w *walk) toplevelOf(init string) (string, error) {
	dir := path.Dir(absolute(init))
	if ParseStorePath(dir) == nil {
		return dir, nil
	}
	resolved, err := w.resolve(dir)
	if err != nil {
		return "", err
	}
	if err := ParseStorePath(resolved); err != nil {
		return "", err
	}
	return resolved, nil
}

// initOf is the value of init= on a kernel command line. The last one counts, as
// in both of NixOS's first stages; what follows "--" is for init itself.
func initOf(cmdline string) string {
	init := ""
	for word := range strings.FieldsSeq(cmdline) {
		if word == "--" {
			break
		}
		if value, ok := strings.CutPrefix(strings.Trim(word, `"`), "init="); ok {
			init = strings.Trim(value, `"`)
		}
	}
	return init
}

// BootDefault resolves what a reboot would boot.
func (h *Host) BootDefault() BootDefault {
	w := newWalk(h)
	paths, unreadable := w.distinctBootPaths()
	var found []BootDefault
	for _, look := range []func([]string) (BootDefault, bool){w.systemdBoot, w.grub, w.extlinux} {
		if d, ok := look(paths); ok {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1:
		return found[0]
	case len(found) > 1:
		return w.loaderInUse(found)
	case unreadable != nil:
		return BootDefault{Loader: LoaderUnknown}.because("%v", unreadable)
	}
	if name := w.unsupportedLoader(paths); name != "" {
		return BootDefault{Loader: LoaderUnknown}.because("the configuration of %s cannot be read by this agent", name)
	}
	return BootDefault{Loader: LoaderNone}.because("no boot loader configuration in %s", strings.Join(h.bootPaths, ", "))
}

// loaderInUse chooses between the configurations of several boot loaders: the
// one that says that it started this boot, or whichever if all boot the same.
// systemd-boot always leaves the variable LoaderInfo.
func (w *walk) loaderInUse(found []BootDefault) BootDefault {
	info, _ := w.efiVar("LoaderInfo")
	var left []BootDefault
	for _, d := range found {
		switch {
		case strings.HasPrefix(info, "systemd-boot") && d.Loader == LoaderSystemdBoot,
			strings.HasPrefix(info, "GRUB") && d.Loader == LoaderGRUB:
			return d
		case d.Loader == LoaderSystemdBoot && info == "" && w.exists(efiVarsDir):
		default:
			left = append(left, d)
		}
	}
	names := make([]string, 0, len(left))
	for _, d := range left {
		names = append(names, d.Loader)
		if d.Closure != left[0].Closure {
			left[0].Closure = ""
		}
	}
	if left[0].Closure != "" || len(left) == 1 {
		return left[0]
	}
	return BootDefault{Loader: LoaderUnknown}.because(
		"%s are configured with different defaults, and the firmware does not say which of them boots", strings.Join(names, " and "))
}

// unsupportedLoader names a boot loader of NixOS whose configuration is there
// and is not understood here.
func (w *walk) unsupportedLoader(boots []string) string {
	marks := []struct{ file, name string }{
		{"limine/limine.conf", "Limine"},
		{"limine.conf", "Limine"},
		{"EFI/limine/limine.conf", "Limine"},
		{"EFI/refind/refind.conf", "rEFInd"},
		{"cmdline.txt", "the Raspberry Pi firmware"},
		{"grub/menu.lst", "GRUB 1"},
	}
	for _, boot := range boots {
		for _, mark := range marks {
			if w.exists(path.Join(boot, mark.file)) {
				return mark.name
			}
		}
	}
	return ""
}

// distinctBootPaths are the boot paths that exist, each directory once, and the
// first error of those that may exist and cannot be read.
func (w *walk) distinctBootPaths() (paths []string, unreadable error) {
	seen := make(map[string]bool)
	for _, boot := range w.host.bootPaths {
		resolved, err := w.resolve(boot)
		if err == nil && seen[resolved] {
			continue
		}
		if err == nil {
			seen[resolved] = true
			_, err = w.names(resolved)
		}
		switch {
		case err == nil:
			paths = append(paths, resolved)
		case !absent(err) && unreadable == nil:
			unreadable = err
		}
	}
	return paths, unreadable
}
