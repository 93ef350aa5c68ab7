package mirror_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const rollout = "stable@1"

// scene is a host and its mirror, with one rollout that was asked for and activates.
func scene(t *testing.T) (*host, *plane) {
	h, p := newHost(t), newPlane(t)
	d := dispatch(1, rollout, target)
	h.accept(d)
	p.take(mirror.Entry{Dispatch: &d})
	h.must(rollout, h.ack(target))
	p.batch(h.events...)
	wantState(t, p, rollout, fsm.Activating)
	return h, p
}

func TestRolloutThatNobodyDispatchedIsMadeFromItsAcknowledgement(t *testing.T) {
	h, p := newHost(t), newPlane(t)
	h.recs["local@x-1"] = fsm.Record{RolloutID: "local@x-1", TargetClosure: target, State: fsm.Pending}
	h.must("local@x-1", h.ack(target))
	p.batch(h.events...)
	rec := p.rollout("local@x-1").Record
	if rec.State != fsm.Activating || rec.TargetClosure != target || rec.Hostname != hostName || rec.Channel != "local" || rec.Prior.Running != prior {
		t.Errorf("record %+v", rec)
	}
}

func TestRefusedEventIsKeptWithItsReasonAndHealedByAHeartbeat(t *testing.T) {
	h, p := scene(t)
	h.emit(rollout, fsm.ConvergedReached{CurrentClosure: target, ConvergedAt: h.at, Seq: 2}) // not from Activating
	rec := h.recs[rollout]
	rec.State, rec.LastEventSeq = fsm.Converged, 2
	h.recs[rollout] = rec
	results := p.batch(h.events[1:]...)
	if results[0].Result != wire.Refused || !strings.Contains(results[0].Reason, "illegal in state Activating") {
		t.Errorf("results %+v", results)
	}
	if len(p.state.Refusals) != 1 || p.state.Refusals[0].Reason != results[0].Reason || p.state.Refusals[0].Pos != 2 {
		t.Errorf("refusals %+v", p.state.Refusals)
	}
	wantState(t, p, rollout, fsm.Activating)
	if again := p.batch(h.events[1:]...); again[0].Result != wire.Duplicate {
		t.Errorf("the refused event again: %+v", again)
	}
	hb := h.heartbeat(2, target, rollout)
	p.take(mirror.Entry{Heartbeat: &hb})
	wantState(t, p, rollout, fsm.Converged)
	if p.rollout(rollout).ResyncedSeq != 2 {
		t.Error("nothing says that it was resynced")
	}
}

func TestHeartbeatLeavesARecordToEventsThatAreStillToCome(t *testing.T) {
	h, p := scene(t)
	h.must(rollout, h.completed(target))
	hb := h.heartbeat(1, target, rollout)
	p.take(mirror.Entry{Heartbeat: &hb})
	wantState(t, p, rollout, fsm.Activating)
	if r := p.batch(h.events[1:]...); r[0].Result != wire.Applied {
		t.Errorf("the event after the heartbeat: %+v", r)
	}
	// The same heartbeat, late: it never goes back.
	h.must(rollout, fsm.ProbeTopologyDeclared{DeclaredAt: h.at})
	p.batch(h.events[2:]...)
	before := encode(t, p.state)
	p.take(mirror.Entry{Heartbeat: &hb})
	if after := encode(t, p.state); after != before {
		t.Errorf("a late heartbeat changes the mirror:\n%s\n%s", before, after)
	}
}

func TestEventsThatARecordTakenOverHadToldAreDuplicates(t *testing.T) {
	h, _ := scene(t)
	h.must(rollout, h.completed(target))
	h.must(rollout, fsm.ProbeTopologyDeclared{DeclaredAt: h.at})
	p := newPlane(t) // all is lost; the host knows its first event acknowledged
	hb := h.heartbeat(1, target, rollout)
	p.take(mirror.Entry{Heartbeat: &hb})
	wantState(t, p, rollout, fsm.Soaking)
	for _, r := range p.batch(h.events[1:]...) {
		if r.Result != wire.Duplicate {
			t.Errorf("%+v", r)
		}
	}
	if len(p.state.Refusals) > 0 {
		t.Errorf("refusals %+v", p.state.Refusals)
	}
	h.must(rollout, fsm.ConvergedReached{CurrentClosure: target, ConvergedAt: h.at})
	p.batch(h.events[3:]...)
	wantState(t, p, rollout, fsm.Converged)
}

func TestCompletionIsInferredOnlyForAHostThatLostItsState(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*wire.Heartbeat)
		lost   bool // the host has made a new store
		want   fsm.State
	}{
		"lost its state":                      {lost: true, want: fsm.Soaking},
		"same epoch, no record, all arrived":  {want: fsm.Soaking},
		"events still to come":                {change: func(hb *wire.Heartbeat) { hb.Cursor.Highest++ }, want: fsm.Deferred},
		"lost its state, and has a notice":    {lost: true, change: func(hb *wire.Heartbeat) { hb.Cursor.Highest++ }, want: fsm.Soaking},
		"runs something else":                 {lost: true, change: func(hb *wire.Heartbeat) { hb.Facts.Running = prior }, want: fsm.Deferred},
		"critical components are not there":   {lost: true, change: func(hb *wire.Heartbeat) { hb.StillOld = []string{"kernel"} }, want: fsm.Deferred},
		"was switched live, and not booted":   {lost: true, change: func(hb *wire.Heartbeat) { hb.Facts.Booted = prior }, want: fsm.Deferred},
		"what runs is not known":              {lost: true, change: func(hb *wire.Heartbeat) { hb.Facts.Running = "" }, want: fsm.Deferred},
		"has the record: its own word counts": {change: func(hb *wire.Heartbeat) { hb.Records = nil }, want: fsm.Soaking},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := scene(t)
			h.must(rollout, h.deferred())
			p.batch(h.events[1:]...)
			carried := h.heartbeat(h.pos, target, rollout)
			p.take(mirror.Entry{Heartbeat: &carried})
			wantState(t, p, rollout, fsm.Deferred) // it runs the target, but it carries the record

			if c.lost {
				h.epoch, h.pos = "epoch-2", 0
			}
			h.at = h.at.Add(time.Minute)
			hb := h.heartbeat(h.pos, target)
			if c.change != nil {
				c.change(&hb)
			}
			p.take(mirror.Entry{Heartbeat: &hb})
			wantState(t, p, rollout, c.want)
			r := p.rollout(rollout)
			if r.Inferred != (c.want == fsm.Soaking) {
				t.Errorf("inferred %v", r.Inferred)
			}
			snapshots := mirror.Snapshots(p.state, hb)
			if c.lost != (len(snapshots) == 1) {
				t.Errorf("%d snapshots for the host", len(snapshots))
			}
			if c.lost && snapshots[0].State != c.want {
				t.Errorf("the host is told %s", snapshots[0].State)
			}
			again := encode(t, p.state)
			p.take(mirror.Entry{Heartbeat: &hb})
			if encode(t, p.state) != again {
				t.Error("the same heartbeat again changes the mirror")
			}
		})
	}
}

func TestCursorTellsWhichEventItIsAt(t *testing.T) {
	h, p := scene(t)
	last := h.events[len(h.events)-1]
	_, pos, err := wire.ParseEventID(last.ID)
	if err != nil {
		t.Fatal(err)
	}
	if c := p.state.Cursor(); c == nil || c.Acked != pos || !c.AckedAt.Equal(last.Time) {
		t.Errorf("cursor %+v after event %s of %s", c, last.ID, last.Time)
	}
	// A position that only a heartbeat told has no event here.
	hb := h.heartbeat(pos+3, target, rollout)
	hb.Cursor.Highest = pos + 3
	p.take(mirror.Entry{Heartbeat: &hb})
	if c := p.state.Cursor(); c.Acked != pos+3 || !c.AckedAt.IsZero() {
		t.Errorf("cursor %+v", c)
	}
}

func TestGenerationsNeverGoBack(t *testing.T) {
	h, p := newHost(t), newPlane(t)
	hb := h.heartbeat(0, prior)
	hb.Generation = 9
	p.take(mirror.Entry{Heartbeat: &hb})
	if got := p.state.Generation(); got != 9 {
		t.Errorf("generation %d", got)
	}
	p.take(mirror.Entry{Seen: 12})
	low := dispatch(3, "stable@old", target)
	p.take(mirror.Entry{Dispatch: &low})
	if got := p.state.Generation(); got != 12 {
		t.Errorf("generation %d", got)
	}
}

func TestLateDuplicateOfAnOldEpochIsKnown(t *testing.T) {
	h, p := scene(t)
	old := h.events
	h.epoch, h.pos, h.events = "epoch-2", 0, nil
	h.must(rollout, h.completed(target))
	p.batch(h.events...)
	if r := p.batch(old...); r[0].Result != wire.Duplicate {
		t.Errorf("%+v", r)
	}
	if c := p.state.Cursor(); c.Epoch != "epoch-2" || c.Acked != 1 {
		t.Errorf("cursor %+v", c)
	}
}

func TestStateIsBounded(t *testing.T) {
	h, p := newHost(t), newPlane(t)
	for n := range 300 {
		id := fmt.Sprintf("stable@%d", n)
		h.recs[id] = fsm.Record{RolloutID: id, TargetClosure: target, State: fsm.Pending}
		h.must(id, fsm.DispatchRejected{Reason: fsm.ReasonHeld, Detail: strings.Repeat("x", 500), RejectedAt: h.at})
		h.emit(id, fsm.LeftTarget{ObservedCurrentClosure: prior, LeftAt: h.at, Seq: 9}) // refused
		h.append("", "Note", []byte(`{"kind":"Note","text":"`+strings.Repeat("y", 6000)+`"}`))
		h.epoch = fmt.Sprintf("epoch-%d", n/10)
	}
	live := "stable@live"
	h.recs[live] = fsm.Record{RolloutID: live, TargetClosure: target, State: fsm.Pending}
	h.must(live, h.ack(target))
	for _, ev := range h.events {
		p.batch(ev)
	}
	if n := len(encode(t, p.state)); n > 256<<10 {
		t.Errorf("%d bytes", n)
	}
	wantState(t, p, live, fsm.Activating)
	if got, want := encode(t, p.refold()), encode(t, p.state); got != want {
		t.Error("the log folds to another mirror")
	}
	// A record that grows without end is refused, not kept.
	h.must(live, h.completed(target))
	h.must(live, fsm.ProbeTopologyDeclared{DeclaredAt: h.at})
	refused := 0
	for n := range 200 {
		h.append(live, "ProbeResult", mustEncode(t, fsm.ProbeResult{ProbeName: fmt.Sprint(n), Mode: fsm.Observe, Status: fsm.Fail, ObservedAt: h.at,
			FailureReason: strings.Repeat("z", 2000), Seq: h.recs[live].LastEventSeq + 1 + uint64(n)}))
	}
	for _, ev := range h.events[len(h.events)-202:] {
		if p.batch(ev)[0].Result == wire.Refused {
			refused++
		}
	}
	if refused == 0 {
		t.Error("a record of 400 kB was taken")
	}
}

func mustEncode(t *testing.T, p fsm.Payload) []byte {
	t.Helper()
	data, err := fsm.EncodePayload(p)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFieldsOfANewerAgentSurvive(t *testing.T) {
	h, p := scene(t)
	h.must(rollout, h.completed(target))
	hb := h.heartbeat(h.pos, target, rollout)
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(hb.Records[0], &fields); err != nil {
		t.Fatal(err)
	}
	fields["of_tomorrow"] = json.RawMessage(`{"a":[1,2]}`)
	raw, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	hb.Records[0] = raw
	p.take(mirror.Entry{Heartbeat: &hb})
	read, err := mirror.Decode([]byte(encode(t, p.state)))
	if err != nil {
		t.Fatal(err)
	}
	r, _ := read.Rollout(rollout)
	if string(r.Record.Unknown["of_tomorrow"]) != `{"a":[1,2]}` {
		t.Errorf("unknown fields %s", r.Record.Unknown)
	}
}

func TestAdmit(t *testing.T) {
	good := func() wire.Event {
		return wire.Event{SpecVersion: wire.SpecVersion, ID: "e:7", Source: wire.SourceOf(hostName), Type: wire.TypeOf("Note"), Time: start}
	}
	if err := mirror.Admit(hostName, []wire.Event{good()}); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*wire.Event){
		"no CloudEvent": func(e *wire.Event) { e.SpecVersion = "" },
		"no type":       func(e *wire.Event) { e.Type = "" },
		"no time":       func(e *wire.Event) { e.Time = time.Time{} },
		"long subject":  func(e *wire.Event) { e.Subject = strings.Repeat("x", 600) },
	} {
		ev := good()
		spoil(&ev)
		var malformed *mirror.Malformed
		if err := mirror.Admit(hostName, []wire.Event{ev}); !errors.As(err, &malformed) || malformed.Pos != 7 {
			t.Errorf("%s: %v", name, err)
		}
	}
	foreign := good()
	foreign.Source = wire.SourceOf("web-2")
	if err := mirror.Admit(hostName, []wire.Event{foreign}); !errors.Is(err, mirror.ErrForeign) {
		t.Errorf("foreign: %v", err)
	}
	if err := mirror.Admit(hostName, []wire.Event{good(), good()}); err == nil {
		t.Error("the same position twice in a batch is admitted")
	}
	if err := mirror.Admit(hostName, make([]wire.Event, wire.MaxEvents+1)); err == nil {
		t.Error("a batch without bound is admitted")
	}
}
