package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

const (
	// commitRounds is how many transitions are committed: a second or two, so that a disturbance of a moment moves no median.
	commitRounds = 3000
	// maxCommit is promised of a transition's commit, in raw appends with fdatasync: bbolt syncs twice, its pages and then
	// the page that makes them count.
	maxCommit = 2.5
	// fastestDisk is the least that an fdatasync takes which reaches a device. Faster ones were never waited for, and a ratio to
	// nothing says nothing.
	fastestDisk = 15 * time.Microsecond
	// rawRecord is what record, entry and history row of a transition weigh together.
	rawRecord = 1800
)

// transitionCommits takes one rollout after another from Pending to Converged in a real store, one event a commit as the agent does it,
// with the record, the outbox entry and the history row, in turns with appends to a file beside it.
func transitionCommits(_ context.Context, b *bench) (figures []figure, err error) {
	dir, err := os.MkdirTemp(b.dir, "commit-")
	if err != nil {
		return nil, err
	}
	st, _, err := store.Open(filepath.Join(dir, "state.db"), store.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	raw, err := os.OpenFile(filepath.Join(dir, "raw"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()

	w := &walk{store: st}
	record := make([]byte, rawRecord)
	all, err := inTurns(commitRounds, func(int) (time.Duration, error) {
		began := time.Now()
		if _, err := raw.Write(record); err != nil {
			return 0, err
		}
		err := syscall.Fdatasync(int(raw.Fd()))
		return time.Since(began), err
	}, func(int) (time.Duration, error) { return w.step() })
	if err != nil {
		return nil, err
	}
	appends, commits := all[0], all[1]

	cost := figure{Name: "commit", What: "median of a transition's commit", Value: ms(commits.median()), Unit: "ms",
		Bound: maxCommit, BoundsRatio: true, Samples: len(commits)}
	cost = cost.against("an append with fdatasync beside it", ms(appends.median()), "ms")
	stretch := unsteadiness(appends)
	if appends.median() < fastestDisk {
		cost.Note = "the file system does not wait for a disk, so this says nothing; name a directory on one with -dir"
		stretch = cost.Ratio
	}
	count := figure{Name: "commits", What: "most commits that one transition took; exactly one is promised", Value: float64(w.most), Unit: "commits", Bound: 1, Samples: commitRounds}
	count = count.against("the least that one took", float64(w.least), "commits").judge(1)
	if w.least != 1 {
		count.Verdict = failed // one that took none was not stored
	}
	return []figure{cost.judge(stretch), count}, nil
}

// walk takes rollouts through their states, one transition at a time.
type walk struct {
	store       *store.Store
	rec         fsm.Record
	number      int
	most, least uint64 // commits of one transition
}

// The closures of a walk are as long as real ones.
const (
	walkPrior  = "/nix/store/0c3y9r7gs0b5hjkq1n1g9hm0b6s1qk2z-nixos-system-lab-7-25.11.20260101.1d4c88f"
	walkTarget = "/nix/store/9w7z0bqk4m2d1x6v8l5f3c1p0a2s4d6g-nixos-system-lab-7-25.11.20260201.2e5d99a"
	walkBoot   = "6f8b7c52-7a0e-4a5b-9d58-27d8a2f7a6c1"
)

// step takes the rollout one event further, or begins the next one, and gives how long it took to be durable.
func (w *walk) step() (time.Duration, error) {
	if w.rec.RolloutID == "" || w.rec.State.Terminal() {
		w.number++
		w.rec = fsm.Record{
			Hostname: "lab-7", RolloutID: fmt.Sprintf("stable@%040x", w.number), Channel: "stable", TargetClosure: walkTarget,
			State: fsm.Pending, Policy: fsm.RollbackAndHalt,
			Prior: fsm.Prior{Running: walkPrior, Profile: walkPrior, BootDefault: walkPrior},
		}
	}
	before, err := w.commits()
	if err != nil {
		return 0, err
	}
	now := fsm.Now{Wall: time.Now().UTC(), Up: time.Hour, BootID: walkBoot}
	began := time.Now()
	err = w.store.Update(func(tx *store.Tx) error {
		rec, err := w.transition(tx, now)
		if err != nil {
			return err
		}
		w.rec = rec
		return tx.PutRecord(rec)
	})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	after, err := w.commits()
	if err != nil {
		return 0, err
	}
	if w.most == 0 {
		w.least = after - before
	}
	w.most, w.least = max(w.most, after-before), min(w.least, after-before)
	return took, nil
}

// commits is the number that the file itself has for its last commit.
func (w *walk) commits() (n uint64, err error) {
	err = w.store.DB().View(func(tx *bbolt.Tx) error {
		n = uint64(tx.ID())
		return nil
	})
	return n, err
}

// transition applies the next event and writes what it owes.
func (w *walk) transition(tx *store.Tx, now fsm.Now) (fsm.Record, error) {
	ev := fsm.Stamp(nextEvent(w.rec, now), w.rec.LastEventSeq+1)
	next, effects, err := fsm.Step(w.rec, ev, now, w.rec.Policy)
	if err != nil {
		return w.rec, err
	}
	for _, eff := range effects {
		if err := keep(tx, w.rec, ev, eff, now); err != nil {
			return w.rec, err
		}
	}
	return next, nil
}

// nextEvent is the next one on the way to Converged, by way of a deferral.
func nextEvent(rec fsm.Record, now fsm.Now) fsm.Event {
	switch {
	case rec.State == fsm.Pending:
		return fsm.LocalActivate{DispatchAck: fsm.DispatchAck{
			TargetClosure: rec.TargetClosure, CurrentClosureAtDispatch: rec.Prior.Running, Prior: rec.Prior, ReceivedAt: now.Wall}}
	case rec.State == fsm.Activating && rec.ActivationStartedAt.IsZero():
		return fsm.LocalActivationStarted{ActivationStarted: fsm.ActivationStarted{StartedAt: now.Wall, SwitchMethod: "boot", Attempt: 1}}
	case rec.State == fsm.Activating:
		return fsm.LocalActivationDeferred{ActivationDeferred: fsm.ActivationDeferred{
			Components: []fsm.ComponentChange{{Component: "kernel", From: walkPrior + "/bzImage", To: walkTarget + "/bzImage"}},
			BootID:     now.BootID, DeferredAt: now.Wall}}
	case rec.State == fsm.Deferred:
		return fsm.LocalActivationCompleted{ActivationCompleted: fsm.ActivationCompleted{
			ObservedCurrentClosure: rec.TargetClosure, BootID: now.BootID, CompletedAt: now.Wall}}
	case rec.TopologyDeclaredAt.IsZero():
		return fsm.LocalProbeTopologyDeclared{ProbeTopologyDeclared: fsm.ProbeTopologyDeclared{Probes: []fsm.ProbeDeclaration{}, DeclaredAt: now.Wall}}
	default:
		return fsm.LocalConvergedReached{ConvergedReached: fsm.ConvergedReached{CurrentClosure: rec.TargetClosure, ConvergedAt: now.Wall}}
	}
}

// keep writes an effect that must be durable, as the loop of the agent does.
func keep(tx *store.Tx, rec fsm.Record, ev fsm.Event, eff fsm.Effect, now fsm.Now) error {
	if emit, ok := eff.(fsm.LocalEmitEvent); ok {
		body, err := fsm.EncodePayload(emit.Payload)
		if err != nil {
			return err
		}
		_, err = outbox.Append(tx.Bolt(), outbox.Entry{
			Epoch: tx.Epoch(), Kind: string(emit.Payload.PayloadKind()), RolloutID: rec.RolloutID, At: now.Wall, Body: body})
		return err
	}
	if moved, ok := eff.(fsm.RecordTransition); ok {
		return tx.AppendHistory(store.HistoryRow{
			At: moved.At, RolloutID: moved.RolloutID, From: moved.From, To: moved.To, Seq: fsm.Seq(ev), Kind: string(ev.Kind())})
	}
	return nil
}
