package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// ink writes text for people: in colour on a terminal, plainly elsewhere. Nothing is said by colour alone.
type ink struct {
	w     io.Writer
	color bool
	err   error
}

func newInk(w io.Writer, mode string) *ink { return &ink{w: w, color: wantsColor(w, mode)} }

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

func (i *ink) paint(code, s string) string {
	if !i.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// table writes rows in columns as wide as their widest cell; the last column is as wide as it likes. Paint, where it is given, colours a
// cell that is already padded.
func (i *ink) table(rows [][]string, paint func(row, column int, cell string) string) {
	var widths []int
	for _, row := range rows {
		for c, cell := range row {
			if c == len(widths) {
				widths = append(widths, 0)
			}
			widths[c] = max(widths[c], len([]rune(cell)))
		}
	}
	for r, row := range rows {
		for len(row) > 1 && row[len(row)-1] == "" {
			row = row[:len(row)-1] // no blanks at the end of a line
		}
		for c, cell := range row {
			if c < len(row)-1 {
				cell += strings.Repeat(" ", widths[c]-len([]rune(cell))+2)
			}
			if paint != nil {
				cell = paint(r, c, cell)
			}
			i.printf("%s", cell)
		}
		i.printf("\n")
	}
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

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func orDash(s string) string { return orElse(plain(s), "-") }

// when shows a moment in the reader's time zone.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

// closure shortens a store path to what tells closures apart: the beginning of its hash, and its name.
func closure(path string) string {
	base := path[strings.LastIndexByte(path, '/')+1:]
	if len(base) > 33 && base[32] == '-' {
		return plain(base[:8] + base[32:])
	}
	return orDash(path)
}
