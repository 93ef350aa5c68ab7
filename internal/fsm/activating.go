package fsm

func (t turn) activating(rec Record, ev Event) (Record, []Effect, error) {
	switch ev := ev.(type) {
	case LocalActivationStarted:
		return t.started(rec, ev.ActivationStarted)
	case RemoteActivationStarted:
		return t.started(rec, ev.ActivationStarted)
	case LocalActivationCompleted:
		return t.complete(rec, ev.ActivationCompleted)
	case RemoteActivationCompleted:
		return t.complete(rec, ev.ActivationCompleted)
	case LocalActivationDeferred:
		return t.deferActivation(rec, ev.ActivationDeferred)
	case RemoteActivationDeferred:
		return t.deferActivation(rec, ev.ActivationDeferred)
	case LocalActivationFailed:
		return t.failActivation(rec, ev.ActivationFailed)
	case RemoteActivationFailed:
		return t.failActivation(rec, ev.ActivationFailed)
	default:
		return illegal(rec, ev)
	}
}

// started notes that an attempt begins; the work goes on as it is.
func (t turn) started(rec Record, p ActivationStarted) (Record, []Effect, error) {
	rec.ActivationStartedAt = p.StartedAt.UTC()
	rec.Attempts = max(rec.Attempts, p.Attempt)
	return rec, []Effect{t.report(rec, p)}, nil
}

// complete takes the observation that the target runs, from Activating and from Deferred alike, and begins the soak.
func (t turn) complete(rec Record, p ActivationCompleted) (Record, []Effect, error) {
	if !rec.accepts(p.ObservedCurrentClosure, p.Specialisation) {
		return rec, nil, invariantf("completed with %s, which is not %s", p.ObservedCurrentClosure, rec.targetInWords())
	}
	rec.ActivationCompletedAt = p.CompletedAt.UTC()
	rec.CurrentClosure = p.ObservedCurrentClosure
	rec.Degraded = kept(p.Degraded)
	rec.Components, rec.StagedBoot = nil, BootStamp{}
	forgetProbes(&rec)

	var effects []Effect
	if t.side == host {
		rec.Work = nil
		rec.SoakServed, rec.SoakMark = 0, markAt(t.now)
		effects = append(effects, LocalResetProbeCache{RolloutID: rec.RolloutID})
	}
	effects = append(effects, t.report(rec, p), move(&rec, Soaking, p.CompletedAt))
	return rec, effects, nil
}

// deferActivation takes that the target is staged for the next boot. It claims nothing about what runs.
func (t turn) deferActivation(rec Record, p ActivationDeferred) (Record, []Effect, error) {
	if p.BootID == "" {
		return rec, nil, Invariant{What: "deferred in a boot without an id: its reboot could never be proven"}
	}
	rec.Components = kept(p.Components)
	rec.StagedBoot = BootStamp{BootID: p.BootID, SoftReboots: p.SoftReboots}
	rec.DeferredAt = p.DeferredAt.UTC()
	if t.side == host {
		rec.Work = &Work{Kind: WorkStage, Phase: PhaseStaged, Touched: true, Boot: rec.StagedBoot}
	}
	return rec, []Effect{t.report(rec, p), move(&rec, Deferred, p.DeferredAt)}, nil
}

// failActivation ends an activation, from Activating and from Deferred alike. What is owed afterwards depends on whether
// the work had touched the host, and on who did what was found: another hand's doing is never undone.
func (t turn) failActivation(rec Record, p ActivationFailed) (Record, []Effect, error) {
	rec.ActivationFailedAt, rec.FailedAt = p.FailedAt.UTC(), p.FailedAt.UTC()
	rec.FailureReason, rec.FailureDetail = p.Reason, p.StderrTail
	effects := []Effect{t.report(rec, p), t.moveToFailed(&rec, p.FailedAt)}
	if t.side == mirror {
		return rec, effects, nil
	}

	touched := rec.Work != nil && rec.Work.Touched
	rec.Work = nil
	if p.Reason.Accuses() {
		effects = append(effects, LocalQuarantine{RolloutID: rec.RolloutID, Closure: rec.TargetClosure, Reason: p.Reason})
	}
	if !touched || p.Reason == ReasonAnotherHand {
		return rec, effects, nil
	}
	if t.policy == Halt {
		rec.Work = t.owed(WorkUnstage)
		effects = append(effects, LocalFireUnstage{RolloutID: rec.RolloutID, Prior: rec.Prior})
	} else {
		rec.Work = t.owed(WorkUndo)
		effects = append(effects, LocalFireRollbackTo{RolloutID: rec.RolloutID, Prior: rec.Prior})
	}
	return rec, effects, nil
}
