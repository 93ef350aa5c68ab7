package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// A leg of the way back that fails keeps no other from being done; it alone is what the next start owes.
func TestALegThatFailsKeepsNoOtherFromBeingDone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.add()
	r.must(r.KnobFor(bad, simhost.KnobPanicAt, simhost.PointLinked))
	r.must(r.KnobFor(r.first, simhost.KnobBootLoader, "full"))
	r.start()
	id := r.activate(bad).RolloutID
	st := r.until("the way back has failed", func(st localapi.Status) bool {
		return st.Rollout != nil && st.Rollout.WayBackFailed != "" && st.Rollout.Progress == ""
	})
	if st.Rollout.Phase != string(fsm.PhaseUndoBoot) || st.Rollout.WayBackFailed != string(fsm.ReasonBootDefaultUnset) ||
		!strings.Contains(strings.Join(st.Why, "\n"), "No space left on device") {
		t.Errorf("status: %+v", st)
	}
	r.links(r.first, r.first, bad)
	failed := []string{"DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationFailed", "RollbackFailed"}
	r.expectEvents(id, failed...)

	r.must(r.KnobFor(r.first, simhost.KnobBootLoader, ""))
	r.restart()
	r.rests(id, fsm.Reverted)
	r.links(r.first, r.first, r.first)
	r.expectEvents(id, append(failed, "RollbackComplete")...)
	r.expectSwitches(ran(activate.ActionSwitch, bad), ran(activate.ActionSwitch, bad), ran(activate.ActionBoot, r.first),
		ran(activate.ActionTest, r.first), ran(activate.ActionBoot, r.first))
}

// The agent is stopped in the last leg, after an earlier one failed: that one is not forgotten.
func TestALegThatFailedIsNotForgottenOverARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.add()
	r.must(r.KnobFor(bad, simhost.KnobPanicAt, simhost.PointLinked))
	r.must(r.KnobFor(r.first, simhost.KnobBootLoader, "full"))
	r.must(r.KnobFor(r.first, simhost.Once(simhost.KnobWaitAt), simhost.PointLinked))
	r.start()
	id := r.activate(bad).RolloutID
	r.awaitPoint(simhost.PointLinked)
	r.stop()
	r.must(r.KnobFor(r.first, simhost.KnobBootLoader, ""))
	r.must(r.Go(simhost.PointLinked))
	r.start()
	r.rests(id, fsm.Reverted)
	r.links(r.first, r.first, r.first)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationFailed", "RollbackComplete")
}

// A switch that is cut off between the removal of the running link and its renewal is repeated like any other, also on the way
// back.
func TestTheMomentWithoutARunningLink(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	next := r.add()
	r.must(r.KnobFor(next, simhost.Once(simhost.KnobDieAt), simhost.PointUnlinked))
	r.rests(r.activate(next).RolloutID, fsm.Converged)
	r.links(next, next, next)

	bad := r.add()
	r.must(r.KnobFor(bad, simhost.KnobDieAt, simhost.PointUnlinked))
	r.must(r.KnobFor(next, simhost.Once(simhost.KnobDieAt), simhost.PointUnlinked))
	id := r.activate(bad).RolloutID
	r.rests(id, fsm.Reverted)
	r.links(next, next, next)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	if last := r.switches(); !slices.Equal(last[len(last)-2:], []string{ran(activate.ActionTest, next), ran(activate.ActionTest, next)}) {
		t.Errorf("the way back was not repeated: %v", last)
	}
}
