package fsm

func (t turn) deferred(rec Record, ev Event) (Record, []Effect, error) {
	switch ev := ev.(type) {
	case LocalActivationCompleted:
		return t.complete(rec, ev.ActivationCompleted)
	case RemoteActivationCompleted:
		return t.complete(rec, ev.ActivationCompleted)
	case LocalActivationFailed:
		return t.failActivation(rec, ev.ActivationFailed)
	case RemoteActivationFailed:
		return t.failActivation(rec, ev.ActivationFailed)
	case LocalDeferralCancelled:
		return t.cancelDeferral(rec, ev.DeferralCancelled)
	case RemoteDeferralCancelled:
		return t.cancelDeferral(rec, ev.DeferralCancelled)
	case LocalSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	case RemoteSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	default:
		return illegal(rec, ev)
	}
}

// cancelDeferral takes that profile and boot default are back. Nothing is claimed about what runs: it was never changed.
func (t turn) cancelDeferral(rec Record, p DeferralCancelled) (Record, []Effect, error) {
	rec.RevertedTo = p.RevertedToClosure
	rec.Components, rec.StagedBoot = nil, BootStamp{}
	if t.side == host {
		rec.Work = nil
	}
	return rec, []Effect{t.report(rec, p), move(&rec, Reverted, p.CancelledAt)}, nil
}
