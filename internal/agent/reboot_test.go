package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

func TestARebootCompletesADeferralOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	staged := r.add(withKernel("6.18.4"))
	r.start()
	id := r.activate(staged, func(req *localapi.ActivateRequest) { req.Soak = "1h" }).RolloutID
	r.rests(id, fsm.Deferred)
	whileDeferred := []string{"DispatchAck", "ActivationStarted", "ActivationDeferred"}
	for range 2 { // the agent's restart is no reboot, and a soft reboot is none either
		r.restart()
		r.must(r.SoftReboot())
	}
	r.restart()
	r.rests(id, fsm.Deferred)
	r.expectEvents(id, whileDeferred...)
	r.reboot()
	r.start()
	r.rests(id, fsm.Soaking)
	for range 2 {
		r.restart()
	}
	// Each start declares the probes again; the completion is told once.
	got := r.events(id)
	if !slices.Equal(got[:4], append(whileDeferred, "ActivationCompleted")) || slices.Contains(got[4:], "ActivationCompleted") {
		t.Errorf("reported %v", got)
	}
	var completed fsm.ActivationCompleted
	r.event(id, fsm.KindActivationCompleted, &completed)
	if boot, _ := r.BootID(); completed.ObservedCurrentClosure != staged || completed.BootID != boot {
		t.Errorf("completed with %+v", completed)
	}
	r.links(staged, staged, staged)
	r.expectSwitches(ran(activate.ActionBoot, staged))
}

func TestThePreviousGenerationIsChosenAtTheBoot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	staged := r.add(withKernel("6.18.4"))
	r.start()
	id := r.activate(staged).RolloutID
	r.rests(id, fsm.Deferred)
	r.must(r.ChooseOnce(r.first))
	r.reboot()
	r.start()
	st := r.rests(id, fsm.Reverted)
	if st.Rollout.FailureReason != string(fsm.ReasonBootedOther) || !strings.Contains(st.Rollout.FailureDetail, r.first) || !strings.Contains(st.Rollout.FailureDetail, "from before") {
		t.Errorf("failed with %s: %s", st.Rollout.FailureReason, st.Rollout.FailureDetail)
	}
	r.links(r.first, r.first, r.first)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationDeferred", "ActivationFailed", "RollbackComplete")
	r.expectHistory(id, "Pending>Activating", "Activating>Deferred", "Deferred>Failed", "Failed>Reverted")
	r.untilNoRoots()
	// A choice in the boot menu accuses no closure.
	r.rests(r.activate(staged).RolloutID, fsm.Deferred)
}

// What was booted is neither the target nor what ran before: that is another hand's choice, and not fought.
func TestAnOlderGenerationIsChosenAtTheBoot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	middle, staged := r.add(), r.add(withKernel("6.18.4"))
	r.start()
	r.rests(r.activate(middle).RolloutID, fsm.Converged)
	id := r.activate(staged).RolloutID
	r.rests(id, fsm.Deferred)
	r.must(r.ChooseOnce(r.first))
	r.reboot()
	r.start()
	st := r.rests(id, fsm.Failed)
	if st.Rollout.FailureReason != string(fsm.ReasonBootedOther) || st.Rollout.WayBackFailed != string(fsm.ReasonAnotherHand) {
		t.Errorf("failed with %s, the way back with %s", st.Rollout.FailureReason, st.Rollout.WayBackFailed)
	}
	r.links(r.first, middle, middle)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationDeferred", "ActivationFailed", "RollbackFailed")
	r.restart()
	r.rests(id, fsm.Failed)
	r.links(r.first, middle, middle)
	if got := r.events(id); len(got) != 5 {
		t.Errorf("the next start reported more: %v", got)
	}
	r.untilNoRoots()
}

func TestTheBootLoaderFallsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.must(r.Knob(simhost.KnobEntryFormat, simhost.EntryFormatHashed))
	r.must(r.Knob(simhost.KnobBootTries, "2"))
	staged := r.add(withKernel("6.18.4"))
	r.start()
	id := r.activate(staged).RolloutID
	r.rests(id, fsm.Deferred)
	r.must(r.Knob(simhost.KnobBootFails, staged))
	r.reboot()
	if r.Running() != r.first {
		t.Fatalf("the host runs %s", r.Running())
	}
	r.start()
	st := r.rests(id, fsm.Reverted)
	if st.Rollout.FailureReason != string(fsm.ReasonLoaderFellBack) || !strings.Contains(st.Rollout.FailureDetail, "fell back") {
		t.Errorf("failed with %s: %s", st.Rollout.FailureReason, st.Rollout.FailureDetail)
	}
	if _, err := r.client.Activate(ctxOf(r), localapi.ActivateRequest{Target: staged}); err == nil {
		t.Error("a closure that did not boot is not quarantined")
	}
	if r.Profile() != r.first {
		t.Errorf("the profile is %s", r.Profile())
	}
}

// The power goes in the middle of a switch. What the host comes up with decides.
func TestAPowerCutInTheMiddleOfASwitch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, point string
		state       fsm.State
		events      []string
	}{
		{"before the boot loader", simhost.PointLocked, fsm.Reverted, []string{"DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete"}},
		{"after the boot loader", simhost.PointBootLoader, fsm.Converged, []string{"DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}},
		{"while the units are up", simhost.PointUnits, fsm.Converged, []string{"DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			next := r.add()
			r.must(r.Knob(simhost.Once(simhost.KnobWaitAt), tt.point))
			r.start()
			id := r.activate(next).RolloutID
			r.awaitPoint(tt.point)
			r.powerCut()
			r.start()
			st := r.rests(id, tt.state)
			r.expectEvents(id, tt.events...)
			if tt.state == fsm.Converged {
				r.links(next, next, next)
				r.expectSwitches(ran(activate.ActionSwitch, next))
			} else {
				r.links(r.first, r.first, r.first)
				if st.Rollout.FailureReason != string(fsm.ReasonRebooted) {
					t.Errorf("failed with %s", st.Rollout.FailureReason)
				}
				// Not the closure's fault.
				r.rests(r.activate(next).RolloutID, fsm.Converged)
			}
			r.untilNoRoots()
		})
	}
}

// A target that was not the boot default yet when the power went is staged again; one more reboot brings it.
func TestAPowerCutWhileTheBootDefaultIsMade(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	staged := r.add(withKernel("6.18.4"))
	r.must(r.Knob(simhost.Once(simhost.KnobWaitAt), simhost.PointLocked))
	r.start()
	id := r.activate(staged).RolloutID
	r.awaitPoint(simhost.PointLocked)
	r.powerCut()
	r.links(r.first, staged, r.first)
	r.start()
	r.rests(id, fsm.Deferred)
	r.links(r.first, staged, staged)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationDeferred")
	r.reboot()
	r.start()
	r.rests(id, fsm.Converged)
	r.links(staged, staged, staged)
	var ack fsm.DispatchAck
	r.event(id, fsm.KindDispatchAck, &ack)
	if ack.Prior.Profile != r.first {
		t.Errorf("the way back is %+v", ack.Prior)
	}
	r.untilNoRoots()
}

// The agent goes while a switch runs, and comes back before and after its end: it is the same switch.
func TestAnAgentThatComesBackFindsItsSwitch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := r.add()
	r.must(r.Knob(simhost.Once(simhost.KnobWaitAt), simhost.PointLinked))
	r.start()
	id := r.activate(next).RolloutID
	r.awaitPoint(simhost.PointLinked)
	r.restart()
	st := r.status()
	if st.Rollout.Phase != string(fsm.PhaseSwitch) || st.Verdict != localapi.InProgress {
		t.Errorf("after a restart: %+v", st.Rollout)
	}
	r.stop()
	r.must(r.Go(simhost.PointLinked))
	r.await("the switch to end", func() bool {
		runs, err := r.Switches()
		return err == nil && len(runs) == 1 && runs[0].Ended
	})
	r.start()
	r.rests(id, fsm.Converged)
	r.links(next, next, next)
	r.expectSwitches(ran(activate.ActionSwitch, next))
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
}

// What a kill between the last commit and the tidying left behind goes with the next start.
func TestAStartTidiesWhatRests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := r.add()
	r.start()
	id := r.activate(next).RolloutID
	r.rests(id, fsm.Converged)
	r.untilNoRoots()
	r.stop()
	for _, what := range []string{rootTarget, rootPriorProfile} {
		r.must(os.Symlink(next, filepath.Join(r.Path(activate.RootsDir), rootName(id, what))))
	}
	unknown := filepath.Join(r.Path(activate.RootsDir), rootName("local@lost-1", rootTarget))
	r.must(os.Symlink(r.first, unknown))
	r.start()
	r.await("the roots to go", func() bool { return slices.Equal(r.roots(), []string{r.first}) })
	if _, err := os.Lstat(unknown); err != nil {
		t.Errorf("the root of a rollout that is not known: %v", err)
	}
}

// A host that converged and then booted something else drifted: that is told once and nothing is done about it.
func TestAConvergedHostThatBootsSomethingElseDrifted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := r.add()
	r.start()
	id := r.activate(next).RolloutID
	r.rests(id, fsm.Converged)
	r.must(r.ChooseOnce(r.first))
	r.reboot()
	for range 2 {
		r.start()
		st := r.rests(id, fsm.Converged)
		if st.Verdict != localapi.Unsuccessful || !strings.Contains(st.Summary, "another hand") {
			t.Errorf("status: %s, %s", st.Verdict, st.Summary)
		}
		r.expectEvents("", "Drift")
		r.links(r.first, next, next)
		r.stop()
	}
	r.expectSwitches(ran(activate.ActionSwitch, next))
}
