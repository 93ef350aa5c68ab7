package system

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// loaderChoice is everything that systemd-boot consults to choose its default
// entry. Values are in lower case, as ids are.
type loaderChoice struct {
	oneShot, preferredVar, defaultVar string // EFI variables
	lastBooted                        string // EFI variable behind "@saved"
	preferredConf, defaultConf        string // loader.conf
}

// parseLoaderConf reads the patterns of loader.conf. The loader ignores special
// entry names other than "@saved".
func parseLoaderConf(content []byte) (preferred, fallback string) {
	for key, value := range loaderLines(content, " \t") {
		value = lower(value)
		if strings.HasPrefix(value, "@") && value != savedEntry {
			continue
		}
		switch key {
		case "preferred":
			preferred = value
		case "default":
			fallback = value
		}
	}
	return preferred, fallback
}

const savedEntry = "@saved"

// selection is the outcome of choosing among sorted entries.
type selection struct {
	index   int // -1: there is nothing to boot
	via     string
	pinned  bool
	pattern string // what was matched, "" for the first entry
}

// choose finds the default entry of a sorted menu in the order of systemd-boot:
// the one-shot entry, the preferred one (variable, then loader.conf), which
// skips known bad entries, the default one (variable, then loader.conf), and
// the first of the menu. A pattern that matches nothing is passed over.
func (c loaderChoice) choose(menu []bootEntry) selection {
	steps := []struct {
		pattern string
		via     string
		pinned  bool
		skipBad bool
	}{
		{c.oneShot, ViaOneShot, true, false},
		{c.preferredVar, ViaPreferredVar, true, true},
		{c.preferredConf, ViaPreferred, false, true},
		{c.defaultVar, ViaDefaultVar, true, false},
		{c.defaultConf, ViaDefault, false, false},
	}
	for _, s := range steps {
		if s.pattern == savedEntry {
			s.pattern, s.via, s.pinned = c.lastBooted, ViaSaved, true
		}
		if s.pattern == "" {
			continue
		}
		if i := findEntry(menu, s.pattern, s.skipBad); i >= 0 {
			return selection{index: i, via: s.via, pinned: s.pinned, pattern: s.pattern}
		}
	}
	for i := range menu {
		if menu[i].unreadable == nil {
			return selection{index: i, via: ViaFirstEntry}
		}
	}
	return selection{index: -1}
}

// findEntry returns the first entry of the menu whose id matches. Releases of
// systemd-boot that match with the boot counter still in the name are served by
// the second pass.
func findEntry(menu []bootEntry, pattern string, skipBad bool) int {
	for _, name := range []func(bootEntry) string{
		func(e bootEntry) string { return e.id },
		func(e bootEntry) string { return lower(e.file) },
	} {
		for i, e := range menu {
			if e.unreadable == nil && !(skipBad && e.triesLeft == 0) && globMatch(pattern, name(e)) {
				return i
			}
		}
	}
	return -1
}

// systemdBoot resolves the default entry of systemd-boot, if it is configured on
// one of the boot paths.
func (w *walk) systemdBoot(boots []string) (BootDefault, bool) {
	d := BootDefault{Loader: LoaderSystemdBoot}
	esp := w.efiSystemPartition(boots)
	menu, err := w.menu(w.partitionsOf(esp, boots))
	if err != nil {
		return d.because("%v", err), true
	}
	if esp == "" && len(menu) == 0 {
		return d, false
	}
	choice, err := w.loaderChoice(esp)
	if err != nil {
		return d.because("%v", err), true
	}
	s := choice.choose(menu)
	if s.index < 0 && len(menu) > 0 {
		return d.because("entry %q cannot be read: %v", menu[0].file, menu[0].unreadable), true
	}
	if s.index < 0 {
		return d.because("no entry that systemd-boot could boot"), true
	}
	chosen := menu[s.index]
	d.Entry, d.Via, d.Pinned = chosen.file, s.via, s.pinned
	for _, e := range menu {
		// An entry whose content is not known might have sorted before the chosen one.
		exact := s.pattern == chosen.id || s.pattern == lower(chosen.file)
		if e.unreadable != nil && !exact && (s.pattern == "" || globMatch(s.pattern, e.id)) {
			return d.because("entry %q, which may come first, cannot be read: %v", e.file, e.unreadable), true
		}
	}
	options, err := w.commandLine(chosen)
	if err != nil {
		return d.because("entry %q: %v", chosen.file, err), true
	}
	return d.boots(w, initOf(options)), true
}

// loaderChoice reads loader.conf from the EFI system partition and the EFI
// variables that outrank it.
func (w *walk) loaderChoice(esp string) (loaderChoice, error) {
	var c loaderChoice
	content, err := w.readFile(path.Join(esp, "loader/loader.conf"), maxFile)
	if ignoreAbsent(err) != nil {
		return c, err
	}
	c.preferredConf, c.defaultConf = parseLoaderConf(content)
	for name, to := range map[string]*string{
		"LoaderEntryOneShot":    &c.oneShot,
		"LoaderEntryPreferred":  &c.preferredVar,
		"LoaderEntryDefault":    &c.defaultVar,
		"LoaderEntryLastBooted": &c.lastBooted,
	} {
		value, err := w.efiVar(name)
		if err != nil {
			return c, fmt.Errorf("read EFI variable %s: %w", name, err)
		}
		*to = lower(value)
	}
	if (c.defaultConf == savedEntry || c.preferredConf == savedEntry) && c.lastBooted == "" && !w.exists(efiVarsDir) {
		return c, errors.New("the default is the entry booted last, and the EFI variable that names it is not to be seen")
	}
	return c, nil
}

// efiSystemPartition is the boot path that systemd-boot starts from and takes
// loader.conf from: one that holds the loader itself rather than one that only
// holds a configuration, and a mounted one rather than a plain directory.
func (w *walk) efiSystemPartition(boots []string) string {
	best, bestRank := "", -1
	for _, boot := range boots {
		if !w.exists(path.Join(boot, "loader/loader.conf")) {
			continue
		}
		rank := 0
		if programs, err := w.names(path.Join(boot, "EFI/systemd")); err == nil && slices.ContainsFunc(programs, isSystemdBoot) {
			rank += 2
		}
		if w.mounted(boot) {
			rank++
		}
		if rank > bestRank {
			best, bestRank = boot, rank
		}
	}
	return best
}

func isSystemdBoot(program string) bool {
	return strings.HasPrefix(lower(program), "systemd-boot") && endsIn(program, ".efi")
}

// partitionsOf are the boot paths whose entries systemd-boot reads: the EFI
// system partition and the extended boot loader partition. On the real host a
// directory that is no mount point of its own can be neither, besides the one
// that was chosen as the former.
func (w *walk) partitionsOf(esp string, boots []string) []string {
	return slices.DeleteFunc(slices.Clone(boots), func(boot string) bool {
		return boot != esp && esp != "" && w.host.real() && !w.mounted(boot)
	})
}

func (w *walk) mounted(logical string) bool {
	var here, parent unix.Stat_t
	at := w.host.Path(logical)
	return unix.Stat(at, &here) == nil && unix.Stat(filepath.Dir(at), &parent) == nil && here.Dev != parent.Dev
}

// menu reads all entries of the partitions that the loader would show, in its
// order.
func (w *walk) menu(boots []string) ([]bootEntry, error) {
	var menu []bootEntry
	machine := efiArchitecture(w.host.uname())
	for _, boot := range boots {
		confs, err := w.names(path.Join(boot, "loader/entries"))
		if err != nil {
			return nil, err
		}
		for _, file := range confs {
			if e := w.type1(boot, file); e != nil && w.bootable(*e, machine) {
				menu = append(menu, *e)
			}
		}
		images, err := w.names(path.Join(boot, "EFI/Linux"))
		if err != nil {
			return nil, err
		}
		for _, file := range images {
			if e := w.type2(boot, file); e != nil && !e.malformed {
				menu = append(menu, *e)
			}
		}
	}
	slices.SortStableFunc(menu, compareEntries)
	return menu, nil
}

func ofMenu(file, suffix string) bool {
	return endsIn(file, suffix) && !strings.HasPrefix(file, ".") && !strings.HasPrefix(lower(file), "auto-")
}

func (w *walk) type1(boot, file string) *bootEntry {
	if !ofMenu(file, ".conf") {
		return nil
	}
	content, err := w.readFile(path.Join(boot, "loader/entries", file), maxFile)
	if absent(err) || errors.Is(err, errNotRegular) {
		return nil
	}
	e := parseEntry(file, content)
	e.boot, e.unreadable = boot, err
	return &e
}

func (w *walk) type2(boot, file string) *bootEntry {
	if !ofMenu(file, ".efi") {
		return nil
	}
	image, err := w.open(path.Join(boot, "EFI/Linux", file))
	if absent(err) || errors.Is(err, errNotRegular) {
		return nil
	}
	if err != nil {
		e := newEntry(file, ".efi")
		e.unreadable = err
		return &e
	}
	defer image.Close()
	e := parseUKI(file, image)
	e.boot = boot
	return &e
}

// bootable says that the loader would show the entry: it is well formed, for
// this machine, and the image that it starts is there.
func (w *walk) bootable(e bootEntry, machine string) bool {
	switch {
	case e.unreadable != nil:
		return true
	case e.malformed, e.architecture != "" && machine != "" && lower(e.architecture) != machine:
		return false
	}
	return e.image == "" || w.exists(path.Join(e.boot, e.image))
}

func (w *walk) ukiOptions(image string) (string, error) {
	f, err := w.open(image)
	if err != nil {
		return "", err
	}
	defer f.Close()
	texts, err := ukiText(f, ".cmdline")
	return texts[".cmdline"], err
}

// efiArchitecture is what the Boot Loader Specification calls a machine type of
// uname(2), "" if it has no name there.
func efiArchitecture(machine string) string {
	switch machine {
	case "x86_64":
		return "x64"
	case "i386", "i486", "i586", "i686":
		return "ia32"
	case "aarch64":
		return "aa64"
	case "armv6l", "armv7l", "armv8l":
		return "arm"
	case "riscv32", "riscv64", "loongarch32", "loongarch64":
		return machine
	}
	return ""
}
