package fsm

import "time"

// Gates reports whether a probe of this mode holds convergence back. A mode that this version does not know gates: the
// host that declares it means something by it.
func (m ProbeMode) Gates() bool { return m != Observe && m != Disabled }

// forgetProbes drops what is known of the host's health: results, declarations and clocks.
func forgetProbes(rec *Record) {
	rec.Probes = nil
	rec.TopologyDeclaredAt = time.Time{}
	rec.ProbeObservedFirstAt = time.Time{}
	rec.ProbeFailureFirstAt = time.Time{}
}

// declareProbes takes the probes of the running system. None of them has a result yet, whatever an earlier one said.
func (t turn) declareProbes(rec Record, p ProbeTopologyDeclared) (Record, []Effect, error) {
	forgetProbes(&rec)
	for _, d := range p.Probes {
		if d.Name == "" || d.Mode == "" {
			return rec, nil, invariantf("a declared probe has no name or no mode (name %q, mode %q)", d.Name, d.Mode)
		}
		if _, twice := rec.Probes[d.Name]; twice {
			return rec, nil, invariantf("probe %q is declared twice", d.Name)
		}
		if rec.Probes == nil {
			rec.Probes = make(map[string]Probe, len(p.Probes))
		}
		rec.Probes[d.Name] = Probe{Kind: d.Kind, Mode: d.Mode}
	}
	rec.TopologyDeclaredAt = p.DeclaredAt.UTC()
	return rec, []Effect{t.report(rec, p)}, nil
}

// probeResult takes a probe's result. The declared mode counts, so that a result can never make a probe gate or stop
// gating.
func (t turn) probeResult(rec Record, p ProbeResult) (Record, []Effect, error) {
	probe, declared := rec.Probes[p.ProbeName]
	switch {
	case t.side == mirror && !declared:
		probe = Probe{Mode: p.Mode} // the mirror may have missed the declaration; the host did not
	case t.side == mirror:
	case !declared:
		return rec, nil, invariantf("probe %q is not declared", p.ProbeName)
	case probe.Mode != p.Mode:
		return rec, nil, invariantf("probe %q is declared %s, its result says %s", p.ProbeName, probe.Mode, p.Mode)
	case probe.Mode == Disabled:
		return rec, nil, invariantf("probe %q is disabled", p.ProbeName)
	case p.Status != Pass && p.Status != Fail:
		return rec, nil, invariantf("probe %q has the result %q, neither pass nor fail", p.ProbeName, p.Status)
	}
	probe.Status, probe.ObservedAt, probe.Reason = p.Status, p.ObservedAt.UTC(), p.FailureReason
	if rec.Probes == nil {
		rec.Probes = make(map[string]Probe, 1)
	}
	rec.Probes[p.ProbeName] = probe
	if rec.ProbeObservedFirstAt.IsZero() {
		rec.ProbeObservedFirstAt = p.ObservedAt.UTC()
	}
	switch {
	case len(FailingProbes(rec)) == 0:
		rec.ProbeFailureFirstAt = time.Time{}
	case rec.ProbeFailureFirstAt.IsZero():
		rec.ProbeFailureFirstAt = p.ObservedAt.UTC()
	}
	return rec, []Effect{t.report(rec, p)}, nil
}

// probeObservedFirst is accepted from agents that send it; ours derives it from the first result.
func (t turn) probeObservedFirst(rec Record, p ProbeObservedFirst) (Record, []Effect, error) {
	if rec.ProbeObservedFirstAt.IsZero() {
		rec.ProbeObservedFirstAt = p.ObservedAt.UTC()
	}
	return rec, []Effect{t.report(rec, p)}, nil
}

// probeFailureFirst is accepted from agents that send it; ours derives it from the first failing result.
func (t turn) probeFailureFirst(rec Record, p ProbeFailureFirst) (Record, []Effect, error) {
	mode := p.Mode
	if probe, declared := rec.Probes[p.ProbeName]; declared {
		mode = probe.Mode
	}
	if mode.Gates() && rec.ProbeFailureFirstAt.IsZero() {
		rec.ProbeFailureFirstAt = p.FirstFailedAt.UTC()
	}
	return rec, []Effect{t.report(rec, p)}, nil
}
