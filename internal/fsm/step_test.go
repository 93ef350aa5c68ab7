package fsm

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// must applies events one after the other, each numbered as the agent numbers them.
func must(t *testing.T, rec Record, now Now, evs ...Event) Record {
	t.Helper()
	for _, ev := range evs {
		next, _, err := Step(rec, Stamp(ev, rec.LastEventSeq+1), now, rec.Policy)
		if err != nil {
			t.Fatalf("%s in %s: %v", ev.Kind(), rec.State, err)
		}
		rec = next
	}
	return rec
}

func TestSequenceMustRise(t *testing.T) {
	rec := pendingRecord()
	ack := LocalActivate{DispatchAck{TargetClosure: targetT, Prior: wayBack, ReceivedAt: at(1)}}
	for _, c := range []struct {
		seq uint64
		ok  bool
	}{{0, false}, {99, false}, {100, false}, {101, true}, {1000, true}} {
		next, effects, err := Step(rec, Stamp(ack, c.seq), firstBoot, RollbackAndHalt)
		if c.ok {
			if err != nil || next.LastEventSeq != c.seq {
				t.Errorf("number %d after 100: %v, last is %d", c.seq, err, next.LastEventSeq)
			}
			continue
		}
		if want := (SeqRegression{Last: 100, Got: c.seq}); !errors.Is(err, want) {
			t.Errorf("number %d after 100: %v, want %v", c.seq, err, want)
		}
		if len(effects) > 0 || !reflect.DeepEqual(next, rec) {
			t.Errorf("number %d after 100: refused, yet something changed", c.seq)
		}
	}
}

// A duplicate is told as one even where the record has moved on to a state in which the event is illegal.
func TestDuplicateIsARegressionNotIllegal(t *testing.T) {
	rec := must(t, pendingRecord(), firstBoot, LocalActivate{DispatchAck{TargetClosure: targetT, Prior: wayBack, ReceivedAt: at(1)}})
	_, _, err := Step(rec, Stamp(LocalActivate{DispatchAck{TargetClosure: targetT, ReceivedAt: at(1)}}, rec.LastEventSeq), firstBoot, "")
	var regression SeqRegression
	if !errors.As(err, &regression) {
		t.Errorf("a duplicate is refused as %v", err)
	}
}

func TestOddInputIsRefused(t *testing.T) {
	pointer := &LocalLeftTarget{LeftTarget{ObservedCurrentClosure: otherX, LeftAt: at(1), Seq: 101}}
	for _, c := range []struct {
		name string
		ev   Event
		want any
	}{
		{"nothing", nil, new(Invariant)},
		{"a pointer to an event", pointer, new(IllegalForState)},
		{"no moment", Stamp(LocalLeftTarget{}, 101), new(Invariant)},
	} {
		if _, _, err := Step(soakingRecord(nil), c.ev, firstBoot, ""); !errors.As(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAcceptStampsTheWayBack(t *testing.T) {
	before := pendingRecord()
	local := time.Date(2026, 3, 1, 13, 0, 1, 0, time.FixedZone("CET", 3600))
	rec := must(t, before, Now{Wall: at(1), BootID: "b", SoftReboots: 2},
		LocalActivate{DispatchAck{TargetClosure: targetT, CurrentClosureAtDispatch: priorP, Prior: Prior{Running: priorP, Profile: otherX}, ReceivedAt: local}})
	if want := (Prior{Running: priorP, Profile: otherX}); rec.Prior != want {
		t.Errorf("prior is %+v", rec.Prior)
	}
	if rec.ReceivedAt != at(1) {
		t.Errorf("received_at is %v, not UTC", rec.ReceivedAt)
	}
	if want := (Work{Kind: WorkSwitch, Phase: PhaseCheck, Boot: BootStamp{BootID: "b", SoftReboots: 2}}); !reflect.DeepEqual(*rec.Work, want) {
		t.Errorf("work is %+v", rec.Work)
	}
	_, _, err := Step(before, Stamp(LocalActivate{DispatchAck{TargetClosure: otherX, ReceivedAt: at(1)}}, 101), firstBoot, "")
	var invariant Invariant
	if !errors.As(err, &invariant) {
		t.Errorf("a rollout for %s was acknowledged for another closure: %v", before.TargetClosure, err)
	}
}

func TestEveryFailureStampsThePolicyApplied(t *testing.T) {
	failing := map[string]Probe{"http": {Mode: Enforce, Status: Fail}}
	for _, c := range []struct {
		rec  Record
		kind PayloadKind
	}{
		{pendingRecord(), KindDispatchRejected},
		{activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseSwitch, Touched: true}), KindActivationFailed},
		{deferredRecord(), KindActivationFailed},
		{soakingRecord(failing), KindFailed},
		{soakingRecord(failing), KindLeftTarget},
	} {
		for _, policy := range []struct{ given, recorded, want Policy }{
			{RollbackAndHalt, Halt, RollbackAndHalt},
			{Halt, RollbackAndHalt, Halt},
			{"", Halt, Halt},
			{"", "", RollbackAndHalt},
			{"page-somebody", RollbackAndHalt, Halt},
		} {
			rec := c.rec
			rec.Policy = policy.recorded
			next, effects, err := Step(rec, Stamp(LocalOf(samples()[c.kind]), 101), firstBoot, policy.given)
			if err != nil {
				t.Fatal(err)
			}
			if next.PolicyApplied != policy.want {
				t.Errorf("%s from %s under %q: policy_applied is %q, want %q", c.kind, rec.State, policy.given, next.PolicyApplied, policy.want)
			}
			if emitted, ok := effects[0].(LocalEmitEvent).Payload.(SustainedFailure); ok && emitted.PolicyApplied != policy.want {
				t.Errorf("the reported policy is %q, the applied one %q", emitted.PolicyApplied, policy.want)
			}
			mirrored, _, err := Step(rec, RemoteOf(effects[0].(LocalEmitEvent).Payload), firstBoot, policy.given)
			if err != nil {
				t.Fatal(err)
			}
			if mirrored.PolicyApplied != policy.want {
				t.Errorf("%s from %s under %q: the mirror says %q", c.kind, rec.State, policy.given, mirrored.PolicyApplied)
			}
		}
	}
}

// The mirror's policy may be out of date; the agent's word on what it applied counts.
func TestMirrorTakesTheAppliedPolicyFromTheReport(t *testing.T) {
	next, _, err := Step(soakingRecord(nil), Stamp(RemoteFailed{SustainedFailure{FailedAt: at(12), PolicyApplied: Halt}}, 101), Now{}, RollbackAndHalt)
	if err != nil || next.PolicyApplied != Halt {
		t.Errorf("policy_applied is %q, %v", next.PolicyApplied, err)
	}
}

func TestQuarantineOnlyForAccusedClosures(t *testing.T) {
	src := readSource(t)
	accusing := map[FailureReason]bool{
		ReasonSwitchFailed: true, ReasonSwitchInterrupted: true, ReasonLoaderFellBack: true, ReasonUnhealthy: true,
	}
	if len(src.consts["FailureReason"]) < 20 {
		t.Fatalf("only %d reasons were found in the source", len(src.consts["FailureReason"]))
	}
	for _, word := range src.consts["FailureReason"] {
		reason := FailureReason(word)
		rec := activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseSwitch, Touched: true})
		_, effects, err := Step(rec, Stamp(LocalActivationFailed{ActivationFailed{Reason: reason, FailedAt: at(6)}}, 101), firstBoot, RollbackAndHalt)
		if err != nil {
			t.Fatal(err)
		}
		var quarantined, undone bool
		for _, eff := range effects {
			switch eff := eff.(type) {
			case LocalQuarantine:
				quarantined = eff == LocalQuarantine{RolloutID: rec.RolloutID, Closure: targetT, Reason: reason}
			case LocalFireRollbackTo:
				undone = true
			}
		}
		if quarantined != accusing[reason] {
			t.Errorf("%s: quarantined %t", reason, quarantined)
		}
		if undone != (reason != ReasonAnotherHand) {
			t.Errorf("%s: undone %t", reason, undone)
		}
	}
}

func TestCompletionBeginsAFreshSoak(t *testing.T) {
	rec := deferredRecord()
	rec.Soak, rec.SoakServed, rec.SoakMark = 60_000, 50_000, SoakMark{BootID: "boot-1", Up: 1}
	rec.Probes = map[string]Probe{"http": {Mode: Enforce, Status: Pass}}
	rec.TopologyDeclaredAt, rec.ProbeObservedFirstAt, rec.ProbeFailureFirstAt = at(1), at(1), at(1)
	now := Now{Wall: at(4), Up: 42 * time.Second, BootID: "boot-2"}
	got := must(t, rec, now, LocalActivationCompleted{ActivationCompleted{ObservedCurrentClosure: targetT, Degraded: []string{"mail"}, CompletedAt: at(4)}})

	want := rec.clone()
	want.State, want.ActivationCompletedAt, want.CurrentClosure, want.Degraded = Soaking, at(4), targetT, []string{"mail"}
	want.Components, want.StagedBoot, want.Work = nil, BootStamp{}, nil
	want.Probes, want.TopologyDeclaredAt, want.ProbeObservedFirstAt, want.ProbeFailureFirstAt = nil, time.Time{}, time.Time{}, time.Time{}
	want.SoakServed, want.SoakMark = 0, SoakMark{BootID: "boot-2", Up: 42_000}
	want.LastEventSeq = 101
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestDeferralClaimsNothing(t *testing.T) {
	rec := activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseBoot, Touched: true, Returns: 1})
	got := must(t, rec, firstBoot, LocalActivationDeferred{ActivationDeferred{Components: newKernel, BootID: "boot-9", SoftReboots: 3, DeferredAt: at(5)}})
	if got.CurrentClosure != "" || !got.ActivationCompletedAt.IsZero() {
		t.Errorf("a deferral claims %q at %s", got.CurrentClosure, got.ActivationCompletedAt)
	}
	stamp := BootStamp{BootID: "boot-9", SoftReboots: 3}
	if got.StagedBoot != stamp || got.DeferredAt != at(5) || !reflect.DeepEqual(got.Components, newKernel) {
		t.Errorf("stamped %+v at %s for %v", got.StagedBoot, got.DeferredAt, got.Components)
	}
	if want := (Work{Kind: WorkStage, Phase: PhaseStaged, Touched: true, Boot: stamp}); !reflect.DeepEqual(*got.Work, want) {
		t.Errorf("work is %+v", *got.Work)
	}
}

func TestSpecialisations(t *testing.T) {
	for _, c := range []struct {
		named, closure, of string
		ok                 bool
	}{
		{"", targetT, "", true},
		{"", otherX, "", false},
		{"", otherX, "desk", true},
		{"", "", "", false},
		{"", "", "desk", false},
		{"desk", otherX, "desk", true},
		{"desk", targetT, "", false},
		{"desk", otherX, "office", false},
	} {
		rec := activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseSwitch, Touched: true})
		rec.Specialisation, rec.Soak = c.named, 0
		ev := Stamp(LocalActivationCompleted{ActivationCompleted{ObservedCurrentClosure: c.closure, Specialisation: c.of, CompletedAt: at(4)}}, 101)
		next, _, err := Step(rec, ev, firstBoot, "")
		if (err == nil) != c.ok {
			t.Errorf("named %q, observed %q of %q: %v", c.named, c.closure, c.of, err)
			continue
		}
		if !c.ok {
			continue
		}
		// What completed may converge, and says so by its closure alone.
		must(t, next, firstBoot,
			LocalProbeTopologyDeclared{ProbeTopologyDeclared{DeclaredAt: at(8)}},
			LocalConvergedReached{ConvergedReached{CurrentClosure: c.closure, ConvergedAt: at(14)}})
	}
}

func TestProbesOfTheSoak(t *testing.T) {
	result := func(name string, mode ProbeMode, status ProbeStatus, n int) Event {
		return LocalProbeResult{ProbeResult{ProbeName: name, Mode: mode, Status: status, ObservedAt: at(n), FailureReason: string(status)}}
	}
	topology := LocalProbeTopologyDeclared{ProbeTopologyDeclared{DeclaredAt: at(8), Probes: []ProbeDeclaration{
		{Name: "http", Kind: "http", Mode: Enforce}, {Name: "ssh", Kind: "tcp", Mode: Enforce},
		{Name: "dns", Kind: "exec", Mode: Observe}, {Name: "old", Kind: "exec", Mode: Disabled}}}}

	rec := must(t, soakingRecord(nil), firstBoot, topology)
	if len(rec.Probes) != 4 || rec.TopologyDeclaredAt != at(8) || rec.Probes["http"] != (Probe{Kind: "http", Mode: Enforce}) {
		t.Fatalf("declared %v at %s", rec.Probes, rec.TopologyDeclaredAt)
	}

	rec = must(t, rec, firstBoot, result("dns", Observe, Fail, 10))
	if !rec.ProbeFailureFirstAt.IsZero() {
		t.Error("an observed probe set the failure clock")
	}
	if rec.ProbeObservedFirstAt != at(10) {
		t.Errorf("first observed at %s", rec.ProbeObservedFirstAt)
	}

	rec = must(t, rec, firstBoot, result("http", Enforce, Fail, 11), result("ssh", Enforce, Fail, 12))
	if rec.ProbeFailureFirstAt != at(11) || rec.ProbeObservedFirstAt != at(10) {
		t.Errorf("first failure at %s, first observed at %s", rec.ProbeFailureFirstAt, rec.ProbeObservedFirstAt)
	}
	if got := FailingProbes(rec); !reflect.DeepEqual(got, []string{"http", "ssh"}) {
		t.Errorf("failing: %v", got)
	}
	rec = must(t, rec, firstBoot, result("http", Enforce, Pass, 13))
	if rec.ProbeFailureFirstAt != at(11) {
		t.Error("the failure clock stopped while a probe fails")
	}
	rec = must(t, rec, firstBoot, result("ssh", Enforce, Pass, 14))
	if !rec.ProbeFailureFirstAt.IsZero() {
		t.Error("the failure clock runs while no enforced probe fails")
	}
	rec = must(t, rec, firstBoot, result("http", Enforce, Fail, 20))
	if rec.ProbeFailureFirstAt != at(20) {
		t.Errorf("a blip hours later counts from %s", rec.ProbeFailureFirstAt)
	}

	rec = must(t, rec, firstBoot, topology)
	if len(FailingProbes(rec)) != 0 || !rec.ProbeFailureFirstAt.IsZero() || !rec.ProbeObservedFirstAt.IsZero() {
		t.Error("results outlived a new declaration")
	}

	for _, c := range []struct {
		says string
		ev   Event
	}{
		{"not declared", result("smtp", Enforce, Pass, 30)},
		{"declared observe", result("dns", Enforce, Fail, 30)},
		{"declared enforce", result("http", Observe, Fail, 30)},
		{"disabled", result("old", Disabled, Pass, 30)},
		{"neither", result("http", Enforce, "maybe", 30)},
		{"twice", LocalProbeTopologyDeclared{ProbeTopologyDeclared{DeclaredAt: at(8),
			Probes: []ProbeDeclaration{{Name: "http", Mode: Enforce}, {Name: "http", Mode: Observe}}}}},
		{"no name", LocalProbeTopologyDeclared{ProbeTopologyDeclared{DeclaredAt: at(8), Probes: []ProbeDeclaration{{Mode: Enforce}}}}},
	} {
		_, _, err := Step(rec, Stamp(c.ev, rec.LastEventSeq+1), firstBoot, "")
		var invariant Invariant
		if !errors.As(err, &invariant) || !strings.Contains(invariant.What, c.says) {
			t.Errorf("want %q, got %v", c.says, err)
		}
	}
}

func TestFirstFailureFromOtherAgents(t *testing.T) {
	first := func(name string, mode ProbeMode) Event {
		return LocalProbeFailureFirst{ProbeFailureFirst{ProbeName: name, Mode: mode, FirstFailedAt: at(11)}}
	}
	declared := map[string]Probe{"http": {Mode: Enforce}, "dns": {Mode: Observe}}
	if rec := must(t, soakingRecord(declared), firstBoot, first("http", Enforce)); rec.ProbeFailureFirstAt != at(11) {
		t.Error("an enforced probe did not set the failure clock")
	}
	if rec := must(t, soakingRecord(declared), firstBoot, first("dns", Enforce)); !rec.ProbeFailureFirstAt.IsZero() {
		t.Error("an event made an observed probe gate")
	}
	observed := LocalProbeObservedFirst{ProbeObservedFirst{ProbeName: "http", Mode: Enforce, ObservedAt: at(9)}}
	if rec := must(t, soakingRecord(declared), firstBoot, observed); rec.ProbeObservedFirstAt != at(9) {
		t.Error("the first observation is not stamped")
	}
}

func TestWayBack(t *testing.T) {
	undo := &Work{Kind: WorkUndo, Phase: PhaseUndoRunning, Touched: true, Attempt: 3, Left: []string{"profile"}, Returns: 1}
	rec := must(t, failedRecord(undo), firstBoot,
		LocalRollbackFailed{RollbackFailed{ExitCode: 1, StderrTail: "no space", Reason: ReasonDiskFull, FailedAt: at(17)}})
	if !reflect.DeepEqual(rec.Work, undo) || rec.State != Failed {
		t.Errorf("a way back that failed leaves %+v in %s", rec.Work, rec.State)
	}
	if rec.FailureReason != ReasonSwitchFailed || rec.RollbackFailureReason != ReasonDiskFull || rec.RollbackFailureDetail != "no space" {
		t.Errorf("reasons are %s and %s (%s)", rec.FailureReason, rec.RollbackFailureReason, rec.RollbackFailureDetail)
	}

	rec = must(t, rec, firstBoot, LocalRollbackDeferred{RollbackDeferred{Components: newKernel, ToClosure: priorP, BootID: "boot-1", DeferredAt: at(18)}})
	stamp := BootStamp{BootID: "boot-1"}
	if want := (Work{Kind: WorkUndo, Phase: PhaseStaged, Touched: true, Boot: stamp, Left: []string{"profile"}, Returns: 1}); !reflect.DeepEqual(*rec.Work, want) {
		t.Errorf("staged work is %+v", *rec.Work)
	}
	if rec.StagedBoot != stamp || !reflect.DeepEqual(rec.Components, newKernel) || rec.RollbackFailureReason != "" {
		t.Errorf("staged in %+v for %v, %s", rec.StagedBoot, rec.Components, rec.RollbackFailureReason)
	}

	rec = must(t, rec, firstBoot, LocalRollbackCompleted{RollbackComplete{RevertedToClosure: priorP, CompletedAt: at(19)}})
	if rec.State != Reverted || rec.RevertedTo != priorP || rec.CurrentClosure != priorP || rec.EndedAt != at(19) {
		t.Errorf("%s to %s, running %s, ended %s", rec.State, rec.RevertedTo, rec.CurrentClosure, rec.EndedAt)
	}
	if rec.Work != nil || rec.Components != nil || rec.StagedBoot != (BootStamp{}) {
		t.Errorf("something is still owed: %+v", rec)
	}
}

func TestTheEndStopsTheSoakClock(t *testing.T) {
	passing := map[string]Probe{"http": {Mode: Enforce, Status: Pass}}
	now := later(firstBoot, 11*time.Minute)
	rec := must(t, soakingRecord(passing), now, LocalConvergedReached{ConvergedReached{CurrentClosure: targetT, ConvergedAt: now.Wall}})
	if rec.SoakServed.Duration() != 11*time.Minute || rec.SoakMark != (SoakMark{}) {
		t.Errorf("served %s, mark %+v", rec.SoakServed.Duration(), rec.SoakMark)
	}
	if rec.ConvergedAt != now.Wall || rec.EndedAt != now.Wall {
		t.Errorf("converged at %s, ended at %s", rec.ConvergedAt, rec.EndedAt)
	}
	rec = must(t, soakingRecord(nil), now, LocalLeftTarget{LeftTarget{ObservedCurrentClosure: otherX, LeftAt: now.Wall}})
	if rec.SoakServed != 0 || rec.SoakMark != (SoakMark{}) || rec.CurrentClosure != otherX || rec.FailureReason != ReasonAnotherHand {
		t.Errorf("left the target: served %s, mark %+v, runs %s, %s", rec.SoakServed.Duration(), rec.SoakMark, rec.CurrentClosure, rec.FailureReason)
	}
}

func TestAttemptsNeverGoBack(t *testing.T) {
	started := func(attempt int) Event {
		return LocalActivationStarted{ActivationStarted{StartedAt: at(3), SwitchMethod: "switch", Attempt: attempt}}
	}
	rec := must(t, activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseSwitch, Touched: true}), firstBoot, started(3), started(2))
	if rec.Attempts != 3 || rec.ActivationStartedAt != at(3) {
		t.Errorf("%d attempts, started at %s", rec.Attempts, rec.ActivationStartedAt)
	}
}

func TestEndsAreStamped(t *testing.T) {
	cancelled := must(t, deferredRecord(), firstBoot, LocalDeferralCancelled{DeferralCancelled{RevertedToClosure: priorP, CancelledAt: at(7)}})
	if cancelled.RevertedTo != priorP || cancelled.EndedAt != at(7) || cancelled.CurrentClosure != "" || cancelled.Work != nil || cancelled.Components != nil {
		t.Errorf("cancelled: %+v", cancelled)
	}
	superseded := must(t, deferredRecord(), firstBoot, LocalSuperseded{SupersededBy{ByRolloutID: "stable@def", SupersededAt: at(19)}})
	if superseded.SupersededBy != "stable@def" || superseded.EndedAt != at(19) || superseded.Work != nil || superseded.Components != nil {
		t.Errorf("superseded: %+v", superseded)
	}
	rejected := must(t, pendingRecord(), firstBoot, LocalDispatchRejected{DispatchRejected{Reason: ReasonHeld, Detail: "by root", RejectedAt: at(2)}})
	if rejected.FailureReason != ReasonHeld || rejected.FailureDetail != "by root" || rejected.FailedAt != at(2) || !rejected.EndedAt.IsZero() {
		t.Errorf("rejected: %+v", rejected)
	}
	unhealthy := must(t, soakingRecord(map[string]Probe{"http": {Mode: Enforce, Status: Fail}}), firstBoot,
		LocalSustainedFailureCrossed{SustainedFailure{FailedAt: at(12), SustainedDurationSecs: 60, FailingProbes: []string{"http", "ssh"}}})
	if unhealthy.FailureReason != ReasonUnhealthy || unhealthy.FailureDetail != "failing for 60 s: http, ssh" || unhealthy.FailedAt != at(12) {
		t.Errorf("unhealthy: %+v", unhealthy)
	}
}

// What comes out never shares memory with what went in: the caller may go on with either.
func TestOutputIsApartFromInput(t *testing.T) {
	rec := fullRecord()
	next := must(t, rec, firstBoot, LocalRollbackFailed{RollbackFailed{Reason: ReasonDiskFull, FailedAt: at(17)}})
	next.Work.Left[0], next.Work.Attempt = "changed", 99
	next.Probes["http"] = Probe{}
	next.Components[0].To, next.Degraded[0] = "changed", "changed"
	next.Unknown["colour"] = nil
	if !reflect.DeepEqual(rec, fullRecord()) {
		t.Errorf("the input was changed through the output: %+v", rec)
	}

	components := slices.Clone(newKernel)
	deferred := must(t, activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseBoot, Touched: true}), firstBoot,
		LocalActivationDeferred{ActivationDeferred{Components: components, BootID: "boot-1", DeferredAt: at(5)}})
	components[0].To = "changed"
	if deferred.Components[0].To == "changed" {
		t.Error("the record shares its components with the event")
	}
}

// A newer agent's words about work are dropped with that work, and kept as long as it goes on.
func TestUnknownFieldsOfWorkEndWithIt(t *testing.T) {
	data := strings.Replace(encodedRecord(t, activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseSwitch, Touched: true})),
		`"work":{`, `"colour":"red","work":{"urgency":7,`, 1)
	rec, err := DecodeRecord([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	on := must(t, rec, firstBoot, LocalActivationStarted{ActivationStarted{StartedAt: at(3), Attempt: 2}})
	if got := encodedRecord(t, on); !strings.Contains(got, `"urgency":7`) || !strings.Contains(got, `"colour":"red"`) {
		t.Errorf("lost: %s", got)
	}
	failed := must(t, rec, firstBoot, LocalActivationFailed{ActivationFailed{Reason: ReasonSwitchFailed, FailedAt: at(6)}})
	if got := encodedRecord(t, failed); strings.Contains(got, "urgency") || !strings.Contains(got, `"colour":"red"`) {
		t.Errorf("the words about the switch became words about the undo: %s", got)
	}
}

func TestErrorsSpeak(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{IllegalForState{State: Deferred, Kind: KindLocalProbeResult, RolloutID: "stable@abc"}, "apply LocalProbeResult to rollout stable@abc: illegal in state Deferred"},
		{SeqRegression{Last: 7, Got: 7}, "apply event: its sequence number 7 is not above 7, the last one applied"},
		{Invariant{What: "no probes declared"}, "apply event: no probes declared"},
		{&UnknownKind{Kind: "Hibernated"}, `decode event: unknown kind "Hibernated"`},
	} {
		if c.err.Error() != c.want {
			t.Errorf("got %q, want %q", c.err, c.want)
		}
	}
}
