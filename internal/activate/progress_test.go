package activate

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	paths := func(from, to int) string {
		var b strings.Builder
		for i := from; i <= to; i++ {
			fmt.Fprintf(&b, "  /nix/store/%032d-p\n", i)
		}
		return b.String()
	}
	copying := func(from, to int) string {
		var b strings.Builder
		for i := from; i <= to; i++ {
			fmt.Fprintf(&b, "copying path '/nix/store/%032d-p' from 'https://cache.example.org'...\n", i)
		}
		return b.String()
	}
	const (
		some = "these 40 paths will be fetched (120.31 MiB download, 512.00 MiB unpacked):\n"
		one  = "this path will be fetched (0.01 MiB download, 0.02 MiB unpacked):\n"
		old  = "these paths will be fetched (1.50 MiB download, 3.00 MiB unpacked):\n"
		unit = "these 12 paths will be fetched (178.1 KiB download, 128.4 MiB unpacked):\n" // Nix 2.32
	)
	tests := []struct {
		name   string
		pieces []string
		want   string
	}{
		{"nothing yet", []string{""}, ""},
		{"announced", []string{some + paths(1, 40)}, "0 of 40 paths, 120.31 MiB download"},
		{"some", []string{some + paths(1, 40) + copying(1, 12)}, "12 of 40 paths, 120.31 MiB download"},
		{"piece by piece", []string{some, paths(1, 40), copying(1, 3), "", copying(4, 12)}, "12 of 40 paths, 120.31 MiB download"},
		{"all", []string{some + paths(1, 40) + copying(1, 40)}, "40 of 40 paths, 120.31 MiB download"},
		{"one", []string{one + paths(1, 1) + copying(1, 1)}, "1 of 1 path, 0.01 MiB download"},
		{"2.3 does not count", []string{old + paths(1, 3), paths(4, 5) + copying(1, 2)}, "2 of 5 paths, 1.50 MiB download"},
		{"other units", []string{unit + paths(1, 12) + copying(1, 1)}, "1 of 12 paths, 178.1 KiB download"},
		{"a path that the next cache has to give", []string{some + copying(1, 2) + copying(2, 2)}, "2 of 40 paths, 120.31 MiB download"},
		{"more than announced", []string{one + copying(1, 2)}, "1 of 1 path, 0.01 MiB download"},
		{"the beginning is not there", []string{copying(30, 31)}, "2 paths so far"},
		{"the beginning is not there, one", []string{copying(30, 30)}, "1 path so far"},
		{"paths to build are not fetched", []string{"these 2 derivations will be built:\n" + paths(1, 2)}, ""},
		{"a log that is none of it", []string{"warning: these things will be fetched (maybe)\ncopying path 'x'\nthese many paths will be fetched (1 MiB download)\n"}, ""},
		{"sizes left out", []string{"these 3 paths will be fetched (soon):\n"}, "0 of 3 paths"},
		{"negative", []string{"these -3 paths will be fetched (1 MiB download):\n"}, ""},
	}
	for _, test := range tests {
		var p progressReader
		var got Progress
		for _, piece := range test.pieces {
			got = p.read(piece)
		}
		if got.String() != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// What does not fit into one run of journalctl is read by the next, and what is no text is passed over.
func TestOutputOfTheJournal(t *testing.T) {
	t.Parallel()
	const unit, invocation = "nixfleet-realise-0123456789ab-1.service", "d668b87532a44f08bc53d41e7aa23960"
	entries := []string{`"one"`, `[255,10]`, `"two"`, `null`, `"three"`}
	j := journal(func(_ context.Context, args ...string) string {
		from := 0
		for _, arg := range args {
			if after, ok := strings.CutPrefix(arg, "--after-cursor=c"); ok {
				_, _ = fmt.Sscan(after, &from)
			}
		}
		var b strings.Builder
		for i := from; i < len(entries); i++ {
			line := fmt.Sprintf(`{"__CURSOR":"c%d","MESSAGE":%s}`, i+1, entries[i])
			if i == from+3 { // the bound of one run
				return b.String() + line[:10]
			}
			b.WriteString(line + "\n")
		}
		return b.String()
	})
	text, next := j.after(t.Context(), unit, invocation, "")
	if text != "one\ntwo\n" || next != "c3" {
		t.Errorf("first: %q, %s", text, next)
	}
	text, next = j.after(t.Context(), unit, invocation, next)
	if text != "three\n" || next != "c5" {
		t.Errorf("second: %q, %s", text, next)
	}
	if text, next = j.after(t.Context(), unit, invocation, next); text != "" || next != "c5" {
		t.Errorf("nothing new: %q, %s", text, next)
	}
}
