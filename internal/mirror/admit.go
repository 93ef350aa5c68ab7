package mirror

import (
	"errors"
	"fmt"

	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// ErrForeign is the error of a batch in which a host speaks for another one.
var ErrForeign = errors.New("the event is of another host")

// Malformed says why an event cannot be stored.
type Malformed struct {
	Pos  uint64 // 0: it cannot be told
	What string
}

func (e *Malformed) Error() string {
	if e.Pos == 0 {
		return "read event: " + e.What
	}
	return fmt.Sprintf("read event %d: %s", e.Pos, e.What)
}

// Admit checks that a batch may go into a host's log: all of it is of that host, in order and within bounds. What an event says
// is not judged here.
func Admit(host string, batch []wire.Event) error {
	if len(batch) > wire.MaxEvents {
		return &Malformed{What: fmt.Sprintf("%d events in a batch, at most %d are taken", len(batch), wire.MaxEvents)}
	}
	var lastEpoch string
	var lastPos uint64
	for _, ev := range batch {
		epoch, pos, err := wire.ParseEventID(ev.ID)
		switch {
		case err != nil:
			return &Malformed{What: err.Error()}
		case ev.Source != wire.SourceOf(host):
			return fmt.Errorf("%w: %s sends an event of %s", ErrForeign, host, clipped(ev.Source, maxRolloutID))
		case ev.SpecVersion != wire.SpecVersion:
			return &Malformed{Pos: pos, What: fmt.Sprintf("CloudEvents %q, not %s", clipped(ev.SpecVersion, maxEpoch), wire.SpecVersion)}
		case ev.Type == "" || len(ev.Type) > maxRolloutID:
			return &Malformed{Pos: pos, What: "no type, or one that is too long"}
		case len(epoch) > maxEpoch:
			return &Malformed{Pos: pos, What: "its epoch is too long"}
		case len(ev.Subject) > maxRolloutID:
			return &Malformed{Pos: pos, What: "its subject is too long"}
		case ev.Time.IsZero():
			return &Malformed{Pos: pos, What: "no time"}
		case epoch == lastEpoch && pos <= lastPos:
			return &Malformed{What: fmt.Sprintf("position %d comes after %d", pos, lastPos)} // no event is at fault, so none is named
		}
		lastEpoch, lastPos = epoch, pos
	}
	return nil
}
