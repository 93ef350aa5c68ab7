package fleetstore

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Targets is a copy of the newest dispatches, kept fresh by the bucket's watch, on which any number of requests may wait.
type Targets struct {
	mu      sync.Mutex
	newest  map[string]wire.Dispatch
	waiting map[string]map[chan struct{}]bool

	watch jetstream.KeyWatcher
	done  chan struct{}
	log   *slog.Logger
}

// WatchTargets reads all targets and goes on watching until Close.
func (s *Store) WatchTargets(ctx context.Context) (*Targets, error) {
	watch, err := s.targets.WatchAll(ctx)
	if err != nil {
		return nil, unavailable("watch targets", err)
	}
	t := &Targets{newest: map[string]wire.Dispatch{}, waiting: map[string]map[chan struct{}]bool{}, watch: watch, done: make(chan struct{}), log: s.log}
	for {
		select {
		case entry := <-watch.Updates():
			if entry == nil { // all that there was is read
				go t.run()
				return t, nil
			}
			t.take(entry)
		case <-ctx.Done():
			return nil, unavailable("watch targets", errors.Join(ctx.Err(), watch.Stop()))
		}
	}
}

func (t *Targets) run() {
	defer close(t.done)
	for entry := range t.watch.Updates() {
		if entry != nil {
			t.take(entry)
		}
	}
}

// Close ends the watch. Whoever waits goes on waiting, for its own context.
func (t *Targets) Close() error {
	err := t.watch.Stop()
	<-t.done
	return err
}

func (t *Targets) take(entry jetstream.KeyValueEntry) {
	host, err := nameOf(entry.Key())
	var d wire.Dispatch
	if err == nil && entry.Operation() == jetstream.KeyValuePut {
		err = json.Unmarshal(entry.Value(), &d)
	}
	if err != nil {
		t.log.Error("read target", slog.String("key", entry.Key()), slog.Any("err", err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if entry.Operation() != jetstream.KeyValuePut {
		delete(t.newest, host)
		return
	}
	t.newest[host] = d
	for wake := range t.waiting[host] {
		close(wake)
	}
	delete(t.waiting, host)
}

// Newest is the newest dispatch of a host.
func (t *Targets) Newest(host string) (wire.Dispatch, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.newest[host]
	return d, ok
}

// Await is the newest dispatch of a host once its generation is above have. It is false when ctx ends or stop is closed before.
func (t *Targets) Await(ctx context.Context, host string, have uint64, stop <-chan struct{}) (wire.Dispatch, bool) {
	for {
		t.mu.Lock()
		d, ok := t.newest[host]
		if ok && d.Generation > have {
			t.mu.Unlock()
			return d, true
		}
		wake := make(chan struct{})
		if t.waiting[host] == nil {
			t.waiting[host] = map[chan struct{}]bool{}
		}
		t.waiting[host][wake] = true
		t.mu.Unlock()
		select {
		case <-wake:
			continue
		case <-stop:
		case <-ctx.Done():
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.waiting[host], wake)
		if len(t.waiting[host]) == 0 {
			delete(t.waiting, host)
		}
		return wire.Dispatch{}, false
	}
}
