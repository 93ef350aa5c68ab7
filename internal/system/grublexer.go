package system

import "strings"

// grubWord is one word of GRUB's script language after expansion.
type grubWord struct {
	text string
	// known is false where the word depends on something that only GRUB knows.
	known bool
	// bare is true for a word without quotes and variables: only such a word is a
	// keyword.
	bare bool
	// from names the variables that were expanded in it.
	from []string
}

func (w grubWord) is(keyword string) bool { return w.bare && w.text == keyword }

// grubLexer splits a script into commands, expanding variables as they are at
// the time when the command is read.
type grubLexer struct {
	script string
	at     int
	env    map[string]grubWord
	// budget bounds what expansions may produce, in bytes: a variable that holds
	// itself twice grows without end.
	budget int
	// pending is the rest of a line after a keyword, a command of its own.
	pending []grubWord
}

// next returns the words of the next command, a single keyword or brace being
// one; nil at the end of the script.
func (l *grubLexer) next() []grubWord {
	for {
		words := l.pending
		l.pending = nil
		if words == nil {
			words = l.line()
		}
		if words == nil {
			return nil
		}
		if len(words) > 1 && grubKeyword(words[0]) {
			l.pending = words[1:]
			return words[:1]
		}
		if len(words) > 0 {
			return words
		}
	}
}

func grubKeyword(w grubWord) bool {
	switch {
	case !w.bare:
		return false
	case w.text == "}":
		return true
	}
	switch w.text {
	case "if", "then", "elif", "else", "fi", "do", "done", "while", "until":
		return true
	}
	return false
}

// line reads up to a newline or ";", and up to and with an opening brace. It is
// empty, not nil, for an empty command.
func (l *grubLexer) line() []grubWord {
	if l.at >= len(l.script) {
		return nil
	}
	words := []grubWord{}
	for l.at < len(l.script) {
		switch c := l.script[l.at]; {
		case c == '\n' || c == ';':
			l.at++
			return words
		case c == ' ' || c == '\t' || c == '\r':
			l.at++
		case c == '#':
			for l.at < len(l.script) && l.script[l.at] != '\n' {
				l.at++
			}
		case strings.HasPrefix(l.script[l.at:], "\\\n"):
			l.at += 2
		default:
			before := l.at
			word := l.word()
			if l.at == before {
				l.at++
				continue
			}
			words = append(words, word)
			if word.is("{") {
				return words
			}
		}
	}
	return words
}

func (l *grubLexer) word() grubWord {
	var text strings.Builder
	w := grubWord{known: true, bare: true}
	quoted := false
	for l.at < len(l.script) {
		c := l.script[l.at]
		switch {
		case c == '\\' && l.at+1 < len(l.script):
			next := l.script[l.at+1]
			l.at += 2
			if quoted && !strings.ContainsRune("\"\\$\n", rune(next)) {
				text.WriteByte('\\')
			}
			if next != '\n' {
				text.WriteByte(next)
			}
		case c == '"':
			quoted, w.bare = !quoted, false
			l.at++
		case c == '\'' && !quoted:
			w.bare = false
			end := strings.IndexByte(l.script[l.at+1:], '\'')
			if end < 0 {
				end = len(l.script) - l.at - 1
			}
			text.WriteString(l.script[l.at+1 : l.at+1+end])
			l.at = min(l.at+1+end+1, len(l.script))
		case c == '$':
			l.at++
			l.expand(&w, &text)
		case !quoted && strings.IndexByte(" \t\r\n;#", c) >= 0 && !(c == '#' && text.Len() > 0):
			w.text = text.String()
			return w
		default:
			text.WriteByte(c)
			l.at++
		}
	}
	w.text = text.String()
	return w
}

// expand appends the value of the variable whose name stands at the cursor.
func (l *grubLexer) expand(w *grubWord, text *strings.Builder) {
	rest, braced := strings.CutPrefix(l.script[l.at:], "{")
	name, after := span(rest, func(c byte) bool { return isLetter(c) || isDigit(c) || c == '_' })
	if name == "" && rest != "" && strings.IndexByte("?@#*", rest[0]) >= 0 {
		name, after = rest[:1], rest[1:]
	}
	if name == "" || braced && !strings.HasPrefix(after, "}") {
		text.WriteByte('$')
		return
	}
	l.at += len(name)
	if braced {
		l.at += len("{}")
	}
	w.bare = false
	w.from = append(w.from, name)
	value := l.value(name)
	if l.budget -= len(value.text); l.budget < 0 {
		value = grubWord{}
	}
	w.known = w.known && value.known
	text.WriteString(value.text)
}

// value of a variable: empty if it was never set, not known if GRUB sets it itself.
func (l *grubLexer) value(name string) grubWord {
	if value, ok := l.env[name]; ok {
		return value
	}
	switch name {
	case "grub_platform", "grub_cpu", "prefix", "root", "cmdpath", "feature_default_font_path", "?", "@", "#", "*":
		return grubWord{}
	}
	return grubWord{known: !isDigit(firstByte(name)) && !strings.HasPrefix(name, "feature_")}
}

func firstByte(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}
