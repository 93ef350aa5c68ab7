package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// ink writes text for people: in colour on a terminal, plainly elsewhere. Nothing is said by colour alone.
type ink struct {
	w     io.Writer
	color bool
	err   error
}

func newInk(w io.Writer, mode string) *ink {
	return &ink{w: w, color: wantsColor(w, mode)}
}

func wantsColor(w io.Writer, mode string) bool {
	switch mode {
	case "always":
		return true
	case "never":
		return false
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// isTerminal reports whether w is a character device that is no null device: a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

func (i *ink) printf(format string, args ...any) {
	if i.err == nil {
		_, i.err = fmt.Fprintf(i.w, format, args...)
	}
}

func (i *ink) good(s string) string { return i.paint("32", s) }
func (i *ink) warn(s string) string { return i.paint("33", s) }
func (i *ink) bad(s string) string  { return i.paint("31", s) }
func (i *ink) bold(s string) string { return i.paint("1", s) }
func (i *ink) dim(s string) string  { return i.paint("2", s) }

func (i *ink) paint(code, s string) string {
	if !i.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// plain makes text of another hand fit for one line of a terminal: control characters would move its cursor.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}
