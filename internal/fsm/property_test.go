package fsm

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// edges is the table of the design, written down once more by hand: which payload may lead from where to where.
var edges = map[PayloadKind]map[State]State{
	KindDispatchAck:           {Pending: Activating},
	KindDispatchRejected:      {Pending: Failed},
	KindActivationStarted:     {Activating: Activating},
	KindActivationCompleted:   {Activating: Soaking, Deferred: Soaking},
	KindActivationDeferred:    {Activating: Deferred},
	KindActivationFailed:      {Activating: Failed, Deferred: Failed},
	KindDeferralCancelled:     {Deferred: Reverted},
	KindProbeTopologyDeclared: {Soaking: Soaking},
	KindProbeObservedFirst:    {Soaking: Soaking},
	KindProbeResult:           {Soaking: Soaking},
	KindProbeFailureFirst:     {Soaking: Soaking},
	KindFailed:                {Soaking: Failed},
	KindLeftTarget:            {Soaking: Failed},
	KindConverged:             {Soaking: Converged},
	KindRollbackComplete:      {Failed: Reverted},
	KindRollbackDeferred:      {Failed: Failed},
	KindRollbackFailed:        {Failed: Failed},
	KindBootDefaultRestored:   {Failed: Failed},
	KindSuperseded:            {Pending: Superseded, Deferred: Superseded, Soaking: Superseded, Failed: Superseded},
}

// The matrix and the hand-written table agree on every cell: what is not in the table is illegal, and what is in it leads
// where it says or is refused for an invariant.
func TestMatrixIsTheTable(t *testing.T) {
	reached := map[string]bool{}
	for _, c := range matrix() {
		kind := c.variation.ev.Payload().PayloadKind()
		to, legal := edges[kind][c.situation.rec.State]
		illegal := errors.As(c.err, new(IllegalForState))
		invariant := errors.As(c.err, new(Invariant))
		switch {
		case !legal && !illegal:
			t.Errorf("%s in %q is not illegal: %v", c.variation.ev.Kind(), c.situation.name, c.err)
		case legal && illegal:
			t.Errorf("%s in %q is illegal", c.variation.ev.Kind(), c.situation.name)
		case legal && !invariant && c.next.State != to:
			t.Errorf("%s in %q leads to %s, not %s", c.variation.ev.Kind(), c.situation.name, c.next.State, to)
		case legal && c.err == nil:
			reached[fmt.Sprint(c.variation.ev.Kind(), c.situation.rec.State)] = true
		}
	}
	for kind, from := range edges {
		for state := range from {
			for _, ev := range []Event{LocalOf(samples()[kind]), RemoteOf(samples()[kind])} {
				if !reached[fmt.Sprint(ev.Kind(), state)] {
					t.Errorf("%s never leads out of %s in the matrix", ev.Kind(), state)
				}
			}
		}
	}
}

// walk is a random life of a rollout, with a second account of it that is kept apart from the record.
type walk struct {
	t      *rapid.T
	rec    Record
	mirror Record
	now    Now
	boots  int
	unseen bool

	declared bool                 // a topology since completion, restart of the agent or of the host
	modes    map[string]ProbeMode // of that topology
	last     map[string]ProbeStatus
	served   time.Duration // of the soak, while it was watched
	since    Now
}

// Walks that never come somewhere say nothing about it, so they go on until they have been everywhere.
func TestRandomWalks(t *testing.T) {
	const enough = 20 // rounds of rapid's checks; one is mostly plenty
	reached := map[State]bool{}
	for round := 0; round < enough && (round == 0 || len(reached) < len(States())); round++ {
		rapid.Check(t, func(t *rapid.T) {
			w := newWalk(t)
			for range rapid.IntRange(1, 60).Draw(t, "steps") {
				w.pass()
				if rapid.Bool().Draw(t, "act") {
					w.act()
				}
				w.step()
				reached[w.rec.State] = true
			}
		})
	}
	for _, state := range States() {
		if !reached[state] {
			t.Errorf("no walk came to %s", state)
		}
	}
}

func newWalk(t *rapid.T) *walk {
	w := &walk{t: t, now: firstBoot, boots: 1}
	w.rec = pendingRecord()
	w.rec.LastEventSeq = 0
	w.rec.Policy = rapid.SampledFrom([]Policy{RollbackAndHalt, Halt}).Draw(t, "policy")
	w.rec.Soak = MillisOf(time.Duration(rapid.IntRange(0, 3).Draw(t, "soak")) * time.Minute)
	w.rec.Specialisation = rapid.SampledFrom([]string{"", "", "desk"}).Draw(t, "specialisation")
	w.mirror = w.rec.clone()
	return w
}

// pass lets time pass, in this boot or over a reboot.
func (w *walk) pass() {
	w.now = later(w.now, time.Duration(rapid.IntRange(0, 60).Draw(w.t, "seconds"))*time.Second)
	switch rapid.IntRange(0, 19).Draw(w.t, "boot") {
	case 0:
		w.boots++
		w.now = Now{Wall: w.now.Wall.Add(time.Minute), Up: 5 * time.Second, BootID: fmt.Sprintf("boot-%d", w.boots)}
		w.restart() // there is no new boot without a new agent
	case 1:
		w.restart()
	case 2:
		w.now.Wall = w.now.Wall.Add(-24 * time.Hour)
	}
}

func (w *walk) restart() {
	before := w.rec.clone()
	next := RestartSoak(w.rec, w.now)
	if !reflect.DeepEqual(before, w.rec) {
		w.t.Fatal("RestartSoak changed its input")
	}
	w.rec = next
	if w.rec.State == Soaking {
		w.unseen, w.declared, w.modes, w.last, w.since = true, false, nil, nil, w.now
	}
}

// act is what the agent does to a record without an event.
func (w *walk) act() {
	if w.rec.State == Soaking {
		w.rec = CountSoak(w.rec, w.now)
		w.count()
		return
	}
	if w.rec.Work == nil {
		return
	}
	phases := []Phase{PhaseCheck, PhaseRealise, PhaseInspect, PhaseProfile, PhaseSwitch, PhaseBoot}
	switch w.rec.State {
	case Deferred:
		return
	case Failed:
		phases = []Phase{PhaseUndoProfile, PhaseUndoBoot, PhaseUndoRunning}
	default:
	}
	work := w.rec.Work.Enter(rapid.SampledFrom(phases).Draw(w.t, "phase"), BootStamp{BootID: w.now.BootID})
	w.rec.Work = &work
}

func (w *walk) count() {
	if w.since.BootID == w.now.BootID {
		w.served += w.now.Up - w.since.Up
	}
	w.since = w.now
}

// step raises one event, likely or not, and holds the answer against the account.
func (w *walk) step() {
	payload := w.payload()
	seq := w.rec.LastEventSeq + uint64(rapid.SampledFrom([]int{0, 1, 1, 1, 1, 1, 5}).Draw(w.t, "ahead"))
	ev := Stamp(LocalOf(payload), seq)
	before := w.rec.clone()
	if before.State == Soaking {
		w.count()
	}

	next, effects, err := Step(w.rec, ev, w.now, w.rec.Policy)

	if !reflect.DeepEqual(before, w.rec) {
		w.t.Fatalf("%s changed its input", ev.Kind())
	}
	w.decodedIsEqual(ev, next, effects, err)
	if err != nil {
		if len(effects) > 0 || !reflect.DeepEqual(next, before) {
			w.t.Fatalf("%s was refused (%v), yet something changed", ev.Kind(), err)
		}
		return
	}
	w.legal(before, next, ev)
	w.oneRowOneReport(before, next, ev, effects)
	w.quarantineAndWork(before, next, ev, effects)
	w.account(before, next, ev)
	w.rec = next
	w.follow(effects, before.Policy)
}

func (w *walk) legal(before, next Record, ev Event) {
	if before.State.Terminal() {
		w.t.Fatalf("%s led out of %s", ev.Kind(), before.State)
	}
	to, legal := edges[ev.Payload().PayloadKind()][before.State]
	if !legal || to != next.State {
		w.t.Fatalf("%s led from %s to %s", ev.Kind(), before.State, next.State)
	}
	if next.LastEventSeq != Seq(ev) || next.LastEventSeq <= before.LastEventSeq {
		w.t.Fatalf("the number went from %d to %d by an event with %d", before.LastEventSeq, next.LastEventSeq, Seq(ev))
	}
	if next.State.Terminal() != !next.EndedAt.IsZero() {
		w.t.Fatalf("%s with ended_at %s", next.State, next.EndedAt)
	}
	if next.State == Failed != (next.PolicyApplied != "") && !next.State.Terminal() {
		w.t.Fatalf("%s with policy_applied %q", next.State, next.PolicyApplied)
	}
	if next.State == Deferred && (next.CurrentClosure != "" || !next.ActivationCompletedAt.IsZero() || next.StagedBoot.BootID == "") {
		w.t.Fatalf("Deferred claims %q, completed %s, staged in %+v", next.CurrentClosure, next.ActivationCompletedAt, next.StagedBoot)
	}
}

func (w *walk) oneRowOneReport(before, next Record, ev Event, effects []Effect) {
	var rows, reports int
	for _, eff := range effects {
		switch eff := eff.(type) {
		case RecordTransition:
			rows++
			want := RecordTransition{Host: "web", RolloutID: next.RolloutID, From: before.State, To: next.State, At: ev.Payload().OccurredAt()}
			if eff != want {
				w.t.Fatalf("row %+v, want %+v", eff, want)
			}
		case LocalEmitEvent:
			reports++
			if !eff.Durable || eff.RolloutID != next.RolloutID || eff.Payload.Sequence() != Seq(ev) || eff.Payload.PayloadKind() != ev.Payload().PayloadKind() {
				w.t.Fatalf("%s is reported as %+v", ev.Kind(), eff)
			}
		case RemoteAppendEventLog, RemoteQuarantineOnChannel:
			w.t.Fatalf("the host's half had %T", eff)
		}
	}
	if reports != 1 {
		w.t.Fatalf("%s is reported %d times", ev.Kind(), reports)
	}
	if changed := before.State != next.State; rows != 0 != changed || rows > 1 {
		w.t.Fatalf("%s from %s to %s has %d rows", ev.Kind(), before.State, next.State, rows)
	}
}

// quarantineAndWork holds what is fired against what is owed: work is fired and owed together, an untouched host owes no
// way back, and what is quarantined was accused.
func (w *walk) quarantineAndWork(before, next Record, ev Event, effects []Effect) {
	for i, eff := range effects {
		switch eff := eff.(type) {
		case LocalFireSwitch:
			if next.Work.Kind != WorkSwitch || eff.TargetClosure != next.TargetClosure {
				w.t.Fatalf("fired %+v, owed %+v", eff, next.Work)
			}
		case LocalFireRollbackTo:
			if next.Work.Kind != WorkUndo || before.Policy == Halt || eff.Prior != before.Prior || i != len(effects)-1 {
				w.t.Fatalf("fired %+v, owed %+v", eff, next.Work)
			}
		case LocalFireUnstage:
			if next.Work.Kind != WorkUnstage || before.Policy != Halt || eff.Prior != before.Prior || i != len(effects)-1 {
				w.t.Fatalf("fired %+v, owed %+v", eff, next.Work)
			}
		case LocalQuarantine:
			if !next.FailureReason.Accuses() || eff.Closure != next.TargetClosure || eff.Reason != next.FailureReason {
				w.t.Fatalf("quarantined %+v for %s", eff, next.FailureReason)
			}
		}
	}
	rest := next.State.Terminal() || next.State == Pending || next.State == Soaking
	if rest && next.Work != nil {
		w.t.Fatalf("%s owes %+v", next.State, next.Work)
	}
	if before.State != Failed && next.State == Failed && next.Work != nil {
		touched := before.State == Soaking || before.Work != nil && before.Work.Touched
		if !touched {
			w.t.Fatalf("%s: an untouched host owes %+v", ev.Kind(), next.Work)
		}
	}
}

// account keeps the second account and holds convergence against it.
func (w *walk) account(before, next Record, ev Event) {
	switch p := ev.Payload().(type) {
	case ActivationCompleted:
		w.declared, w.modes, w.last, w.served, w.since = false, nil, nil, 0, w.now
		if next.SoakServed != 0 || len(next.Probes) > 0 {
			w.t.Fatal("something of before completion counts")
		}
	case ProbeTopologyDeclared:
		w.declared, w.modes, w.last = true, map[string]ProbeMode{}, map[string]ProbeStatus{}
		for _, d := range p.Probes {
			w.modes[d.Name] = d.Mode
		}
	case ProbeResult:
		w.last[p.ProbeName] = p.Status
	case ConvergedReached:
		if !w.declared {
			w.t.Fatal("converged without a topology since completion")
		}
		for name, mode := range w.modes {
			if mode == Enforce && w.last[name] != Pass {
				w.t.Fatalf("converged while the last result of %s is %q", name, w.last[name])
			}
		}
		if want := before.Soak.Duration(); w.served < want-time.Millisecond {
			w.t.Fatalf("converged after %s of %s", w.served, want)
		}
		if p.CurrentClosure == otherX && p.Specialisation == "" && before.CurrentClosure != otherX {
			w.t.Fatal("converged on another closure")
		}
	}
	if failing := next.State == Soaking && len(FailingProbes(next)) > 0; failing && next.ProbeFailureFirstAt.IsZero() {
		w.t.Fatal("an enforced probe fails and the failure clock does not run")
	}
}

// follow feeds what was reported to the mirror: it must come to stand where the host stands, without a thing that is only
// the host's.
func (w *walk) follow(effects []Effect, policy Policy) {
	for _, eff := range effects {
		emitted, ok := eff.(LocalEmitEvent)
		if !ok {
			continue
		}
		ev := RemoteOf(emitted.Payload)
		next, mirrored, err := Step(w.mirror, ev, Now{}, policy)
		if err != nil {
			w.t.Fatalf("the mirror refuses %s: %v", ev.Kind(), err)
		}
		if next.Work != nil || next.SoakServed != 0 || next.SoakMark != (SoakMark{}) {
			w.t.Fatalf("%s gave the mirror work or a soak clock", ev.Kind())
		}
		w.sameOrder(effects, mirrored, ev.Kind())
		w.mirror = next
		if emitted.Payload.PayloadKind() == KindProbeTopologyDeclared || emitted.Payload.PayloadKind() == KindActivationCompleted {
			w.unseen = false
		}
	}
	if w.rec.State != w.mirror.State {
		w.t.Fatalf("the host is %s, the mirror %s", w.rec.State, w.mirror.State)
	}
	if diff := mirrorDiffers(w.t, w.rec, w.mirror, w.unseen); diff != "" {
		w.t.Fatalf("host and mirror differ:\n%s", diff)
	}
}

// sameOrder checks that the mirror's effects are the host's, in their order, with the report appended to the log instead of
// sent and without what is done to the host.
func (w *walk) sameOrder(onHost, inMirror []Effect, kind Kind) {
	var want []Effect
	for _, eff := range onHost {
		switch eff := eff.(type) {
		case RecordTransition:
			want = append(want, eff)
		case LocalEmitEvent:
			want = append(want, RemoteAppendEventLog{Host: "web", RolloutID: eff.RolloutID, Payload: eff.Payload})
		}
	}
	if kind == KindRemoteRollbackComplete {
		want = append(want, RemoteQuarantineOnChannel{Channel: "stable", RolloutID: w.rec.RolloutID, Closure: targetT})
	}
	if !reflect.DeepEqual(inMirror, want) {
		w.t.Fatalf("%s in the mirror has\n%v\nwant\n%v", kind, inMirror, want)
	}
}

// decodedIsEqual checks that a restart between any two events changes nothing: the stored record and the stored event
// lead to the same record and the same effects.
func (w *walk) decodedIsEqual(ev Event, next Record, effects []Effect, err error) {
	storedRecord, encodeErr := EncodeRecord(w.rec)
	if encodeErr != nil {
		w.t.Fatal(encodeErr)
	}
	rec, decodeErr := DecodeRecord(storedRecord)
	if decodeErr != nil {
		w.t.Fatal(decodeErr)
	}
	if !reflect.DeepEqual(rec, w.rec) {
		w.t.Fatalf("stored and read:\n%+v\n%+v", w.rec, rec)
	}
	storedEvent, encodeErr := EncodeEvent(ev)
	if encodeErr != nil {
		w.t.Fatal(encodeErr)
	}
	again, decodeErr := DecodeEvent(storedEvent)
	if decodeErr != nil {
		w.t.Fatal(decodeErr)
	}
	decodedNext, decodedEffects, decodedErr := Step(rec, again, w.now, rec.Policy)
	if !reflect.DeepEqual(decodedNext, next) || !reflect.DeepEqual(decodedEffects, effects) || outcomeLine(decodedNext, decodedErr) != outcomeLine(next, err) {
		w.t.Fatalf("%s after a restart: %+v\n%v\n%v\nbefore: %+v\n%v\n%v", ev.Kind(), decodedNext, decodedEffects, decodedErr, next, effects, err)
	}
}

// payload draws an event, more often one that is legal, so that walks get far.
func (w *walk) payload() Payload {
	var likely []PayloadKind
	for kind, from := range edges {
		if _, legal := from[w.rec.State]; legal {
			likely = append(likely, kind)
		}
	}
	slices.Sort(likely)
	if rapid.IntRange(0, 9).Draw(w.t, "on course") > 0 {
		likely = w.course(likely)
	}
	all := sortedWords(samples())
	if len(likely) == 0 || rapid.IntRange(0, 9).Draw(w.t, "unlikely") == 0 {
		return w.fill(PayloadKind(rapid.SampledFrom(all).Draw(w.t, "any kind")))
	}
	return w.fill(rapid.SampledFrom(likely).Draw(w.t, "kind"))
}

// course draws towards the far ends of the machine, where a plain draw seldom gets.
func (w *walk) course(legal []PayloadKind) []PayloadKind {
	switch {
	case w.rec.State == Pending:
		return []PayloadKind{KindDispatchAck}
	case w.rec.State == Soaking && w.rec.TopologyDeclaredAt.IsZero():
		return []PayloadKind{KindProbeTopologyDeclared}
	case w.rec.State == Soaking:
		if open, _ := ConvergeGate(w.rec, w.now); open {
			return []PayloadKind{KindConverged}
		}
		return []PayloadKind{KindProbeResult, KindProbeResult, KindProbeResult, KindConverged, KindFailed}
	default:
		return slices.DeleteFunc(legal, func(kind PayloadKind) bool { return kind == KindSuperseded })
	}
}

func (w *walk) fill(kind PayloadKind) Payload {
	t, now := w.t, w.now.Wall
	closure := func() string {
		return rapid.SampledFrom([]string{targetT, targetT, targetT, otherX}).Draw(t, "closure")
	}
	specialisation := func() string {
		if w.rec.Specialisation != "" {
			return rapid.SampledFrom([]string{w.rec.Specialisation, w.rec.Specialisation, ""}).Draw(t, "of")
		}
		return rapid.SampledFrom([]string{"", "", "", "office"}).Draw(t, "of")
	}
	reason := func() FailureReason {
		return rapid.SampledFrom([]FailureReason{"", ReasonSwitchFailed, ReasonDiskFull, ReasonAnotherHand, ReasonLoaderFellBack, "novel"}).Draw(t, "reason")
	}
	probe := func() string { return rapid.SampledFrom([]string{"http", "ssh", "dns"}).Draw(t, "probe") }
	mode := func() ProbeMode {
		return rapid.SampledFrom([]ProbeMode{Enforce, Enforce, Observe, Disabled}).Draw(t, "mode")
	}

	switch p := samples()[kind].(type) {
	case DispatchAck:
		p.ReceivedAt = now
		return p
	case DispatchRejected:
		p.RejectedAt = now
		return p
	case ActivationStarted:
		p.StartedAt, p.Attempt = now, rapid.IntRange(0, 5).Draw(t, "attempt")
		return p
	case ActivationCompleted:
		p.ObservedCurrentClosure, p.Specialisation, p.CompletedAt = closure(), specialisation(), now
		return p
	case ActivationDeferred:
		p.DeferredAt, p.BootID = now, w.now.BootID
		return p
	case ActivationFailed:
		p.Reason, p.FailedAt = reason(), now
		return p
	case DeferralCancelled:
		p.CancelledAt = now
		return p
	case ProbeTopologyDeclared:
		p.Probes, p.DeclaredAt = nil, now
		for _, name := range []string{"http", "ssh", "dns"} {
			if rapid.Bool().Draw(t, "declared") {
				p.Probes = append(p.Probes, ProbeDeclaration{Name: name, Kind: "exec", Mode: mode()})
			}
		}
		return p
	case ProbeObservedFirst:
		p.ProbeName, p.Mode, p.ObservedAt = probe(), mode(), now
		return p
	case ProbeResult:
		p.ProbeName, p.Mode, p.ObservedAt = probe(), mode(), now
		if declared, ok := w.rec.Probes[p.ProbeName]; ok && rapid.IntRange(0, 9).Draw(t, "true mode") > 0 {
			p.Mode = declared.Mode
		}
		p.Status = rapid.SampledFrom([]ProbeStatus{Pass, Pass, Pass, Pass, Fail}).Draw(t, "status")
		return p
	case ProbeFailureFirst:
		p.ProbeName, p.Mode, p.FirstFailedAt = probe(), mode(), now
		return p
	case SustainedFailure:
		p.FailedAt = now
		return p
	case LeftTarget:
		p.LeftAt = now
		return p
	case ConvergedReached:
		p.CurrentClosure, p.Specialisation, p.ConvergedAt = closure(), specialisation(), now
		return p
	case RollbackComplete:
		p.CompletedAt = now
		return p
	case RollbackDeferred:
		p.DeferredAt, p.BootID = now, w.now.BootID
		return p
	case RollbackFailed:
		p.Reason, p.FailedAt = reason(), now
		return p
	case BootDefaultRestored:
		p.RestoredAt = now
		return p
	case SupersededBy:
		p.SupersededAt = now
		return p
	default:
		t.Fatalf("no payload of kind %s", kind)
		return nil
	}
}
