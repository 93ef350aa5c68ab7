package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// cancel takes a rollout back that has not come to run: one that waits or is being prepared ends as Failed, with nothing touched;
// a staged one has its profile and boot default returned, by a worker, and ends as Reverted.
func (l *loop) cancel(_ context.Context, req localapi.CancelRequest, by localapi.Peer) (localapi.CancelReply, error) {
	if err := l.mayWrite(); err != nil {
		return localapi.CancelReply{}, err
	}
	var reply localapi.CancelReply
	err := l.turn(func(t *turn) error {
		rec, err := l.toCancel(t, req.Rollout)
		if err != nil {
			return err
		}
		if rec, err = l.cancelIn(t, rec); err != nil {
			return err
		}
		reply = localapi.CancelReply{RolloutID: rec.RolloutID, State: string(rec.State)}
		return t.put(rec)
	})
	if err != nil {
		return localapi.CancelReply{}, answerOf(err)
	}
	l.log.Info("rollout cancelled", slog.String("rollout", reply.RolloutID), slog.String("state", reply.State),
		slog.Int("uid", by.UID), slog.Int("pid", by.PID))
	return reply, nil
}

// toCancel finds the rollout that is meant: the one that is named or, unless one is, the newest that has a claim on the host.
func (l *loop) toCancel(t *turn, rollout string) (fsm.Record, error) {
	claims := []string{t.tx.Next(), t.tx.Live()}
	for _, claim := range claims {
		if claim == "" || rollout != "" && claim != rollout {
			continue
		}
		rec, err := t.tx.Record(claim)
		switch {
		case errors.Is(err, store.ErrNotFound):
			continue
		case err != nil:
			return rec, err
		case rollout == "" && !owns(rec):
			continue
		}
		return rec, nil
	}
	if rollout == "" {
		return fsm.Record{}, &localapi.Error{Code: localapi.CodeNotFound, Message: "there is no rollout to cancel", Hint: "see `nixfleet-agent status`"}
	}
	return fsm.Record{}, &localapi.Error{Code: localapi.CodeNotFound, Message: fmt.Sprintf("rollout %s neither owns this host nor waits", rollout),
		Hint: "see `nixfleet-agent status` for the one that does"}
}

// cancelIn moves the record, or refuses because there is nothing that could be taken back.
func (l *loop) cancelIn(t *turn, rec fsm.Record) (fsm.Record, error) {
	const byOperator = "cancelled on the host before anything was touched"
	switch {
	case rec.State == fsm.Pending:
		if err := l.noLongerNext(t, rec.RolloutID); err != nil {
			return rec, err
		}
		return t.raise(rec, fsm.LocalDispatchRejected{DispatchRejected: fsm.DispatchRejected{
			Reason: fsm.ReasonCancelled, Detail: byOperator, RejectedAt: t.now.Wall}})
	case rec.State == fsm.Activating && rec.Work != nil && rec.Work.Phase.BeforeProfile():
		if err := l.noLongerNext(t, rec.RolloutID); err != nil {
			return rec, err
		}
		l.withdraw(rec.RolloutID)
		return t.raise(rec, fsm.LocalActivationFailed{ActivationFailed: fsm.ActivationFailed{
			ExitCode: -1, StderrTail: byOperator, Reason: fsm.ReasonCancelled, FailedAt: t.now.Wall}})
	case rec.State == fsm.Deferred:
		rec.Work = &fsm.Work{Kind: fsm.WorkUnstage, Phase: fsm.PhaseUndoProfile, Touched: true, Boot: l.boot}
		rec.RollbackFailureReason, rec.RollbackFailureDetail = "", ""
		t.acts = append(t.acts, fsm.LocalFireUnstage{RolloutID: rec.RolloutID, Prior: rec.Prior})
		return rec, nil
	case rec.State == fsm.Activating:
		return rec, &localapi.Error{Code: localapi.CodeBusy, Message: fmt.Sprintf("%s touches the host already (%s)", rec.RolloutID, phaseOf(rec)),
			Hint: "wait for its outcome; a failure is taken back by itself"}
	default:
		return rec, &localapi.Error{Code: localapi.CodeBadRequest, Message: fmt.Sprintf("%s is %s: there is nothing to cancel", rec.RolloutID, rec.State),
			Hint: "to return to another closure, activate it"}
	}
}

// noLongerNext gives up the place of a rollout that waits.
func (l *loop) noLongerNext(t *turn, rollout string) error {
	if t.tx.Next() != rollout {
		return nil
	}
	return t.tx.SetNext("")
}

// deferralCancelled ends a deferral whose profile and boot default are back.
func (w *worker) deferralCancelled() error {
	return w.store(nil, fsm.LocalDeferralCancelled{DeferralCancelled: fsm.DeferralCancelled{
		RevertedToClosure: w.rec.Prior.Running, CancelledBy: "operator", Left: w.rec.Work.Left, CancelledAt: w.loop.now().Wall,
	}})
}
