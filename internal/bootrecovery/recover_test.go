package bootrecovery_test

import (
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/bootrecovery"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

const (
	targetPath = "/nix/store/00000000000000000000000000000002-nixos-system-web-2"
	priorPath  = "/nix/store/00000000000000000000000000000001-nixos-system-web-1"
	otherPath  = "/nix/store/00000000000000000000000000000009-nixos-system-web-9"
)

var (
	firstBoot  = fsm.BootStamp{BootID: "boot-1"}
	softBoot   = fsm.BootStamp{BootID: "boot-1", SoftReboots: 1}
	secondBoot = fsm.BootStamp{BootID: "boot-2"}

	target  = bootrecovery.Seen{Path: targetPath, Is: bootrecovery.Target}
	prior   = bootrecovery.Seen{Path: priorPath, Is: bootrecovery.Prior}
	other   = bootrecovery.Seen{Path: otherPath, Is: bootrecovery.Other}
	child   = bootrecovery.Seen{Path: targetPath + "-child", Is: bootrecovery.Target, Specialisation: "office"}
	unknown = bootrecovery.Seen{Is: bootrecovery.Unknown}

	now = fsm.Now{Wall: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Up: time.Hour, BootID: "boot-2"}
)

func record(state fsm.State, work *fsm.Work) fsm.Record {
	rec := fsm.Record{
		Hostname: "web", RolloutID: "local@e-1", TargetClosure: targetPath, State: state, Policy: fsm.RollbackAndHalt,
		Prior: fsm.Prior{Running: priorPath, Profile: priorPath, BootDefault: priorPath}, Work: work, LastEventSeq: 3,
	}
	switch state {
	case fsm.Deferred:
		rec.StagedBoot = firstBoot
		if work == nil {
			rec.Work = &fsm.Work{Kind: fsm.WorkStage, Phase: fsm.PhaseStaged, Touched: true, Boot: firstBoot}
		}
	case fsm.Failed:
		rec.StagedBoot = firstBoot
	case fsm.Soaking, fsm.Converged:
		rec.CurrentClosure = targetPath
	case fsm.Pending, fsm.Activating, fsm.Reverted, fsm.Superseded:
	}
	return rec
}

func specialised(rec fsm.Record) fsm.Record {
	rec.Specialisation = "office"
	return rec
}

func work(kind fsm.WorkKind, phase fsm.Phase) *fsm.Work {
	return &fsm.Work{Kind: kind, Phase: phase, Attempt: 2, Touched: !phase.BeforeProfile(), Boot: firstBoot}
}

func with(w *fsm.Work, edit func(*fsm.Work)) *fsm.Work {
	edit(w)
	return w
}

// at makes facts of a host in boot that booted, runs, has as profile and would boot the closures given.
func at(boot fsm.BootStamp, booted, running, profile, bootDefault bootrecovery.Seen) bootrecovery.Facts {
	return bootrecovery.Facts{Boot: boot, Booted: booted, Running: running, Profile: profile, BootDefault: bootDefault,
		Unit: bootrecovery.NoAttempt, Starting: true}
}

func unit(f bootrecovery.Facts, u bootrecovery.Unit) bootrecovery.Facts {
	f.Unit = u
	return f
}

func TestEveryRow(t *testing.T) {
	untouched := at(firstBoot, prior, prior, prior, prior)
	halfWay := at(firstBoot, prior, prior, target, prior)
	staged := at(firstBoot, prior, prior, target, target)
	cameUp := at(secondBoot, target, target, target, target)

	type want struct {
		row    bootrecovery.Row
		do     bootrecovery.Do
		event  fsm.Kind
		reason fsm.FailureReason
		notice bootrecovery.NoticeKind
		phase  fsm.Phase // of the work to be stored
		rest   bool
	}
	for _, c := range []struct {
		name  string
		rec   fsm.Record
		facts bootrecovery.Facts
		want  want
	}{
		{"a state of a newer agent", record("Hibernating", nil), untouched,
			want{row: bootrecovery.RowFrozen, do: bootrecovery.Nothing}},

		{"a switch that runs", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), unit(halfWay, bootrecovery.Running),
			want{row: bootrecovery.RowAttach, do: bootrecovery.Resume}},
		{"a realise that runs", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseRealise)), unit(untouched, bootrecovery.Running),
			want{row: bootrecovery.RowAttach, do: bootrecovery.Resume}},
		{"an undo that runs", record(fsm.Failed, work(fsm.WorkUndo, fsm.PhaseUndoRunning)), unit(untouched, bootrecovery.Running),
			want{row: bootrecovery.RowAttach, do: bootrecovery.Resume}},

		{"pending", record(fsm.Pending, nil), untouched,
			want{row: bootrecovery.RowPending, do: bootrecovery.Activate}},
		{"pending and held", record(fsm.Pending, nil), func() bootrecovery.Facts { f := untouched; f.Held = true; return f }(),
			want{row: bootrecovery.RowPendingHeld, do: bootrecovery.Nothing}},
		{"pending and expired", record(fsm.Pending, nil), func() bootrecovery.Facts { f := untouched; f.Expired = true; return f }(),
			want{row: bootrecovery.RowPendingExpired, do: bootrecovery.Nothing, event: fsm.KindLocalDispatchRejected, reason: fsm.ReasonExpired}},

		{"activating at check", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseCheck)), untouched,
			want{row: bootrecovery.RowUntouched, do: bootrecovery.Restart}},
		{"activating at realise, result there", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseRealise)), unit(untouched, bootrecovery.Ended),
			want{row: bootrecovery.RowUntouched, do: bootrecovery.Restart}},
		{"activating at inspect, new boot", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseInspect)), at(secondBoot, prior, prior, prior, prior),
			want{row: bootrecovery.RowUntouched, do: bootrecovery.Restart}},
		{"activating without work", record(fsm.Activating, nil), untouched,
			want{row: bootrecovery.RowUntouched, do: bootrecovery.Restart}},

		{"activating, came up in the target", record(fsm.Activating, work(fsm.WorkStage, fsm.PhaseBoot)), cameUp,
			want{row: bootrecovery.RowBooted, do: bootrecovery.Nothing, event: fsm.KindLocalActivationCompleted}},
		{"activating at switch, power cut, came up in the target", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), unit(cameUp, bootrecovery.Interrupted),
			want{row: bootrecovery.RowBooted, do: bootrecovery.Nothing, event: fsm.KindLocalActivationCompleted}},
		{"deferred, came up in the target", record(fsm.Deferred, nil), cameUp,
			want{row: bootrecovery.RowBooted, do: bootrecovery.Nothing, event: fsm.KindLocalActivationCompleted}},

		{"deferred for a specialisation, came up in its parent", specialised(record(fsm.Deferred, nil)), cameUp,
			want{row: bootrecovery.RowBootedParent, do: bootrecovery.Resume, phase: fsm.PhaseSpecialise}},
		{"deferred for a specialisation, agent restarted while it is switched to", specialised(record(fsm.Deferred, work(fsm.WorkStage, fsm.PhaseSpecialise))), cameUp,
			want{row: bootrecovery.RowBootedParent, do: bootrecovery.Resume}},
		{"deferred for a specialisation, it was booted", specialised(record(fsm.Deferred, nil)), at(secondBoot, child, child, target, target),
			want{row: bootrecovery.RowBooted, do: bootrecovery.Nothing, event: fsm.KindLocalActivationCompleted}},
		{"deferred for a specialisation, its parent switched to by hand", specialised(record(fsm.Deferred, nil)), at(firstBoot, prior, target, target, target),
			want{row: bootrecovery.RowBootedParent, do: bootrecovery.Resume, phase: fsm.PhaseSpecialise}},
		{"activating a specialisation, came up in its parent", specialised(record(fsm.Activating, work(fsm.WorkStage, fsm.PhaseBoot))), cameUp,
			want{row: bootrecovery.RowBootedParent, do: bootrecovery.Resume, phase: fsm.PhaseSpecialise}},
		{"activating, booted the target, another runs", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), at(secondBoot, target, other, other, other),
			want{row: bootrecovery.RowBootedOtherRuns, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonAnotherHand}},
		{"deferred, booted the target, another runs", record(fsm.Deferred, nil), at(secondBoot, target, other, other, other),
			want{row: bootrecovery.RowBootedOtherRuns, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonAnotherHand}},

		{"activating at profile, new boot, prior booted", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseProfile)), at(secondBoot, prior, prior, target, prior),
			want{row: bootrecovery.RowReinspect, do: bootrecovery.Resume, phase: fsm.PhaseInspect}},
		{"activating at boot, new boot, prior booted", record(fsm.Activating, work(fsm.WorkStage, fsm.PhaseBoot)), at(secondBoot, prior, prior, target, prior),
			want{row: bootrecovery.RowReinspect, do: bootrecovery.Resume, phase: fsm.PhaseInspect}},
		{"activating at boot, sent back twice already", record(fsm.Activating, with(work(fsm.WorkStage, fsm.PhaseBoot), func(w *fsm.Work) { w.Returns = 2 })), at(secondBoot, prior, prior, target, prior),
			want{row: bootrecovery.RowReinspectNoMore, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonNoProgress}},

		{"activating at switch, new boot, prior booted", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), unit(at(secondBoot, prior, prior, target, prior), bootrecovery.Interrupted),
			want{row: bootrecovery.RowCutOff, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonRebooted}},

		{"activating, same boot, result there", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), unit(halfWay, bootrecovery.Ended),
			want{row: bootrecovery.RowResult, do: bootrecovery.Resume}},
		{"activating, same boot, not started", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), unit(halfWay, bootrecovery.NotStarted),
			want{row: bootrecovery.RowNotStarted, do: bootrecovery.Resume}},
		{"activating, same boot, marker without result", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), unit(halfWay, bootrecovery.Interrupted),
			want{row: bootrecovery.RowInterrupted, do: bootrecovery.Resume}},
		{"activating, soft reboot, marker without result", record(fsm.Activating, work(fsm.WorkSwitch, fsm.PhaseSwitch)), unit(at(softBoot, prior, prior, target, prior), bootrecovery.Interrupted),
			want{row: bootrecovery.RowInterrupted, do: bootrecovery.Resume}},
		{"activating, five starts without progress", record(fsm.Activating, with(work(fsm.WorkSwitch, fsm.PhaseSwitch), func(w *fsm.Work) { w.Starts = 5 })), unit(halfWay, bootrecovery.Interrupted),
			want{row: bootrecovery.RowNoProgress, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonNoProgress}},
		{"activating at check, five starts without progress", record(fsm.Activating, with(work(fsm.WorkSwitch, fsm.PhaseCheck), func(w *fsm.Work) { w.Starts = 5 })), untouched,
			want{row: bootrecovery.RowNoProgress, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonNoProgress}},
		{"activating, four starts without progress", record(fsm.Activating, with(work(fsm.WorkSwitch, fsm.PhaseSwitch), func(w *fsm.Work) { w.Starts = 4 })), unit(halfWay, bootrecovery.NotStarted),
			want{row: bootrecovery.RowNotStarted, do: bootrecovery.Resume}},

		{"deferred, new boot, switched by hand since, old bus", record(fsm.Deferred, nil),
			func() bootrecovery.Facts {
				f := at(secondBoot, prior, target, target, target)
				f.StillOld = []string{"dbus"}
				return f
			}(),
			want{row: bootrecovery.RowSwitchedByHand, do: bootrecovery.StampBoot}},
		{"deferred, new boot, switched by hand since, all new", record(fsm.Deferred, nil), at(secondBoot, prior, target, target, target),
			want{row: bootrecovery.RowRunsLive, do: bootrecovery.Nothing, event: fsm.KindLocalActivationCompleted}},

		{"deferred, booted the prior system", record(fsm.Deferred, nil), at(secondBoot, prior, prior, target, target),
			want{row: bootrecovery.RowBootedOther, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonBootedOther}},
		{"deferred, booted another system", record(fsm.Deferred, nil), at(secondBoot, other, other, target, target),
			want{row: bootrecovery.RowBootedOther, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonBootedOther}},
		{"deferred, the loader fell back", record(fsm.Deferred, nil),
			func() bootrecovery.Facts {
				f := at(secondBoot, prior, prior, target, target)
				f.FellBack = true
				return f
			}(),
			want{row: bootrecovery.RowBootedOther, do: bootrecovery.Nothing, event: fsm.KindLocalActivationFailed, reason: fsm.ReasonLoaderFellBack}},

		{"deferred, switched by hand, all components new", record(fsm.Deferred, nil), at(firstBoot, prior, target, target, target),
			want{row: bootrecovery.RowRunsLive, do: bootrecovery.Nothing, event: fsm.KindLocalActivationCompleted}},
		{"deferred, switched by hand, old bus", record(fsm.Deferred, nil),
			func() bootrecovery.Facts {
				f := at(firstBoot, prior, target, target, target)
				f.StillOld = []string{"dbus"}
				return f
			}(),
			want{row: bootrecovery.RowRunsHalf, do: bootrecovery.Nothing}},
		{"deferred, soft reboot, old kernel", record(fsm.Deferred, nil),
			func() bootrecovery.Facts {
				f := at(softBoot, prior, target, target, target)
				f.StillOld = []string{"kernel"}
				return f
			}(),
			want{row: bootrecovery.RowRunsHalf, do: bootrecovery.Nothing}},

		{"deferred, being cancelled, agent restarted", record(fsm.Deferred, work(fsm.WorkUnstage, fsm.PhaseUndoBoot)), at(firstBoot, prior, prior, prior, target),
			want{row: bootrecovery.RowCancel, do: bootrecovery.Resume}},
		{"deferred, being cancelled, booted the prior system", record(fsm.Deferred, work(fsm.WorkUnstage, fsm.PhaseUndoBoot)), at(secondBoot, prior, prior, prior, prior),
			want{row: bootrecovery.RowCancel, do: bootrecovery.Resume}},
		{"deferred, being cancelled too late, booted the target", record(fsm.Deferred, work(fsm.WorkUnstage, fsm.PhaseUndoProfile)), cameUp,
			want{row: bootrecovery.RowBooted, do: bootrecovery.Nothing, event: fsm.KindLocalActivationCompleted}},
		{"deferred, profile changed by another hand", record(fsm.Deferred, nil), at(firstBoot, prior, prior, other, target),
			want{row: bootrecovery.RowStagedByOther, do: bootrecovery.Nothing, notice: bootrecovery.AnotherHand}},
		{"deferred, boot default changed by another hand", record(fsm.Deferred, nil), at(softBoot, prior, prior, target, prior),
			want{row: bootrecovery.RowStagedByOther, do: bootrecovery.Nothing, notice: bootrecovery.AnotherHand}},

		{"deferred, agent restarted", record(fsm.Deferred, nil), staged,
			want{row: bootrecovery.RowDeferred, do: bootrecovery.Nothing}},
		{"deferred, soft reboot", record(fsm.Deferred, nil), at(softBoot, prior, prior, target, target),
			want{row: bootrecovery.RowDeferred, do: bootrecovery.Nothing}},
		{"deferred, loader cannot be read", record(fsm.Deferred, nil), at(firstBoot, prior, prior, target, unknown),
			want{row: bootrecovery.RowDeferred, do: bootrecovery.Nothing}},

		{"soaking, another runs", record(fsm.Soaking, nil), at(firstBoot, prior, other, target, target),
			want{row: bootrecovery.RowLeftTarget, do: bootrecovery.Nothing, event: fsm.KindLocalLeftTarget}},
		{"soaking, the prior system runs after a reboot", record(fsm.Soaking, nil), at(secondBoot, prior, prior, target, target),
			want{row: bootrecovery.RowLeftTarget, do: bootrecovery.Nothing, event: fsm.KindLocalLeftTarget}},
		{"soaking, running link not readable", record(fsm.Soaking, nil), at(firstBoot, prior, unknown, target, target),
			want{row: bootrecovery.RowSoaking, do: bootrecovery.Nothing}},
		{"soaking, new boot", record(fsm.Soaking, nil), cameUp,
			want{row: bootrecovery.RowSoaking, do: bootrecovery.RestartSoak}},
		{"soaking, on the tick", record(fsm.Soaking, nil), func() bootrecovery.Facts { f := cameUp; f.Starting = false; return f }(),
			want{row: bootrecovery.RowSoaking, do: bootrecovery.Nothing}},

		{"failed, leg unfinished", record(fsm.Failed, work(fsm.WorkUndo, fsm.PhaseUndoBoot)), halfWay,
			want{row: bootrecovery.RowUndo, do: bootrecovery.Resume}},
		{"failed, leg unfinished, new boot", record(fsm.Failed, work(fsm.WorkUnstage, fsm.PhaseUndoProfile)), at(secondBoot, target, target, target, target),
			want{row: bootrecovery.RowUndo, do: bootrecovery.Resume}},
		{"failed, way back staged, booted the prior system", record(fsm.Failed, work(fsm.WorkUndo, fsm.PhaseStaged)), at(secondBoot, prior, prior, prior, prior),
			want{row: bootrecovery.RowUndoBooted, do: bootrecovery.Nothing, event: fsm.KindLocalRollbackCompleted}},
		{"failed, way back staged, booted the target", record(fsm.Failed, work(fsm.WorkUndo, fsm.PhaseStaged)), at(secondBoot, target, target, prior, prior),
			want{row: bootrecovery.RowUndoBootedTarget, do: bootrecovery.Resume, event: fsm.KindLocalRollbackFailed, reason: fsm.ReasonBootedOther, phase: fsm.PhaseUndoProfile}},
		{"failed, way back staged, booted the target again and again", record(fsm.Failed, with(work(fsm.WorkUndo, fsm.PhaseStaged), func(w *fsm.Work) { w.Returns = 2 })), at(secondBoot, target, target, prior, prior),
			want{row: bootrecovery.RowUndoBootedOther, do: bootrecovery.Nothing, event: fsm.KindLocalRollbackFailed, reason: fsm.ReasonAnotherHand, rest: true}},
		{"failed, way back staged, booted another system", record(fsm.Failed, work(fsm.WorkUndo, fsm.PhaseStaged)), at(secondBoot, other, other, prior, prior),
			want{row: bootrecovery.RowUndoBootedOther, do: bootrecovery.Nothing, event: fsm.KindLocalRollbackFailed, reason: fsm.ReasonAnotherHand, rest: true}},
		{"failed, way back staged, same boot", record(fsm.Failed, work(fsm.WorkUndo, fsm.PhaseStaged)), at(firstBoot, prior, target, prior, prior),
			want{row: bootrecovery.RowUndoStaged, do: bootrecovery.Nothing}},
		{"failed, way back staged, soft reboot", record(fsm.Failed, work(fsm.WorkUndo, fsm.PhaseStaged)), at(softBoot, prior, target, prior, prior),
			want{row: bootrecovery.RowUndoStaged, do: bootrecovery.Nothing}},
		{"failed, nothing owed", record(fsm.Failed, nil), at(secondBoot, prior, prior, prior, prior),
			want{row: bootrecovery.RowRest, do: bootrecovery.Nothing}},

		{"converged, another runs", record(fsm.Converged, nil), at(secondBoot, target, other, target, target),
			want{row: bootrecovery.RowDrift, do: bootrecovery.Nothing, notice: bootrecovery.Drift}},
		{"converged, another booted", record(fsm.Converged, nil), at(secondBoot, prior, target, target, target),
			want{row: bootrecovery.RowDrift, do: bootrecovery.Nothing, notice: bootrecovery.Drift}},
		{"converged", record(fsm.Converged, nil), cameUp,
			want{row: bootrecovery.RowRest, do: bootrecovery.Nothing}},
		{"reverted", record(fsm.Reverted, nil), at(secondBoot, other, other, other, other),
			want{row: bootrecovery.RowRest, do: bootrecovery.Nothing}},
		{"superseded", record(fsm.Superseded, nil), cameUp,
			want{row: bootrecovery.RowRest, do: bootrecovery.Nothing}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := bootrecovery.Recover(c.rec, c.facts, now)
			seen := want{row: got.Row, do: got.Do, rest: got.Rest}
			if got.Event != nil {
				seen.event, seen.reason = got.Event.Kind(), reasonIn(got.Event)
			}
			if got.Notice != nil {
				seen.notice = got.Notice.Kind
			}
			if got.Work != nil {
				seen.phase = got.Work.Phase
			}
			if seen != c.want {
				t.Errorf("got %+v\nwant %+v", seen, c.want)
			}
			mustBeLegal(t, c.rec, got)
		})
	}
}

func reasonIn(ev fsm.Event) fsm.FailureReason {
	switch p := ev.Payload().(type) {
	case fsm.ActivationFailed:
		return p.Reason
	case fsm.RollbackFailed:
		return p.Reason
	case fsm.DispatchRejected:
		return p.Reason
	default:
		return ""
	}
}

// mustBeLegal applies a verdict's event: recovery raises nothing that the rules refuse.
func mustBeLegal(t *testing.T, rec fsm.Record, v bootrecovery.Verdict) {
	t.Helper()
	if v.Event == nil {
		return
	}
	if v.Work != nil {
		rec.Work = v.Work
	}
	if _, _, err := fsm.Step(rec, fsm.Stamp(v.Event, rec.LastEventSeq+1), now, rec.Policy); err != nil {
		t.Errorf("the rules refuse what recovery raises: %v", err)
	}
}

// What booted instead is named, for an operator who asks why.
func TestBootedOtherIsNamed(t *testing.T) {
	for _, c := range []struct {
		booted bootrecovery.Seen
		words  string
	}{
		{prior, "booted " + priorPath + " instead of the target: the system from before"},
		{other, "booted " + otherPath + " instead of the target: neither the target nor the system from before"},
		{unknown, "booted an unknown system instead of the target"},
	} {
		v := bootrecovery.Recover(record(fsm.Deferred, nil), at(secondBoot, c.booted, c.booted, target, target), now)
		failed, ok := v.Event.(fsm.LocalActivationFailed)
		if !ok {
			t.Fatalf("booted %s: raised %v", c.booted.Path, v.Event)
		}
		if failed.StderrTail != c.words {
			t.Errorf("got  %q\nwant %q", failed.StderrTail, c.words)
		}
	}
}

// A completion that a boot proves carries exit code 0 and what was seen to run.
func TestCompletionCarriesWhatWasSeen(t *testing.T) {
	seen := bootrecovery.Seen{Path: targetPath + "-child", Is: bootrecovery.Target, Specialisation: "gaming"}
	v := bootrecovery.Recover(record(fsm.Deferred, nil), at(secondBoot, seen, seen, target, target), now)
	got, ok := v.Event.(fsm.LocalActivationCompleted)
	if !ok {
		t.Fatalf("raised %v", v.Event)
	}
	want := fsm.ActivationCompleted{ObservedCurrentClosure: seen.Path, Specialisation: "gaming", BootID: "boot-2", CompletedAt: now.Wall}
	if got.ObservedCurrentClosure != want.ObservedCurrentClosure || got.Specialisation != want.Specialisation ||
		got.ExitCode != 0 || got.BootID != want.BootID || !got.CompletedAt.Equal(want.CompletedAt) {
		t.Errorf("got %+v\nwant %+v", got.ActivationCompleted, want)
	}
}
