package system

// globMatch matches an entry id with a pattern as systemd-boot does
// (efi_fnmatch in src/boot/efi-string.c): "*", "?", sets "[a-z]" without
// negation, and a backslash that takes the next character literally. A
// malformed pattern matches nothing. The time is bounded by the product of the
// two lengths.
func globMatch(pattern, name string) bool {
	return matchGlob([]rune(pattern), []rune(name))
}

func matchGlob(pattern, name []rune) bool {
	// star is where the pattern goes on after its last "*", and retry where in
	// the name that rest was last tried: only the last "*" needs to give way.
	star, retry := -1, 0
	p, n := 0, 0
	for {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			star, retry = p, n
			continue
		}
		if p == len(pattern) && n == len(name) {
			return true
		}
		if n < len(name) && p < len(pattern) {
			if width, ok := matchOne(pattern[p:], name[n]); ok {
				p, n = p+width, n+1
				continue
			}
		}
		if star < 0 || retry >= len(name) {
			return false
		}
		retry++
		p, n = star, retry
	}
}

// matchOne matches one character with the head of a pattern that is not "*", and
// returns how much of the pattern that took.
func matchOne(pattern []rune, c rune) (width int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		return 2, len(pattern) > 1 && pattern[1] == c
	case '[':
		return matchSet(pattern, c)
	}
	return 1, pattern[0] == c
}

func matchSet(pattern []rune, c rune) (width int, ok bool) {
	matched, canRange := false, true
	for i := 1; i < len(pattern); i++ {
		first := i == 1
		switch {
		case pattern[i] == '\\':
			if i++; i == len(pattern) {
				return 0, false
			}
			matched = matched || pattern[i] == c
			canRange = true
		case pattern[i] == ']' && !first:
			return i + 1, matched
		case pattern[i] == '-' && canRange && !first && i+1 < len(pattern) && pattern[i+1] != ']':
			low := pattern[i-1]
			if i++; pattern[i] == '\\' {
				i++
			}
			if i == len(pattern) {
				return 0, false
			}
			matched = matched || low <= c && c <= pattern[i]
			canRange = false
		default:
			matched = matched || pattern[i] == c
			canRange = true
		}
	}
	return 0, false
}
