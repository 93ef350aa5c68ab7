package system

import (
	"bytes"
	"cmp"
	"iter"
	"strconv"
	"strings"
)

// bootEntry is one entry of systemd-boot's menu: a file of the Boot Loader
// Specification, type #1 (loader/entries/*.conf) or type #2 (EFI/Linux/*.efi).
type bootEntry struct {
	// file is the name on disk; id is the same in lower case and without the
	// boot counter, which is what patterns are matched with.
	file, id string
	// boot is the logical directory of the partition that the entry is on.
	boot string

	hasSortKey                  bool
	sortKey, machineID, version string
	// triesLeft is the boot counter, -1 for an entry that is not counted. With 0
	// the entry is known bad: it sorts last, and a preferred entry is not looked
	// for among them.
	triesLeft, triesDone int

	// image is the kernel or EFI program in the partition; uki says that it is a
	// unified kernel image, which carries a command line of its own.
	image        string
	uki          bool
	architecture string
	options      string
	malformed    bool

	// unreadable is why the file could not be read; then only its name is known.
	unreadable error
}

// loaderLines yields the keys and values of loader.conf and of boot entries as
// systemd-boot splits them: "#" comments, surrounding white space and one pair
// of quotes removed.
func loaderLines(content []byte, separators string) iter.Seq2[string, string] {
	if end := bytes.IndexByte(content, 0); end >= 0 {
		content = content[:end]
	}
	return func(yield func(string, string) bool) {
		for line := range strings.FieldsFuncSeq(string(content), func(r rune) bool { return r == '\n' || r == '\r' }) {
			line = strings.Trim(line, " \t")
			if strings.HasPrefix(line, "#") {
				continue
			}
			end := strings.IndexAny(line, separators)
			if end < 0 {
				continue
			}
			value := strings.TrimLeft(line[end:], separators)
			if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
				value = value[1 : n-1]
			}
			if !yield(line[:end], value) {
				return
			}
		}
	}
}

// parseEntry parses a type #1 entry of that file name.
func parseEntry(file string, content []byte) bootEntry {
	e := newEntry(file, ".conf")
	kind := ""
	var options []string
	for key, value := range loaderLines(content, " \t") {
		switch key {
		case "sort-key":
			e.sortKey, e.hasSortKey = value, true
		case "machine-id":
			e.machineID = value
		case "version":
			e.version = value
		case "architecture":
			e.architecture = value
		case "options":
			options = append(options, value)
		case "linux", "uki", "uki-url", "efi":
			if kind != "" && kind != key {
				e.malformed = true
			}
			kind = key
			e.uki = key == "uki"
			if key != "uki-url" {
				e.image = strings.ReplaceAll(value, `\`, "/")
			}
		}
	}
	if kind == "" {
		e.malformed = true
	}
	e.options = strings.Join(options, " ")
	return e
}

func newEntry(file, suffix string) bootEntry {
	e := bootEntry{file: file, triesLeft: -1, triesDone: -1}
	var name string
	name, e.triesLeft, e.triesDone = cutCounter(file, suffix)
	e.id = lower(name)
	return e
}

// cutCounter removes the boot counter "+LEFT" or "+LEFT-DONE" before the suffix
// of an entry's file name (https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT). left is
// -1 for a name without one.
func cutCounter(file, suffix string) (name string, left, done int) {
	if !endsIn(file, suffix) {
		return file, -1, -1
	}
	stem := file[:len(file)-len(suffix)]
	plus := strings.LastIndexByte(stem, '+')
	if plus < 0 {
		return file, -1, -1
	}
	leftText, doneText, hasDone := strings.Cut(stem[plus+1:], "-")
	left, ok := parseCounter(leftText)
	if ok && hasDone {
		done, ok = parseCounter(doneText)
	}
	if !ok {
		return file, -1, -1
	}
	return stem[:plus] + file[len(stem):], left, done
}

func parseCounter(digits string) (int, bool) {
	if digits == "" || strings.ContainsFunc(digits, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	return int(n), err == nil
}

// compareEntries is the order of systemd-boot's menu: known bad entries last;
// entries with a sort key first, by sort key, machine id and, newest first,
// version; then by id, highest first; then by boot counter.
func compareEntries(a, b bootEntry) int {
	if r := compareBool(a.triesLeft == 0, b.triesLeft == 0); r != 0 {
		return r
	}
	if r := compareBool(!a.hasSortKey, !b.hasSortKey); r != 0 {
		return r
	}
	if a.hasSortKey {
		if r := cmp.Or(
			strings.Compare(a.sortKey, b.sortKey),
			strings.Compare(a.machineID, b.machineID),
			-compareVersions(a.version, b.version),
		); r != 0 {
			return r
		}
	}
	if r := -compareVersions(a.id, b.id); r != 0 {
		return r
	}
	if a.triesLeft < 0 || b.triesLeft < 0 {
		return 0
	}
	return cmp.Or(-cmp.Compare(a.triesLeft, b.triesLeft), cmp.Compare(a.triesDone, b.triesDone))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// lower folds ASCII only, as systemd-boot does.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + ('a' - 'A')
		}
		return r
	}, s)
}

func endsIn(name, suffix string) bool {
	return len(name) >= len(suffix) && lower(name[len(name)-len(suffix):]) == suffix
}
