package fleetstore_test

import (
	"context"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const day = 24 * time.Hour

// fleet is a store with a way around it, to break what it relies on.
type fleet struct {
	*fleetstore.Store
	js     jetstream.JetStream
	close  func()
	handle func() *fleetstore.Store // opens it anew
}

func openFleet(t fatal, dir string) *fleet {
	server, err := fleetstore.StartServer(dir, slog.New(slog.DiscardHandler))
	must(t, err)
	nc, err := server.Connect()
	must(t, err)
	js, err := jetstream.New(nc)
	must(t, err)
	f := &fleet{js: js, close: func() { nc.Close(); server.Close() }}
	f.handle = func() *fleetstore.Store {
		store, err := fleetstore.Open(context.Background(), nc, 1, slog.New(slog.DiscardHandler))
		must(t, err)
		return store
	}
	f.Store = f.handle()
	return f
}

type fatal interface{ Fatal(args ...any) }

func must(t fatal, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// at appends a notice that is received at a time, and gives the state.
func (f *fleet) at(t fatal, host string, pos uint64, received time.Time) mirror.State {
	state, _, err := f.Change(context.Background(), host, func(mirror.State) (mirror.Entry, error) {
		return mirror.Entry{At: received, Batch: []wire.Event{notice(host, pos)}}, nil
	})
	must(t, err)
	return state
}

func (f *fleet) trim(t fatal, r fleetstore.Retention, now time.Time) uint64 {
	n, err := f.Trim(context.Background(), r, now)
	must(t, err)
	return n
}

// entries are what is left of a host's log.
func (f *fleet) entries(t fatal, host string) (left []fleetstore.Logged) {
	must(t, f.Range(context.Background(), host, 1, math.MaxUint64, func(l fleetstore.Logged) error { left = append(left, l); return nil }))
	return left
}

// plain is a state as it would be if nothing had ever been purged.
func plain(t fatal, s mirror.State) string {
	s.Purged = nil
	data, err := mirror.Encode(s)
	must(t, err)
	return string(data)
}

// fromLogAlone is the state without any snapshot, which are all taken away.
func (f *fleet) fromLogAlone(t fatal, host string) mirror.State {
	must(t, f.js.DeleteKeyValue(context.Background(), "nixfleet-mirror"))
	f.Store = f.handle()
	state, err := f.State(context.Background(), host)
	must(t, err)
	return state
}

func TestTrimBoundsByNumber(t *testing.T) {
	f := openFleet(t, t.TempDir())
	defer f.close()
	bound := fleetstore.Retention{Messages: 20}
	for pos := uint64(1); pos <= 20; pos++ {
		f.at(t, "web", pos, epochStart)
		f.at(t, "db", pos, epochStart)
	}
	if n := f.trim(t, bound, epochStart); n != 0 || len(f.entries(t, "web")) != 20 {
		t.Errorf("%d messages purged within the bound", n)
	}
	want := plain(t, f.at(t, "web", 21, epochStart))
	if n := f.trim(t, bound, epochStart); n != 3 {
		t.Errorf("%d messages purged, want 3", n)
	}
	left := f.entries(t, "web")
	if len(left) != 19 || left[0].Entry.Batch[0].ID != wire.EventID("e", 4) || left[18].Entry.Checkpoint == nil {
		t.Errorf("%d left, from %+v", len(left), left[0])
	}
	if len(f.entries(t, "db")) != 20 {
		t.Error("the log of another host was trimmed")
	}
	state, err := f.State(context.Background(), "web")
	must(t, err)
	if p := state.Purged; plain(t, state) != want || p == nil || p.Through >= left[0].Seq || !p.Before.Equal(epochStart) {
		t.Errorf("state after it: %+v", state)
	}
	if alone := f.fromLogAlone(t, "web"); plain(t, alone) != want {
		t.Errorf("the log alone gives\n%s, want\n%s", plain(t, alone), want)
	}
	if n := f.trim(t, bound, epochStart); n != 0 || len(f.entries(t, "web")) != 19 {
		t.Errorf("%d messages purged the next time", n)
	}
	// What was purged is still known.
	if _, results := appendBatch(t, f.Store, "web", notice("web", 21), notice("web", 22)); results[0].Result != wire.Duplicate || results[1].Result != wire.Applied {
		t.Errorf("results %+v", results)
	}
}

func TestTrimBoundsByAge(t *testing.T) {
	f := openFleet(t, t.TempDir())
	defer f.close()
	bound := fleetstore.Retention{Age: 10 * day}
	var want string
	for pos := range uint64(12) { // one a day
		want = plain(t, f.at(t, "web", pos+1, epochStart.Add(time.Duration(pos)*day)))
	}
	now := epochStart.Add(10 * day)
	if n := f.trim(t, bound, now); n != 0 {
		t.Errorf("%d messages purged within the bound", n)
	}
	now = now.Add(time.Hour)
	if n := f.trim(t, bound, now); n != 2 { // the bound, and the tenth of it that goes with it
		t.Errorf("%d messages purged", n)
	}
	if left := f.entries(t, "web"); now.Sub(left[0].Entry.At) > bound.Age {
		t.Errorf("what is left begins on %s", left[0].Entry.At)
	}
	// A host that has gone silent is left with one message, and that for good.
	now = now.Add(100 * day)
	f.trim(t, bound, now)
	left := f.entries(t, "web")
	if len(left) != 1 || left[0].Entry.Checkpoint == nil {
		t.Fatalf("%d messages left of a silent host", len(left))
	}
	if n := f.trim(t, bound, now.Add(100*day)); n != 0 || f.entries(t, "web")[0].Seq != left[0].Seq {
		t.Errorf("%d messages purged of a silent host", n)
	}
	if alone := f.fromLogAlone(t, "web"); plain(t, alone) != want {
		t.Errorf("the log alone gives\n%s, want\n%s", plain(t, alone), want)
	}
	if incomplete, err := f.Incomplete(context.Background()); err != nil || !incomplete {
		t.Errorf("the log is said to be whole: %v", err)
	}
}

// The process ends after the checkpoint and before the purge. Nothing is missing, and the next time does the rest without another
// checkpoint.
func TestTrimThatIsCutOffBeforeThePurge(t *testing.T) {
	dir := t.TempDir()
	f := openFleet(t, dir)
	var want string
	for pos := uint64(1); pos <= 30; pos++ {
		want = plain(t, f.at(t, "web", pos, epochStart))
	}
	bound := fleetstore.Retention{Messages: 20}
	gone, err := f.TrimCutOff(context.Background(), "web", 30, bound, epochStart)
	if err != nil || gone.Through != 12 {
		t.Fatalf("%+v, %v", gone, err)
	}
	f.close()
	f = openFleet(t, dir)
	defer f.close()
	if left := f.entries(t, "web"); len(left) != 31 || left[30].Entry.Checkpoint == nil {
		t.Fatalf("%d messages", len(left))
	}
	for what, state := range map[string]func() mirror.State{
		"with its snapshot": func() mirror.State { s, err := f.State(context.Background(), "web"); must(t, err); return s },
		"by the log alone":  func() mirror.State { return f.fromLogAlone(t, "web") },
	} {
		if s := state(); plain(t, s) != want {
			t.Errorf("%s it is\n%s, want\n%s", what, plain(t, s), want)
		}
	}
	f.trim(t, fleetstore.Retention{Messages: 21}, epochStart) // of 31 messages, the same 12
	left := f.entries(t, "web")
	if len(left) != 19 || left[18].Seq != 31 {
		t.Errorf("%d messages, the last is %d", len(left), left[len(left)-1].Seq)
	}
	if alone := f.fromLogAlone(t, "web"); plain(t, alone) != want {
		t.Errorf("the log alone gives\n%s, want\n%s", plain(t, alone), want)
	}
}

// A snapshot that is from before the purge, as from a replica that lags or a backup of the bucket, gives the same state.
func TestTrimPassesNoSnapshot(t *testing.T) {
	f := openFleet(t, t.TempDir())
	defer f.close()
	ctx := context.Background()
	for pos := uint64(1); pos <= 5; pos++ {
		f.at(t, "web", pos, epochStart)
	}
	snapshots, err := f.js.KeyValue(ctx, "nixfleet-mirror")
	must(t, err)
	keys, err := snapshots.Keys(ctx)
	must(t, err)
	old, err := snapshots.Get(ctx, keys[0])
	must(t, err)
	var want string
	for pos := uint64(6); pos <= 30; pos++ {
		want = plain(t, f.at(t, "web", pos, epochStart))
	}
	if n := f.trim(t, fleetstore.Retention{Messages: 10}, epochStart); n == 0 {
		t.Fatal("nothing was purged")
	}
	_, err = snapshots.Put(ctx, keys[0], old.Value())
	must(t, err)
	state, err := f.State(ctx, "web")
	must(t, err)
	if plain(t, state) != want {
		t.Errorf("with a snapshot of before it is\n%s, want\n%s", plain(t, state), want)
	}
}

// Whatever comes, however it is trimmed, wherever that is cut off: snapshot and tail, and the log alone, always give what the log would
// give if nothing had been purged.
func TestTrimmedLogFoldsToTheSameState(t *testing.T) {
	f := openFleet(t, t.TempDir())
	defer f.close()
	ctx := context.Background()
	host := 0
	rapid.Check(t, func(rt *rapid.T) {
		host++
		name := wire.EventID("h", uint64(host))
		whole := mirror.State{Host: name}
		now, pos := epochStart, uint64(0)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 48).Draw(rt, "hours")) * time.Hour)
			bound := fleetstore.Retention{Age: time.Duration(rapid.IntRange(0, 4).Draw(rt, "days")) * day, Messages: uint64(rapid.IntRange(0, 6).Draw(rt, "messages"))}
			switch rapid.IntRange(0, 6).Draw(rt, "what") {
			case 0:
				f.trim(rt, bound, now)
			case 1:
				_, err := f.TrimCutOff(ctx, name, uint64(len(f.entries(rt, name))), bound, now)
				must(rt, err)
			case 2:
				f.fromLogAlone(rt, name)
			default:
				pos += uint64(rapid.IntRange(1, 3).Draw(rt, "gap"))
				f.at(rt, name, pos, now)
				whole, _, _ = mirror.Apply(whole, mirror.Entry{Host: name, At: now, Batch: []wire.Event{notice(name, pos)}})
			}
			state, err := f.State(ctx, name)
			must(rt, err)
			if got, want := plain(rt, state), plain(rt, whole); got != want {
				rt.Fatalf("it is\n%s, want\n%s", got, want)
			}
		}
		if got, want := plain(rt, f.fromLogAlone(rt, name)), plain(rt, whole); got != want {
			rt.Fatalf("the log alone gives\n%s, want\n%s", got, want)
		}
	})
}

// Trimming goes on while others append, in two instances at once.
func TestTrimWhileAppending(t *testing.T) {
	f := openFleet(t, t.TempDir())
	defer f.close()
	stop, done := make(chan struct{}), make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := f.Trim(context.Background(), fleetstore.Retention{Messages: 3}, epochStart); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	const events = 200
	for pos := uint64(1); pos <= events; pos++ {
		if _, results := appendBatch(t, f.Store, "web", notice("web", pos)); results[0].Result != wire.Applied {
			t.Errorf("event %d: %+v", pos, results)
		}
	}
	close(stop)
	<-done
	<-done
	whole := mirror.State{Host: "web"}
	for pos := uint64(1); pos <= events; pos++ {
		whole, _, _ = mirror.Apply(whole, mirror.Entry{Batch: []wire.Event{notice("web", pos)}})
	}
	if got, want := plain(t, f.fromLogAlone(t, "web")), plain(t, whole); got != want {
		t.Errorf("the log alone gives\n%s, want\n%s", got, want)
	}
}
