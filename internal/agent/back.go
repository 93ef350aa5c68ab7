package agent

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// back takes the host back to what it was, leg by leg. Each leg is compare-and-set: it is reverted only while it still reads
// the target; what another hand has changed is left and said. A leg that fails does not keep the others from being done: a full
// boot partition must not leave a host running what failed. It is reported at the end, and the next start resumes it.
func (w *worker) back() error {
	if err := w.renewLost(); err != nil {
		return err
	}
	for w.rec.Work != nil && w.rec.Work.Phase != fsm.PhaseStaged {
		w.log.Info("phase", slog.String("phase", string(w.rec.Work.Phase)))
		err := w.leg(w.rec.Work.Phase)
		var failure *activate.Failure
		switch {
		case err == nil:
		case w.ctx.Err() != nil:
			return w.left()
		case errors.As(err, &failure):
			if over, err := w.skip(failure); over || err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

// skippedLeg is a leg of the way back that failed while others were still to be done.
type skippedLeg struct {
	phase   fsm.Phase
	failure *activate.Failure
}

// skip goes on behind a leg that failed. Behind the last one the first that failed is reported, and stored as what is owed.
func (w *worker) skip(failure *activate.Failure) (over bool, err error) {
	phase := w.rec.Work.Phase
	if w.skipped == nil {
		w.skipped = &skippedLeg{phase: phase, failure: failure}
	}
	if next := w.legAfter(phase); next != "" {
		w.log.Warn("a leg of the way back failed; the others are done all the same", slog.String("phase", string(phase)), slog.String("detail", failure.Detail))
		return false, w.enter(next)
	}
	first := w.skipped
	w.skipped = nil
	if first.phase != phase {
		if err := w.enter(first.phase); err != nil {
			return true, err
		}
	}
	return true, w.rollbackFailed(first.failure)
}

func (w *worker) legAfter(p fsm.Phase) fsm.Phase {
	switch {
	case p == fsm.PhaseUndoProfile:
		return fsm.PhaseUndoBoot
	case p == fsm.PhaseUndoBoot && w.rec.Work.Kind == fsm.WorkUndo:
		return fsm.PhaseUndoRunning
	default: // WorkUnstage leaves the running system
		return ""
	}
}

// finish ends the way back with what its last leg came to, unless an earlier leg is still owed: one that failed, in this start
// of the agent or in the one before.
func (w *worker) finish(facts system.Facts, end func() error) error {
	if w.skipped != nil {
		return w.skipped.failure
	}
	if leg := w.stillThere(facts); leg != "" && !w.lookedBack {
		w.lookedBack = true
		return w.enter(leg)
	}
	return end()
}

// stillThere is the first leg before the last that still reads the target, "" if none does.
func (w *worker) stillThere(facts system.Facts) fsm.Phase {
	profile, boot := w.rec.Prior.Profile, w.priorBoot()
	_, bootsTarget := w.loop.host.IsOrSpecialises(facts.BootDefault.Closure, w.rec.TargetClosure)
	switch {
	case profile != "" && facts.Profile == w.rec.TargetClosure && facts.Profile != profile:
		return fsm.PhaseUndoProfile
	case boot != "" && bootsTarget && facts.BootDefault.Closure != boot:
		return fsm.PhaseUndoBoot
	default:
		return ""
	}
}

// priorBoot is what the host would boot before.
func (w *worker) priorBoot() string {
	if w.rec.Prior.BootDefault == "" {
		return w.rec.Prior.Profile
	}
	return w.rec.Prior.BootDefault
}

// renewLost makes another attempt of a leg whose attempt was cut off, as by a power cut: it will never have a result, and what
// it was to bring back is owed all the same.
func (w *worker) renewLost() error {
	if w.rec.Work == nil || w.rec.Work.Attempt == 0 {
		return nil
	}
	seen, err := w.loop.runner.Look(w.ctx, jobOf(w.rec))
	switch {
	case w.ctx.Err() != nil:
		return w.left()
	case err != nil:
		return err
	case seen.State != activate.JobLost:
		return nil
	}
	return w.newAttempt(nil, true)
}

func (w *worker) leg(p fsm.Phase) error {
	facts, err := w.loop.host.Facts(w.ctx)
	if err != nil {
		return err
	}
	switch p {
	case fsm.PhaseUndoProfile:
		return w.undoProfile(facts)
	case fsm.PhaseUndoBoot:
		return w.undoBoot(facts)
	case fsm.PhaseUndoRunning:
		return w.undoRunning(facts)
	default:
		return fmt.Errorf("do phase %q: not a phase of the way back", p)
	}
}

func (w *worker) undoProfile(facts system.Facts) error {
	prior := w.rec.Prior.Profile
	switch {
	case facts.Profile == prior || prior == "":
		return w.enter(fsm.PhaseUndoBoot)
	case facts.Profile != w.rec.TargetClosure:
		return w.leave("profile", facts.Profile, fsm.PhaseUndoBoot)
	}
	id, err := w.attempt(nil)
	if err != nil {
		return err
	}
	w.say("setting the profile back to %s", prior)
	if err := w.loop.runner.SetProfile(w.ctx, id, prior); err != nil {
		return err
	}
	return w.enter(fsm.PhaseUndoBoot)
}

// undoBoot lets the prior system's own switch-to-configuration write the boot loader. Where no loader can be read it runs as
// well: that what it would boot cannot be told does not mean that it is right.
func (w *worker) undoBoot(facts system.Facts) error {
	prior := w.priorBoot()
	_, isTarget := w.loop.host.IsOrSpecialises(facts.BootDefault.Closure, w.rec.TargetClosure)
	readable := facts.BootDefault.Closure != ""
	switch {
	case prior == "" || (readable && facts.BootDefault.Closure == prior):
		return w.afterBoot()
	case readable && !isTarget:
		return w.leave("boot default", facts.BootDefault.Closure, w.legAfter(fsm.PhaseUndoBoot))
	}
	result, err := w.runPrior(prior, activate.ActionBoot)
	if err != nil {
		return err
	}
	after := w.loop.host.BootDefault()
	isBack := after.Closure == prior || after.Closure == "" && !readable
	if again, err := w.again(result, result.CutOff()); again || err != nil {
		return err
	}
	if !isBack {
		return &activate.Failure{Reason: string(fsm.ReasonBootDefaultUnset), ExitCode: result.ExitCode, Tail: result.Tail,
			Detail: fmt.Sprintf("the boot default is %s and not %s after its switch-to-configuration boot", shownClosure(after.Closure), prior),
			Hint:   "see the journal of the unit; the boot partition may be full"}
	}
	return w.afterBoot()
}

func (w *worker) afterBoot() error {
	if next := w.legAfter(fsm.PhaseUndoBoot); next != "" {
		return w.enter(next)
	}
	return w.restored()
}

func (w *worker) restored() error {
	facts, err := w.loop.host.Facts(w.ctx)
	if err != nil {
		return err
	}
	return w.finish(facts, func() error {
		if w.rec.State == fsm.Deferred {
			return w.deferralCancelled()
		}
		return w.store(nil, fsm.LocalBootDefaultRestored{BootDefaultRestored: fsm.BootDefaultRestored{
			Profile: facts.Profile, BootDefault: facts.BootDefault.Closure, Left: w.rec.Work.Left, RestoredAt: w.loop.now().Wall,
		}})
	})
}

// undoRunning brings the running system back with the prior system's own script, live where only what a reboot loads
// differs, and otherwise staged: the way back must not exchange under a running system what the way forth must not.
func (w *worker) undoRunning(facts system.Facts) error {
	prior := w.rec.Prior.Running
	_, isTarget := w.loop.host.IsOrSpecialises(facts.Running, w.rec.TargetClosure)
	unfinished := w.loop.runner.SwitchUnfinished()
	switch {
	case prior == "", facts.Running == prior && !unfinished && w.rec.Work.Attempt == 0:
		return w.finish(facts, func() error { return w.rolledBack(0, facts.Running) })
	case facts.Running == "": // cut off between two links, which nobody else's switch leaves
		if err := w.relink(prior); err != nil {
			return err
		}
	case facts.Running != prior && !isTarget:
		return w.finish(facts, func() error { return w.leaveRunning(facts.Running) })
	}
	critical, err := w.loop.runner.CriticalForReturn(w.ctx, prior)
	if err != nil {
		return err
	}
	if len(critical) > 0 {
		return w.finish(facts, func() error { return w.stageReturn(critical) })
	}
	result, err := w.runPrior(prior, activate.ActionTest)
	if err != nil {
		return err
	}
	now, err := w.loop.host.Facts(w.ctx)
	if err != nil {
		return err
	}
	unfinished = w.loop.runner.SwitchUnfinished()
	if again, err := w.again(result, result.CutOff() || unfinished || now.Running != prior); again || err != nil {
		return err
	}
	switch {
	case now.Running != prior:
		return &activate.Failure{Reason: string(fsm.ReasonSwitchFailed), ExitCode: result.ExitCode, Tail: result.Tail,
			Detail: fmt.Sprintf("%s runs and not %s after its switch-to-configuration test", shownClosure(now.Running), prior)}
	case unfinished:
		return &activate.Failure{Reason: string(fsm.ReasonSwitchInterrupted), ExitCode: result.ExitCode, Tail: result.Tail,
			Detail: fmt.Sprintf("the switch-to-configuration test of %s was cut off again; not all of its units were started", prior)}
	default:
		return w.finish(now, func() error { return w.rolledBack(result.ExitCode, prior) })
	}
}

// relink restores the running link. The attempt that has to follow is stored before: the link alone brings no unit back.
func (w *worker) relink(prior string) error {
	if _, err := w.attempt(nil); err != nil {
		return err
	}
	return w.loop.runner.RestoreRunningLink(prior)
}

// again makes another attempt of a leg that found the lock of another switch, when that has ended, or that was cut off, once. The
// leg then begins anew, and sees what the other one did.
func (w *worker) again(result activate.Result, cutOff bool) (bool, error) {
	switch {
	case result.Locked():
		holder := w.loop.runner.LockHolder()
		if holder == "" {
			holder = "it has ended since"
		}
		if err := w.awaitLock(holder); err != nil {
			return true, err
		}
		return true, w.newAttempt(nil, false)
	case !cutOff, w.rec.Work.Retries >= maxInterrupted:
		return false, nil
	default:
		w.log.Warn("the way back was cut off; the same is run once more", slog.String("phase", string(w.rec.Work.Phase)))
		return true, w.newAttempt(nil, true)
	}
}

// runPrior runs the script of the system that is returned to: the failed closure's own would switch to itself.
func (w *worker) runPrior(prior string, action activate.Action) (activate.Result, error) {
	id, err := w.attempt(nil)
	if err != nil {
		return activate.Result{}, err
	}
	w.say("running switch-to-configuration %s of %s", action, prior)
	return w.loop.runner.Switch(w.ctx, id, prior, "", action)
}

func (w *worker) stageReturn(critical []activate.Change) error {
	now := w.loop.now()
	return w.store(nil, fsm.LocalRollbackDeferred{RollbackDeferred: fsm.RollbackDeferred{
		Components: componentChanges(critical), ToClosure: w.rec.Prior.Running,
		BootID: now.BootID, SoftReboots: now.SoftReboots, DeferredAt: now.Wall,
	}})
}

func (w *worker) rolledBack(exit int, to string) error {
	return w.store(nil, fsm.LocalRollbackCompleted{RollbackComplete: fsm.RollbackComplete{
		RevertedToClosure: to, ExitCode: exit, Left: w.rec.Work.Left, CompletedAt: w.loop.now().Wall,
	}})
}

// leave notes a leg that another hand has changed and goes on to the next one.
func (w *worker) leave(leg, found string, next fsm.Phase) error {
	w.log.Warn("another hand changed what was to be returned; it is left as it is", slog.String("leg", leg), slog.String("found", found))
	note := fmt.Sprintf("%s: left at %s", leg, shownClosure(found))
	if next == "" {
		if err := w.store(func(rec *fsm.Record) { rec.Work = leftAt(*rec.Work, note) }); err != nil {
			return err
		}
		return w.restored()
	}
	return w.store(func(rec *fsm.Record) { rec.Work = w.loop.entered(*leftAt(*rec.Work, note), next) })
}

// leaveRunning ends the way back of a host that another hand has taken elsewhere: it is not where it was, and is not fought.
func (w *worker) leaveRunning(found string) error {
	return w.rollbackFailed(&activate.Failure{Reason: string(fsm.ReasonAnotherHand), ExitCode: -1,
		Detail: "the host runs " + shownClosure(found) + ", which is neither the target nor what ran before; it is left so"})
}

func leftAt(work fsm.Work, note string) *fsm.Work {
	work.Left = append(append([]string(nil), work.Left...), note)
	return &work
}

func (w *worker) rollbackFailed(failure *activate.Failure) error {
	// The next start makes a new attempt of this leg instead of taking the result of this one again.
	again := func(rec *fsm.Record) {
		work := *rec.Work
		work.Attempt, work.Retries = 0, 0
		rec.Work = &work
	}
	if w.rec.State == fsm.Deferred { // it stays so; nothing of it has come to an end
		w.log.Error("cancel deferral", slog.String("reason", failure.Reason), slog.String("detail", failure.Detail))
		return w.store(func(rec *fsm.Record) {
			again(rec)
			rec.RollbackFailureReason, rec.RollbackFailureDetail = fsm.FailureReason(failure.Reason), failure.Text()
		})
	}
	return w.store(again, fsm.LocalRollbackFailed{RollbackFailed: fsm.RollbackFailed{
		ExitCode: failure.ExitCode, StderrTail: failure.Text(), Reason: fsm.FailureReason(failure.Reason), FailedAt: w.loop.now().Wall,
	}})
}

func shownClosure(path string) string {
	if path == "" {
		return "something that cannot be told"
	}
	return path
}
