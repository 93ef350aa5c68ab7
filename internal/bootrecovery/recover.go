package bootrecovery

import (
	"fmt"
	"strings"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// Limits of trying again.
const (
	// maxReturns is how often a boot may send work that had only touched profile and boot loader back to Inspect. The
	// first reboot may be a power cut; a host that keeps booting something else has a loader that does not listen.
	maxReturns = 2
	// maxStarts is how many starts of the agent may find the same phase without progress. More means that the phase itself
	// takes the agent down.
	maxStarts = 5
)

// Recover gives the verdict for rec under facts f at the moment now. The caller has counted this start in the record's work.
func Recover(rec fsm.Record, f Facts, now fsm.Now) Verdict {
	if !rec.State.Known() {
		return Verdict{Row: RowFrozen, Do: Nothing, Say: fmt.Sprintf("the record is in state %q, which this version does not know: it is kept as it is", rec.State)}
	}
	if rec.Work != nil && f.Unit == Running {
		return Verdict{Row: RowAttach, Do: Resume}
	}
	switch rec.State {
	case fsm.Pending:
		return pending(f, now)
	case fsm.Activating:
		return activating(rec, f, now)
	case fsm.Deferred:
		return deferred(rec, f, now)
	case fsm.Soaking:
		return soaking(f, now)
	case fsm.Failed:
		return failed(rec, f, now)
	case fsm.Converged:
		return converged(rec, f)
	case fsm.Reverted, fsm.Superseded:
	}
	return Verdict{Row: RowRest, Do: Nothing}
}

func pending(f Facts, now fsm.Now) Verdict {
	switch {
	case f.Expired:
		return Verdict{Row: RowPendingExpired, Do: Nothing, Event: fsm.LocalDispatchRejected{DispatchRejected: fsm.DispatchRejected{
			Reason: fsm.ReasonExpired, Detail: "it was not started before it expired", RejectedAt: now.Wall}}}
	case f.Held:
		return Verdict{Row: RowPendingHeld, Do: Nothing}
	default:
		return Verdict{Row: RowPending, Do: Activate}
	}
}

func activating(rec fsm.Record, f Facts, now fsm.Now) Verdict {
	w := rec.Work
	if w == nil || w.Phase.BeforeProfile() {
		if w != nil && w.Starts >= maxStarts {
			return noProgress(*w, now)
		}
		return Verdict{Row: RowUntouched, Do: Restart}
	}
	if newBoot(w.Boot, f.Boot) {
		if v, ok := bootedTarget(rec, f, now); ok {
			return v
		}
		if w.Phase == fsm.PhaseSwitch {
			return Verdict{Row: RowCutOff, Do: Nothing, Event: activationFailed(fsm.ReasonRebooted,
				"the host went down during the switch and "+whatBooted(f), now)}
		}
		if w.Returns >= maxReturns {
			return Verdict{Row: RowReinspectNoMore, Do: Nothing, Event: activationFailed(fsm.ReasonNoProgress,
				"the host was rebooted again and again before the target was the boot default and "+whatBooted(f), now)}
		}
		again := w.Enter(fsm.PhaseInspect, f.Boot)
		again.Returns++
		return Verdict{Row: RowReinspect, Do: Resume, Work: &again}
	}
	if w.Starts >= maxStarts {
		return noProgress(*w, now)
	}
	switch f.Unit {
	case Ended:
		return Verdict{Row: RowResult, Do: Resume}
	case Interrupted:
		return Verdict{Row: RowInterrupted, Do: Resume}
	default:
		return Verdict{Row: RowNotStarted, Do: Resume}
	}
}

func noProgress(w fsm.Work, now fsm.Now) Verdict {
	return Verdict{Row: RowNoProgress, Do: Nothing, Event: activationFailed(fsm.ReasonNoProgress,
		fmt.Sprintf("%d starts of the agent found the phase %q without progress", w.Starts, w.Phase), now)}
}

// bootedTarget handles a host that came up in the target after a real reboot.
func bootedTarget(rec fsm.Record, f Facts, now fsm.Now) (Verdict, bool) {
	if f.Booted.Is != Target {
		return Verdict{}, false
	}
	if runsParent(rec, f) {
		return bootedParent(rec, f), true
	}
	if f.Running.Is != Target {
		return Verdict{Row: RowBootedOtherRuns, Do: Nothing, Event: activationFailed(fsm.ReasonAnotherHand,
			fmt.Sprintf("the target was booted, and %s runs since: another hand switched the host", name(f.Running)), now)}, true
	}
	return Verdict{Row: RowBooted, Do: Nothing, Event: completed(f, now)}, true
}

// runsParent reports a host that runs the target itself although the dispatch names a specialisation of it.
func runsParent(rec fsm.Record, f Facts) bool {
	return f.Running.Is == Target && rec.Specialisation != "" && f.Running.Specialisation != rec.Specialisation
}

// bootedParent handles a host that came up in the target itself although the dispatch names a specialisation of it: that is
// switched to, live, as on any host that was booted.
func bootedParent(rec fsm.Record, f Facts) Verdict {
	v := Verdict{Row: RowBootedParent, Do: Resume, Say: "the target was booted; its specialisation " + rec.Specialisation + " is switched to"}
	if rec.Work == nil || rec.Work.Phase != fsm.PhaseSpecialise {
		work := fsm.Work{}
		if rec.Work != nil {
			work = *rec.Work
		}
		work.Kind, work.Touched = fsm.WorkStage, true
		work = work.Enter(fsm.PhaseSpecialise, f.Boot)
		v.Work = &work
	}
	return v
}

func deferred(rec fsm.Record, f Facts, now fsm.Now) Verdict {
	isNew := newBoot(rec.StagedBoot, f.Boot)
	if isNew {
		if v, ok := bootedTarget(rec, f, now); ok {
			return v
		}
		if f.Running.Is != Target && !cancelling(rec) {
			return bootedOther(f, now)
		}
	}
	if cancelling(rec) {
		return Verdict{Row: RowCancel, Do: Resume}
	}
	if f.Running.Is == Target {
		if len(f.StillOld) == 0 && runsParent(rec, f) {
			return bootedParent(rec, f)
		}
		if len(f.StillOld) == 0 {
			return Verdict{Row: RowRunsLive, Do: Nothing, Event: completed(f, now)}
		}
		v := Verdict{Row: RowRunsHalf, Do: Nothing, Say: "the target was switched to by hand; still the old one until a reboot: " + strings.Join(f.StillOld, ", ")}
		if isNew {
			v.Row, v.Do = RowSwitchedByHand, StampBoot
		}
		return v
	}
	if hand := otherHand(f); hand != "" {
		return Verdict{Row: RowStagedByOther, Do: Nothing, Notice: &Notice{
			Key:  "another-hand/" + rec.RolloutID + "/" + f.Profile.Path + "/" + f.BootDefault.Path,
			Kind: AnotherHand,
			Text: "another hand changed " + hand + " while " + rec.TargetClosure + " is staged: the agent leaves it so",
		}}
	}
	return Verdict{Row: RowDeferred, Do: Nothing}
}

// cancelling reports a deferral that the operator has taken back: its legs are gone on with until they are done.
func cancelling(rec fsm.Record) bool { return rec.Work != nil && rec.Work.Kind == fsm.WorkUnstage }

func bootedOther(f Facts, now fsm.Now) Verdict {
	reason := fsm.ReasonBootedOther
	if f.FellBack {
		reason = fsm.ReasonLoaderFellBack
	}
	return Verdict{Row: RowBootedOther, Do: Nothing, Event: activationFailed(reason, whatBooted(f), now)}
}

// otherHand names what of the staged target is no longer in place. A boot default that cannot be read is not evidence.
func otherHand(f Facts) string {
	var changed []string
	if f.Profile.Is != Target && f.Profile.Is != Unknown {
		changed = append(changed, "the profile (now "+name(f.Profile)+")")
	}
	if f.BootDefault.Is != Target && f.BootDefault.Is != Unknown {
		changed = append(changed, "the boot default (now "+name(f.BootDefault)+")")
	}
	return strings.Join(changed, " and ")
}

func soaking(f Facts, now fsm.Now) Verdict {
	switch f.Running.Is {
	case Target:
		if f.Starting {
			return Verdict{Row: RowSoaking, Do: RestartSoak}
		}
		return Verdict{Row: RowSoaking, Do: Nothing}
	case Unknown: // a link that could not be read says nothing
		return Verdict{Row: RowSoaking, Do: Nothing, Say: "the running system could not be read"}
	default:
		return Verdict{Row: RowLeftTarget, Do: Nothing, Event: fsm.LocalLeftTarget{LeftTarget: fsm.LeftTarget{
			ObservedCurrentClosure: f.Running.Path, LeftAt: now.Wall}}}
	}
}

func failed(rec fsm.Record, f Facts, now fsm.Now) Verdict {
	w := rec.Work
	if w == nil {
		return Verdict{Row: RowRest, Do: Nothing}
	}
	if w.Phase != fsm.PhaseStaged {
		return Verdict{Row: RowUndo, Do: Resume}
	}
	if !newBoot(rec.StagedBoot, f.Boot) {
		return Verdict{Row: RowUndoStaged, Do: Nothing}
	}
	switch {
	case f.Booted.Is == Prior && f.Running.Is == Prior:
		return Verdict{Row: RowUndoBooted, Do: Nothing, Event: fsm.LocalRollbackCompleted{RollbackComplete: fsm.RollbackComplete{
			RevertedToClosure: f.Running.Path, Left: w.Left, CompletedAt: now.Wall}}}
	case f.Booted.Is == Target && w.Returns < maxReturns:
		again := w.Enter(fsm.PhaseUndoProfile, f.Boot)
		again.Returns++
		return Verdict{Row: RowUndoBootedTarget, Do: Resume, Work: &again,
			Event: rollbackFailed(fsm.ReasonBootedOther, "the failed target was booted again instead of the prior system; the way back is staged once more", now)}
	default:
		return Verdict{Row: RowUndoBootedOther, Do: Nothing, Rest: true,
			Event: rollbackFailed(fsm.ReasonAnotherHand, whatBooted(f), now)}
	}
}

func converged(rec fsm.Record, f Facts) Verdict {
	off := func(s Seen) bool { return s.Is == Prior || s.Is == Other }
	if !off(f.Running) && !off(f.Booted) {
		return Verdict{Row: RowRest, Do: Nothing}
	}
	return Verdict{Row: RowDrift, Do: Nothing, Notice: &Notice{
		Key:  "drift/" + rec.RolloutID + "/" + f.Booted.Path + "/" + f.Running.Path,
		Kind: Drift,
		Text: fmt.Sprintf("the host converged on %s and now runs %s, booted %s", rec.TargetClosure, name(f.Running), name(f.Booted)),
	}}
}

// newBoot reports a real reboot since the stamp. A stamp that was never made is no evidence of one.
func newBoot(then, now fsm.BootStamp) bool { return then.BootID != "" && then.BootID != now.BootID }

func completed(f Facts, now fsm.Now) fsm.Event {
	return fsm.LocalActivationCompleted{ActivationCompleted: fsm.ActivationCompleted{
		ObservedCurrentClosure: f.Running.Path, Specialisation: f.Running.Specialisation,
		BootID: f.Boot.BootID, CompletedAt: now.Wall}}
}

func activationFailed(reason fsm.FailureReason, detail string, now fsm.Now) fsm.Event {
	return fsm.LocalActivationFailed{ActivationFailed: fsm.ActivationFailed{
		ExitCode: -1, StderrTail: detail, Reason: reason, FailedAt: now.Wall}}
}

func rollbackFailed(reason fsm.FailureReason, detail string, now fsm.Now) fsm.Event {
	return fsm.LocalRollbackFailed{RollbackFailed: fsm.RollbackFailed{
		ExitCode: -1, StderrTail: detail, Reason: reason, FailedAt: now.Wall}}
}

func whatBooted(f Facts) string {
	s := "booted " + name(f.Booted) + " instead of the target"
	switch f.Booted.Is {
	case Prior:
		s += ": the system from before"
	case Other:
		s += ": neither the target nor the system from before"
	case Target, Unknown:
	}
	if f.FellBack {
		s += "; the boot loader gave up on the target and fell back"
	}
	return s
}

func name(s Seen) string {
	if s.Path == "" {
		return "an unknown system"
	}
	return s.Path
}
