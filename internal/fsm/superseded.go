package fsm

// supersede ends a rollout for a newer one, which takes its work and, where it was not proven, its way back over.
func (t turn) supersede(rec Record, p SupersededBy) (Record, []Effect, error) {
	if p.ByRolloutID == "" || p.ByRolloutID == rec.RolloutID {
		return rec, nil, invariantf("rollout %s cannot be superseded by %q", rec.RolloutID, p.ByRolloutID)
	}
	rec.SupersededBy = p.ByRolloutID
	rec.Components, rec.StagedBoot = nil, BootStamp{}
	if t.side == host {
		rec.Work = nil
		rec = endSoak(rec, t.now)
	}
	return rec, []Effect{t.report(rec, p), move(&rec, Superseded, p.SupersededAt)}, nil
}
