package fsm

import "time"

func (t turn) failed(rec Record, ev Event) (Record, []Effect, error) {
	switch ev := ev.(type) {
	case LocalRollbackCompleted:
		return t.rolledBack(rec, ev.RollbackComplete)
	case RemoteRollbackComplete:
		return t.rolledBack(rec, ev.RollbackComplete)
	case LocalRollbackDeferred:
		return t.rollbackDeferred(rec, ev.RollbackDeferred)
	case RemoteRollbackDeferred:
		return t.rollbackDeferred(rec, ev.RollbackDeferred)
	case LocalRollbackFailed:
		return t.rollbackFailed(rec, ev.RollbackFailed)
	case RemoteRollbackFailed:
		return t.rollbackFailed(rec, ev.RollbackFailed)
	case LocalBootDefaultRestored:
		return t.bootDefaultRestored(rec, ev.BootDefaultRestored)
	case RemoteBootDefaultRestored:
		return t.bootDefaultRestored(rec, ev.BootDefaultRestored)
	case LocalSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	case RemoteSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	default:
		return illegal(rec, ev)
	}
}

// moveToFailed changes the state to Failed. Components and StagedBoot then speak of the way back alone, which has not begun.
func (t turn) moveToFailed(rec *Record, at time.Time) RecordTransition {
	rec.PolicyApplied = t.policy
	rec.Components, rec.StagedBoot = nil, BootStamp{}
	return move(rec, Failed, at)
}

// owed is the way back from its first leg. It is only ever owed by a host that was touched.
func (t turn) owed(kind WorkKind) *Work {
	return &Work{Kind: kind, Phase: PhaseUndoProfile, Touched: true, Boot: t.bootNow()}
}

// settle ends the way back: nothing of it is pending or failing any more.
func (t turn) settle(rec *Record) {
	rec.Components, rec.StagedBoot = nil, BootStamp{}
	rec.RollbackFailureReason, rec.RollbackFailureDetail = "", ""
	if t.side == host {
		rec.Work = nil
	}
}

// rolledBack takes that the host is back. The control plane keeps the closure from the rest of the channel.
func (t turn) rolledBack(rec Record, p RollbackComplete) (Record, []Effect, error) {
	t.settle(&rec)
	rec.CurrentClosure, rec.RevertedTo = p.RevertedToClosure, p.RevertedToClosure
	effects := []Effect{t.report(rec, p), move(&rec, Reverted, p.CompletedAt)}
	if t.side == mirror {
		effects = append(effects, RemoteQuarantineOnChannel{Channel: rec.Channel, RolloutID: rec.RolloutID, Closure: rec.TargetClosure})
	}
	return rec, effects, nil
}

// rollbackDeferred takes that all but the running system is back: a reboot finishes it.
func (t turn) rollbackDeferred(rec Record, p RollbackDeferred) (Record, []Effect, error) {
	if p.BootID == "" {
		return rec, nil, Invariant{What: "rollback deferred in a boot without an id: its reboot could never be proven"}
	}
	rec.Components = kept(p.Components)
	rec.StagedBoot = BootStamp{BootID: p.BootID, SoftReboots: p.SoftReboots}
	rec.RollbackFailureReason, rec.RollbackFailureDetail = "", ""
	if t.side == host {
		work := Work{Kind: WorkUndo, Touched: true}
		if rec.Work != nil {
			work = *rec.Work
		}
		work = work.Enter(PhaseStaged, rec.StagedBoot)
		rec.Work = &work
	}
	return rec, []Effect{t.report(rec, p)}, nil
}

// rollbackFailed keeps what is owed, for the next start to try again; what another hand did is left, so that nothing is
// owed any more.
func (t turn) rollbackFailed(rec Record, p RollbackFailed) (Record, []Effect, error) {
	if p.Reason == ReasonAnotherHand {
		t.settle(&rec)
	}
	rec.RollbackFailureReason, rec.RollbackFailureDetail = p.Reason, p.StderrTail
	return rec, []Effect{t.report(rec, p)}, nil
}

// bootDefaultRestored ends what Halt owes. The rollout stays Failed: the running system is still what failed.
func (t turn) bootDefaultRestored(rec Record, p BootDefaultRestored) (Record, []Effect, error) {
	if t.side == host && rec.Work != nil && rec.Work.Kind != WorkUnstage {
		return rec, nil, invariantf("the boot default alone is back while %s is owed", rec.Work.Kind)
	}
	t.settle(&rec)
	return rec, []Effect{t.report(rec, p)}, nil
}
