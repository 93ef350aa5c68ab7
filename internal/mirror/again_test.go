package mirror_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// A host whose store is an older copy gives out positions anew. Another event at one of them is refused and shown, and a retry of it
// gets the same answer and is stored once; the event that is known is a duplicate as before.
func TestOtherEventAtAKnownPositionIsRefused(t *testing.T) {
	h, p := scene(t)
	h.notice(1)
	h.pos += 2 // positions that no event got
	h.notice(2)
	p.batch(h.events[1:]...)
	known := h.events[1]
	for name, change := range map[string]func(*wire.Event){
		"type":    func(ev *wire.Event) { ev.Type = wire.TypeOf("Drift") },
		"subject": func(ev *wire.Event) { ev.Subject = rollout },
		"time":    func(ev *wire.Event) { ev.Time = ev.Time.Add(time.Nanosecond) },
		"gap":     func(ev *wire.Event) { ev.ID = wire.EventID(h.epoch, h.pos-1) },
	} {
		other := known
		change(&other)
		logged := len(p.log)
		first := p.batch(other)
		if first[0].Result != wire.Refused || !strings.Contains(first[0].Reason, "stored at this position") {
			t.Errorf("%s: %+v", name, first)
		}
		if len(p.log) != logged+1 {
			t.Errorf("%s: it is not stored", name)
		}
		if again := p.batch(other); again[0] != first[0] || len(p.log) != logged+1 {
			t.Errorf("%s, a retry: %+v, %d entries more", name, again, len(p.log)-logged)
		}
		if r := p.batch(known); r[0].Result != wire.Duplicate {
			t.Errorf("%s: the event that is known: %+v", name, r)
		}
	}
	if len(p.state.Refusals) != 4 {
		t.Errorf("refusals %+v", p.state.Refusals)
	}
	if c := p.state.Cursor(); c.Acked != h.pos || !c.AckedAt.Equal(h.events[len(h.events)-1].Time) {
		t.Errorf("cursor %+v", c)
	}
	wantState(t, p, rollout, fsm.Activating)
	if got, want := encode(t, p.refold()), encode(t, p.state); got != want {
		t.Errorf("the log folds to another mirror:\n%s\n%s", got, want)
	}
}

// What cannot be told any more is taken for a duplicate: an event below those that are remembered, and one at a position that only a
// heartbeat named.
func TestOtherEventIsRefusedOnlyWhereItCanBeTold(t *testing.T) {
	h, p := newHost(t), newPlane(t)
	for n := range 200 {
		h.notice(n)
	}
	p.batch(h.events...)
	other := func(pos uint64) wire.Result {
		ev := h.events[0]
		ev.ID, ev.Time = wire.EventID(h.epoch, pos), ev.Time.Add(time.Hour)
		return p.batch(ev)[0]
	}
	if r := other(1); r.Result != wire.Duplicate {
		t.Errorf("far below: %+v", r)
	}
	if r := other(190); r.Result != wire.Refused {
		t.Errorf("near: %+v", r)
	}
	h.pos += 50
	hb := h.heartbeat(h.pos, prior)
	p.take(mirror.Entry{Heartbeat: &hb})
	if r := other(220); r.Result != wire.Duplicate {
		t.Errorf("at a position that a heartbeat named: %+v", r)
	}
}

// An old backup of the control plane comes back: it has the beginning of a rollout, and its end was acknowledged to what was lost.
func TestRolloutWhoseEndWasLostIsGone(t *testing.T) {
	const later = "stable@2"
	goneAt := func(t *testing.T, p *plane) time.Time {
		t.Helper()
		wantState(t, p, rollout, fsm.Activating) // nothing is made up
		if got, want := encode(t, p.refold()), encode(t, p.state); got != want {
			t.Errorf("the log folds to another mirror:\n%s\n%s", got, want)
		}
		return p.rollout(rollout).GoneAt
	}
	finish := func(h *host) { // and begin the next
		h.must(rollout, h.completed(target))
		h.must(rollout, fsm.SupersededBy{ByRolloutID: later, SupersededAt: h.at})
		h.accept(dispatch(2, later, prior))
		h.must(later, h.ack(prior))
	}
	for name, c := range map[string]struct {
		change func(*host, *wire.Heartbeat)
		gone   bool
	}{
		"all was acknowledged":          {gone: true},
		"nothing was: events will tell": {change: func(_ *host, hb *wire.Heartbeat) { hb.Cursor.Acked = 1 }},
		"nothing was missed: an event is on its way": {change: func(_ *host, hb *wire.Heartbeat) {
			hb.Cursor.Acked, hb.Cursor.Highest = 1, 1
		}},
		"the host still carries it": {change: func(h *host, hb *wire.Heartbeat) {
			rec := h.recs[rollout]
			rec.State, rec.LastEventSeq = fsm.Activating, 1
			h.recs[rollout] = rec
			*hb = h.heartbeat(h.pos, prior, later, rollout)
		}},
		"a record cannot be read":         {change: func(_ *host, hb *wire.Heartbeat) { hb.Records = append(hb.Records, json.RawMessage(`{}`)) }},
		"no rollout has a claim any more": {change: func(_ *host, hb *wire.Heartbeat) { hb.Records = nil }, gone: true},
		"a new epoch, with another rollout": {change: func(_ *host, hb *wire.Heartbeat) {
			hb.Cursor = wire.Cursor{Epoch: "epoch-2", Highest: 3, Acked: 3}
		}, gone: true},
		"a new epoch that may adopt it": {change: func(_ *host, hb *wire.Heartbeat) {
			hb.Cursor, hb.Records = wire.Cursor{Epoch: "epoch-2", Highest: 1}, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := scene(t)
			finish(h)
			hb := h.heartbeat(h.pos, prior, later)
			if c.change != nil {
				c.change(h, &hb)
			}
			p.take(mirror.Entry{Heartbeat: &hb})
			if at := goneAt(t, p); at.IsZero() == c.gone {
				t.Errorf("gone at %s, want it gone: %t", at, c.gone)
			}
			logged := len(p.log)
			p.take(mirror.Entry{Heartbeat: &hb})
			if len(p.log) != logged {
				t.Error("the same heartbeat again is news")
			}
			if !c.gone {
				return
			}
			if r := p.state.Rollouts[len(p.state.Rollouts)-1]; len(hb.Records) > 0 && r.Record.RolloutID != later {
				t.Errorf("%s is shown as the last to change", r.Record.RolloutID)
			}
			hb.Records = append(hb.Records, []byte(fmt.Sprintf(`{"hostname":%q,"rollout_id":%q,"target_closure":%q,"state":"Activating","policy":"halt","soak_ms":0,
				"created_at":"2026-11-24T20:00:00Z","last_event_seq":1}`, hostName, rollout, target)))
			p.take(mirror.Entry{Heartbeat: &hb})
			if at := goneAt(t, p); !at.IsZero() {
				t.Errorf("the host carries it, and it is gone at %s", at)
			}
		})
	}
}

// The rules refused the end of a rollout, and the host has gone on to another.
func TestRolloutWhoseEndWasRefusedIsGone(t *testing.T) {
	h, p := scene(t)
	h.emit(rollout, fsm.ConvergedReached{CurrentClosure: target, ConvergedAt: h.at, Seq: 2}) // not from Activating
	p.batch(h.events[1:]...)
	hb := h.heartbeat(h.pos, prior)
	p.take(mirror.Entry{Heartbeat: &hb})
	wantState(t, p, rollout, fsm.Activating)
	if p.rollout(rollout).GoneAt.IsZero() {
		t.Error("it is waited for")
	}
	h.must(rollout, h.completed(target)) // and yet it was not
	if r := p.batch(h.events[2:]...); r[0].Result != wire.Applied {
		t.Errorf("%+v", r)
	}
	if r := p.rollout(rollout); !r.GoneAt.IsZero() || r.Missed {
		t.Errorf("its next event leaves it at %+v", r)
	}
	if got, want := encode(t, p.refold()), encode(t, p.state); got != want {
		t.Errorf("the log folds to another mirror:\n%s\n%s", got, want)
	}
}

// A heartbeat that was overtaken by events does not know of what they tell.
func TestLateHeartbeatConcludesNothing(t *testing.T) {
	h, p := newHost(t), newPlane(t)
	h.notice(1)
	hb := h.heartbeat(1, target) // before the dispatch, running the target already
	d := dispatch(1, rollout, target)
	h.accept(d)
	p.take(mirror.Entry{Dispatch: &d})
	h.must(rollout, h.ack(target))
	p.batch(h.events...)
	p.take(mirror.Entry{Heartbeat: &hb})
	wantState(t, p, rollout, fsm.Activating)
	if r := p.rollout(rollout); r.Inferred || !r.GoneAt.IsZero() {
		t.Errorf("concluded %+v", r)
	}
	h.must(rollout, h.completed(target))
	if r := p.batch(h.events[2:]...); r[0].Result != wire.Applied {
		t.Errorf("the host's own word: %+v", r)
	}
}

// A checkpoint is all that a fold needs of what was before it.
func TestFoldFromACheckpoint(t *testing.T) {
	h, p := scene(t)
	at := p.state
	at.Purged = &mirror.Purged{Through: 7, Before: start}
	p.take(mirror.Entry{Checkpoint: &at})
	from := len(p.log) - 1
	h.must(rollout, h.completed(target))
	p.batch(h.events[1:]...)
	want := encode(t, p.state)
	if got := encode(t, p.refold()); got != want {
		t.Errorf("the whole log folds to\n%s, want\n%s", got, want)
	}
	for ; from >= 0; from-- { // with ever more of what was before: a purge may have been cut off
		rest := &plane{t: t, log: p.log[from:]}
		if got := encode(t, rest.refold()); got != want {
			t.Errorf("from entry %d it folds to\n%s, want\n%s", from, got, want)
		}
	}
	if p.state.Purged == nil || p.state.Purged.Through != 7 {
		t.Errorf("purged %+v", p.state.Purged)
	}
}
