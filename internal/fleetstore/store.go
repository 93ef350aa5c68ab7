package fleetstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Names in JetStream.
const (
	logStream       = "NIXFLEET_LOG"
	logSubjects     = "nixfleet.log."
	mirrorBucket    = "nixfleet-mirror"
	targetsBucket   = "nixfleet-targets"
	heartbeatBucket = "nixfleet-heartbeat"
	accusedBucket   = "nixfleet-accused"
)

// Store is a fleet on JetStream. It is safe for concurrent use.
type Store struct {
	nc         *nats.Conn
	js         jetstream.JetStream
	stream     jetstream.Stream
	mirrors    jetstream.KeyValue
	targets    jetstream.KeyValue
	heartbeats jetstream.KeyValue
	accused    jetstream.KeyValue
	log        *slog.Logger
}

// snapshot is a value of the mirror bucket.
type snapshot struct {
	Seq        uint64       `json:"seq"`                  // of the last message that is in it
	Checkpoint uint64       `json:"checkpoint,omitempty"` // sequence of the newest checkpoint in the log; 0: none is known
	State      mirror.State `json:"state"`
}

// Open finds or makes stream and buckets, with the number of replicas given for what is made. It takes the connection over.
func Open(ctx context.Context, nc *nats.Conn, replicas int, log *slog.Logger) (*Store, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open fleet store: %w", err)
	}
	s := &Store{nc: nc, js: js, log: log}
	err = patiently(ctx, func(ctx context.Context) (err error) {
		s.stream, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: logStream, Description: "nixfleet: what every host reported and was asked for", Subjects: []string{logSubjects + "*"},
			Storage: jetstream.FileStorage, Replicas: replicas,
			DenyDelete: true, // the truth is not edited
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	for _, b := range []struct {
		kv      *jetstream.KeyValue
		name    string
		about   string
		storage jetstream.StorageType
	}{
		{&s.mirrors, mirrorBucket, "nixfleet: snapshots of the log, per host", jetstream.FileStorage},
		{&s.targets, targetsBucket, "nixfleet: newest dispatch, per host", jetstream.FileStorage},
		{&s.heartbeats, heartbeatBucket, "nixfleet: last heartbeat, per host", jetstream.MemoryStorage},
		{&s.accused, accusedBucket, "nixfleet: closures that a host went back from, per channel", jetstream.FileStorage},
	} {
		err = patiently(ctx, func(ctx context.Context) (err error) {
			*b.kv, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
				Bucket: b.name, Description: b.about, History: 1, Storage: b.storage, Replicas: replicas})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", b.name, err)
		}
	}
	return s, nil
}

// patiently makes a call that may be made twice until there is an answer. A cluster that was just started, or that elects, drops
// some of them.
func patiently(ctx context.Context, call func(context.Context) error) error {
	for try := 1; ; try++ {
		bounded, cancel := context.WithTimeout(ctx, min(callTimeout, firstTry<<min(try-1, 10)))
		err := call(bounded)
		cancel()
		var api *jetstream.APIError
		elects := errors.As(err, &api) && api.ErrorCode == notAvailable
		if !elects && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
		if pause(ctx, try) != nil {
			return errors.Join(ErrUnavailable, err)
		}
	}
}

// Close ends the connection.
func (s *Store) Close() { s.nc.Close() }

// State is the state of a host: its snapshot and what its log has after it.
func (s *Store) State(ctx context.Context, host string) (mirror.State, error) {
	h, err := s.read(ctx, host, true)
	return h.state, err
}

// head is a host's state at the end of its log.
type head struct {
	state mirror.State
	seq   uint64 // of the last message; 0: the log is empty
	rev   uint64 // of the snapshot that is there; 0: there is none

	checkpoint uint64 // sequence of the newest checkpoint in the log; 0: none is known
}

func (s *Store) read(ctx context.Context, host string, trust bool) (head, error) {
	h := head{state: mirror.State{Host: host}}
	snap := s.snapshot(ctx, host, &h.rev)
	if snap != nil && trust {
		h.state, h.seq, h.checkpoint = snap.State, snap.Seq, snap.Checkpoint
	}
	err := s.Range(ctx, host, h.seq+1, math.MaxUint64, func(l Logged) error {
		h.state, _, _ = mirror.Apply(h.state, l.Entry)
		h.seq = l.Seq
		if l.Entry.Checkpoint != nil {
			h.checkpoint = l.Seq
		}
		return nil
	})
	return h, err
}

// snapshot is the snapshot of a host, nil if there is none, and its revision. One that cannot be had or read only costs time.
func (s *Store) snapshot(ctx context.Context, host string, rev *uint64) *snapshot {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entry, err := s.mirrors.Get(ctx, keyOf(host))
	if err != nil {
		if !errors.Is(err, jetstream.ErrKeyNotFound) {
			s.log.Warn("read snapshot", slog.String("host", host), slog.Any("err", err))
		}
		return nil
	}
	*rev = entry.Revision()
	var snap snapshot
	if err := unpack(entry.Value(), &snap); err != nil || snap.State.Host != host {
		s.log.Warn("a snapshot cannot be read; the log is folded instead", slog.String("host", host), slog.Any("err", err))
		return nil
	}
	return &snap
}

// Change appends an entry to a host's log. Propose gives the entry for the state that it is handed, and may be called several times;
// an entry that brings no news is not appended, nor is the zero Entry. It returns the state after the entry and, for a batch, what
// became of its events.
func (s *Store) Change(ctx context.Context, host string, propose func(mirror.State) (mirror.Entry, error)) (mirror.State, []wire.Result, error) {
	conflicts := 0
	for try := range maxTries {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return mirror.State{}, nil, unavailable("change "+host, err)
			}
		}
		h, err := s.read(ctx, host, conflicts < staleAfter)
		if err != nil {
			return h.state, nil, err
		}
		entry, err := propose(h.state)
		if err != nil {
			return h.state, nil, err
		}
		next, results, news := mirror.Apply(h.state, entry)
		if !news {
			return next, results, nil
		}
		entry.Host, entry.Results = host, results
		seq, err := s.append(ctx, host, entry, h.seq)
		switch {
		case err == nil:
			if entry.Checkpoint != nil {
				h.checkpoint = seq
			}
			s.keep(ctx, host, snapshot{Seq: seq, Checkpoint: h.checkpoint, State: next}, h.rev)
			return next, results, nil
		case isConflict(err):
			conflicts++
		case errors.Is(err, nats.ErrMaxPayload):
			return h.state, nil, fmt.Errorf("append to the log of %s: %w", host, ErrTooLarge)
		case ctx.Err() != nil:
			return h.state, nil, unavailable("append to the log of "+host, err)
		default:
			s.log.Warn("append to the log; it is read again", slog.String("host", host), slog.Any("err", err))
		}
	}
	return mirror.State{}, nil, unavailable("change "+host, fmt.Errorf("given up after %d tries", maxTries))
}

// append publishes an entry if last is still the host's last message.
func (s *Store) append(ctx context.Context, host string, e mirror.Entry, last uint64) (uint64, error) {
	data, err := pack(e)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ack, err := s.js.Publish(ctx, logSubjects+keyOf(host), data, jetstream.WithExpectLastSequencePerSubject(last))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// keep writes a snapshot in the place of the one that was read. That it could not be written only costs time later.
func (s *Store) keep(ctx context.Context, host string, snap snapshot, rev uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	data, err := pack(snap)
	if err == nil {
		_, err = s.mirrors.Update(ctx, keyOf(host), data, rev)
	}
	if err != nil && !isConflict(err) {
		s.log.Warn("keep snapshot", slog.String("host", host), slog.Any("err", err))
	}
}

// States hands the states of all hosts of which there is a log to visit, in no order.
func (s *Store) States(ctx context.Context, visit func(mirror.State) error) error {
	hosts, err := s.Hosts(ctx)
	if err != nil {
		return err
	}
	for _, host := range hosts {
		state, err := s.State(ctx, host)
		if err != nil {
			return err
		}
		if err := visit(state); err != nil {
			return err
		}
	}
	return nil
}

// Hosts are the names of all hosts of which there is a log, in no order.
func (s *Store) Hosts(ctx context.Context) ([]string, error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(logSubjects+"*"))
	if err != nil {
		return nil, unavailable("list hosts", err)
	}
	hosts := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		host, err := nameOf(strings.TrimPrefix(subject, logSubjects))
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// PutHeartbeat keeps the last heartbeat of a host.
func (s *Store) PutHeartbeat(ctx context.Context, b Heartbeat) error {
	b.Records = nil // they are in the log, or told by events
	data, err := pack(b)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := s.heartbeats.Put(ctx, keyOf(b.Host), data); err != nil {
		return unavailable("keep heartbeat of "+b.Host, err)
	}
	return nil
}

// Heartbeat is a heartbeat and when it was received.
type Heartbeat struct {
	ReceivedAt time.Time `json:"receivedAt"`
	wire.Heartbeat
}

// LastHeartbeat is the last heartbeat of a host; nil where there was none since the bucket was made.
func (s *Store) LastHeartbeat(ctx context.Context, host string) (*Heartbeat, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entry, err := s.heartbeats.Get(ctx, keyOf(host))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, nil
	case err != nil:
		return nil, unavailable("read heartbeat of "+host, err)
	}
	var b Heartbeat
	if err := unpack(entry.Value(), &b); err != nil {
		return nil, fmt.Errorf("read heartbeat of %s: %w", host, err)
	}
	return &b, nil
}

// Target is the newest dispatch of a host; nil where there was none.
func (s *Store) Target(ctx context.Context, host string) (*wire.Dispatch, error) {
	d, _, err := s.target(ctx, host)
	return d, err
}

func (s *Store) target(ctx context.Context, host string) (*wire.Dispatch, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entry, err := s.targets.Get(ctx, keyOf(host))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, unavailable("read target of "+host, err)
	}
	var d wire.Dispatch
	if err := json.Unmarshal(entry.Value(), &d); err != nil {
		return nil, 0, fmt.Errorf("read target of %s: %w", host, err)
	}
	return &d, entry.Revision(), nil
}

// PutTarget makes a dispatch the newest of its host. Propose gives it for the one before, nil if there was none, and may be called several
// times; where it gives one that is not above that, nothing is written.
func (s *Store) PutTarget(ctx context.Context, host string, propose func(before *wire.Dispatch) (wire.Dispatch, error)) (wire.Dispatch, error) {
	for try := range maxTries {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return wire.Dispatch{}, unavailable("put target of "+host, err)
			}
		}
		before, rev, err := s.target(ctx, host)
		if err != nil {
			return wire.Dispatch{}, err
		}
		d, err := propose(before)
		if err != nil || before != nil && d.Generation <= before.Generation {
			return d, err
		}
		data, err := json.Marshal(d)
		if err != nil {
			return d, fmt.Errorf("put target of %s: %w", host, err)
		}
		err = s.update(ctx, host, data, rev)
		switch {
		case err == nil:
			return d, nil
		case ctx.Err() != nil:
			return d, unavailable("put target of "+host, err)
		case !isConflict(err):
			s.log.Warn("put target; it is read again", slog.String("host", host), slog.Any("err", err))
		}
	}
	return wire.Dispatch{}, unavailable("put target of "+host, fmt.Errorf("given up after %d tries", maxTries))
}

func (s *Store) update(ctx context.Context, host string, data []byte, rev uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.targets.Update(ctx, keyOf(host), data, rev)
	return err
}

// Accusation says that a host went back from a target, so that the rest of the channel is not asked for it by chance.
type Accusation struct {
	Channel   string    `json:"channel"`
	Target    string    `json:"target"`
	Host      string    `json:"host"`
	RolloutID string    `json:"rolloutId"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
}

// Accuse keeps the first accusation of a target on a channel.
func (s *Store) Accuse(ctx context.Context, a Accusation) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("keep accusation: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := s.accused.Create(ctx, accusedKey(a.Channel, a.Target), data); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return unavailable("keep accusation", err)
	}
	return nil
}

// Accused is what speaks against a target on a channel; nil if nothing does.
func (s *Store) Accused(ctx context.Context, channel, target string) (*Accusation, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entry, err := s.accused.Get(ctx, accusedKey(channel, target))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, nil
	case err != nil:
		return nil, unavailable("read accusation", err)
	}
	var a Accusation
	if err := json.Unmarshal(entry.Value(), &a); err != nil {
		return nil, fmt.Errorf("read accusation: %w", err)
	}
	return &a, nil
}

// Accusations are all of them, in no order.
func (s *Store) Accusations(ctx context.Context) (all []Accusation, err error) {
	watch, err := s.accused.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, unavailable("list accusations", err)
	}
	defer func() { err = errors.Join(err, watch.Stop()) }()
	for {
		select {
		case entry := <-watch.Updates():
			if entry == nil { // all that there was is read
				return all, nil
			}
			var a Accusation
			if err := json.Unmarshal(entry.Value(), &a); err != nil {
				return nil, fmt.Errorf("read accusation: %w", err)
			}
			all = append(all, a)
		case <-ctx.Done():
			return nil, unavailable("list accusations", ctx.Err())
		}
	}
}

// Clear takes the accusation of a target on a channel away. The next host that goes back from it accuses it anew.
func (s *Store) Clear(ctx context.Context, channel, target string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entry, err := s.accused.Get(ctx, accusedKey(channel, target))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("clear %s on channel %s: %w", target, channel, ErrNotAccused)
	case err != nil:
		return unavailable("clear accusation", err)
	}
	if err := s.accused.Purge(ctx, entry.Key(), jetstream.LastRevision(entry.Revision())); err != nil {
		return unavailable("clear accusation", err)
	}
	return nil
}

func accusedKey(channel, target string) string { return keyOf(channel) + "." + keyOf(target) }

// isConflict reports whether something was appended before.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w (%w)", doing, ErrUnavailable, err)
}

// pause waits for a random time, longer with every try, so that instances do not stay in each other's way.
func pause(ctx context.Context, try int) error {
	most := min(maxPause, pauseUnit<<min(try, 10))
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
