package fleetstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nixfleet/nixfleet-agent/internal/mirror"
)

// Logged is an entry with its place in the log of the fleet.
type Logged struct {
	Seq   uint64
	Entry mirror.Entry
}

// Range hands the entries from one sequence to another, both included, to visit, in the order of the log. Host narrows them to one
// host.
func (s *Store) Range(ctx context.Context, host string, from, to uint64, visit func(Logged) error) error {
	subject := logSubjects + "*"
	if host != "" {
		subject = logSubjects + keyOf(host)
	}
	for {
		msg, err := s.next(ctx, subject, from)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil
		case err != nil:
			return unavailable("read log", err)
		case msg.Sequence > to:
			return nil
		}
		var e mirror.Entry
		if err := unpack(msg.Data, &e); err != nil {
			return fmt.Errorf("read message %d of the log: %w", msg.Sequence, err)
		}
		if err := visit(Logged{Seq: msg.Sequence, Entry: e}); err != nil {
			return err
		}
		from = msg.Sequence + 1
	}
}

// next is the first message of a subject at or after a sequence.
func (s *Store) next(ctx context.Context, subject string, seq uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
}

// Last is the sequence of the last message in the log of the fleet.
func (s *Store) Last(ctx context.Context) (uint64, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, unavailable("read log", err)
	}
	return info.State.LastSeq, nil
}

// Follow hands the entries from a sequence on to visit, in the order of the log, until ctx ends or visit returns an error. Host
// narrows them to one host. It returns nil when ctx ends.
func (s *Store) Follow(ctx context.Context, host string, from uint64, visit func(Logged) error) error {
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1)}
	if host != "" {
		cfg.FilterSubjects = []string{logSubjects + keyOf(host)}
	}
	consumer, err := s.stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return unavailable("follow log", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return unavailable("follow log", err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return unavailable("follow log", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
		var e mirror.Entry
		if err := unpack(msg.Data(), &e); err != nil {
			return fmt.Errorf("read message %d of the log: %w", meta.Sequence.Stream, err)
		}
		if err := visit(Logged{Seq: meta.Sequence.Stream, Entry: e}); err != nil {
			return err
		}
	}
}
