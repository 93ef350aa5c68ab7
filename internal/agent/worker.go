package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// Errors between the loop and a worker.
var (
	// errWithdrawn: the rollout was taken from the worker; it stops its attempt and leaves.
	errWithdrawn = errors.New("the rollout was withdrawn")
	// errNotNow: the rollout may not take the host over yet, because work of its predecessor is under way.
	errNotNow = errors.New("the predecessor's work is under way")
)

// storeRetry is how long a worker waits before it offers a refused write again. A full disk is not cleared in less.
const storeRetry = 2 * time.Second

// worker does the blocking work of one rollout. It owns no state: rec is the copy that its last commit gave back.
type worker struct {
	loop   *loop
	ctx    context.Context //nolint:containedctx // a worker lives as long as its context, and is never handed another
	cancel context.CancelCauseFunc
	log    *slog.Logger
	rec    fsm.Record

	skipped     *skippedLeg   // the first leg of the way back that failed; nil: none has
	lookedBack  bool          // the legs of the way back were looked over once more at its end
	lockedSince time.Duration // time since boot at which an attempt first found another switch's lock; 0: none has
}

// commitCall asks the loop to store a step of the work: edits, then events, in one transaction.
type commitCall struct {
	by       *worker
	edit     func(rec *fsm.Record)
	events   []fsm.Event
	takeOver bool // the host is about to be touched: whoever owned it until now is superseded
	reply    chan commitAnswer
}

type commitAnswer struct {
	rec fsm.Record
	err error
}

// workEnd says that a worker has left.
type workEnd struct {
	by  *worker
	err error
}

// startWorker puts a worker on what the record owes, if none is on it.
func (l *loop) startWorker(rollout string) { l.owed[rollout] = true }

// staff starts the workers that are owed. It runs at the end of a turn, so that the worker that raised the last event of a
// rollout has left before the next one begins.
func (l *loop) staff() {
	for rollout := range l.owed {
		if l.workers[rollout] != nil {
			continue
		}
		delete(l.owed, rollout)
		rec, err := l.record(rollout)
		if err != nil {
			l.log.Error("read record", slog.String("rollout", rollout), slog.Any("err", err))
			continue
		}
		if rec.Work == nil || rec.Work.Phase == fsm.PhaseStaged {
			continue
		}
		ctx, cancel := context.WithCancelCause(l.ctx)
		w := &worker{loop: l, ctx: ctx, cancel: cancel, rec: rec,
			log: l.log.With(slog.String("rollout", rollout), slog.String("target", rec.TargetClosure))}
		l.workers[rollout] = w
		l.wg.Go(func() {
			err := w.run()
			select {
			case l.ends <- workEnd{by: w, err: err}:
			case <-l.ctx.Done():
			}
		})
	}
}

// ended takes note of a worker that has left.
func (l *loop) ended(end workEnd) {
	rollout := end.by.rec.RolloutID
	end.by.cancel(nil)
	delete(l.workers, rollout)
	l.board.say(rollout, "")
	if end.err != nil && !errors.Is(end.err, errWithdrawn) && !errors.Is(end.err, context.Canceled) {
		l.log.Error("work stopped; the next start of the agent goes on with it", slog.String("rollout", rollout), slog.Any("err", end.err))
		l.board.degrade(degradedHost, fmt.Sprintf("the work of %s stopped: %v", rollout, end.err))
	}
	l.tidy(rollout)
}

// withdraw takes a rollout from its worker, if it has one. The worker stops an attempt that has not touched the host.
func (l *loop) withdraw(rollout string) {
	if w := l.workers[rollout]; w != nil {
		w.cancel(errWithdrawn)
	}
}

// commit stores a step of a worker.
func (l *loop) commit(call commitCall) (fsm.Record, error) {
	var out fsm.Record
	rollout := call.by.rec.RolloutID
	if l.workers[rollout] != call.by || context.Cause(call.by.ctx) != nil {
		return out, errWithdrawn
	}
	err := l.turn(func(t *turn) error {
		rec, err := t.tx.Record(rollout)
		if err != nil {
			return err
		}
		was := rec.State
		if call.takeOver {
			if err := l.takeOver(t, rollout); err != nil {
				return err
			}
		}
		if call.edit != nil {
			call.edit(&rec)
		}
		for _, ev := range call.events {
			if rec, err = t.raise(rec, ev); err != nil {
				return err
			}
		}
		if rec.State != was { // what the phase said is not said of the new state
			l.board.forget(rollout)
		}
		out = rec
		return t.put(rec)
	})
	return out, err
}

// takeOver makes rollout the owner of the host. A predecessor that has not come to rest is superseded in the same
// transaction; one whose way back is under way is waited for.
func (l *loop) takeOver(t *turn, rollout string) error {
	live := t.tx.Live()
	if live == rollout {
		return nil
	}
	if live != "" {
		rec, err := t.tx.Record(live)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return err
		case l.workers[live] != nil || l.owed[live]:
			return errNotNow
		case owns(rec):
			if rec, err = t.raise(rec, superseded(rollout, t.now)); err != nil {
				return err
			}
			if err := t.put(rec); err != nil {
				return err
			}
		}
	}
	if t.tx.Next() == rollout {
		if err := t.tx.SetNext(""); err != nil {
			return err
		}
	}
	return t.tx.SetLive(rollout)
}

func superseded(by string, now fsm.Now) fsm.Event {
	return fsm.LocalSuperseded{SupersededBy: fsm.SupersededBy{ByRolloutID: by, SupersededAt: now.Wall}}
}

// owns reports whether rec still has a claim on the host: it is neither at its end nor failed with nothing owed.
func owns(rec fsm.Record) bool {
	switch {
	case !rec.State.Known(), rec.State.Terminal():
		return false
	case rec.State == fsm.Failed:
		return rec.Work != nil
	default:
		return true
	}
}

// store commits a step and keeps offering it while the disk refuses: the worker goes no further than what is stored.
func (w *worker) store(edit func(rec *fsm.Record), events ...fsm.Event) error {
	return w.offer(commitCall{edit: edit, events: events})
}

func (w *worker) offer(call commitCall) error {
	call.by = w
	for {
		call.reply = make(chan commitAnswer, 1)
		select {
		case w.loop.commits <- call:
		case <-w.ctx.Done():
			return w.left()
		}
		select {
		case answer := <-call.reply:
			if answer.err == nil {
				w.rec = answer.rec
				return nil
			}
			if decided(answer.err) || errors.Is(answer.err, store.ErrReadOnly) {
				return answer.err
			}
		case <-w.ctx.Done():
			return w.left()
		}
		if err := w.wait(storeRetry); err != nil {
			return err
		}
	}
}

// enter stores that the work enters phase p.
func (w *worker) enter(p fsm.Phase) error {
	w.loop.board.forget(w.rec.RolloutID)
	return w.store(func(rec *fsm.Record) { rec.Work = w.loop.entered(*rec.Work, p) })
}

func (l *loop) entered(work fsm.Work, p fsm.Phase) *fsm.Work {
	next := work.Enter(p, l.boot)
	return &next
}

// attempt gives the attempt of the stored phase. One that was stored before, and may have run, is gone on with; otherwise a
// new number is stored, together with what is reported of it, before anything starts.
func (w *worker) attempt(report func(number int) []fsm.Event) (activate.JobID, error) {
	if w.rec.Work.Attempt == 0 {
		if err := w.newAttempt(report, false); err != nil {
			return activate.JobID{}, err
		}
	}
	return jobOf(w.rec), nil
}

func (w *worker) newAttempt(report func(number int) []fsm.Event, retry bool) error {
	number := w.rec.Attempts + 1
	var events []fsm.Event
	if report != nil {
		events = report(number)
	}
	return w.store(func(rec *fsm.Record) {
		work := *rec.Work
		work.Attempt = number
		if retry {
			work.Retries++
		}
		rec.Attempts = number
		rec.Work = &work
	}, events...)
}

// jobOf names the attempt that the record's work has in flight.
func jobOf(rec fsm.Record) activate.JobID {
	return activate.JobID{Rollout: rec.RolloutID, Attempt: rec.Work.Attempt, Step: string(rec.Work.Phase)}
}

// wait lets d pass, or ends with the worker.
func (w *worker) wait(d time.Duration) error {
	if !rest(w.ctx, d) {
		return w.left()
	}
	return nil
}

// left gives the reason why the worker's context ended.
func (w *worker) left() error { return context.Cause(w.ctx) }

func (w *worker) say(format string, args ...any) {
	w.loop.board.say(w.rec.RolloutID, fmt.Sprintf(format, args...))
}
