package fsm

import (
	"time"
)

const (
	targetT = "/nix/store/0c0w6v1kzhrrhvrrnhzdrp6b5d4sx1yg-nixos-system-web-26.05.2"
	priorP  = "/nix/store/9ybyrz3l9b1dcvmrnkcqfjb4g4m5q3zk-nixos-system-web-26.05.1"
	otherX  = "/nix/store/lq0ydj1bzvb7b5jm2r2nkv2gnc0m2a8r-nixos-system-web-25.11.9"
)

var (
	day0      = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	firstBoot = Now{Wall: day0, Up: time.Hour, BootID: "boot-1"}
	wayBack   = Prior{Running: priorP, Profile: priorP, BootDefault: priorP}
	newKernel = []ComponentChange{{Component: "kernel", From: "6.12.1", To: "6.12.2"}}
)

// at is a moment n seconds into the first day.
func at(n int) time.Time { return day0.Add(time.Duration(n) * time.Second) }

// samples has every payload once, every field of it filled.
func samples() map[PayloadKind]Payload {
	list := []Payload{
		DispatchAck{TargetClosure: targetT, CurrentClosureAtDispatch: priorP, Prior: wayBack, ReceivedAt: at(1), Seq: 1},
		DispatchRejected{Reason: ReasonWrongMachine, Detail: "built for aarch64-linux", RejectedAt: at(2), Seq: 2},
		ActivationStarted{StartedAt: at(3), SwitchMethod: "switch", Attempt: 1, Seq: 3},
		ActivationCompleted{ObservedCurrentClosure: targetT, Specialisation: "desk", ExitCode: 4,
			Degraded: []string{"mail.service failed"}, FailedUnits: []string{"mail.service"}, BootID: "boot-1", CompletedAt: at(4), Seq: 4},
		ActivationDeferred{Components: newKernel, BootID: "boot-1", SoftReboots: 1, DeferredAt: at(5), Seq: 5},
		ActivationFailed{ExitCode: 1, StderrTail: "unit failed", Reason: ReasonSwitchFailed, FailedAt: at(6), Seq: 6},
		DeferralCancelled{RevertedToClosure: priorP, CancelledBy: "uid 0", Left: []string{"boot default"}, CancelledAt: at(7), Seq: 7},
		ProbeTopologyDeclared{Probes: []ProbeDeclaration{{Name: "http", Kind: "http", Mode: Enforce}, {Name: "dns", Kind: "exec", Mode: Observe}},
			DeclaredAt: at(8), Seq: 8},
		ProbeObservedFirst{ProbeName: "http", Mode: Enforce, ObservedAt: at(9), Seq: 9},
		ProbeResult{ProbeName: "http", Mode: Enforce, Status: Fail, ObservedAt: at(10), FailureReason: "503", Seq: 10},
		ProbeFailureFirst{ProbeName: "http", Mode: Enforce, FirstFailedAt: at(11), Seq: 11},
		SustainedFailure{FailedAt: at(12), SustainedDurationSecs: 60, FailingProbes: []string{"http"}, PolicyApplied: Halt, Seq: 12},
		LeftTarget{ObservedCurrentClosure: otherX, LeftAt: at(13), Seq: 13},
		ConvergedReached{CurrentClosure: targetT, Specialisation: "desk", ConvergedAt: at(14), Seq: 14},
		RollbackComplete{RevertedToClosure: priorP, ExitCode: 4, Left: []string{"boot default"}, CompletedAt: at(15), Seq: 15},
		RollbackDeferred{Components: newKernel, ToClosure: priorP, BootID: "boot-1", SoftReboots: 1, DeferredAt: at(16), Seq: 16},
		RollbackFailed{ExitCode: 1, StderrTail: "no space", Reason: ReasonDiskFull, FailedAt: at(17), Seq: 17},
		BootDefaultRestored{Profile: priorP, BootDefault: priorP, Left: []string{"profile"}, RestoredAt: at(18), Seq: 18},
		SupersededBy{ByRolloutID: "stable@def", SupersededAt: at(19), Seq: 19},
	}
	byKind := make(map[PayloadKind]Payload, len(list))
	for _, p := range list {
		byKind[p.PayloadKind()] = p
	}
	return byKind
}

// kinds lists every kind of event in the order in which its constants are declared.
func kinds() []Kind {
	return []Kind{
		KindLocalActivate, KindRemoteDispatchAck,
		KindLocalDispatchRejected, KindRemoteDispatchRejected,
		KindLocalActivationStarted, KindRemoteActivationStarted,
		KindLocalActivationCompleted, KindRemoteActivationCompleted,
		KindLocalActivationDeferred, KindRemoteActivationDeferred,
		KindLocalActivationFailed, KindRemoteActivationFailed,
		KindLocalDeferralCancelled, KindRemoteDeferralCancelled,
		KindLocalProbeTopologyDeclared, KindRemoteProbeTopologyDeclared,
		KindLocalProbeObservedFirst, KindRemoteProbeObservedFirst,
		KindLocalProbeResult, KindRemoteProbeResult,
		KindLocalProbeFailureFirst, KindRemoteProbeFailureFirst,
		KindLocalSustainedFailureCrossed, KindRemoteFailed,
		KindLocalLeftTarget, KindRemoteLeftTarget,
		KindLocalConvergedReached, KindRemoteConverged,
		KindLocalRollbackCompleted, KindRemoteRollbackComplete,
		KindLocalRollbackDeferred, KindRemoteRollbackDeferred,
		KindLocalRollbackFailed, KindRemoteRollbackFailed,
		KindLocalBootDefaultRestored, KindRemoteBootDefaultRestored,
		KindLocalSuperseded, KindRemoteSuperseded,
	}
}

// sampleEvents has every event once, by kind.
func sampleEvents() map[Kind]Event {
	byKind := map[Kind]Event{}
	for _, p := range samples() {
		for _, ev := range []Event{LocalOf(p), RemoteOf(p)} {
			byKind[ev.Kind()] = ev
		}
	}
	return byKind
}

// pendingRecord is a rollout that was accepted and not begun.
func pendingRecord() Record {
	return Record{
		Hostname: "web", RolloutID: "stable@abc", Channel: "stable", Generation: 7, TargetClosure: targetT,
		State: Pending, Policy: RollbackAndHalt, Soak: MillisOf(10 * time.Minute), CreatedAt: day0, LastEventSeq: 100,
	}
}

func activatingRecord(work Work) Record {
	rec := pendingRecord()
	rec.State, rec.ReceivedAt, rec.Prior, rec.Work = Activating, at(1), wayBack, &work
	return rec
}

func deferredRecord() Record {
	rec := activatingRecord(Work{Kind: WorkStage, Phase: PhaseStaged, Touched: true, Boot: BootStamp{BootID: "boot-1"}})
	rec.State, rec.DeferredAt, rec.Components, rec.StagedBoot = Deferred, at(5), newKernel, BootStamp{BootID: "boot-1"}
	return rec
}

func soakingRecord(probes map[string]Probe) Record {
	rec := activatingRecord(Work{})
	rec.State, rec.Work, rec.ActivationCompletedAt, rec.CurrentClosure = Soaking, nil, at(4), targetT
	rec.SoakMark = markAt(firstBoot)
	if probes != nil {
		rec.TopologyDeclaredAt, rec.Probes = at(8), probes
	}
	return rec
}

func failedRecord(work *Work) Record {
	rec := activatingRecord(Work{})
	rec.State, rec.Work, rec.FailedAt, rec.FailureReason = Failed, work, at(6), ReasonSwitchFailed
	rec.PolicyApplied = RollbackAndHalt
	return rec
}

func endedRecord(s State) Record {
	rec := soakingRecord(nil)
	rec.State, rec.EndedAt = s, at(14)
	return rec
}

// later is now, d later in the same boot.
func later(now Now, d time.Duration) Now {
	now.Wall, now.Up = now.Wall.Add(d), now.Up+d
	return now
}
