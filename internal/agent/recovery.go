package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/bootrecovery"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// occasion says why recovery looks at the records.
type occasion int

const (
	onStart occasion = iota // the agent has just started
	onTick                  // some time has passed
)

// start reports what opening the store found, recovers, and puts workers on what is owed. It runs before any request is taken.
func (l *loop) start(ctx context.Context, facts system.Facts) {
	if l.opening.ReadOnly != "" {
		l.log.Error("the store is read only for this version", slog.String("why", l.opening.ReadOnly))
		l.say()
		l.board.markReady()
		return
	}
	if err := l.reportOpening(facts); err != nil {
		l.log.Error("report the opening of the store", slog.Any("err", err))
	}
	if err := l.mergeQuarantine(); err != nil {
		l.log.Error("hold the quarantine against its second copy", slog.Any("err", err))
	}
	l.recover(ctx, onStart)
	l.sweep()
	l.watchSoak()
	l.advance(ctx)
	l.board.markReady()
}

// reportOpening puts into the outbox, once, what was found when the store was opened, and takes note of a new boot.
func (l *loop) reportOpening(facts system.Facts) error {
	var notices []notice
	if l.opening.MovedAside != "" {
		notices = append(notices, notice{Kind: noticeStateReset, Host: l.hostname,
			Text: fmt.Sprintf("the store could not be read (%s); it was kept as %s and an empty one begun", l.opening.Reason, l.opening.MovedAside),
			Seen: seenOf(facts)})
	}
	if l.opening.LostCommit {
		notices = append(notices, notice{Kind: noticeCommitLost, Host: l.hostname, Seen: seenOf(facts),
			Text: "the store has lost one of its two newest versions; if it was not a power cut, the last event is lost"})
	}
	for _, d := range l.opening.Damaged {
		notices = append(notices, notice{Kind: noticeDamagedRecord, Host: l.hostname, Text: d.String()})
	}
	newBoot, err := l.isNewBoot()
	if err != nil {
		return err
	}
	if len(notices) == 0 && !newBoot {
		return nil
	}
	return l.turn(func(t *turn) error {
		if newBoot {
			if err := t.tx.AppendBoot(store.Boot{BootID: facts.BootID, SoftReboots: facts.SoftReboots, At: t.now.Wall, Booted: facts.Booted}); err != nil {
				return err
			}
		}
		for _, n := range notices {
			if err := t.notify(n); err != nil {
				return err
			}
		}
		return t.tx.OpeningReported()
	})
}

func (l *loop) isNewBoot() (bool, error) {
	isNew := true
	err := l.store.View(func(tx *store.Tx) error {
		boots, err := tx.Boots(1)
		if err == nil && len(boots) > 0 {
			isNew = boots[0].BootID != l.boot.BootID || boots[0].SoftReboots != l.boot.SoftReboots
		}
		return err
	})
	return isNew, err
}

// bootedSince reports whether this boot was first seen after a moment. A soft reboot is in the same boot.
func (l *loop) bootedSince(then time.Time) (bool, error) {
	since := false
	err := l.store.View(func(tx *store.Tx) error {
		boots, err := tx.Boots(0)
		for _, boot := range boots { // newest first
			if boot.BootID != l.boot.BootID {
				break
			}
			since = boot.At.After(then)
		}
		return err
	})
	return since, err
}

func seenOf(f system.Facts) *hostSeen {
	return &hostSeen{BootID: f.BootID, Booted: f.Booted, Running: f.Running, Profile: f.Profile, BootDefault: f.BootDefault.Closure}
}

// recover holds the records that have a claim on the host against the facts and does what recovery says.
func (l *loop) recover(ctx context.Context, why occasion) {
	if l.opening.ReadOnly != "" {
		return
	}
	live, next, err := l.claims()
	if err != nil {
		l.log.Error("read records", slog.Any("err", err))
		return
	}
	facts, err := l.host.Facts(ctx)
	if err != nil {
		l.log.Error("read host", slog.Any("err", err))
		return
	}
	for _, rec := range []*fsm.Record{live, next} {
		if rec == nil || l.workers[rec.RolloutID] != nil || l.owed[rec.RolloutID] {
			continue
		}
		if rec == next && rec.State == fsm.Pending {
			continue // it waits; advance starts it when its turn has come
		}
		if why == onTick && onTheWayBack(*rec) {
			continue // a way back that failed is tried again by the next start of the agent
		}
		if err := l.recoverOne(ctx, *rec, facts, why); err != nil {
			l.log.Error("recover", slog.String("rollout", rec.RolloutID), slog.Any("err", err))
		}
	}
}

// onTheWayBack reports a record with a leg of the way back unfinished.
func onTheWayBack(rec fsm.Record) bool {
	return rec.Work != nil && (rec.Work.Kind == fsm.WorkUndo || rec.Work.Kind == fsm.WorkUnstage) && rec.Work.Phase != fsm.PhaseStaged
}

func (l *loop) recoverOne(ctx context.Context, rec fsm.Record, host system.Facts, why occasion) error {
	facts, err := l.recoveryFacts(ctx, rec, host)
	if err != nil {
		return err
	}
	// A start that finds its attempt at work does not find it without progress, however often that is: its deadline ends it.
	counted := why == onStart && rec.Work != nil && rec.Work.Phase != fsm.PhaseStaged && facts.Unit != bootrecovery.Running
	if counted {
		work := *rec.Work
		work.Starts++
		rec.Work = &work
	}
	facts.Starting = why == onStart
	verdict := bootrecovery.Recover(rec, facts, l.now())
	if verdict.Row == bootrecovery.RowFrozen {
		return l.reportFrozen(rec, verdict.Say)
	}
	if verdict.Notice, err = l.news(verdict.Notice); err != nil {
		return err
	}
	if why == onStart || verdict.Event != nil || verdict.Notice != nil {
		l.log.Info("recovery", slog.String("rollout", rec.RolloutID), slog.String("state", string(rec.State)),
			slog.String("row", string(verdict.Row)), slog.String("do", string(verdict.Do)), slog.String("say", verdict.Say))
	}
	if nothingToStore(verdict, counted) {
		return l.afterVerdict(rec, verdict)
	}
	err = l.turn(func(t *turn) error { return l.storeVerdict(ctx, t, rec, verdict) })
	if err != nil {
		return err
	}
	return l.afterVerdict(rec, verdict)
}

// reportFrozen says, once, that a record is kept which this version does not understand. The record is not written.
func (l *loop) reportFrozen(rec fsm.Record, say string) error {
	l.board.degrade(degradedRecord, say)
	key := rec.RolloutID + "/" + string(rec.State)
	if said, err := l.saidBefore(noticeFrozenRecord, key); said || err != nil {
		return err
	}
	return l.turn(func(t *turn) error {
		_, err := t.notifyOnce(key, notice{Kind: noticeFrozenRecord, Host: l.hostname, Text: rec.RolloutID + ": " + say})
		return err
	})
}

// news gives the notice if it was not given before: what stays as it is costs no commit at every look.
func (l *loop) news(n *bootrecovery.Notice) (*bootrecovery.Notice, error) {
	if n == nil {
		return nil, nil
	}
	if said, err := l.saidBefore(string(n.Kind), n.Key); said || err != nil {
		return nil, err
	}
	return n, nil
}

func nothingToStore(v bootrecovery.Verdict, counted bool) bool {
	switch v.Do {
	case bootrecovery.Activate, bootrecovery.Restart, bootrecovery.RestartSoak, bootrecovery.StampBoot:
		return false
	case bootrecovery.Nothing, bootrecovery.Resume:
	}
	return !counted && v.Event == nil && v.Work == nil && !v.Rest && v.Notice == nil
}

// storeVerdict writes what recovery decided; rec carries the start that was counted.
func (l *loop) storeVerdict(ctx context.Context, t *turn, rec fsm.Record, v bootrecovery.Verdict) error {
	var err error
	if v.Work != nil {
		rec.Work = v.Work
	}
	switch v.Do {
	case bootrecovery.Restart:
		rec, err = l.restarted(ctx, t, rec)
	case bootrecovery.RestartSoak:
		rec = fsm.RestartSoak(rec, t.now)
	case bootrecovery.StampBoot:
		rec.StagedBoot = l.boot
	case bootrecovery.Activate:
		rec, err = l.begin(ctx, t, rec)
	case bootrecovery.Nothing, bootrecovery.Resume:
	}
	if err != nil {
		return err
	}
	if v.Event != nil {
		if rec, err = t.raise(rec, v.Event); err != nil {
			return err
		}
	}
	if v.Rest {
		rec.Work = nil
	}
	if v.Notice != nil {
		_, err := t.notifyOnce(v.Notice.Key, notice{Kind: string(v.Notice.Kind), Text: v.Notice.Text, Host: l.hostname})
		if err != nil {
			return err
		}
	}
	return t.put(rec)
}

// restarted sends a rollout that has touched nothing back to Check, with its way back read anew. An attempt of the start before
// is not taken up again: what it realised is found in the store.
func (l *loop) restarted(ctx context.Context, t *turn, rec fsm.Record) (fsm.Record, error) {
	live, err := l.liveIn(t)
	if err != nil {
		return rec, err
	}
	prior, err := l.priorFor(ctx, rec, live)
	if err != nil {
		return rec, err
	}
	work := fsm.Work{Kind: fsm.WorkSwitch}
	if rec.Work != nil {
		work = *rec.Work
	}
	starts := work.Starts
	rec.Prior, rec.Work = prior, l.entered(work, fsm.PhaseCheck)
	rec.Work.Starts = starts
	return rec, nil
}

func (l *loop) afterVerdict(rec fsm.Record, v bootrecovery.Verdict) error {
	switch v.Do {
	case bootrecovery.Resume, bootrecovery.Restart:
		l.owed[rec.RolloutID] = true
	case bootrecovery.RestartSoak:
		l.watchSoak()
	case bootrecovery.Nothing, bootrecovery.Activate, bootrecovery.StampBoot:
	}
	if v.Rest { // no change of state tells of it
		l.tidy(rec.RolloutID)
	}
	return nil
}

// recoveryFacts sees the host from a record.
func (l *loop) recoveryFacts(ctx context.Context, rec fsm.Record, host system.Facts) (bootrecovery.Facts, error) {
	f := bootrecovery.Facts{
		Boot:        l.boot,
		Booted:      l.see(rec, host.Booted),
		Running:     l.see(rec, host.Running),
		Profile:     l.see(rec, host.Profile),
		BootDefault: l.see(rec, host.BootDefault.Closure),
		Unit:        bootrecovery.NoAttempt,
		Expired:     !rec.ExpiresAt.IsZero() && l.now().Wall.After(rec.ExpiresAt),
	}
	hold, err := l.heldNow()
	if err != nil {
		return f, err
	}
	f.Held = hold != nil
	if f.Booted.Is != bootrecovery.Target && (rec.State == fsm.Activating || rec.State == fsm.Deferred) {
		f.FellBack = l.host.GaveUpOn(rec.TargetClosure)
	}
	if rec.State == fsm.Converged {
		booted, err := l.bootedSince(rec.ActivationCompletedAt)
		if err != nil {
			return f, err
		}
		if !booted { // what was booted before the target went live says nothing about it
			f.Booted.Is = bootrecovery.Unknown
		}
	}
	if rec.Work != nil && rec.Work.Attempt > 0 {
		seen, err := l.runner.Look(ctx, jobOf(rec))
		if err != nil {
			return f, err
		}
		f.Unit = unitOf(seen.State)
	}
	if rec.State == fsm.Deferred && f.Running.Is == bootrecovery.Target {
		old, err := l.stillOld(ctx, rec)
		if err != nil {
			return f, err
		}
		f.StillOld = old
	}
	return f, nil
}

func unitOf(s activate.JobState) bootrecovery.Unit {
	switch s {
	case activate.JobRunning:
		return bootrecovery.Running
	case activate.JobEnded:
		return bootrecovery.Ended
	case activate.JobLost:
		return bootrecovery.Interrupted
	case activate.JobAbsent:
		return bootrecovery.NotStarted
	default:
		return bootrecovery.NotStarted
	}
}

// see says what a closure is to a record. The target wins where it is the way back, too.
func (l *loop) see(rec fsm.Record, path string) bootrecovery.Seen {
	s := bootrecovery.Seen{Path: path, Is: bootrecovery.Other}
	name, isTarget := "", false
	if path != "" {
		name, isTarget = l.host.IsOrSpecialises(path, rec.TargetClosure)
	}
	switch {
	case path == "":
		s.Is = bootrecovery.Unknown
	case isTarget && rec.State == fsm.Soaking && rec.Specialisation != "" && name != rec.Specialisation:
		// It was completed with the specialisation that was named, and that does not run any more.
	case isTarget:
		s.Is, s.Specialisation = bootrecovery.Target, name
	case path == rec.Prior.Running, path == rec.Prior.Profile, path == rec.Prior.BootDefault:
		s.Is = bootrecovery.Prior
	}
	return s
}

// stillOld names the components of a deferral that do not yet run the target's.
func (l *loop) stillOld(ctx context.Context, rec fsm.Record) ([]string, error) {
	verdict, err := l.runner.Compare(ctx, rec.TargetClosure)
	if err != nil {
		return nil, err
	}
	differs := map[string]bool{}
	for _, c := range verdict.Deferred {
		differs[c.Component] = true
	}
	var old []string
	for _, c := range rec.Components {
		if differs[c.Component] {
			old = append(old, c.Component)
		}
	}
	return old, nil
}

// claims gives copies of the record that owns the host and of the one that waits or prepares, where there are any. A record
// that cannot be read was set aside when the store was opened.
func (l *loop) claims() (live, next *fsm.Record, err error) {
	err = l.store.View(func(tx *store.Tx) error {
		read := func(rollout string) (*fsm.Record, error) {
			if rollout == "" {
				return nil, nil
			}
			rec, err := tx.Record(rollout)
			if errors.Is(err, store.ErrNotFound) {
				return nil, nil
			}
			return &rec, err
		}
		var err error
		if live, err = read(tx.Live()); err != nil {
			return err
		}
		next, err = read(tx.Next())
		return err
	})
	return live, next, err
}

func (l *loop) record(rollout string) (fsm.Record, error) {
	var rec fsm.Record
	err := l.store.View(func(tx *store.Tx) error {
		var err error
		rec, err = tx.Record(rollout)
		return err
	})
	return rec, err
}

func (l *loop) quarantine(closure string) (row store.QuarantineRow, found bool, err error) {
	err = l.store.View(func(tx *store.Tx) error {
		row, found, err = tx.Quarantine(closure)
		return err
	})
	return row, found, err
}
