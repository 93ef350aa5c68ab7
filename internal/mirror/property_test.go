package mirror_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// walk lets a host live: dispatches, whatever its rules allow, notices, gaps in its positions, a new epoch.
func walk(t *rapid.T) (*host, []wire.Dispatch) {
	h := newHost(t)
	var dispatches []wire.Dispatch
	rollouts := rapid.IntRange(1, 3).Draw(t, "rollouts")
	for n := range rollouts {
		goal := fmt.Sprintf("/nix/store/%032d-nixos-system-web-1", n+1)
		d := dispatch(uint64(n+1), fmt.Sprintf("stable@%d", n+1), goal)
		dispatches = append(dispatches, d)
		h.accept(d)
		for step := range rapid.IntRange(1, 14).Draw(t, "steps") {
			h.at = h.at.Add(time.Second)
			switch rapid.IntRange(0, 19).Draw(t, "what") {
			case 0:
				h.notice(step)
			case 1:
				h.pos += uint64(rapid.IntRange(1, 5).Draw(t, "gap"))
			case 2:
				h.append(d.RolloutID, "OfTomorrow", []byte(`{"kind":"OfTomorrow","x":[1]}`))
			case 3:
				if h.epoch == "epoch-1" && rapid.Bool().Draw(t, "renew") {
					h.epoch = "epoch-2"
				}
			default:
				h.raise(d.RolloutID, rapid.SampledFrom(h.possible(goal)).Draw(t, "payload"))
			}
		}
	}
	return h, dispatches
}

// possible is one of every payload; the rules choose.
func (h *host) possible(goal string) []fsm.Payload {
	stamp := []fsm.ComponentChange{{Component: "dbus", From: "a", To: "b"}}
	return []fsm.Payload{
		h.ack(goal), h.completed(goal), h.deferred(),
		fsm.DispatchRejected{Reason: fsm.ReasonHeld, RejectedAt: h.at},
		fsm.ActivationStarted{StartedAt: h.at, SwitchMethod: "switch", Attempt: 1},
		fsm.ActivationFailed{ExitCode: 1, Reason: fsm.ReasonSwitchFailed, StderrTail: "no", FailedAt: h.at},
		fsm.DeferralCancelled{RevertedToClosure: prior, CancelledAt: h.at},
		fsm.ProbeTopologyDeclared{Probes: []fsm.ProbeDeclaration{{Name: "http", Kind: "http", Mode: fsm.Enforce}}, DeclaredAt: h.at},
		fsm.ProbeResult{ProbeName: "http", Mode: fsm.Enforce, Status: fsm.Pass, ObservedAt: h.at},
		fsm.ProbeResult{ProbeName: "http", Mode: fsm.Enforce, Status: fsm.Fail, ObservedAt: h.at, FailureReason: "refused"},
		fsm.SustainedFailure{FailedAt: h.at, SustainedDurationSecs: 60, FailingProbes: []string{"http"}},
		fsm.LeftTarget{ObservedCurrentClosure: prior, LeftAt: h.at},
		fsm.ConvergedReached{CurrentClosure: goal, ConvergedAt: h.at},
		fsm.RollbackComplete{RevertedToClosure: prior, CompletedAt: h.at},
		fsm.RollbackDeferred{Components: stamp, ToClosure: prior, BootID: "boot", DeferredAt: h.at},
		fsm.RollbackFailed{ExitCode: 1, Reason: fsm.ReasonSwitchFailed, FailedAt: h.at},
		fsm.SupersededBy{ByRolloutID: "stable@99", SupersededAt: h.at},
	}
}

// However a host's events are split into batches, and however often and how late each batch comes again, the mirror is the same; it
// follows the host; and the log folds to it again. The one thing that a sender promises is not to go on before an answer.
func TestEveryDeliveryFoldsToTheSameMirror(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, dispatches := walk(t)
		once := newPlane(t)
		for _, d := range dispatches {
			once.take(mirror.Entry{Dispatch: &d})
		}
		for _, ev := range h.events {
			if r := once.batch(ev); r[0].Result != wire.Applied {
				t.Fatalf("%s %s: %+v", ev.ID, ev.Type, r[0])
			}
		}

		other := newPlane(t)
		for _, d := range dispatches {
			other.take(mirror.Entry{Dispatch: &d})
		}
		var sent [][]wire.Event
		applied := map[string]int{}
		deliver := func(batch []wire.Event) {
			results := other.batch(batch...)
			if got := mirror.Acked(results); len(batch) > 0 && wire.EventID(epochOf(t, batch), got) != batch[len(batch)-1].ID {
				t.Fatalf("acknowledged %d for a batch up to %s", got, batch[len(batch)-1].ID)
			}
			for i, r := range results {
				if r.Result == wire.Applied {
					applied[batch[i].ID]++
				}
			}
		}
		for rest := h.events; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "split")
			sent = append(sent, rest[:n])
			deliver(rest[:n])
			for range rapid.IntRange(0, 3).Draw(t, "late") {
				late := sent[rapid.IntRange(0, len(sent)-1).Draw(t, "which")]
				if rapid.Bool().Draw(t, "part") { // a retry may be split again
					late = late[:rapid.IntRange(1, len(late)).Draw(t, "upto")]
				}
				deliver(late)
				other.take(mirror.Entry{Dispatch: &dispatches[rapid.IntRange(0, len(dispatches)-1).Draw(t, "again")]})
			}
			rest = rest[n:]
		}

		if got, want := encode(t, other.state), encode(t, once.state); got != want {
			t.Fatalf("another delivery gives another mirror:\n%s\n%s", got, want)
		}
		if got, want := encode(t, other.refold()), encode(t, other.state); got != want {
			t.Fatalf("the log folds to another mirror:\n%s\n%s", got, want)
		}
		for _, ev := range h.events {
			if applied[ev.ID] != 1 {
				t.Fatalf("%s was applied %d times", ev.ID, applied[ev.ID])
			}
		}
		for id, rec := range h.recs {
			got := other.rollout(id).Record
			if got.State != rec.State || got.LastEventSeq != rec.LastEventSeq || got.FailureReason != rec.FailureReason || got.CurrentClosure != rec.CurrentClosure {
				t.Fatalf("the mirror of %s does not follow the host:\n%+v\n%+v", id, got, rec)
			}
		}
	})
}

func epochOf(t fataler, batch []wire.Event) string {
	t.Helper()
	epoch, _, err := wire.ParseEventID(batch[len(batch)-1].ID)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return epoch
}

// A control plane that loses any part of what it had, and then all of the acknowledged events, is told by heartbeats; what
// is still to come goes on from there.
func TestHeartbeatsRebuildALostMirror(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, dispatches := walk(t)
		lost := rapid.IntRange(0, len(h.events)).Draw(t, "restored from a backup of")
		acked := rapid.IntRange(lost, len(h.events)).Draw(t, "acknowledged")
		p := newPlane(t)
		known := rapid.IntRange(0, len(dispatches)).Draw(t, "dispatches in the backup")
		for _, d := range dispatches[:known] {
			p.take(mirror.Entry{Dispatch: &d})
		}
		for _, ev := range h.events[:lost] {
			p.batch(ev)
		}
		var ids []string
		for id := range h.recs {
			ids = append(ids, id)
		}
		ackedPos := uint64(0)
		if acked > 0 && epochOf(t, h.events[:acked]) == h.epoch {
			_, ackedPos, _ = wire.ParseEventID(h.events[acked-1].ID)
		}
		hb := h.heartbeat(ackedPos, "", ids...)
		hb.Generation = uint64(len(dispatches))
		p.take(mirror.Entry{Heartbeat: &hb})
		for _, ev := range h.events[acked:] {
			p.batch(ev)
		}
		after := h.heartbeat(h.pos, "", ids...)
		p.take(mirror.Entry{Heartbeat: &after})
		if p.state.Generation() < hb.Generation {
			t.Fatalf("generation %d after a heartbeat of %d", p.state.Generation(), hb.Generation)
		}
		for id, rec := range h.recs {
			if rec.LastEventSeq == 0 {
				continue // nothing was ever said of it
			}
			if got := p.rollout(id).Record; got.State != rec.State || got.LastEventSeq != rec.LastEventSeq || got.Work != nil {
				t.Fatalf("the mirror of %s is not the host's again:\n%+v\n%+v", id, got, rec)
			}
		}
		if got, want := encode(t, p.refold()), encode(t, p.state); got != want {
			t.Fatalf("the log folds to another mirror:\n%s\n%s", got, want)
		}
	})
}
