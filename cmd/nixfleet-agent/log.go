package main

import (
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/lmittmann/tint"
)

// newLog makes the logger: fields of the journal as a service, for eyes on a terminal, key=value elsewhere.
func newLog(w io.Writer, level slog.Level, color string) *slog.Logger {
	if underJournal(w) {
		return slog.New(&journalHandler{level: level, send: journal.Send})
	}
	if isTerminal(w) || color == "always" {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: !wantsColor(w, color)}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// underJournal reports whether w is connected to the journal, as systemd says in JOURNAL_STREAM (systemd.exec(5)).
func underJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || f != os.Stderr || !journal.Enabled() {
		return false
	}
	connected, err := journal.StderrIsJournalStream()
	return err == nil && connected
}
