package fsm

import (
	"fmt"
	"strings"
)

func (t turn) soaking(rec Record, ev Event) (Record, []Effect, error) {
	switch ev := ev.(type) {
	case LocalProbeTopologyDeclared:
		return t.declareProbes(rec, ev.ProbeTopologyDeclared)
	case RemoteProbeTopologyDeclared:
		return t.declareProbes(rec, ev.ProbeTopologyDeclared)
	case LocalProbeObservedFirst:
		return t.probeObservedFirst(rec, ev.ProbeObservedFirst)
	case RemoteProbeObservedFirst:
		return t.probeObservedFirst(rec, ev.ProbeObservedFirst)
	case LocalProbeResult:
		return t.probeResult(rec, ev.ProbeResult)
	case RemoteProbeResult:
		return t.probeResult(rec, ev.ProbeResult)
	case LocalProbeFailureFirst:
		return t.probeFailureFirst(rec, ev.ProbeFailureFirst)
	case RemoteProbeFailureFirst:
		return t.probeFailureFirst(rec, ev.ProbeFailureFirst)
	case LocalSustainedFailureCrossed:
		return t.sustainedFailure(rec, ev.SustainedFailure)
	case RemoteFailed:
		return t.sustainedFailure(rec, ev.SustainedFailure)
	case LocalLeftTarget:
		return t.leftTarget(rec, ev.LeftTarget)
	case RemoteLeftTarget:
		return t.leftTarget(rec, ev.LeftTarget)
	case LocalConvergedReached:
		return t.converge(rec, ev.ConvergedReached)
	case RemoteConverged:
		return t.converge(rec, ev.ConvergedReached)
	case LocalSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	case RemoteSuperseded:
		return t.supersede(rec, ev.SupersededBy)
	default:
		return illegal(rec, ev)
	}
}

// sustainedFailure ends a soak because the host is not healthy. Under Halt nothing is owed: the host stays as it is, for
// the operator to look at.
func (t turn) sustainedFailure(rec Record, p SustainedFailure) (Record, []Effect, error) {
	if t.side == host {
		if len(FailingProbes(rec)) == 0 {
			return rec, nil, Invariant{What: "no enforced probe fails: a soak is not failed by anything else"}
		}
		rec = endSoak(rec, t.now)
		p.PolicyApplied = t.policy // the word sent and the deed done never differ
	} else if p.PolicyApplied != "" {
		t.policy = p.PolicyApplied
	}
	rec.FailedAt = p.FailedAt.UTC()
	rec.FailureReason = ReasonUnhealthy
	rec.FailureDetail = fmt.Sprintf("failing for %d s: %s", p.SustainedDurationSecs, strings.Join(p.FailingProbes, ", "))
	effects := []Effect{t.report(rec, p), t.moveToFailed(&rec, p.FailedAt)}
	if t.side == mirror {
		return rec, effects, nil
	}
	effects = append(effects, LocalQuarantine{RolloutID: rec.RolloutID, Closure: rec.TargetClosure, Reason: ReasonUnhealthy})
	if t.policy == RollbackAndHalt {
		rec.Work = t.owed(WorkUndo)
		effects = append(effects, LocalFireRollbackTo{RolloutID: rec.RolloutID, Prior: rec.Prior})
	}
	return rec, effects, nil
}

// leftTarget ends a soak because another hand moved the host: nothing is fought and nobody's closure is accused.
func (t turn) leftTarget(rec Record, p LeftTarget) (Record, []Effect, error) {
	rec.FailedAt = p.LeftAt.UTC()
	rec.CurrentClosure = p.ObservedCurrentClosure
	rec.FailureReason = ReasonAnotherHand
	rec.FailureDetail = "runs " + p.ObservedCurrentClosure
	if t.side == host {
		rec.SoakMark = SoakMark{} // what came after the last mark was not served on the target
	}
	return rec, []Effect{t.report(rec, p), t.moveToFailed(&rec, p.LeftAt)}, nil
}

// converge is the one claim of success, so the host asks the gate once more. The mirror has no clocks of the host.
func (t turn) converge(rec Record, p ConvergedReached) (Record, []Effect, error) {
	if !rec.accepts(p.CurrentClosure, p.Specialisation) && (rec.CurrentClosure == "" || p.CurrentClosure != rec.CurrentClosure) {
		return rec, nil, invariantf("converged with %s, which is not %s", p.CurrentClosure, rec.targetInWords())
	}
	if t.side == host {
		if open, waiting := ConvergeGate(rec, t.now); !open {
			return rec, nil, Invariant{What: "converged too early: " + strings.Join(waiting, "; ")}
		}
		rec = endSoak(rec, t.now)
	}
	rec.CurrentClosure = p.CurrentClosure
	rec.ConvergedAt = p.ConvergedAt.UTC()
	return rec, []Effect{t.report(rec, p), move(&rec, Converged, p.ConvergedAt)}, nil
}
