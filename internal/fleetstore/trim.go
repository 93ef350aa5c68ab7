package fleetstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nixfleet/nixfleet-agent/internal/mirror"
)

// Retention bounds the log of each host. What is beyond either bound goes.
type Retention struct {
	Age      time.Duration // since a message was received; 0: no bound
	Messages uint64        // 0: no bound
}

// Trim purges what is beyond the bounds, host by host, and gives the number of messages that it took away. A host that it cannot trim is
// logged and left to the next time. It may run in several instances at once, and be cut off anywhere.
func (s *Store) Trim(ctx context.Context, r Retention, now time.Time) (purged uint64, err error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(logSubjects+"*"))
	if err != nil {
		return 0, unavailable("trim log", err)
	}
	for subject, messages := range info.State.Subjects {
		host, err := nameOf(strings.TrimPrefix(subject, logSubjects))
		if err != nil {
			return purged, err
		}
		n, err := s.trim(ctx, host, messages, r, now)
		purged += n
		switch {
		case ctx.Err() != nil:
			return purged, unavailable("trim log", ctx.Err())
		case err != nil:
			s.log.Warn("trim log", slog.String("host", host), slog.Any("err", err))
		}
	}
	return purged, nil
}

func (s *Store) trim(ctx context.Context, host string, messages uint64, r Retention, now time.Time) (uint64, error) {
	through, err := s.beyond(ctx, host, messages, r, now)
	if err != nil || through.Through == 0 {
		return 0, err
	}
	if err := s.checkpoint(ctx, host, through, now); err != nil {
		return 0, err
	}
	return s.purge(ctx, host, through.Through)
}

// errFound ends a walk over the log.
var errFound = errors.New("found")

// beyond finds the last of the messages that are to go; none gives zero. It may be the last of all, as a checkpoint comes after it; where
// there is one alone, it stays, so that a host of which nothing is heard gets no checkpoint in the place of the last.
func (s *Store) beyond(ctx context.Context, host string, messages uint64, r Retention, now time.Time) (mirror.Purged, error) {
	surplus, old := uint64(0), time.Time{}
	if r.Messages > 0 && messages > r.Messages {
		surplus = messages - (r.Messages - max(1, r.Messages/slack)) // one of them is the checkpoint to come
	}
	if messages < 2 || surplus == 0 && r.Age == 0 {
		return mirror.Purged{}, nil
	}
	var last mirror.Purged
	seen := uint64(0)
	err := s.Range(ctx, host, 1, math.MaxUint64, func(l Logged) error {
		at := l.Entry.At
		if seen == 0 && r.Age > 0 && now.Sub(at) > r.Age {
			old = now.Add(-(r.Age - r.Age/slack))
		}
		seen++
		if seen > surplus && !at.Before(old) {
			return errFound
		}
		last = mirror.Purged{Through: l.Seq, Before: at}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return mirror.Purged{}, err
	}
	return last, nil
}

// checkpoint sees to it that the log has a checkpoint beyond what is to be purged, and that it can be read.
func (s *Store) checkpoint(ctx context.Context, host string, gone mirror.Purged, now time.Time) error {
	h, err := s.read(ctx, host, true)
	if err != nil {
		return err
	}
	if h.checkpoint <= gone.Through || h.state.Purged == nil || h.state.Purged.Through < gone.Through {
		if _, _, err := s.Change(ctx, host, func(state mirror.State) (mirror.Entry, error) {
			state.Purged = &gone
			return mirror.Entry{At: now.UTC(), Checkpoint: &state}, nil
		}); err != nil {
			return err
		}
		if h, err = s.read(ctx, host, true); err != nil {
			return err
		}
	}
	if h.checkpoint <= gone.Through {
		return fmt.Errorf("checkpoint %s: it is not there", host)
	}
	msg, err := s.next(ctx, logSubjects+keyOf(host), h.checkpoint)
	if err != nil {
		return unavailable("read checkpoint of "+host, err)
	}
	var e mirror.Entry
	if err := unpack(msg.Data, &e); err != nil {
		return fmt.Errorf("read checkpoint of %s: %w", host, err)
	}
	if msg.Sequence != h.checkpoint || e.Checkpoint == nil || e.Checkpoint.Host != host {
		return fmt.Errorf("read checkpoint of %s: message %d is none", host, msg.Sequence)
	}
	return nil
}

// purge takes the messages of a host away, up to and with a sequence.
func (s *Store) purge(ctx context.Context, host string, through uint64) (uint64, error) {
	subject := logSubjects + keyOf(host)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	before, err := s.count(ctx, subject)
	if err != nil {
		return 0, err
	}
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(through+1)); err != nil {
		return 0, unavailable("purge log of "+host, err)
	}
	after, err := s.count(ctx, subject)
	return before - min(before, after), err
}

func (s *Store) count(ctx context.Context, subject string) (uint64, error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, unavailable("count log", err)
	}
	return info.State.Subjects[subject], nil
}

// Incomplete reports whether anything was purged of the log of the fleet.
func (s *Store) Incomplete(ctx context.Context) (bool, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return false, unavailable("read log", err)
	}
	return info.State.FirstSeq > 1 || info.State.NumDeleted > 0, nil
}
