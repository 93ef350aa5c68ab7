package agent

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// turn is one turn of the loop: one transaction, whatever events derive from it. Its effects are carried out after the
// commit and only then.
type turn struct {
	tx   *store.Tx
	now  fsm.Now
	acts []fsm.Effect
	log  []transition

	quarantined bool // a closure was put in quarantine
}

// transition is what is logged of an event once it is durable.
type transition struct {
	rollout  string
	kind     fsm.Kind
	from, to fsm.State
}

// turn runs do in one transaction, commits, and then acts. Nothing has happened if it returns an error.
func (l *loop) turn(do func(t *turn) error) error {
	t := &turn{now: l.now()}
	err := l.store.Update(func(tx *store.Tx) error {
		t.tx, t.acts, t.log, t.quarantined = tx, nil, nil, false
		return do(t)
	})
	l.storeHealth(err)
	if err != nil {
		return err
	}
	for _, tr := range t.log {
		l.log.Info("event", slog.String("kind", string(tr.kind)), slog.String("rollout", tr.rollout),
			slog.String("from", string(tr.from)), slog.String("to", string(tr.to)))
	}
	if t.quarantined {
		// The second copy follows the commit; what a crash leaves undone, the next start does.
		if err := l.keepQuarantine(); err != nil {
			l.log.Error("keep a second copy of the quarantine", slog.Any("err", err))
		}
	}
	l.act(t.acts)
	l.tidyRested(t.log)
	l.sender.Nudge()
	l.changed()
	return nil
}

// raise numbers ev, applies it to rec and writes what must be durable about it. The record itself is stored by put.
func (t *turn) raise(rec fsm.Record, ev fsm.Event) (fsm.Record, error) {
	ev = fsm.Stamp(ev, rec.LastEventSeq+1)
	next, effects, err := fsm.Step(rec, ev, t.now, rec.Policy)
	if err != nil {
		return rec, err
	}
	for _, eff := range effects {
		if err := t.durable(rec, ev, eff); err != nil {
			return rec, err
		}
	}
	t.log = append(t.log, transition{rollout: rec.RolloutID, kind: ev.Kind(), from: rec.State, to: next.State})
	return next, nil
}

func (t *turn) durable(rec fsm.Record, ev fsm.Event, eff fsm.Effect) error {
	switch eff := eff.(type) {
	case fsm.LocalEmitEvent:
		return t.emit(eff)
	case fsm.RecordTransition:
		return t.tx.AppendHistory(store.HistoryRow{
			At: eff.At, RolloutID: eff.RolloutID, From: eff.From, To: eff.To,
			Seq: fsm.Seq(ev), Kind: string(ev.Kind()), Reason: reasonOf(ev),
		})
	case fsm.LocalQuarantine:
		return t.quarantine(eff)
	case fsm.LocalFireSwitch, fsm.LocalFireRollbackTo, fsm.LocalFireUnstage, fsm.LocalResetProbeCache:
		t.acts = append(t.acts, eff)
		return nil
	case fsm.RemoteAppendEventLog, fsm.RemoteQuarantineOnChannel:
		return fmt.Errorf("apply %T to %s: an effect of the mirror's half", eff, rec.RolloutID)
	default:
		return fmt.Errorf("apply %T to %s: unknown effect", eff, rec.RolloutID)
	}
}

func (t *turn) emit(eff fsm.LocalEmitEvent) error {
	body, err := fsm.EncodePayload(eff.Payload)
	if err != nil {
		return err
	}
	_, err = outbox.Append(t.tx.Bolt(), outbox.Entry{
		Epoch: t.tx.Epoch(), Kind: string(eff.Payload.PayloadKind()), RolloutID: eff.RolloutID, At: t.now.Wall, Body: body,
		CoalesceKey: coalesceKey(eff),
	})
	return err
}

// coalesceKey names what an event takes the place of when too many wait: only the results of one probe replace each other.
func coalesceKey(eff fsm.LocalEmitEvent) string {
	if p, is := eff.Payload.(fsm.ProbeResult); is {
		return eff.RolloutID + "/" + p.ProbeName
	}
	return ""
}

func (t *turn) quarantine(eff fsm.LocalQuarantine) error {
	row, _, err := t.tx.Quarantine(eff.Closure)
	if err != nil {
		return err
	}
	row.Closure, row.Reason, row.At, row.RolloutID = eff.Closure, string(eff.Reason), t.now.Wall, eff.RolloutID
	row.Attempts++
	t.quarantined = true
	return t.tx.PutQuarantine(row)
}

// put stores rec and, when nothing of it is owed any more, lets a rollout that waits for it be started in a turn to come.
func (t *turn) put(rec fsm.Record) error { return t.tx.PutRecord(rec) }

// reasonOf gives the reason that an event carries, for the row of history.
func reasonOf(ev fsm.Event) string {
	switch p := ev.Payload().(type) {
	case fsm.ActivationFailed:
		return string(p.Reason)
	case fsm.DispatchRejected:
		return string(p.Reason)
	case fsm.RollbackFailed:
		return string(p.Reason)
	case fsm.SupersededBy:
		return p.ByRolloutID
	case fsm.LeftTarget:
		return string(fsm.ReasonAnotherHand)
	case fsm.SustainedFailure:
		return string(fsm.ReasonUnhealthy)
	default:
		return ""
	}
}

// decided reports that a turn has stored nothing because it decided so: neither the store nor the host is to blame.
func decided(err error) bool {
	var answer *localapi.Error
	return refusedByRules(err) || errors.Is(err, errNotNow) || errors.Is(err, errWithdrawn) || errors.Is(err, errNothingNew) || errors.As(err, &answer)
}

// refusedByRules reports an event that the rules do not allow: it is logged once and never applied.
func refusedByRules(err error) bool {
	var illegal fsm.IllegalForState
	var regression fsm.SeqRegression
	var invariant fsm.Invariant
	return errors.As(err, &illegal) || errors.As(err, &regression) || errors.As(err, &invariant)
}
