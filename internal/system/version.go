package system

import (
	"cmp"
	"strings"
)

// compareVersions orders version strings by the Version Format Specification
// (https://uapi-group.org/specifications/specs/version_format_specification),
// which systemd-boot uses for the versions and the names of boot entries: a
// digit run is a number, "~" sorts before everything, a longer version is newer.
func compareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, notVersion), strings.TrimLeftFunc(b, notVersion)
		if a == "" && b == "" {
			return 0
		}
		if older, ok := separator(&a, &b, '~'); ok {
			if older != 0 {
				return older
			}
			continue
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		for _, sep := range "-^." {
			if older, _ := separator(&a, &b, sep); older != 0 {
				return older
			}
		}
		var r int
		if leads(a, isDigit) || leads(b, isDigit) {
			numberA, restA := span(a, isDigit)
			numberB, restB := span(b, isDigit)
			r = compareNumbers(numberA, numberB)
			a, b = restA, restB
		} else {
			lettersA, restA := span(a, isLetter)
			lettersB, restB := span(b, isLetter)
			r = strings.Compare(lettersA, lettersB)
			a, b = restA, restB
		}
		if r != 0 {
			return r
		}
	}
}

// separator removes sep from the head of both versions. The version that has it
// where the other has not is the older one.
func separator(a, b *string, sep rune) (order int, found bool) {
	restA, okA := strings.CutPrefix(*a, string(sep))
	restB, okB := strings.CutPrefix(*b, string(sep))
	switch {
	case okA && !okB:
		return -1, true
	case okB && !okA:
		return 1, true
	}
	*a, *b = restA, restB
	return 0, okA
}

// compareNumbers compares digit runs of any length. A missing one is the least:
// numbers are newer than letters.
func compareNumbers(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(len(a), len(b))
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func span(s string, in func(byte) bool) (head, rest string) {
	i := 0
	for i < len(s) && in(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func leads(s string, in func(byte) bool) bool { return s != "" && in(s[0]) }

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func notVersion(r rune) bool {
	return !(r < 0x80 && (isDigit(byte(r)) || isLetter(byte(r)) || strings.ContainsRune("~-^.", r)))
}
