package fsm

func (t turn) pending(rec Record, ev Event) (Record, []Effect, error) {
	switch ev := ev.(type) {
	case LocalActivate:
		return t.accept(rec, ev.DispatchAck)
	case RemoteDispatchAck:
		return t.accept(rec, ev.DispatchAck)
	case LocalDispatchRejected:
		return t.reject(rec, ev.DispatchRejected)
	case RemoteDispatchRejected:
		return t.reject(rec, ev.DispatchRejected)
	case LocalSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	case RemoteSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	default:
		return illegal(rec, ev)
	}
}

// accept starts the work towards the target and stamps the way back.
func (t turn) accept(rec Record, p DispatchAck) (Record, []Effect, error) {
	if p.TargetClosure != rec.TargetClosure {
		return rec, nil, invariantf("rollout %s is for %s, not for %s", rec.RolloutID, rec.TargetClosure, p.TargetClosure)
	}
	rec.ReceivedAt = p.ReceivedAt.UTC()
	rec.Prior = p.Prior
	effects := []Effect{move(&rec, Activating, p.ReceivedAt), t.report(rec, p)}
	if t.side == host {
		rec.Work = &Work{Kind: WorkSwitch, Phase: PhaseCheck, Boot: t.bootNow()}
		effects = append(effects, LocalFireSwitch{RolloutID: rec.RolloutID, TargetClosure: rec.TargetClosure})
	}
	return rec, effects, nil
}

// reject ends a rollout that was refused before anything was touched: nothing is undone and no closure is accused.
func (t turn) reject(rec Record, p DispatchRejected) (Record, []Effect, error) {
	rec.FailedAt = p.RejectedAt.UTC()
	rec.FailureReason, rec.FailureDetail = p.Reason, p.Detail
	rec.PolicyApplied = t.policy
	if t.side == host {
		rec.Work = nil
	}
	return rec, []Effect{t.report(rec, p), move(&rec, Failed, p.RejectedAt)}, nil
}
