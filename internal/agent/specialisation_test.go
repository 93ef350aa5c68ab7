package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

func withSpecialisations(c *simhost.Closure) {
	c.Specialisations = map[string]simhost.Closure{"office": {KernelParams: "office"}, "gaming": {KernelParams: "gaming"}}
}

// child is the closure of a specialisation.
func (r *rig) child(parent, name string) string {
	r.Helper()
	at, err := r.Resolve(parent + "/specialisation/" + name)
	r.must(err)
	return at
}

func named(specialisation string) func(req *localapi.ActivateRequest) {
	return func(req *localapi.ActivateRequest) { req.Specialisation = specialisation }
}

func TestALiveSwitchToASpecialisation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	target := r.add(withSpecialisations)
	office := r.child(target, "office")
	r.start()
	id := r.activate(target, named("office")).RolloutID
	st := r.rests(id, fsm.Converged)
	r.links(office, target, target)
	if st.Running.Path != office || st.Running.Specialisation != "office" || st.Target.Path != target || st.Target.Specialisation != "office" || st.NextBoot.Specialisation != "" {
		t.Errorf("running %+v, next boot %+v, target %+v", st.Running, st.NextBoot, st.Target)
	}
	if st.Verdict != localapi.AtTarget {
		t.Errorf("%s: %s %v", st.Verdict, st.Summary, st.Notes)
	}
	var completed fsm.ActivationCompleted
	r.event(id, fsm.KindActivationCompleted, &completed)
	if completed.ObservedCurrentClosure != office || completed.Specialisation != "office" {
		t.Errorf("completed with %+v", completed)
	}
}

func TestASpecialisationThatTheTargetDoesNotHave(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	// In the store it is refused at once.
	_, err := r.client.Activate(ctxOf(r), localapi.ActivateRequest{Target: r.add(withSpecialisations), Specialisation: "offcie"})
	var refused *localapi.Error
	if !errors.As(err, &refused) || !strings.Contains(refused.Message, `no specialisation "offcie"`) || !strings.Contains(refused.Hint, "gaming, office") {
		t.Errorf("got %v", err)
	}
	// Elsewhere it is known once it is fetched.
	for _, other := range []func(c *simhost.Closure){withSpecialisations, func(*simhost.Closure) {}} {
		c := simhost.NixOS("web", "25.12.9")
		other(&c)
		target, err := r.AddToCache(c)
		r.must(err)
		id := r.activate(target, named("offcie")).RolloutID
		st := r.rests(id, fsm.Failed)
		if st.Rollout.FailureReason != string(fsm.ReasonNotSwitchable) || !strings.Contains(st.Rollout.FailureDetail, `no specialisation "offcie"`) {
			t.Errorf("failed with %s: %s", st.Rollout.FailureReason, st.Rollout.FailureDetail)
		}
		if has := strings.Contains(st.Rollout.FailureDetail, "hint: it has gaming, office"); has != (len(c.Specialisations) > 0) {
			t.Errorf("hints %q", st.Rollout.FailureDetail)
		}
		r.links(r.first, r.first, r.first)
		r.expectEvents(id, "DispatchAck", "ActivationFailed")
	}
	r.expectSwitches()
}

// Unless one was named, any of the target's specialisations counts as the target, and which one is told.
func TestASpecialisationIsChosenAtTheBootAfterADeferral(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "office"} {
		r := newRig(t)
		target := r.add(withSpecialisations, withKernel("6.18.4"))
		office := r.child(target, "office")
		r.start()
		id := r.activate(target, named(name)).RolloutID
		r.rests(id, fsm.Deferred)
		r.must(r.ChooseOnce(office))
		r.reboot()
		r.start()
		st := r.rests(id, fsm.Converged)
		r.links(office, target, target)
		if st.Running.Specialisation != "office" || st.Target.Specialisation != name {
			t.Errorf("asked for %q: running %+v, target %+v", name, st.Running, st.Target)
		}
		var completed fsm.ActivationCompleted
		r.event(id, fsm.KindActivationCompleted, &completed)
		if completed.ObservedCurrentClosure != office || completed.Specialisation != "office" {
			t.Errorf("completed with %+v", completed)
		}
		if got := r.events(id); slices.Contains(got, "ActivationFailed") {
			t.Errorf("reported %v", got)
		}
		r.stop()
	}
}

// A boot loader's default is the target itself: the specialisation that was named is switched to once that was booted.
func TestANamedSpecialisationFollowsTheBootOfItsParent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	target := r.add(withSpecialisations, withKernel("6.18.4"))
	office := r.child(target, "office")
	r.start()
	id := r.activate(target, named("office")).RolloutID
	r.rests(id, fsm.Deferred)
	r.reboot()
	r.links(target, target, target)
	r.start()
	r.rests(id, fsm.Converged)
	r.links(office, target, target)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationDeferred", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	var completed fsm.ActivationCompleted
	r.event(id, fsm.KindActivationCompleted, &completed)
	if completed.ObservedCurrentClosure != office || completed.Specialisation != "office" {
		t.Errorf("completed with %+v", completed)
	}
}
