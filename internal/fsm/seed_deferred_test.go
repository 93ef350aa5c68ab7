package fsm

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

// These tests re-tell, line by line, the document from which this machine grew: the transitions out of Deferred.
// Its record knows of no work, which reads as a host that was not touched.

func seedState() Record {
	return Record{
		Hostname: "web", RolloutID: "stable@abc", TargetClosure: targetT, State: Deferred, LastEventSeq: 4,
		Probes: map[string]Probe{"http": {Mode: Enforce, Status: Pass}},
	}
}

// "Legal events from Deferred: ActivationCompleted — post-reboot, the activation has actually taken; drives
// Deferred → Soaking."
func TestSeedDeferredCompleted(t *testing.T) {
	completedAt := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	payload := ActivationCompleted{ObservedCurrentClosure: targetT, ExitCode: 0, CompletedAt: completedAt, Seq: 5}

	check := func(t *testing.T, ev Event, want []Effect) {
		t.Helper()
		next, effects, err := Step(seedState(), ev, firstBoot, RollbackAndHalt)
		if err != nil {
			t.Fatal(err)
		}
		if next.State != Soaking { // state.state = HostState::Soaking
			t.Errorf("state is %s", next.State)
		}
		if !next.ActivationCompletedAt.Equal(completedAt) { // state.activation_completed_at = Some(completed_at)
			t.Errorf("activation_completed_at is %s", next.ActivationCompletedAt)
		}
		if next.CurrentClosure != targetT { // state.current_closure = Some(observed_current_closure.clone())
			t.Errorf("current_closure is %q", next.CurrentClosure)
		}
		if len(next.Probes) != 0 { // state.probes.clear()
			t.Errorf("probes are %v", next.Probes)
		}
		if next.LastEventSeq != 5 { // state.last_event_seq = seq
			t.Errorf("last_event_seq is %d", next.LastEventSeq)
		}
		if !reflect.DeepEqual(effects, want) {
			t.Errorf("effects\n  %v\nwant\n  %v", effects, want)
		}
	}

	t.Run("Local", func(t *testing.T) {
		check(t, LocalActivationCompleted{payload}, []Effect{
			LocalResetProbeCache{RolloutID: "stable@abc"},
			LocalEmitEvent{RolloutID: "stable@abc", Payload: payload, Durable: true},
			RecordTransition{Host: "web", RolloutID: "stable@abc", From: Deferred, To: Soaking, At: completedAt},
		})
	})
	t.Run("Remote", func(t *testing.T) {
		check(t, RemoteActivationCompleted{payload}, []Effect{
			RemoteAppendEventLog{Host: "web", RolloutID: "stable@abc", Payload: payload},
			RecordTransition{Host: "web", RolloutID: "stable@abc", From: Deferred, To: Soaking, At: completedAt},
		})
	})
}

// "ActivationFailed — operator rebooted but boot failed / verification failed. Drives Deferred → Failed."
func TestSeedDeferredFailed(t *testing.T) {
	failedAt := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	payload := ActivationFailed{ExitCode: 1, StderrTail: "verification failed", FailedAt: failedAt, Seq: 5}

	check := func(t *testing.T, ev Event, want []Effect) {
		t.Helper()
		next, effects, err := Step(seedState(), ev, firstBoot, RollbackAndHalt)
		if err != nil {
			t.Fatal(err)
		}
		if next.State != Failed { // state.state = HostState::Failed
			t.Errorf("state is %s", next.State)
		}
		if !next.ActivationFailedAt.Equal(failedAt) { // state.activation_failed_at = Some(failed_at)
			t.Errorf("activation_failed_at is %s", next.ActivationFailedAt)
		}
		if !next.FailedAt.Equal(failedAt) { // state.failed_at = Some(failed_at)
			t.Errorf("failed_at is %s", next.FailedAt)
		}
		if next.LastEventSeq != 5 { // state.last_event_seq = seq
			t.Errorf("last_event_seq is %d", next.LastEventSeq)
		}
		if !reflect.DeepEqual(effects, want) {
			t.Errorf("effects\n  %v\nwant\n  %v", effects, want)
		}
	}

	t.Run("Local", func(t *testing.T) {
		check(t, LocalActivationFailed{payload}, []Effect{
			LocalEmitEvent{RolloutID: "stable@abc", Payload: payload, Durable: true},
			RecordTransition{Host: "web", RolloutID: "stable@abc", From: Deferred, To: Failed, At: failedAt},
		})
	})
	t.Run("Remote", func(t *testing.T) {
		check(t, RemoteActivationFailed{payload}, []Effect{
			RemoteAppendEventLog{Host: "web", RolloutID: "stable@abc", Payload: payload},
			RecordTransition{Host: "web", RolloutID: "stable@abc", From: Deferred, To: Failed, At: failedAt},
		})
	})
}

// The fields of the document's two payloads are on the wire under its names.
func TestSeedDeferredFieldsOnTheWire(t *testing.T) {
	for _, c := range []struct {
		payload Payload
		want    string
	}{
		{ActivationCompleted{ObservedCurrentClosure: "/nix/store/x", ExitCode: 0, CompletedAt: day0, Seq: 5},
			`{"kind":"ActivationCompleted","observed_current_closure":"/nix/store/x","exit_code":0,"completed_at":"2026-03-01T12:00:00Z","seq":5}`},
		{ActivationFailed{ExitCode: 1, StderrTail: "no", FailedAt: day0, Seq: 5},
			`{"kind":"ActivationFailed","exit_code":1,"stderr_tail":"no","failed_at":"2026-03-01T12:00:00Z","seq":5}`},
	} {
		got, err := EncodePayload(c.payload)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// "All other events are illegal from Deferred": probe events, since no probe runs yet, and rollback events, since there is
// nothing to roll back from. What the document left open was settled since: a deferral can be cancelled, and a newer
// rollout can take the host over.
func TestSeedDeferredAllOthersAreIllegal(t *testing.T) {
	legal := map[Kind]string{
		KindLocalActivationCompleted:  "document",
		KindRemoteActivationCompleted: "document",
		KindLocalActivationFailed:     "document",
		KindRemoteActivationFailed:    "document",
		KindLocalDeferralCancelled:    "settled since",
		KindRemoteDeferralCancelled:   "settled since",
		KindLocalSuperseded:           "settled since",
		KindRemoteSuperseded:          "settled since",
	}
	for kind, ev := range sampleEvents() {
		_, _, err := Step(seedState(), Stamp(ev, 5), firstBoot, RollbackAndHalt)
		var illegal IllegalForState
		switch {
		case legal[kind] != "" && err != nil:
			t.Errorf("%s (%s) is refused: %v", kind, legal[kind], err)
		case legal[kind] == "" && !errors.As(err, &illegal):
			t.Errorf("%s is not illegal from Deferred: %v", kind, err)
		case legal[kind] == "" && illegal != IllegalForState{State: Deferred, Kind: kind, RolloutID: "stable@abc"}:
			t.Errorf("%s: the error says %+v", kind, illegal)
		}
	}
}

// "Same target state as Activating → Soaking", "same shape as Activating → Failed but from the Deferred source": but for
// the state that is left, the effects are the same to the byte.
func TestSeedDeferredIsShapedLikeActivating(t *testing.T) {
	work := Work{Kind: WorkSwitch, Phase: PhaseSwitch, Touched: true}
	for _, kind := range []PayloadKind{KindActivationCompleted, KindActivationFailed} {
		for _, half := range []func(Payload) Event{LocalOf, RemoteOf} {
			ev := Stamp(half(samples()[kind]), 101)
			_, fromDeferred, err := Step(deferredRecord(), ev, firstBoot, RollbackAndHalt)
			if err != nil {
				t.Fatal(err)
			}
			_, fromActivating, err := Step(activatingRecord(work), ev, firstBoot, RollbackAndHalt)
			if err != nil {
				t.Fatal(err)
			}
			for i, eff := range fromActivating {
				if row, ok := eff.(RecordTransition); ok {
					row.From = Deferred
					fromActivating[i] = row
				}
			}
			if !reflect.DeepEqual(fromDeferred, fromActivating) {
				t.Errorf("%s: from Deferred\n  %v\nfrom Activating\n  %v", ev.Kind(), fromDeferred, fromActivating)
			}
		}
	}
}
