package fsm

import "time"

// Step applies one event to a record: it gives the next record and the effects in their order. The input is never changed;
// after an error the record that comes back is the one that went in, and there are no effects.
//
// The policy is the one to apply should the event fail the rollout; empty means the record's own. A policy that this
// version does not know is applied as Halt, which does least to the running system.
//
// Preconditions that only the caller can know: no unit of a Failed record runs when it is superseded, and now is the
// moment of the call.
func Step(rec Record, ev Event, now Now, policy Policy) (Record, []Effect, error) {
	if ev == nil {
		return rec, nil, Invariant{What: "there is no event"}
	}
	if got := Seq(ev); got <= rec.LastEventSeq {
		return rec, nil, SeqRegression{Last: rec.LastEventSeq, Got: got}
	}
	if _, closed := events[ev.Kind()]; !closed || !events[ev.Kind()].is(ev) {
		return rec, nil, IllegalForState{State: rec.State, Kind: ev.Kind(), RolloutID: rec.RolloutID}
	}
	if ev.Payload().OccurredAt().IsZero() {
		return rec, nil, invariantf("%s carries no moment", ev.Kind())
	}
	turn := turn{now: now, policy: policyToApply(policy, rec.Policy), side: sideOf(ev)}
	next, effects, err := turn.apply(rec.clone(), ev)
	if err != nil {
		return rec, nil, err
	}
	next.LastEventSeq = Seq(ev)
	if rec.Work != nil && (next.Work == nil || next.Work.Kind != rec.Work.Kind) {
		delete(next.Unknown, "work") // a newer agent's words about work that is no more
	}
	return next, effects, nil
}

// turn is what the rules of every state need beside record and event.
type turn struct {
	now    Now
	policy Policy
	side   side
}

func (t turn) apply(rec Record, ev Event) (Record, []Effect, error) {
	switch rec.State {
	case Pending:
		return t.pending(rec, ev)
	case Activating:
		return t.activating(rec, ev)
	case Deferred:
		return t.deferred(rec, ev)
	case Soaking:
		return t.soaking(rec, ev)
	case Failed:
		return t.failed(rec, ev)
	case Converged, Reverted, Superseded:
		return illegal(rec, ev) // nothing leads out of a terminal state
	default:
		return illegal(rec, ev) // a newer agent's state is frozen
	}
}

func illegal(rec Record, ev Event) (Record, []Effect, error) {
	return rec, nil, IllegalForState{State: rec.State, Kind: ev.Kind(), RolloutID: rec.RolloutID}
}

// side tells the two halves of the machine apart. Both move the record alike; only the host has work, a soak clock, and
// effects on itself.
type side bool

const (
	host   side = true
	mirror side = false
)

// sideOf asks the halves themselves: the mirror's half of an event's payload is the event, or it is not.
func sideOf(ev Event) side { return side(RemoteOf(ev.Payload()).Kind() != ev.Kind()) }

// report is the durable word about an event: the host's outbox entry, or the line in the mirror's log.
func (t turn) report(rec Record, p Payload) Effect {
	if t.side == host {
		return LocalEmitEvent{RolloutID: rec.RolloutID, Payload: p, Durable: true}
	}
	return RemoteAppendEventLog{Host: rec.Hostname, RolloutID: rec.RolloutID, Payload: p}
}

// bootNow is the boot in which the turn happens.
func (t turn) bootNow() BootStamp {
	return BootStamp{BootID: t.now.BootID, SoftReboots: t.now.SoftReboots}
}

// move changes the record's state and gives the history row of it.
func move(rec *Record, to State, at time.Time) RecordTransition {
	from := rec.State
	rec.State = to
	if to.Terminal() {
		rec.EndedAt = at.UTC()
	}
	return RecordTransition{Host: rec.Hostname, RolloutID: rec.RolloutID, From: from, To: to, At: at.UTC()}
}

// policyToApply resolves the policy of a turn.
func policyToApply(given, recorded Policy) Policy {
	if given == "" {
		given = recorded
	}
	switch given {
	case RollbackAndHalt, "":
		return RollbackAndHalt
	default:
		return Halt
	}
}
