package mirror_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const (
	hostName = "web-1"
	target   = "/nix/store/00000000000000000000000000000001-nixos-system-web-1"
	prior    = "/nix/store/00000000000000000000000000000000-nixos-system-web-1"
)

var start = time.Date(2026, 11, 24, 20, 0, 0, 0, time.UTC)

// fataler is what both testing.T and rapid.T can do.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// host is the host's half: records that are moved by Step, and the events that it emits.
type host struct {
	t      fataler
	epoch  string
	pos    uint64
	at     time.Time
	recs   map[string]fsm.Record
	events []wire.Event
}

func newHost(t fataler) *host {
	return &host{t: t, epoch: "epoch-1", at: start, recs: map[string]fsm.Record{}}
}

func (h *host) now() fsm.Now {
	return fsm.Now{Wall: h.at, Up: h.at.Sub(start), BootID: "boot"}
}

// accept makes the record of a dispatch.
func (h *host) accept(d wire.Dispatch) {
	h.recs[d.RolloutID] = fsm.Record{Hostname: hostName, RolloutID: d.RolloutID, Channel: d.Channel, Generation: d.Generation,
		TargetClosure: d.Target, State: fsm.Pending, Policy: fsm.RollbackAndHalt, CreatedAt: h.at}
}

// raise applies a payload as the host does. It reports whether the rules took it.
func (h *host) raise(rollout string, p fsm.Payload) bool {
	h.t.Helper()
	rec := h.recs[rollout]
	next, effects, err := fsm.Step(rec, fsm.Stamp(fsm.LocalOf(p), rec.LastEventSeq+1), h.now(), "")
	if err != nil {
		return false
	}
	h.recs[rollout] = next
	for _, eff := range effects {
		if emit, ok := eff.(fsm.LocalEmitEvent); ok {
			h.emit(rollout, emit.Payload)
		}
	}
	return true
}

func (h *host) must(rollout string, p fsm.Payload) {
	h.t.Helper()
	if !h.raise(rollout, p) {
		h.t.Fatalf("the host's rules refuse %s in %s", p.PayloadKind(), h.recs[rollout].State)
	}
}

func (h *host) emit(rollout string, p fsm.Payload) {
	h.t.Helper()
	data, err := fsm.EncodePayload(p)
	if err != nil {
		h.t.Fatalf("%v", err)
	}
	h.append(rollout, string(p.PayloadKind()), data)
}

func (h *host) append(rollout, kind string, data []byte) {
	h.pos++
	h.events = append(h.events, wire.Event{SpecVersion: wire.SpecVersion, ID: wire.EventID(h.epoch, h.pos), Source: wire.SourceOf(hostName),
		Type: wire.TypeOf(kind), Subject: rollout, Time: h.at, DataContentType: wire.JSON, Data: data})
}

func (h *host) notice(n int) {
	h.append("", "Note", []byte(fmt.Sprintf(`{"kind":"Note","n":%d}`, n)))
}

// The payloads of a rollout that goes well, and of one that does not.
func (h *host) ack(target string) fsm.DispatchAck {
	return fsm.DispatchAck{TargetClosure: target, CurrentClosureAtDispatch: prior, Prior: fsm.Prior{Running: prior}, ReceivedAt: h.at}
}

func (h *host) completed(target string) fsm.ActivationCompleted {
	return fsm.ActivationCompleted{ObservedCurrentClosure: target, CompletedAt: h.at}
}

func (h *host) deferred() fsm.ActivationDeferred {
	return fsm.ActivationDeferred{Components: []fsm.ComponentChange{{Component: "kernel", From: "a", To: "b"}}, BootID: "boot", DeferredAt: h.at}
}

func (h *host) heartbeat(acked uint64, running string, rollouts ...string) wire.Heartbeat {
	h.t.Helper()
	hb := wire.Heartbeat{Host: hostName, At: h.at, Facts: wire.Facts{BootID: "boot", Running: running, Booted: running},
		Cursor: wire.Cursor{Epoch: h.epoch, Highest: h.pos, Acked: acked}}
	for _, id := range rollouts {
		raw, err := fsm.EncodeRecord(h.recs[id])
		if err != nil {
			h.t.Fatalf("%v", err)
		}
		hb.Records = append(hb.Records, raw)
	}
	return hb
}

// plane is the mirror's half, with its log.
type plane struct {
	t     fataler
	state mirror.State
	log   []mirror.Entry
}

func newPlane(t fataler) *plane { return &plane{t: t, state: mirror.State{Host: hostName}} }

// take handles an entry as a control plane does: what is no news is not logged.
func (p *plane) take(e mirror.Entry) []wire.Result {
	p.t.Helper()
	e.Host, e.At = hostName, start
	next, results, news := mirror.Apply(p.state, e)
	if news {
		p.log = append(p.log, e)
	} else if encode(p.t, next) != encode(p.t, p.state) {
		p.t.Fatalf("an entry that is no news changes the state:\n%s\n%s", encode(p.t, p.state), encode(p.t, next))
	}
	p.state = next
	return results
}

func (p *plane) batch(events ...wire.Event) []wire.Result {
	p.t.Helper()
	if err := mirror.Admit(hostName, events); err != nil {
		p.t.Fatalf("%v", err)
	}
	return p.take(mirror.Entry{Batch: events})
}

func (p *plane) rollout(id string) mirror.Rollout {
	p.t.Helper()
	r, ok := p.state.Rollout(id)
	if !ok {
		p.t.Fatalf("no rollout %s", id)
	}
	return r
}

// refold folds the log again, as it is read from disk.
func (p *plane) refold() mirror.State {
	p.t.Helper()
	state := mirror.State{Host: hostName}
	for _, e := range p.log {
		data, err := json.Marshal(e)
		if err != nil {
			p.t.Fatalf("%v", err)
		}
		var read mirror.Entry
		if err := json.Unmarshal(data, &read); err != nil {
			p.t.Fatalf("%v", err)
		}
		state, _, _ = mirror.Apply(state, read)
	}
	return state
}

func encode(t fataler, s mirror.State) string {
	t.Helper()
	data, err := mirror.Encode(s)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(data)
}

func dispatch(generation uint64, id, target string) wire.Dispatch {
	return wire.Dispatch{Generation: generation, Host: hostName, RolloutID: id, Channel: "stable", Target: target}
}

func wantState(t *testing.T, p *plane, id string, want fsm.State) {
	t.Helper()
	if got := p.rollout(id).Record.State; got != want {
		t.Errorf("%s is %s, want %s", id, got, want)
	}
}
