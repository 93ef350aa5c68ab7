package fsm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// situation is a record at a moment, with a name that says what matters of it.
type situation struct {
	name   string
	rec    Record
	now    Now
	policy Policy
}

// situations has every state, and each state once for every circumstance on which its rules depend.
func situations() []situation {
	untouched := Work{Kind: WorkSwitch, Phase: PhaseRealise, Boot: BootStamp{BootID: "boot-1"}}
	touched := untouched.Enter(PhaseSwitch, BootStamp{BootID: "boot-1"})
	undo := &Work{Kind: WorkUndo, Phase: PhaseUndoBoot, Touched: true}
	staged := &Work{Kind: WorkUndo, Phase: PhaseStaged, Touched: true}
	unstage := &Work{Kind: WorkUnstage, Phase: PhaseUndoBoot, Touched: true}

	declared := map[string]Probe{"http": {Mode: Enforce}, "dns": {Mode: Observe}}
	failing := map[string]Probe{"http": {Mode: Enforce, Status: Fail, Reason: "503"}, "dns": {Mode: Observe, Status: Pass}}
	passing := map[string]Probe{"http": {Mode: Enforce, Status: Pass}, "dns": {Mode: Observe, Status: Fail}}
	served := later(firstBoot, 10*time.Minute)

	unknown := pendingRecord()
	unknown.State = "Hibernating"

	return []situation{
		{"Pending", pendingRecord(), firstBoot, RollbackAndHalt},
		{"Activating, untouched", activatingRecord(untouched), firstBoot, RollbackAndHalt},
		{"Activating, touched, rollback-and-halt", activatingRecord(touched), firstBoot, RollbackAndHalt},
		{"Activating, touched, halt", activatingRecord(touched), firstBoot, Halt},
		{"Deferred, rollback-and-halt", deferredRecord(), firstBoot, RollbackAndHalt},
		{"Deferred, halt", deferredRecord(), firstBoot, Halt},
		{"Soaking, no probes declared", soakingRecord(nil), served, RollbackAndHalt},
		{"Soaking, declared and no result", soakingRecord(declared), served, RollbackAndHalt},
		{"Soaking, failing, rollback-and-halt", soakingRecord(failing), served, RollbackAndHalt},
		{"Soaking, failing, halt", soakingRecord(failing), served, Halt},
		{"Soaking, passing, soak not served", soakingRecord(passing), later(firstBoot, 10*time.Minute-time.Millisecond), RollbackAndHalt},
		{"Soaking, passing, soak served", soakingRecord(passing), served, RollbackAndHalt},
		{"Converged", endedRecord(Converged), served, RollbackAndHalt},
		{"Failed, nothing owed", failedRecord(nil), firstBoot, RollbackAndHalt},
		{"Failed, way back owed", failedRecord(undo), firstBoot, RollbackAndHalt},
		{"Failed, way back staged", failedRecord(staged), firstBoot, RollbackAndHalt},
		{"Failed, boot default owed", failedRecord(unstage), firstBoot, Halt},
		{"Reverted", endedRecord(Reverted), served, RollbackAndHalt},
		{"Superseded", endedRecord(Superseded), served, RollbackAndHalt},
		{"a state of a newer agent", unknown, firstBoot, RollbackAndHalt},
	}
}

// variation is an event, and in a word what matters of it where its kind has more than one.
type variation struct {
	word string
	ev   Event
}

// variations has every kind of event, in order, once for every content on which the rules depend.
func variations() []variation {
	var list []variation
	for _, kind := range kinds() {
		ev := sampleEvents()[kind]
		side := LocalOf
		if sideOf(ev) == mirror {
			side = RemoteOf
		}
		vary := func(word string, p Payload) { list = append(list, variation{word, side(p)}) }
		switch p := ev.Payload().(type) {
		case ActivationFailed:
			vary("switch-failed", p)
			p.Reason = ReasonDiskFull
			vary("disk-full", p)
			p.Reason = ReasonAnotherHand
			vary("another-hand", p)
		case ActivationCompleted:
			p.Specialisation = ""
			vary("target", p)
			p.ObservedCurrentClosure = otherX
			vary("other", p)
		case ConvergedReached:
			p.Specialisation = ""
			vary("target", p)
			p.CurrentClosure = otherX
			vary("other", p)
		case ProbeResult:
			vary("enforce", p)
			p.ProbeName, p.Mode = "dns", Observe
			vary("observe", p)
		case RollbackFailed:
			vary("disk-full", p)
			p.Reason = ReasonAnotherHand
			vary("another-hand", p)
		default:
			vary("", p)
		}
	}
	return list
}

// cell is one entry of the matrix.
type cell struct {
	situation situation
	variation variation
	next      Record
	effects   []Effect
	err       error
}

func matrix() []cell {
	var cells []cell
	for _, s := range situations() {
		for _, v := range variations() {
			place := s
			if sideOf(v.ev) == mirror {
				place.rec.Work = nil // which a mirror never has
			}
			next, effects, err := Step(place.rec, Stamp(v.ev, place.rec.LastEventSeq+1), place.now, place.policy)
			cells = append(cells, cell{place, v, next, effects, err})
		}
	}
	return cells
}

func TestMatrix(t *testing.T) {
	var out strings.Builder
	var last string
	for _, c := range matrix() {
		if c.situation.name != last {
			if last != "" {
				out.WriteByte('\n')
			}
			fmt.Fprintf(&out, "== %s\n", c.situation.name)
			last = c.situation.name
		}
		name := string(c.variation.ev.Kind())
		if c.variation.word != "" {
			name += " (" + c.variation.word + ")"
		}
		fmt.Fprintf(&out, "%-44s %s\n", name, outcomeLine(c.next, c.err))
		for i, eff := range c.effects {
			fmt.Fprintf(&out, "    %d %s\n", i+1, effectLine(eff))
		}
	}
	golden(t, "testdata/matrix.golden", out.String())
}

// The matrix must hold every state and every kind, or it proves less than it seems to.
func TestMatrixIsWhole(t *testing.T) {
	type place struct {
		state State
		kind  Kind
	}
	filled := map[place]bool{}
	for _, c := range matrix() {
		filled[place{c.situation.rec.State, c.variation.ev.Kind()}] = true
	}
	for _, state := range States() {
		for _, kind := range kinds() {
			if !filled[place{state, kind}] {
				t.Errorf("the matrix has no cell for %s in %s", kind, state)
			}
		}
	}
}

// A refusal leaves everything as it was.
func TestRefusalChangesNothing(t *testing.T) {
	for _, c := range matrix() {
		if c.err == nil {
			continue
		}
		if len(c.effects) != 0 {
			t.Errorf("%s in %q: refused with %d effects", c.variation.ev.Kind(), c.situation.name, len(c.effects))
		}
		if !same(t, c.next, c.situation.rec) {
			t.Errorf("%s in %q: refused, yet the record changed", c.variation.ev.Kind(), c.situation.name)
		}
	}
}
