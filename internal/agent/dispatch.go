package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/bootrecovery"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// storeHighWater is the share of the store's cap above which no new rollout is accepted: what is left is for the events of
// those that were.
const storeHighWater = 0.75

// localChannel is the channel of rollouts that were asked for on the host itself.
const localChannel = "local"

// activate accepts a local activation: it stores the rollout and starts it, or lets it wait.
func (l *loop) activate(ctx context.Context, req localapi.ActivateRequest, by localapi.Peer) (localapi.ActivateReply, error) {
	rec, err := l.accept(ctx, req)
	if err != nil {
		return localapi.ActivateReply{}, err
	}
	var reply localapi.ActivateReply
	err = l.turn(func(t *turn) error {
		if rec.RolloutID, err = t.tx.NextLocalRollout(); err != nil {
			return err
		}
		rec.CreatedAt, rec.ReceivedAt = t.now.Wall, t.now.Wall
		placed, waits, err := l.place(ctx, t, rec)
		if err != nil {
			return err
		}
		reply = localapi.ActivateReply{RolloutID: placed.RolloutID, State: string(placed.State), Waiting: waits}
		return t.put(placed)
	})
	if err != nil {
		return localapi.ActivateReply{}, answerOf(err)
	}
	l.log.Info("activation accepted", slog.String("rollout", reply.RolloutID), slog.String("target", rec.TargetClosure),
		slog.Int("uid", by.UID), slog.Int("pid", by.PID))
	return reply, nil
}

// mayWrite refuses whatever would change something while the store may only be read.
func (l *loop) mayWrite() error {
	if l.opening.ReadOnly == "" {
		return nil
	}
	return &localapi.Error{Code: localapi.CodeReadOnly, Message: "the agent may only read its store: " + l.opening.ReadOnly,
		Hint: "run the newer agent that wrote the store, or move the file away to begin an empty one"}
}

// answerOf turns the error of a turn into the answer of the local API. Nothing has happened.
func answerOf(err error) error {
	var known *localapi.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &localapi.Error{Code: localapi.CodeInternal, Message: err.Error(), Hint: "nothing was changed; `nixfleet-agent status` says what the agent lacks"}
}

// accept checks a request before anything is stored. What is refused here leaves no trace but the answer.
func (l *loop) accept(ctx context.Context, req localapi.ActivateRequest) (fsm.Record, error) {
	var none fsm.Record
	if err := l.mayWrite(); err != nil {
		return none, err
	}
	if err := l.acceptTarget(ctx, req); err != nil {
		return none, badRequest(err)
	}
	soak, err := l.soakOf(req.Soak)
	if err != nil {
		return none, err
	}
	policy, err := l.policyOf(req.Policy)
	if err != nil {
		return none, err
	}
	rec := fsm.Record{
		Hostname: l.hostname, Channel: localChannel, TargetClosure: req.Target, Specialisation: req.Specialisation,
		State: fsm.Pending, Policy: policy, Soak: fsm.MillisOf(soak), Force: req.Force,
	}
	if err := l.quarantined(rec); err != nil {
		return none, badRequest(err)
	}
	if used := l.store.HighWater(); used >= storeHighWater {
		return none, &localapi.Error{Code: localapi.CodeBusy,
			Message: fmt.Sprintf("the store is %.0f %% full and takes no new rollout", used*100),
			Hint:    "events wait for a control plane; see `nixfleet-agent status`"}
	}
	return rec, nil
}

// acceptTarget refuses what cannot be a target. A closure that is not in the store yet, or of which a download that was cut off
// left a part there, is accepted: it may be substituted. So is one for another machine type that is forced.
func (l *loop) acceptTarget(ctx context.Context, req localapi.ActivateRequest) error {
	_, err := l.host.InspectTarget(req.Target)
	var unfit *system.NotSwitchable
	if errors.As(err, &unfit) && (unfit.Reason == system.DoesNotExist || req.Force && unfit.Reason == system.WrongMachine) {
		err = nil
	}
	if err == nil {
		err = l.hasSpecialisation(req.Target, req.Specialisation)
	}
	if err == nil || system.ParseStorePath(req.Target) != nil || l.runner.Valid(ctx, req.Target) {
		return err
	}
	return nil
}

// hasSpecialisation refuses a specialisation that a closure does not have, before anything is touched for its sake. A closure
// that is not in the store yet is asked once it is.
func (l *loop) hasSpecialisation(target, name string) error {
	if name == "" {
		return nil
	}
	if _, err := l.host.Resolve(target); err != nil {
		return nil //nolint:nilerr // it is not in the store yet
	}
	children, err := l.host.Specialisations(target)
	if err != nil {
		return err
	}
	var names []string
	for _, child := range children {
		if child.Name == name {
			return nil
		}
		names = append(names, child.Name)
	}
	unfit := &activate.Failure{Reason: activate.ReasonNotSwitchable, ExitCode: -1, Detail: fmt.Sprintf("%s has no specialisation %q", target, name)}
	if len(names) > 0 {
		unfit.Hint = "it has " + strings.Join(names, ", ")
	}
	return unfit
}

func (l *loop) soakOf(s string) (time.Duration, error) {
	if s == "" {
		return l.opt.Config.Soak.Std(), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, &localapi.Error{Code: localapi.CodeBadRequest, Message: fmt.Sprintf("the soak %q is not a duration", s), Hint: "write it as 90s, 5m or 1h30m"}
	}
	return d, nil
}

func (l *loop) policyOf(s string) (fsm.Policy, error) {
	switch p := fsm.Policy(s); p {
	case "":
		return fsm.Policy(l.opt.Config.Policy), nil
	case fsm.RollbackAndHalt, fsm.Halt:
		return p, nil
	default:
		return "", &localapi.Error{Code: localapi.CodeBadRequest, Message: fmt.Sprintf("the policy %q is not known", s),
			Hint: "one of rollback-and-halt, halt"}
	}
}

// place gives rec its place beside the rollouts that have a claim on the host: it starts at once, or waits as next. The newest
// waiting one wins.
func (l *loop) place(ctx context.Context, t *turn, rec fsm.Record) (placed fsm.Record, waits string, err error) {
	if err := l.dropNext(t, rec.RolloutID); err != nil {
		return rec, "", err
	}
	live, err := l.liveIn(t)
	if err != nil {
		return rec, "", err
	}
	hold, err := heldIn(t.tx, t.now.Wall)
	if err != nil {
		return rec, "", err
	}
	if hold != nil {
		return rec, hold.words(), t.tx.SetNext(rec.RolloutID)
	}
	if live != nil && l.busy(*live) {
		return rec, fmt.Sprintf("%s is at work (%s)", live.RolloutID, phaseOf(*live)), t.tx.SetNext(rec.RolloutID)
	}
	if live != nil && live.State == fsm.Activating { // nothing is touched yet
		if err := l.callOff(t, *live, rec.RolloutID); err != nil {
			return rec, "", err
		}
		live = nil
	}
	if live == nil || !owns(*live) {
		err = t.tx.SetLive(rec.RolloutID)
	} else {
		err = t.tx.SetNext(rec.RolloutID)
	}
	if err != nil {
		return rec, "", err
	}
	rec, err = l.begin(ctx, t, rec)
	return rec, "", err
}

// busy reports whether work of rec is under way that must come to its end first.
func (l *loop) busy(rec fsm.Record) bool {
	switch rec.State {
	case fsm.Activating:
		return rec.Work != nil && !rec.Work.Phase.BeforeProfile()
	case fsm.Failed:
		return rec.Work != nil && rec.Work.Phase != fsm.PhaseStaged && (l.workers[rec.RolloutID] != nil || l.owed[rec.RolloutID])
	default:
		return false
	}
}

func phaseOf(rec fsm.Record) string {
	if rec.Work == nil {
		return string(rec.State)
	}
	return string(rec.Work.Phase)
}

// dropNext ends the rollout that waits, or prepares, as next.
func (l *loop) dropNext(t *turn, by string) error {
	next := t.tx.Next()
	if next == "" {
		return nil
	}
	rec, err := t.tx.Record(next)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return t.tx.SetNext("")
	case err != nil:
		return err
	}
	if err := t.tx.SetNext(""); err != nil || !owns(rec) {
		return err
	}
	if rec.State == fsm.Activating {
		return l.callOff(t, rec, by)
	}
	if rec, err = t.raise(rec, superseded(by, t.now)); err != nil {
		return err
	}
	return t.put(rec)
}

// callOff ends a rollout that is being activated and has touched nothing, for a newer one.
func (l *loop) callOff(t *turn, rec fsm.Record, by string) error {
	l.withdraw(rec.RolloutID)
	rec, err := t.raise(rec, fsm.LocalActivationFailed{ActivationFailed: fsm.ActivationFailed{
		ExitCode: -1, StderrTail: "a newer target arrived before anything was touched: " + by, Reason: fsm.ReasonCancelled, FailedAt: t.now.Wall,
	}})
	if err != nil {
		return err
	}
	if rec, err = t.raise(rec, superseded(by, t.now)); err != nil {
		return err
	}
	return t.put(rec)
}

// begin starts a pending rollout: its way back is read from the host and stored with the work that it now owes.
func (l *loop) begin(ctx context.Context, t *turn, rec fsm.Record) (fsm.Record, error) {
	live, err := l.liveIn(t)
	if err != nil {
		return rec, err
	}
	prior, err := l.priorFor(ctx, rec, live)
	if err != nil {
		return rec, err
	}
	return t.raise(rec, fsm.LocalActivate{DispatchAck: fsm.DispatchAck{
		TargetClosure: rec.TargetClosure, CurrentClosureAtDispatch: prior.Running, Prior: prior, ReceivedAt: t.now.Wall,
	}})
}

// priorFor reads the way back of a rollout. One that follows a rollout which was not proven inherits that one's wherever the host
// is at that one's target: the way back is never a closure that never ran. What another hand has changed since is taken as it is.
func (l *loop) priorFor(ctx context.Context, rec fsm.Record, live *fsm.Record) (fsm.Prior, error) {
	if live != nil && live.RolloutID != rec.RolloutID && owns(*live) && (live.State == fsm.Deferred || live.State == fsm.Failed) {
		return l.priorWhere(ctx, *live)
	}
	return l.readPrior(ctx)
}

// priorWhere is the way back of a record as it is where the host is at the record's target, and what is there elsewhere.
func (l *loop) priorWhere(ctx context.Context, rec fsm.Record) (fsm.Prior, error) {
	now, err := l.readPrior(ctx)
	if err != nil {
		return now, err
	}
	for _, leg := range []struct{ now, stored *string }{
		{&now.Running, &rec.Prior.Running}, {&now.Profile, &rec.Prior.Profile}, {&now.BootDefault, &rec.Prior.BootDefault},
	} {
		switch l.see(rec, *leg.now).Is {
		case bootrecovery.Target, bootrecovery.Unknown:
			*leg.now = *leg.stored
		case bootrecovery.Prior, bootrecovery.Other:
		}
	}
	return now, nil
}

func (l *loop) readPrior(ctx context.Context) (fsm.Prior, error) {
	facts, err := l.host.Facts(ctx)
	if err != nil {
		return fsm.Prior{}, fmt.Errorf("read the way back: %w", err)
	}
	return fsm.Prior{Running: facts.Running, Profile: facts.Profile, BootDefault: facts.BootDefault.Closure}, nil
}

func (l *loop) liveIn(t *turn) (*fsm.Record, error) {
	live := t.tx.Live()
	if live == "" {
		return nil, nil
	}
	rec, err := t.tx.Record(live)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &rec, err
}

// advance runs after every message: it starts the rollout that waits once its turn has come, and puts workers on what is owed.
func (l *loop) advance(ctx context.Context) {
	if l.opening.ReadOnly != "" {
		return
	}
	if err := l.startNext(ctx); err != nil {
		l.log.Error("start the waiting rollout", slog.Any("err", err))
	}
	l.staff()
	l.say()
}

func (l *loop) startNext(ctx context.Context) error {
	live, next, err := l.claims()
	if err != nil || next == nil || next.State != fsm.Pending {
		return err
	}
	if !next.ExpiresAt.IsZero() && l.now().Wall.After(next.ExpiresAt) {
		return l.turn(func(t *turn) error {
			rec, err := t.expired(*next)
			if err != nil {
				return err
			}
			return errors.Join(t.tx.SetNext(""), t.put(rec))
		})
	}
	if live != nil && l.busy(*live) {
		return nil
	}
	hold, err := l.heldNow()
	if err != nil {
		return err
	}
	if l.watchHold(hold); hold != nil {
		return nil
	}
	return l.turn(func(t *turn) error {
		rec := *next
		rec, err := l.begin(ctx, t, rec)
		if err != nil {
			return err
		}
		if live == nil || !owns(*live) {
			if err := t.tx.SetNext(""); err != nil {
				return err
			}
			if err := t.tx.SetLive(rec.RolloutID); err != nil {
				return err
			}
		}
		return t.put(rec)
	})
}

// badRequest turns what a room said about a request into the answer of the local API.
func badRequest(err error) error {
	if err == nil {
		return nil
	}
	answer := &localapi.Error{Code: localapi.CodeBadRequest, Message: err.Error()}
	var hinted interface{ Hints() string }
	if errors.As(err, &hinted) {
		answer.Hint = hinted.Hints()
	}
	return answer
}
