package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// Limits of the work towards a target.
const (
	// lockPatience bounds the wait for another switch of this host. It is longer than any switch that is not stuck.
	lockPatience = time.Hour
	// lockPoll is how often the lock is looked at; holding it is somebody's switch, which takes seconds at least.
	lockPoll = time.Second
	// maxInterrupted is how often an interrupted attempt is followed by another: running the same switch again is NixOS's
	// own repair of a switch that was cut off; a second interruption is the closure's doing.
	maxInterrupted = 1
	// realiseBackoff and realiseBackoffMax bound the pause between two attempts to reach a cache.
	realiseBackoff    = 2 * time.Second
	realiseBackoffMax = 5 * time.Minute
	// handoverPoll is how often a rollout looks whether its predecessor's work has ended.
	handoverPoll = time.Second
)

// run does what the record owes until it is done, fails, or is taken away.
func (w *worker) run() error {
	switch w.rec.Work.Kind {
	case fsm.WorkSwitch, fsm.WorkStage:
		return w.bring()
	case fsm.WorkUndo, fsm.WorkUnstage:
		return w.back()
	default:
		return fmt.Errorf("do work of %s: kind %q is not known to this version", w.rec.RolloutID, w.rec.Work.Kind)
	}
}

// bring takes the host to the target, phase by phase.
func (w *worker) bring() error {
	for w.rec.State == fsm.Activating || w.rec.Work != nil && w.rec.Work.Phase == fsm.PhaseSpecialise {
		if err := w.step(w.rec.Work.Phase); err != nil {
			return w.give(err)
		}
	}
	return nil
}

func (w *worker) step(p fsm.Phase) error {
	w.log.Info("phase", slog.String("phase", string(p)))
	switch p {
	case fsm.PhaseCheck:
		return w.check()
	case fsm.PhaseRealise:
		return w.realise()
	case fsm.PhaseInspect:
		if err := w.quiet(); err != nil {
			return err
		}
		return w.inspect()
	case fsm.PhaseProfile:
		return w.profile()
	case fsm.PhaseSwitch, fsm.PhaseBoot:
		return w.switchTo()
	case fsm.PhaseSpecialise:
		return w.specialise()
	default:
		return fmt.Errorf("do phase %q: not a phase of bringing a target", p)
	}
}

// give turns an error of a phase into the failure that is reported. What is nobody's failure is given back.
func (w *worker) give(err error) error {
	if w.ctx.Err() != nil {
		return w.withdrawn()
	}
	var failure *activate.Failure
	if !errors.As(err, &failure) {
		return err
	}
	return w.fail(fsm.FailureReason(failure.Reason), failure.ExitCode, failure.Text())
}

func (w *worker) fail(reason fsm.FailureReason, exit int, detail string) error {
	return w.store(nil, fsm.LocalActivationFailed{ActivationFailed: fsm.ActivationFailed{
		ExitCode: exit, StderrTail: detail, Reason: reason, FailedAt: w.loop.now().Wall,
	}})
}

// withdrawn ends an attempt that a newer dispatch or a cancel took away before the host was touched. When the agent itself
// stops, the attempt goes on and is found again.
func (w *worker) withdrawn() error {
	cause := w.left()
	if errors.Is(cause, errWithdrawn) && w.rec.Work != nil && w.rec.Work.Attempt > 0 && w.rec.Work.Phase.BeforeProfile() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), stopPatience)
		defer cancel()
		if err := w.loop.runner.Stop(ctx, jobOf(w.rec)); err != nil {
			w.log.Warn("stop withdrawn attempt", slog.Any("err", err))
		}
	}
	return cause
}

// stopPatience bounds the stop of a withdrawn attempt; its unit is killed by PID 1 long before.
const stopPatience = time.Minute

func (w *worker) check() error {
	if err := w.loop.quarantined(w.rec); err != nil {
		return err
	}
	err := w.patiently(func() error {
		return w.loop.runner.Check(w.ctx, w.rec.TargetClosure, activate.CheckOptions{Hostname: w.rec.Hostname, Force: w.rec.Force})
	})
	if err != nil {
		return err
	}
	return w.enter(fsm.PhaseRealise)
}

// quiet waits until nobody else is at work on the host. To realise a closure takes its time, in which another switch may have
// begun: what it brings is what is returned to, and it must not be mixed with ours.
func (w *worker) quiet() error {
	return w.patiently(func() error { return w.loop.runner.Quiet(w.ctx) })
}

// patiently looks again and again while somebody else keeps the host busy.
func (w *worker) patiently(look func() error) error {
	deadline := w.loop.opt.Up() + lockPatience
	for {
		err := look()
		var failure *activate.Failure
		if !errors.As(err, &failure) || !failure.Retryable || w.loop.opt.Up() >= deadline {
			return err
		}
		w.say("waiting: %s", failure.Detail)
		if err := w.wait(lockPoll); err != nil {
			return err
		}
	}
}

// quarantined refuses a closure that failed on this host before, unless the dispatch forces it.
func (l *loop) quarantined(rec fsm.Record) error {
	if rec.Force {
		return nil
	}
	row, found, err := l.quarantine(rec.TargetClosure)
	if err != nil || !found {
		return err
	}
	return &activate.Failure{
		Reason: string(fsm.ReasonQuarantined),
		Detail: fmt.Sprintf("%s failed on this host before (%s, %s)", rec.TargetClosure, row.Reason, row.At.Format(time.RFC3339)),
		Hint:   "activate it with --force to try it once more",
	}
}

func (w *worker) realise() error {
	pause := realiseBackoff
	for {
		id, err := w.attempt(nil)
		if err != nil {
			return err
		}
		err = w.fetch(id)
		var failure *activate.Failure
		switch {
		case err == nil:
			return w.enter(fsm.PhaseInspect)
		case errors.As(err, &failure) && failure.Retryable:
			w.say("%s: %s; trying again in %s", failure.Reason, failure.Detail, pause)
			if err := w.wait(pause); err != nil {
				return err
			}
			pause = min(2*pause, realiseBackoffMax)
			if err := w.newAttempt(nil, true); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// fetch is one attempt to have the closure in the store, with the signatures that are asked for.
func (w *worker) fetch(id activate.JobID) error {
	w.say("realising the closure")
	told := func(p activate.Progress) { w.say("realising: %s", p) }
	if err := w.loop.runner.Realise(w.ctx, id, w.rec.TargetClosure, rootName(w.rec.RolloutID, rootTarget), told); err != nil {
		return err
	}
	if w.loop.opt.Config.Verify.Signatures > 0 {
		w.say("verifying the signatures of the closure")
	}
	return w.loop.runner.Verify(w.ctx, id, w.rec.TargetClosure)
}

// inspect reads the target and decides between the two ways. It is the last phase before the host is touched: the way back
// is rooted, and the predecessor gives the host up in the same commit that stores the next phase.
func (w *worker) inspect() error {
	verdict, err := w.loop.runner.Inspect(w.ctx, w.rec.TargetClosure, w.rec.Force)
	if err != nil {
		return err
	}
	if err := w.loop.hasSpecialisation(w.rec.TargetClosure, w.rec.Specialisation); err != nil {
		return err
	}
	if there, err := w.thereAlready(verdict); there || err != nil {
		return err
	}
	// Waiting for another switch, or for a cache, takes its time: what is returned to is what the host is when it is touched.
	if !w.rec.Work.Touched {
		if err := w.restamp(); err != nil {
			return err
		}
	}
	if err := w.rootPrior(); err != nil {
		return err
	}
	kind, changes := fsm.WorkSwitch, verdict.Switched
	if !verdict.Live() {
		kind, changes = fsm.WorkStage, verdict.Deferred
	}
	for {
		err := w.offer(commitCall{takeOver: true, edit: func(rec *fsm.Record) {
			work := w.loop.entered(*rec.Work, fsm.PhaseProfile)
			work.Kind = kind
			rec.Work = work
			rec.Components = nil
			if kind == fsm.WorkStage {
				rec.Components = componentChanges(changes)
			}
		}})
		if !errors.Is(err, errNotNow) {
			return err
		}
		w.say("waiting for the work of the previous rollout to end")
		if err := w.wait(handoverPoll); err != nil {
			return err
		}
		// The predecessor's way back changes what is to be returned to.
		if err := w.restamp(); err != nil {
			return err
		}
		if err := w.rootPrior(); err != nil {
			return err
		}
	}
}

// restamp reads the way back anew, while nothing was touched.
func (w *worker) restamp() error {
	live, _, err := w.loop.claims()
	if err != nil {
		return err
	}
	prior, err := w.loop.priorFor(w.ctx, w.rec, live)
	if err != nil || prior == w.rec.Prior {
		return err
	}
	return w.store(func(rec *fsm.Record) { rec.Prior = prior })
}

// thereAlready completes a rollout whose target runs, is the profile and would be booted: there is nothing to do, and running
// the switch again would only restart units.
func (w *worker) thereAlready(verdict activate.Verdict) (bool, error) {
	if !verdict.Live() || len(verdict.Switched) > 0 || w.rec.Specialisation != "" {
		return false, nil
	}
	facts, err := w.loop.host.Facts(w.ctx)
	if err != nil {
		return false, err
	}
	target := w.rec.TargetClosure
	if facts.Running != target || facts.Profile != target || facts.BootDefault.Closure != target || w.loop.runner.SwitchUnfinished() {
		return false, nil
	}
	return true, w.offer(commitCall{takeOver: true, events: []fsm.Event{w.completed(activate.Outcome{}, facts.Running, "")}})
}

func (w *worker) profile() error {
	id, err := w.attempt(nil)
	if err != nil {
		return err
	}
	w.say("setting the system profile")
	if err := w.loop.runner.SetProfile(w.ctx, id, w.rec.TargetClosure); err != nil {
		return err
	}
	runs, err := w.runsAlready()
	if err != nil {
		return err
	}
	if runs || w.rec.Work.Kind == fsm.WorkStage {
		return w.enter(fsm.PhaseBoot)
	}
	return w.enter(fsm.PhaseSwitch)
}

// runsAlready reports whether only profile and boot default are missing, as where the target is what ran before something else
// was staged: a switch to what runs would do no more, and restart units.
func (w *worker) runsAlready() (bool, error) {
	facts, err := w.loop.host.Facts(w.ctx)
	if err != nil {
		return false, err
	}
	return facts.Running == w.rec.TargetClosure && w.rec.Specialisation == "" && !w.loop.runner.SwitchUnfinished(), nil
}

// switchTo runs switch-to-configuration and judges, from what the host then shows, how it went.
func (w *worker) switchTo() error {
	action := activate.ActionSwitch
	if w.rec.Work.Phase == fsm.PhaseBoot {
		action = activate.ActionBoot
	}
	if w.rec.Work.Attempt == 0 {
		if err := w.rememberFailedUnits(); err != nil {
			return err
		}
	}
	id, err := w.attempt(w.started(action))
	if err != nil {
		return err
	}
	again := ""
	if w.rec.Work.Retries > 0 {
		again = ", once more"
	}
	w.say("running switch-to-configuration %s%s", action, again)
	result, err := w.loop.runner.Switch(w.ctx, id, w.rec.TargetClosure, w.rec.Specialisation, action)
	if err != nil {
		return err
	}
	observed, err := w.loop.runner.Observe(w.ctx, activate.Expectation{
		Action: action, Target: w.rec.TargetClosure, Specialisation: w.rec.Specialisation,
		PriorRunning: w.rec.Prior.Running, FailedBefore: w.rec.Work.FailedBefore,
	}, result)
	if err != nil {
		return err
	}
	outcome := activate.Judge(observed)
	w.log.Info("switch-to-configuration ended", slog.String("action", string(action)), slog.String("outcome", string(outcome.Kind)),
		slog.Int("exit_code", outcome.ExitCode), slog.String("reason", outcome.Reason))
	return w.conclude(action, observed, outcome)
}

func (w *worker) conclude(action activate.Action, observed activate.Observation, outcome activate.Outcome) error {
	switch outcome.Kind {
	case activate.Completed:
		switch {
		case w.rec.Work.Kind == fsm.WorkStage:
			return w.deferred()
		case action == activate.ActionBoot && !observed.RunningIsTarget: // another hand, since it was found to run
			return w.enter(fsm.PhaseSwitch)
		}
		return w.store(nil, w.completed(outcome, observed.Running, observed.RunningSpecialisation))
	case activate.Stage:
		return w.stage(outcome)
	case activate.WaitForLock:
		if err := w.awaitLock(outcome.Reason); err != nil {
			return err
		}
		return w.afterAnotherSwitch()
	case activate.Interrupted:
		if w.rec.Work.Retries >= maxInterrupted {
			return w.fail(fsm.FailureReason(outcome.FailureReason), outcome.ExitCode, outcome.Text(observed))
		}
		w.log.Warn("the switch was cut off; the same switch is run once more", slog.String("reason", outcome.Reason))
		if observed.Running == "" {
			if err := w.loop.runner.RestoreRunningLink(w.rec.Prior.Running); err != nil {
				return err
			}
		}
		return w.newAttempt(w.started(action), true)
	case activate.Failed, activate.AnotherHand:
		return w.fail(fsm.FailureReason(outcome.FailureReason), outcome.ExitCode, outcome.Text(observed))
	default:
		return fmt.Errorf("conclude %s of %s: outcome %q is not known", action, w.rec.TargetClosure, outcome.Kind)
	}
}

// awaitLock waits for another switch to end. Its patience is that of the rollout, over all attempts that found the lock taken:
// a script that says so while nobody holds it must not be run for ever.
func (w *worker) awaitLock(holder string) error {
	if w.lockedSince == 0 {
		w.lockedSince = w.loop.opt.Up()
	}
	for w.loop.opt.Up() < w.lockedSince+lockPatience {
		w.say("waiting for another switch to end: %s", holder)
		if err := w.wait(lockPoll); err != nil {
			return err
		}
		busy := w.loop.runner.LockHolder()
		if busy == "" {
			return nil
		}
		holder = busy
	}
	return &activate.Failure{Reason: string(fsm.ReasonBusy), Detail: "another switch held the lock for " + lockPatience.String() + ": " + holder}
}

// afterAnotherSwitch begins with the profile again: the other switch came between, and what it brought is what is returned to
// wherever the host is not at the target. Ours has touched nothing while it found the lock taken.
func (w *worker) afterAnotherSwitch() error {
	prior, err := w.loop.priorWhere(w.ctx, w.rec)
	if err != nil {
		return err
	}
	if err := w.store(func(rec *fsm.Record) { rec.Prior = prior }); err != nil {
		return err
	}
	if err := w.rootPrior(); err != nil {
		return err
	}
	return w.enter(fsm.PhaseProfile)
}

// stage turns a switch that NixOS itself refused into a deferral.
func (w *worker) stage(outcome activate.Outcome) error {
	changes := componentChanges(outcome.Components)
	return w.store(func(rec *fsm.Record) {
		work := w.loop.entered(*rec.Work, fsm.PhaseBoot)
		work.Kind = fsm.WorkStage
		rec.Work, rec.Components = work, changes
	})
}

func (w *worker) deferred() error {
	now := w.loop.now()
	return w.store(nil, fsm.LocalActivationDeferred{ActivationDeferred: fsm.ActivationDeferred{
		Components: w.rec.Components, BootID: now.BootID, SoftReboots: now.SoftReboots, DeferredAt: now.Wall,
	}})
}

func (w *worker) completed(outcome activate.Outcome, running, specialisation string) fsm.Event {
	now := w.loop.now()
	return fsm.LocalActivationCompleted{ActivationCompleted: fsm.ActivationCompleted{
		ObservedCurrentClosure: running, Specialisation: specialisation, ExitCode: outcome.ExitCode,
		Degraded: outcome.Degraded, FailedUnits: outcome.FailedUnits, BootID: now.BootID, CompletedAt: now.Wall,
	}}
}

func (w *worker) started(action activate.Action) func(int) []fsm.Event {
	return func(number int) []fsm.Event {
		return []fsm.Event{fsm.LocalActivationStarted{ActivationStarted: fsm.ActivationStarted{
			StartedAt: w.loop.now().Wall, SwitchMethod: string(action), Attempt: number,
		}}}
	}
}

// rememberFailedUnits stores which units had failed before the switch, so that it is not blamed for them.
func (w *worker) rememberFailedUnits() error {
	units, err := w.loop.runner.FailedUnits(w.ctx)
	if err != nil {
		w.log.Warn("list failed units", slog.Any("err", err))
		return nil
	}
	return w.store(func(rec *fsm.Record) {
		work := *rec.Work
		work.FailedBefore = units
		rec.Work = &work
	})
}

func componentChanges(changes []activate.Change) []fsm.ComponentChange {
	out := make([]fsm.ComponentChange, 0, len(changes))
	for _, c := range changes {
		out = append(out, fsm.ComponentChange{Component: c.Component, From: c.From, To: c.To})
	}
	return out
}

func componentNames(changes []fsm.ComponentChange) string {
	names := make([]string, 0, len(changes))
	for _, c := range changes {
		names = append(names, c.Component)
	}
	return strings.Join(names, ", ")
}
