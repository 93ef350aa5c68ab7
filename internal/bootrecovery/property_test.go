package bootrecovery_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/nixfleet/nixfleet-agent/internal/bootrecovery"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

func anySeen(t *rapid.T, label string) bootrecovery.Seen {
	return rapid.SampledFrom([]bootrecovery.Seen{target, prior, other, unknown}).Draw(t, label)
}

func anyFacts(t *rapid.T) bootrecovery.Facts {
	f := at(rapid.SampledFrom([]fsm.BootStamp{firstBoot, softBoot, secondBoot}).Draw(t, "boot"),
		anySeen(t, "booted"), anySeen(t, "running"), anySeen(t, "profile"), anySeen(t, "default"))
	f.Unit = rapid.SampledFrom([]bootrecovery.Unit{bootrecovery.NoAttempt, bootrecovery.Running, bootrecovery.Ended,
		bootrecovery.NotStarted, bootrecovery.Interrupted}).Draw(t, "unit")
	f.Starting = rapid.Bool().Draw(t, "starting")
	f.Held = rapid.Bool().Draw(t, "held")
	f.Expired = rapid.Bool().Draw(t, "expired")
	f.FellBack = rapid.Bool().Draw(t, "fell back")
	if rapid.Bool().Draw(t, "old bus") {
		f.StillOld = []string{"dbus"}
	}
	return f
}

func anyRecord(t *rapid.T) fsm.Record {
	state := rapid.SampledFrom(fsm.States()).Draw(t, "state")
	var w *fsm.Work
	switch state {
	case fsm.Activating:
		kind := rapid.SampledFrom([]fsm.WorkKind{fsm.WorkSwitch, fsm.WorkStage}).Draw(t, "kind")
		last := fsm.PhaseSwitch
		if kind == fsm.WorkStage {
			last = fsm.PhaseBoot
		}
		w = work(kind, rapid.SampledFrom([]fsm.Phase{fsm.PhaseCheck, fsm.PhaseRealise, fsm.PhaseInspect, fsm.PhaseProfile, last}).Draw(t, "phase"))
	case fsm.Failed:
		if rapid.Bool().Draw(t, "owes") {
			w = work(fsm.WorkUndo, rapid.SampledFrom([]fsm.Phase{fsm.PhaseUndoProfile, fsm.PhaseUndoBoot, fsm.PhaseUndoRunning, fsm.PhaseStaged}).Draw(t, "leg"))
		}
	default:
	}
	rec := record(state, w)
	if rec.Work != nil {
		rec.Work.Starts = rapid.IntRange(0, 6).Draw(t, "starts")
		rec.Work.Returns = rapid.IntRange(0, 3).Draw(t, "returns")
	}
	return rec
}

// Whatever is stored and whatever the host shows: recovery raises only what the rules accept, claims completion only of a
// running target, and, asked again after its verdict was stored, comes to rest without raising anything more than once.
func TestRecoveryIsIdempotentAndTruthful(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rec, facts := anyRecord(t), anyFacts(t)
		for round := range 4 {
			v := bootrecovery.Recover(rec, facts, now)
			if _, completes := v.Event.(fsm.LocalActivationCompleted); completes {
				if facts.Running.Is != bootrecovery.Target {
					t.Fatalf("completed while %s runs", facts.Running.Is)
				}
				if len(facts.StillOld) > 0 && facts.Booted.Is != bootrecovery.Target {
					t.Fatalf("completed while %v is still the old one", facts.StillOld)
				}
			}
			if facts.Boot.BootID == firstBoot.BootID && rec.State == fsm.Deferred && facts.Running.Is != bootrecovery.Target && v.Event != nil {
				t.Fatalf("a restart without a reboot raised %s from Deferred", v.Event.Kind())
			}
			if v.Work != nil {
				rec.Work = v.Work
			}
			if v.Do == bootrecovery.StampBoot {
				rec.StagedBoot = facts.Boot
			}
			if v.Event != nil {
				if round > 0 {
					t.Fatalf("round %d raises %s again: row %q", round, v.Event.Kind(), v.Row)
				}
				next, _, err := fsm.Step(rec, fsm.Stamp(v.Event, rec.LastEventSeq+1), now, rec.Policy)
				if err != nil {
					t.Fatalf("the rules refuse what recovery raises: %v", err)
				}
				rec = next
			}
			if v.Rest {
				rec.Work = nil
			}
		}
	})
}
