package system

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxGrubConfig bounds grub.cfg: some hundreds of generations at about 1 KiB each.
const maxGrubConfig = 4 << 20

// grub resolves the default entry of GRUB, if it is configured on one of the
// boot paths. NixOS writes grub.cfg with install-grub.pl: "NixOS - Default" is
// the toplevel that was installed, followed by a submenu of all generations.
func (w *walk) grub(boots []string) (BootDefault, bool) {
	d := BootDefault{Loader: LoaderGRUB}
	for _, boot := range boots {
		for _, dir := range []string{"grub", "grub2"} {
			script, err := w.readFile(path.Join(boot, dir, "grub.cfg"), maxGrubConfig)
			if absent(err) {
				continue
			}
			if err != nil {
				return d.because("%v", err), true
			}
			block, err := w.readFile(path.Join(boot, dir, "grubenv"), maxFile)
			if ignoreAbsent(err) != nil {
				return d.because("%v", err), true
			}
			return resolveGrub(w, runGrub(string(script), parseGrubEnv(block))), true
		}
	}
	return d, false
}

// parseGrubEnv reads GRUB's environment block: lines NAME=VALUE, with "#" for
// comments and padding, a backslash before a backslash or a newline of the
// value. nil for an empty block, which GRUB takes as no file.
func parseGrubEnv(block []byte) map[string]string {
	if len(block) == 0 {
		return nil
	}
	env := make(map[string]string)
	var line strings.Builder
	escaped := false
	for _, c := range string(block) + "\n" {
		switch {
		case escaped:
			line.WriteRune(c)
			escaped = false
		case c == '\\':
			escaped = true
		case c == '\n':
			if name, value, ok := strings.Cut(line.String(), "="); ok && !strings.HasPrefix(name, "#") {
				env[name] = value
			}
			line.Reset()
		default:
			line.WriteRune(c)
		}
	}
	return env
}

func resolveGrub(w *walk, config grubConfig) BootDefault {
	d := BootDefault{Loader: LoaderGRUB}
	if config.troubled != "" {
		return d.because("grub.cfg cannot be followed: %s", config.troubled)
	}
	if !config.fallback.known {
		return d.because("grub.cfg chooses its default by something that only GRUB knows")
	}
	d.Via = ViaDefault
	switch {
	case slices.Contains(config.fallback.from, "next_entry"):
		d.Via, d.Pinned = ViaNextEntry, true
	case slices.Contains(config.fallback.from, "saved_entry"):
		d.Via, d.Pinned = ViaSaved, true
	}
	menu := config.menu
	for _, step := range splitGrubPath(config.fallback.text) {
		if menu == nil {
			break
		}
		i, certain := menu.find(step)
		if i < 0 {
			// GRUB takes the first entry if the default names none.
			d.Via, d.Pinned = ViaFirstEntry, false
			i, certain = menu.find("0")
		}
		if i < 0 {
			return d.because("the menu of grub.cfg is empty")
		}
		entry := menu.entries[i]
		d.Entry, menu = entry.title, entry.submenu
		if !certain {
			return d.because("grub.cfg adds entries under conditions that only GRUB knows")
		}
		if menu == nil && entry.ambiguous {
			return d.because("entry %q loads one of several systems", d.Entry)
		}
		if menu == nil {
			return d.boots(w, entry.init)
		}
	}
	return d.because("the default of grub.cfg, %q, is a submenu", d.Entry)
}

// find returns the entry that a step of the default names, by number, title or
// id, and whether it is certain that GRUB would come to the same.
func (m *grubMenu) find(step string) (index int, certain bool) {
	if n, err := strconv.ParseUint(step, 0, 16); err == nil {
		if int(n) >= len(m.entries) {
			return -1, false
		}
		return int(n), !slices.ContainsFunc(m.entries[:n+1], func(e *grubEntry) bool { return e.uncertain })
	}
	for i, e := range m.entries {
		if step != "" && (e.title == step || e.id == step) {
			return i, !e.uncertain
		}
	}
	return -1, false
}

// splitGrubPath splits "submenu>entry"; ">>" is a literal ">".
func splitGrubPath(s string) []string {
	var steps []string
	var step strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '>':
			step.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == '>':
			step.WriteByte('>')
			i++
		default:
			steps = append(steps, step.String())
			step.Reset()
		}
	}
	return append(steps, step.String())
}
