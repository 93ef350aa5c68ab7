//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// waitAt makes a switch wait at points. The knob serves one closure and every one of its runs.
func (h *host) waitAt(target string, points ...string) {
	h.t.Helper()
	h.KnobFor(target, simhost.KnobWaitAt, strings.Join(points, "\n"))
}

func TestAgentKilledDuringSwitch(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	target := h.Add(nixos("25.11.2"))
	points := []string{simhost.PointLocked, simhost.PointStopped, simhost.PointUnlinked, simhost.PointLinked}
	h.waitAt(target, points...)
	rollout := h.detach(target)
	for _, point := range points {
		h.AwaitPoint(point)
		h.killAgent()
		if st := h.status(); st.state() != "Activating" || st.Verdict != "in-progress" {
			t.Errorf("killed at %s: %+v", point, st)
		}
		h.Go(point)
	}
	h.awaitState("Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{target, h.first, target, target})
	h.wantSwitches("switch " + target + " 0")

	// A switch that ends while no agent runs has left its result.
	next := h.Add(nixos("25.11.3"))
	h.waitAt(next, simhost.PointUnits)
	rollout = h.detach(next)
	h.AwaitPoint(simhost.PointUnits)
	h.Run("systemctl", "stop", agentUnit)
	h.Go(simhost.PointUnits)
	h.Eventually("the switch has ended", func() (string, bool) {
		ran := h.Switches()
		return h.Read(simhost.SwitchLog), ran[len(ran)-1].Ended
	})
	if st := h.status(); st.Source != "file" || st.state() != "Activating" {
		t.Errorf("status without an agent: %+v", st)
	}
	h.Run("systemctl", "start", agentUnit)
	h.awaitState("Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{next, h.first, next, next})
	h.wantSwitches("switch "+target+" 0", "switch "+next+" 0")
	h.wantNoNotices()
}

func TestSwitchRestartsAgent(t *testing.T) {
	t.Parallel()
	// A unit of the agent as nobody should write it: switches stop and start it.
	careless := func(c simhost.Closure, description string) simhost.Closure {
		unit := unitText(description)
		for _, line := range []string{"X-StopOnRemoval=false\n", "X-RestartIfChanged=false\n", "X-StopIfChanged=false\n"} {
			unit = strings.Replace(unit, line, "", 1)
		}
		c.Units = map[string]string{agentUnit: unit}
		return c
	}
	h := newHost(t, hostOptions{first: func(c simhost.Closure) simhost.Closure { return careless(c, "The first one") }})
	before := h.Property(agentUnit, "InvocationID")
	target := h.Add(careless(nixos("25.11.2"), "The second one"))
	h.wantCode(0, "activate", target)
	rollout := h.rollout()
	h.awaitState("Converged")
	if h.Property(agentUnit, "InvocationID") == before || h.Property(agentUnit, "Description") != "The second one" {
		t.Fatal("the switch has not restarted the agent")
	}
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{target, h.first, target, target})
	h.wantSwitches("switch " + target + " 0")
	if journal := h.Journal("--unit=nixfleet-switch-*"); !strings.Contains(journal, "stopping the following units: "+agentUnit) {
		t.Errorf("journal of the switch:\n%s", journal)
	}

	// Restarted, in the middle of the unit phase.
	next := careless(nixos("25.11.3"), "The second one")
	next.Behaviour = map[string]string{simhost.KnobExecAt: simhost.PointLinked + " systemctl restart " + agentUnit}
	before = h.Property(agentUnit, "InvocationID")
	path := h.Add(next)
	h.wantCode(0, "activate", path)
	rollout = h.rollout()
	h.awaitState("Converged")
	if h.Property(agentUnit, "InvocationID") == before {
		t.Fatal("the switch has not restarted the agent")
	}
	h.wantEvents(rollout, convergedLive...)
	h.wantSwitches("switch "+target+" 0", "switch "+path+" 0")
	h.wantNoNotices()
}

func TestBusRestartDuringSwitch(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	want := []string{}
	for _, tt := range []struct{ name, disturb, mend string }{
		{"restarted", "systemctl restart dbus.service", "true"},
		{"PID 1 executes itself anew", "systemctl daemon-reexec", "true"},
		// Last: a host that was without a bus has no logind any more.
		{"away", "systemctl stop dbus.socket dbus.service", "systemctl start dbus.socket dbus.service"},
	} {
		target := h.Add(nixos("bus-" + strings.ReplaceAll(tt.name, " ", "-")))
		h.waitAt(target, simhost.PointStopped, simhost.PointUnits)
		rollout := h.detach(target)
		h.AwaitPoint(simhost.PointStopped)
		h.Shell(tt.disturb)
		h.Go(simhost.PointStopped)
		h.AwaitPoint(simhost.PointUnits)
		h.Go(simhost.PointUnits)
		h.awaitState("Converged")
		h.Shell(tt.mend)
		events := h.wantEvents(rollout, convergedLive...)
		if body := events[2].body(t); body["degraded"] != nil || body["exit_code"] != float64(0) {
			t.Errorf("%s: ActivationCompleted: %v", tt.name, body)
		}
		h.wantLinks(links{target, h.first, target, target})
		want = append(want, "switch "+target+" 0")
	}
	h.wantSwitches(want...)
	if restarts := h.Property(agentUnit, "NRestarts"); restarts != "0" {
		t.Errorf("the agent was restarted %s times", restarts)
	}
	h.wantNoNotices()
}

func TestPowerCutDuringSwitch(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{format: simhost.EntryFormatHashed})

	// Before the boot loader: what ran before is booted, and the rest goes back to it.
	early := h.Add(nixos("early"))
	rollout := h.cutAt(early, simhost.PointLocked)
	st := h.awaitState("Reverted")
	if st.Rollout.FailureReason != "rebooted-mid-switch" || st.Verdict != "unsuccessful" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(links{h.first, h.first, h.first, h.first})

	// After it: the target is booted, which is all that was asked for. The cut before accuses no closure.
	for _, point := range []string{simhost.PointBootLoader, simhost.PointUnlinked, simhost.PointLinked} {
		target := h.Add(nixos("cut-at-" + point))
		rollout := h.cutAt(target, point)
		h.awaitState("Converged")
		h.wantEvents(rollout, convergedLive...)
		h.wantLinks(links{target, target, target, target})
		ran := h.Switches()
		if last := ran[len(ran)-1]; last.Toplevel != target || last.Ended {
			t.Errorf("cut at %s: last switch %+v", point, last)
		}
	}

	// While a target is staged: nothing was lost, it is staged again.
	before := h.Running()
	closure := nixos("staged")
	closure.Kernel = "linux-6.18.2"
	staged := h.Add(closure)
	rollout = h.cutAt(staged, simhost.PointLocked)
	h.awaitState("Deferred")
	h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationDeferred")
	h.wantLinks(links{before, before, staged, staged})
	h.Reboot()
	h.awaitAgent()
	h.awaitState("Converged")
	h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationDeferred", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	h.wantLinks(links{staged, staged, staged, staged})
	h.wantNoNotices()
}

// cutAt takes the power from the host while a switch is at a point, boots it again and returns the rollout's id.
func (h *host) cutAt(target, point string) (rollout string) {
	h.t.Helper()
	h.waitAt(target, point)
	rollout = h.detach(target)
	h.AwaitPoint(point)
	h.PowerCut()
	h.waitAt(target) // once
	h.Boot()
	h.awaitAgent()
	return rollout
}

func TestPowerCutDuringRecovery(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	target, rollout := h.deferKernel("25.11.2", "--soak", "8s")
	h.PowerOff()
	// Cut in every stage of the agent's start, from before its first instruction to after its last commit.
	for _, stage := range []struct {
		name    string
		reached func() bool
	}{
		{"PID 1 runs", func() bool { return true }},
		{"the agent is started", func() bool { return h.activeState() != "inactive" }},
		{"its store is open", func() bool { return h.Exec("flock", "--nonblock", "--shared", stateFile, "true").Code == 1 }},
		{"its socket is there", func() bool { return h.Exists("/run/nixfleet-agent/agent.sock") }},
		{"it is READY", func() bool { return h.activeState() == "active" }},
		{"it has completed", func() bool { return h.agentState() == "Soaking" }},
	} {
		h.BootEarly()
		h.Eventually(stage.name, func() (string, bool) { return h.activeState(), stage.reached() })
		h.PowerCut()
	}
	h.Boot()
	h.awaitAgent()
	h.awaitState("Converged")
	// The topology is declared again after each boot in which the target was soaking already.
	var kinds []string
	for _, e := range h.eventsOf(rollout) {
		if e.Kind != "ProbeTopologyDeclared" {
			kinds = append(kinds, e.Kind)
		}
	}
	if want := append(slices.Clone(deferredEvents), "ActivationCompleted", "Converged"); !slices.Equal(kinds, want) {
		t.Errorf("events: got %v, want %v", kinds, want)
	}
	h.wantLinks(links{target, target, target, target})
	h.wantSwitches("boot " + target + " 0")

	// On the way back: the switch has failed with the target as the boot default, and the power goes before that is mended.
	closure := nixos("25.11.3")
	closure.Kernel = "linux-6.18.2"
	failing := h.Add(closure)
	h.KnobFor(failing, simhost.KnobExitAt, simhost.PointBootLoader+" 7")
	h.waitAt(target, simhost.PointLocked)
	rollout = h.detach(failing)
	h.AwaitPoint(simhost.PointLocked)
	h.PowerCut()
	h.waitAt(target)
	h.Boot()
	h.awaitAgent()
	st := h.awaitState("Reverted")
	if st.Rollout.FailureReason != "switch-failed" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(links{target, failing, target, target})
	h.wantNoNotices()
}

// activeState is that of the service; "inactive" also while nobody can be asked.
func (h *host) activeState() string {
	h.t.Helper()
	state := strings.TrimSpace(h.Exec("systemctl", "show", "--property=ActiveState", "--value", agentUnit).Stdout)
	if state == "" {
		return "inactive"
	}
	return state
}

// agentState is the state of the rollout, as the agent says it, "" while no agent answers.
func (h *host) agentState() string {
	h.t.Helper()
	if st := h.status(); st.Source == "agent" {
		return st.state()
	}
	return ""
}

// within fails if something takes longer than an operator would wait for it.
func (h *host) within(limit time.Duration, what string, do func()) {
	h.t.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > limit {
		h.t.Errorf("%s took %s", what, took)
	}
}
