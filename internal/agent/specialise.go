package agent

import (
	"log/slog"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// specialise switches to the specialisation that the dispatch names, on a host that was booted into the target itself: the
// default of a boot loader is the target, and what is in its specialisation of the kernel runs already. What runs before it is
// the target, so that is what a switch which does nothing leaves.
func (w *worker) specialise() error {
	if w.rec.Work.Attempt == 0 {
		if err := w.rememberFailedUnits(); err != nil {
			return err
		}
	}
	id, err := w.attempt(nil)
	if err != nil {
		return err
	}
	w.say("switching to the specialisation %s", w.rec.Specialisation)
	result, err := w.loop.runner.Switch(w.ctx, id, w.rec.TargetClosure, w.rec.Specialisation, activate.ActionTest)
	if err != nil {
		return err
	}
	observed, err := w.loop.runner.Observe(w.ctx, activate.Expectation{
		Action: activate.ActionTest, Target: w.rec.TargetClosure, Specialisation: w.rec.Specialisation,
		PriorRunning: w.rec.TargetClosure, FailedBefore: w.rec.Work.FailedBefore,
	}, result)
	if err != nil {
		return err
	}
	outcome := activate.Judge(observed)
	w.log.Info("specialisation was switched to", slog.String("outcome", string(outcome.Kind)), slog.Int("exit_code", outcome.ExitCode),
		slog.String("reason", outcome.Reason))
	switch {
	case outcome.Kind == activate.Completed:
		return w.store(nil, w.completed(outcome, observed.Running, observed.RunningSpecialisation))
	case outcome.Kind == activate.WaitForLock:
		if err := w.awaitLock(outcome.Reason); err != nil {
			return err
		}
		return w.newAttempt(nil, false)
	case outcome.Kind == activate.Interrupted && w.rec.Work.Retries < maxInterrupted:
		return w.newAttempt(nil, true)
	}
	reason := fsm.FailureReason(outcome.FailureReason)
	if reason == "" { // NixOS would not switch across what differs between a target and its specialisation
		reason = fsm.ReasonSwitchFailed
	}
	return w.fail(reason, outcome.ExitCode, outcome.Text(observed))
}
