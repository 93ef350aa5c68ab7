package main

import (
	"context"
	"log/slog"
	"maps"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
)

// entry is what the handler gave to the journal.
type entry struct {
	message  string
	priority journal.Priority
	fields   map[string]string
}

func collecting(level slog.Level) (*journalHandler, *[]entry) {
	var sent []entry
	return &journalHandler{level: level, send: func(message string, priority journal.Priority, fields map[string]string) error {
		sent = append(sent, entry{message, priority, maps.Clone(fields)})
		return nil
	}}, &sent
}

func TestJournalFields(t *testing.T) {
	h, sent := collecting(slog.LevelInfo)
	log := slog.New(h).With(slog.String("rollout", "local@e-1")).WithGroup("unit")
	log.Debug("not said")
	log.Warn("phase", slog.String("exit_code", "4"), slog.Any("err", context.Canceled), slog.String("", "nameless"), slog.String("empty", ""),
		slog.Group("of", slog.Int("9lives", 9)))
	if len(*sent) != 1 {
		t.Fatalf("%d entries were sent", len(*sent))
	}
	got := (*sent)[0]
	want := map[string]string{
		"NIXFLEET_ROLLOUT": "local@e-1", "NIXFLEET_UNIT_EXIT_CODE": "4", "NIXFLEET_UNIT_ERR": "context canceled", "NIXFLEET_UNIT_OF_9LIVES": "9",
	}
	if !maps.Equal(got.fields, want) || got.priority != journal.PriWarning {
		t.Errorf("fields %v, priority %d", got.fields, got.priority)
	}
	if message := `phase rollout=local@e-1 unit_exit_code=4 unit_err="context canceled" unit_of_9lives=9`; got.message != message {
		t.Errorf("message %q", got.message)
	}
	for level, priority := range map[slog.Level]journal.Priority{
		slog.LevelDebug: journal.PriDebug, slog.LevelInfo: journal.PriInfo, slog.LevelWarn: journal.PriWarning, slog.LevelError: journal.PriErr,
	} {
		if got := priorityOf(level); got != priority {
			t.Errorf("%s has priority %d", level, got)
		}
	}
}
