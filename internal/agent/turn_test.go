package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// turner is a loop whose messages the test hands over one by one: nothing runs beside it.
type turner struct {
	*rig
	*loop
}

func newTurner(t *testing.T) turner {
	t.Helper()
	r := newRig(t)
	l := r.openLoop()
	l.ctx = t.Context()
	return turner{r, l}
}

// openLoop gives a loop on this host that does not serve yet.
func (r *rig) openLoop() *loop {
	r.Helper()
	opt := r.options()
	opt.complete()
	st, opening, err := store.Open(r.cfg.StorePath(), store.Options{Now: time.Now})
	r.must(err)
	r.Cleanup(func() { _ = st.Close() })
	host := system.New(r.Root())
	facts, err := host.Facts(context.Background())
	r.must(err)
	return newLoop(opt, st, opening, host, facts)
}

func (t turner) ask(target string) string {
	t.Helper()
	reply, err := t.loop.activate(context.Background(), localapi.ActivateRequest{Target: target}, localapi.Peer{})
	t.must(err)
	return reply.RolloutID
}

// on is the worker of a rollout. The test does its work.
func (t turner) on(rollout string) *worker {
	t.Helper()
	rec, err := t.loop.record(rollout)
	t.must(err)
	delete(t.owed, rollout)
	w := t.workers[rollout]
	if w == nil {
		ctx, cancel := context.WithCancelCause(context.Background())
		w = &worker{loop: t.loop, ctx: ctx, cancel: cancel, log: t.loop.log}
		t.workers[rollout] = w
	}
	w.rec = rec
	return w
}

func (t turner) leaves(rollout string) {
	t.ended(workEnd{by: t.on(rollout)})
}

// phase is how a worker stores that its work enters a phase.
func phase(p fsm.Phase, kind fsm.WorkKind) func(rec *fsm.Record) {
	return func(rec *fsm.Record) {
		work := rec.Work.Enter(p, rec.Work.Boot)
		work.Kind = kind
		rec.Work = &work
	}
}

// durable counts what a turn leaves: commits, rows of history and entries of the outbox.
func (t turner) durable() [3]int {
	t.Helper()
	counts := [3]int{int(t.store.Commits())}
	t.must(t.store.View(func(tx *store.Tx) error {
		rows, err := tx.History(1000, "")
		counts[1] = len(rows)
		return err
	}))
	entries, err := t.queue.Entries(0, 1000)
	t.must(err)
	counts[2] = len(entries)
	return counts
}

// Whatever derives from a message, it is one commit: the records, what is reported and the rows of history stand or fall
// together.
func TestOneTurnIsOneCommit(t *testing.T) {
	r := newTurner(t)
	one, two, three, four := r.add(), r.add(), r.add(), r.add()
	var first, second, third, fourth string
	now := func() time.Time { return r.loop.now().Wall }
	step := func(what string, rows, entries int, do func() error) {
		t.Helper()
		before := r.durable()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		after := r.durable()
		if got, want := [3]int{after[0] - before[0], after[1] - before[1], after[2] - before[2]}, [3]int{1, rows, entries}; got != want {
			t.Errorf("%s: commits, rows and entries are %v instead of %v", what, got, want)
		}
	}
	commit := func(rollout string, takeOver bool, edit func(rec *fsm.Record), events ...fsm.Event) func() error {
		return func() error {
			_, err := r.loop.commit(commitCall{by: r.on(rollout), takeOver: takeOver, edit: edit, events: events})
			return err
		}
	}
	step("an activation", 1, 1, func() error { first = r.ask(one); return nil })
	step("a phase", 0, 0, commit(first, true, phase(fsm.PhaseProfile, fsm.WorkStage)))
	step("an attempt and that it starts", 0, 1, commit(first, false, phase(fsm.PhaseBoot, fsm.WorkStage), r.on(first).started(activate.ActionBoot)(3)...))
	step("a deferral", 1, 1, commit(first, false, nil, fsm.LocalActivationDeferred{ActivationDeferred: fsm.ActivationDeferred{BootID: r.boot.BootID, DeferredAt: now()}}))
	r.leaves(first)
	step("a newer one, which is prepared", 1, 1, func() error { second = r.ask(two); return nil })
	step("it takes the host over", 1, 1, commit(second, true, phase(fsm.PhaseProfile, fsm.WorkSwitch)))
	step("a failure, with its quarantine and the way back", 1, 1, commit(second, false, nil,
		fsm.LocalActivationFailed{ActivationFailed: fsm.ActivationFailed{ExitCode: 9, Reason: fsm.ReasonSwitchFailed, FailedAt: now()}}))
	if _, found, err := r.quarantine(two); !found || err != nil {
		t.Errorf("quarantined: %v, %v", found, err)
	}
	step("the host is back", 1, 1, commit(second, false, nil,
		fsm.LocalRollbackCompleted{RollbackComplete: fsm.RollbackComplete{RevertedToClosure: r.first, CompletedAt: now()}}))
	r.leaves(second)
	step("another activation", 1, 1, func() error { third = r.ask(three); return nil })
	r.on(third)
	step("a newer one calls it off", 3, 3, func() error { fourth = r.ask(four); return nil })
	r.leaves(third)
	step("a completion", 1, 1, commit(fourth, false, nil,
		fsm.LocalActivationCompleted{ActivationCompleted: fsm.ActivationCompleted{ObservedCurrentClosure: four, CompletedAt: now()}}))
	r.leaves(fourth)
	r.runs(four)
	step("a soak of nothing is declared and served", 1, 2, func() error { r.soak(context.Background()); return nil })

	before := r.durable()
	err := commit(fourth, false, func(rec *fsm.Record) { rec.FailureDetail = "must not be stored" },
		fsm.LocalActivationDeferred{ActivationDeferred: fsm.ActivationDeferred{BootID: r.boot.BootID, DeferredAt: now()}})()
	if !refusedByRules(err) {
		t.Errorf("an event that the rules refuse: %v", err)
	}
	if after := r.durable(); after != before {
		t.Errorf("a refused event left %v instead of %v", after, before)
	}
	if rec, err := r.loop.record(fourth); err != nil || rec.FailureDetail != "" || rec.State != fsm.Converged {
		t.Errorf("a refused event left %+v, %v", rec, err)
	}
}

// A worker that lost its rollout stores nothing more of it.
func TestAWithdrawnWorkerStoresNothing(t *testing.T) {
	r := newTurner(t)
	one, two := r.add(), r.add()
	first := r.ask(one)
	w := r.on(first)
	r.ask(two)
	before := r.durable()
	_, err := r.loop.commit(commitCall{by: w, takeOver: true, edit: phase(fsm.PhaseProfile, fsm.WorkSwitch)})
	if !errors.Is(err, errWithdrawn) {
		t.Errorf("a withdrawn worker: %v", err)
	}
	if after := r.durable(); after != before {
		t.Errorf("it stored %v instead of %v", after, before)
	}
}

// A whole live activation costs what it stores, and no commit more.
func TestCommitsOfALiveActivation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := r.add()
	l := r.openLoop()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	facts, err := l.host.Facts(ctx)
	r.must(err)
	go func() { done <- l.serve(ctx, facts) }()
	r.Cleanup(cancel)
	r.await("the agent to have started", func() bool { return l.board.copy().ready })
	before := l.store.Commits()
	reply, err := backend{l}.Activate(ctx, localapi.ActivateRequest{Target: next}, localapi.Peer{})
	r.must(err)
	r.await("convergence", func() bool {
		rec, err := l.record(reply.RolloutID)
		return err == nil && rec.State == fsm.Converged
	})
	cancel()
	r.must(<-done)
	want := []string{
		"accepted and acknowledged", "phase realise", "its attempt", "phase inspect", "phase profile and the claim", "its attempt",
		"phase switch", "the units that had failed", "its attempt and that it starts", "completed", "probes declared and converged",
	}
	if got := int(l.store.Commits() - before); got != len(want) {
		t.Errorf("%d commits instead of %d: %s", got, len(want), strings.Join(want, ", "))
	}
}

// What stays as it is costs no commit at every look, and is reported once.
func TestDriftIsReportedOnceAndThenCostsNothing(t *testing.T) {
	r := newTurner(t)
	next, foreign := r.add(), r.add()
	id := r.ask(next)
	w := r.on(id)
	r.runs(next)
	_, err := r.loop.commit(commitCall{by: w, events: []fsm.Event{w.completed(activate.Outcome{}, next, "")}})
	r.must(err)
	r.leaves(id)
	r.soak(context.Background())
	before := r.durable()
	for _, why := range []occasion{onTick, onStart} { // the host was not rebooted: what it booted is what it ran before
		r.recover(context.Background(), why)
	}
	if after := r.durable(); after != before {
		t.Errorf("a live switch left %v after %v: %v", after, before, r.kinds(""))
	}
	r.runs(foreign)
	before = r.durable()
	r.recover(context.Background(), onTick)
	if after := r.durable(); after[0] != before[0]+1 || after[2] != before[2]+1 {
		t.Errorf("drift: %v after %v", after, before)
	}
	before = r.durable()
	r.recover(context.Background(), onTick)
	r.recover(context.Background(), onStart)
	if after := r.durable(); after != before {
		t.Errorf("the same drift again: %v after %v", after, before)
	}
	if got := r.kinds(""); !slices.Equal(got, []string{"Drift"}) {
		t.Errorf("reported of the host: %v", got)
	}
}

// A record of a newer agent is kept as it is, and that is reported.
func TestAFrozenRecordIsKeptAndReportedOnce(t *testing.T) {
	r := newTurner(t)
	rec := *recordOf("Hibernating", func(rec *fsm.Record) { rec.Work = &fsm.Work{Kind: "hibernate", Phase: "asleep"} })
	r.must(r.store.Update(func(tx *store.Tx) error {
		return errors.Join(tx.PutRecord(rec), tx.SetLive(rec.RolloutID))
	}))
	for range 2 {
		r.recover(context.Background(), onStart)
		r.recover(context.Background(), onTick)
	}
	if got := r.kinds(""); !slices.Equal(got, []string{noticeFrozenRecord}) {
		t.Errorf("reported of the host: %v", got)
	}
	kept, err := r.loop.record(rec.RolloutID)
	r.must(err)
	if kept.State != "Hibernating" || kept.Work == nil || kept.Work.Phase != "asleep" || kept.Work.Starts != 0 {
		t.Errorf("the record was changed: %+v", kept)
	}
	st, err := r.loop.status(context.Background())
	r.must(err)
	if !strings.Contains(st.Summary, "frozen") || len(st.Notes) == 0 {
		t.Errorf("summary %q, notes %v", st.Summary, st.Notes)
	}
}

func (t turner) kinds(rollout string) []string {
	t.Helper()
	entries, err := t.queue.Entries(0, 1000)
	t.must(err)
	var kinds []string
	for _, e := range entries {
		if e.RolloutID == rollout {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

// runs makes the running link lead to a closure, as another hand's switch does.
func (t turner) runs(toplevel string) {
	t.Helper()
	at := t.Path("/run/current-system")
	t.must(os.Remove(at))
	t.must(os.Symlink(toplevel, at))
}
