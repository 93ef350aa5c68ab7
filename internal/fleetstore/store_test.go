package fleetstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

var epochStart = time.Date(2026, 11, 24, 20, 0, 0, 0, time.UTC)

// notice is an event that moves no record.
func notice(host string, pos uint64) wire.Event {
	return wire.Event{SpecVersion: wire.SpecVersion, ID: wire.EventID("e", pos), Source: wire.SourceOf(host), Type: wire.TypeOf("Note"),
		Time: epochStart.Add(time.Duration(pos) * time.Second), DataContentType: wire.JSON, Data: json.RawMessage(fmt.Sprintf(`{"kind":"Note","n":%d}`, pos))}
}

func appendBatch(t *testing.T, s *fleetstore.Store, host string, events ...wire.Event) (mirror.State, []wire.Result) {
	t.Helper()
	state, results, err := s.Change(context.Background(), host, func(mirror.State) (mirror.Entry, error) {
		return mirror.Entry{At: epochStart, Batch: events}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return state, results
}

func encoded(t *testing.T, s mirror.State) string {
	t.Helper()
	data, err := mirror.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestReopenedStoreHasTheSameStates(t *testing.T) {
	dir := t.TempDir()
	store, closeStore := open(t, dir)
	hosts := []string{"web-1", "web.example.org", "* > odd\x00"}
	want := map[string]string{}
	for _, host := range hosts {
		appendBatch(t, store, host, notice(host, 1), notice(host, 2))
		state, results := appendBatch(t, store, host, notice(host, 2), notice(host, 3))
		if results[0].Result != wire.Duplicate || results[1].Result != wire.Applied {
			t.Errorf("%s: results %+v", host, results)
		}
		want[host] = encoded(t, state)
	}
	closeStore()
	store, closeStore = open(t, dir)
	defer closeStore()
	got := map[string]string{}
	if err := store.States(context.Background(), func(s mirror.State) error { got[s.Host] = encoded(t, s); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, host := range hosts {
		if got[host] != want[host] {
			t.Errorf("%q after reopening: %s, want %s", host, got[host], want[host])
		}
	}
	if len(got) != len(hosts) {
		t.Errorf("%d hosts, want %d", len(got), len(hosts))
	}
}

// Every instance appends its own part of what a host sends and much that others send, too. Each event must be in the log once.
func TestInstancesThatRaceAppendEveryEventOnce(t *testing.T) {
	store, closeStore := open(t, t.TempDir())
	defer closeStore()
	const writers, events = 4, 40
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for pos := uint64(1); pos <= events; pos++ {
				_, results, err := store.Change(context.Background(), "h", func(mirror.State) (mirror.Entry, error) {
					return mirror.Entry{At: epochStart, Batch: []wire.Event{notice("h", pos)}}, nil
				})
				if err != nil || len(results) != 1 {
					t.Errorf("append %d: %v, %v", pos, results, err)
					return
				}
			}
		})
	}
	wg.Wait()
	applied := map[uint64]int{}
	last, err := store.Last(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Range(context.Background(), "", 1, last, func(l fleetstore.Logged) error {
		for _, r := range l.Entry.Results {
			if r.Result == wire.Applied {
				applied[r.Pos]++
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for pos := uint64(1); pos <= events; pos++ {
		if applied[pos] != 1 {
			t.Errorf("event %d was applied %d times", pos, applied[pos])
		}
	}
}

func TestTargetsWakeWhoeverWaits(t *testing.T) {
	store, closeStore := open(t, t.TempDir())
	defer closeStore()
	put := func(host, target string) wire.Dispatch {
		d, err := store.PutTarget(context.Background(), host, func(before *wire.Dispatch) (wire.Dispatch, error) {
			d := wire.Dispatch{Host: host, Target: target, Generation: 1}
			if before != nil {
				d.Generation = before.Generation + 1
			}
			return d, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	put("a", "first")
	targets, err := store.WatchTargets(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := targets.Close(); err != nil {
			t.Error(err)
		}
	}()
	if d, ok := targets.Newest("a"); !ok || d.Target != "first" {
		t.Errorf("newest of a: %+v, %v", d, ok)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got := make(chan wire.Dispatch)
	go func() {
		d, _ := targets.Await(ctx, "a", 1, nil)
		got <- d
	}()
	put("b", "other")
	put("a", "second")
	if d := <-got; d.Target != "second" || d.Generation != 2 {
		t.Errorf("woken with %+v", d)
	}
	gone, stop := context.WithCancel(context.Background())
	stop()
	if d, ok := targets.Await(gone, "a", 2, nil); ok {
		t.Errorf("%+v is handed out to whom has it", d)
	}
}

// A conflict may come from a publication of our own whose answer was lost.
func TestPublicationThatTimedOutIsRecognised(t *testing.T) {
	store, closeStore := open(t, t.TempDir())
	defer closeStore()
	tries := 0
	_, results, err := store.Change(context.Background(), "h", func(mirror.State) (mirror.Entry, error) {
		if tries++; tries == 1 { // between reading and appending, the same batch arrives by another way
			appendBatch(t, store, "h", notice("h", 1))
		}
		return mirror.Entry{At: epochStart, Batch: []wire.Event{notice("h", 1), notice("h", 2)}}, nil
	})
	if err != nil || tries != 2 || results[0].Result != wire.Duplicate || results[1].Result != wire.Applied {
		t.Errorf("%d tries, results %+v, %v", tries, results, err)
	}
}

// Snapshots are a shortcut: without them, and with one that cannot be read, the log gives the same state.
func TestStateIsRebuiltFromTheLog(t *testing.T) {
	dir := t.TempDir()
	server, err := fleetstore.StartServer(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx := context.Background()
	store, err := fleetstore.Open(ctx, nc, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var state mirror.State
	for pos := uint64(1); pos <= 20; pos++ {
		state, _ = appendBatch(t, store, "h", notice("h", pos))
	}
	want := encoded(t, state)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	snapshots, err := js.KeyValue(ctx, "nixfleet-mirror")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := snapshots.Keys(ctx)
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys of the mirror bucket: %v, %v", keys, err)
	}
	if _, err := snapshots.Put(ctx, keys[0], []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	again := func(what string) {
		t.Helper()
		if got, err := store.State(ctx, "h"); err != nil || encoded(t, got) != want {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	again("with an unreadable snapshot")
	if err := js.DeleteKeyValue(ctx, "nixfleet-mirror"); err != nil {
		t.Fatal(err)
	}
	if store, err = fleetstore.Open(ctx, nc, 1, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	again("without the bucket")
	if _, results := appendBatch(t, store, "h", notice("h", 20), notice("h", 21)); results[0].Result != wire.Duplicate || results[1].Result != wire.Applied {
		t.Errorf("results %+v", results)
	}
}

func TestCancelledChangeIsUnavailable(t *testing.T) {
	store, closeStore := open(t, t.TempDir())
	defer closeStore()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := store.Change(ctx, "h", func(mirror.State) (mirror.Entry, error) {
		return mirror.Entry{At: epochStart, Batch: []wire.Event{notice("h", 1)}}, nil
	})
	if !errors.Is(err, fleetstore.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}
