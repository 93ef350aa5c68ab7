package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalHandler writes records to the journal with their attributes as fields: rollout becomes ROLLOUT, group and key are
// joined by an underscore.
type journalHandler struct {
	level  slog.Level
	send   func(message string, priority journal.Priority, fields map[string]string) error
	prefix string
	attrs  []slog.Attr // with their keys prefixed
}

func (h *journalHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	fields := map[string]string{}
	var said []string
	add := func(a slog.Attr) { flatten(h.prefix, a, fields, &said) }
	for _, a := range h.attrs {
		flatten("", a, fields, &said)
	}
	r.Attrs(func(a slog.Attr) bool {
		add(a)
		return true
	})
	message := r.Message
	if len(said) > 0 {
		message += " " + strings.Join(said, " ")
	}
	return h.send(message, priorityOf(r.Level), fields)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.attrs = append([]slog.Attr(nil), h.attrs...)
	for _, a := range attrs {
		a.Key = h.prefix + a.Key
		next.attrs = append(next.attrs, a)
	}
	return &next
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	next := *h
	next.prefix = h.prefix + name + "_"
	return &next
}

// flatten puts an attribute, and every one in it, into fields and into the words behind the message.
func flatten(prefix string, a slog.Attr, fields map[string]string, said *[]string) {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		for _, inner := range value.Group() {
			flatten(prefix+a.Key+"_", inner, fields, said)
		}
		return
	}
	if a.Key == "" {
		return
	}
	text := value.String()
	if text == "" {
		return
	}
	fields[fieldName(prefix+a.Key)] = text
	*said = append(*said, fmt.Sprintf("%s=%s", prefix+a.Key, quoted(text)))
}

// fieldName makes a name that the journal takes: upper-case letters, digits and underscores, and not an underscore first
// (systemd.journal-fields(7)).
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		default:
			return '_'
		}
	}, key)
	name = strings.TrimLeft(name, "_0123456789")
	return "NIXFLEET_" + name
}

func quoted(s string) string {
	if strings.ContainsAny(s, " \t\n\"=") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

func priorityOf(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	default:
		return journal.PriDebug
	}
}
