//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// The events of rollouts that go as they should.
var (
	convergedLive  = []string{"DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}
	deferredEvents = []string{"DispatchAck", "ActivationStarted", "ActivationDeferred"}
)

func TestLiveSwitch(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.wantLinks(links{h.first, h.first, h.first, h.first})
	if st := h.status(); st.Verdict != "at-target" || st.Target != nil {
		t.Errorf("status before anything was asked for: %+v", st)
	}

	target := h.Add(nixos("25.11.2"))
	explained := h.wantCode(0, "explain", target)
	if !strings.Contains(explained, "live") {
		t.Errorf("explain: %s", explained)
	}
	out := h.wantCode(0, "activate", target)
	if !strings.Contains(out, "the target runs") {
		t.Errorf("activate: %s", out)
	}
	rollout := h.rollout()
	st := h.awaitState("Converged")
	if st.Verdict != "at-target" || st.Source != "agent" || st.Target.Path != target || st.Running.Path != target || st.NextBoot.Path != target {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(rollout, convergedLive...)
	h.wantNoNotices()
	h.wantLinks(links{target, h.first, target, target})
	h.wantSwitches("switch " + target + " 0")

	// The output of the switch is in the journal, under its own unit, and the service says the state in its own words.
	journal := h.Journal("--unit=nixfleet-switch-*")
	for _, line := range []string{"Checking switch inhibitors... done", "activating the configuration...", "starting the following units: example-web.service"} {
		if !strings.Contains(journal, line) {
			t.Errorf("the journal of the switch lacks %q:\n%s", line, journal)
		}
	}
	if logged := h.Journal("--unit="+agentUnit, "NIXFLEET_ROLLOUT="+rollout, "NIXFLEET_TO=Converged"); strings.Count(logged, "\n") != 1 {
		t.Errorf("the agent's log of the convergence, by its fields:\n%s", logged)
	}
	h.Eventually("STATUS= is that of status", func() (string, bool) {
		text := h.Property(agentUnit, "StatusText")
		return text, text == h.status().Summary
	})
	if shown := h.Exec("systemctl", "status", agentUnit).Stdout; !strings.Contains(shown, h.status().Summary) {
		t.Errorf("systemctl status: %s", shown)
	}
	if units := h.Run("systemctl", "list-units", "--all", "--plain", "--no-legend", "nixfleet-*"); strings.Count(units, "\n") != 1 {
		t.Errorf("units left behind:\n%s", units)
	}
	if restarts := h.Property(agentUnit, "NRestarts"); restarts != "0" {
		t.Errorf("the agent was restarted %s times", restarts)
	}

	// A host that was switched live has booted something else, and is where it should be all the same.
	h.Run("systemctl", "restart", agentUnit)
	h.awaitRecovery()
	h.SoftReboot()
	h.awaitAgent()
	h.awaitRecovery()
	h.wantNoNotices()

	// What runs already needs no switch.
	h.wantCode(0, "activate", target)
	h.awaitState("Converged")
	h.wantEvents(h.rollout(), "DispatchAck", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	h.wantSwitches("switch " + target + " 0")
}

func TestSpecialisation(t *testing.T) {
	t.Parallel()
	bothFormats(t, func(t *testing.T, format string) {
		h := newHost(t, hostOptions{format: format})
		closure := nixos("25.11.2")
		closure.Specialisations = map[string]simhost.Closure{"desk": {KernelParams: "quiet"}}
		target := h.Add(closure)
		h.wantCode(0, "activate", target, "--specialisation", "desk")
		st := h.awaitState("Converged")
		child := h.Running()
		if h.Run("readlink", "--canonicalize", target+"/specialisation/desk") != child+"\n" || st.Running.Path != child {
			t.Errorf("%s runs; status: %+v", child, st)
		}
		events := h.wantEvents(st.Rollout.ID, convergedLive...)
		if body := events[2].body(t); body["observed_current_closure"] != child || body["specialisation"] != "desk" {
			t.Errorf("ActivationCompleted: %v", body)
		}
		// The profile lists parents alone, and what a reboot boots is one.
		h.wantLinks(links{child, h.first, target, target})
		h.wantSwitches("boot "+target+" 0", "test "+child+" 0")
		h.wantComplaint(1, h.agent("activate", target, "--specialisation", "garden"), "garden")
	})
}

func TestNewerTargetWaits(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	older, newer, newest := h.Add(nixos("25.11.2")), h.Add(nixos("25.11.3")), h.Add(nixos("25.11.4"))
	h.waitAt(older, simhost.PointLinked)
	first := h.detach(older)
	h.AwaitPoint(simhost.PointLinked)
	second := h.detach(newer)
	third := h.detach(newest)
	if st := h.status(); st.Rollout.ID != first || st.state() != "Activating" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(second, "Superseded") // it waited, and was never begun
	h.wantEvents(third)
	h.Go(simhost.PointLinked)
	h.Eventually("the newest target has converged", func() (string, bool) {
		st := h.status()
		return st.Summary, st.Rollout.ID == third && st.state() == "Converged"
	})
	// The switch that was under way came to its end before the newest one took the host over.
	events := h.eventsOf(first)
	if len(events) < 4 || events[2].Kind != "ActivationCompleted" || events[len(events)-1].Kind != "Superseded" {
		t.Errorf("events of the older: %v", events)
	}
	h.wantEvents(third, convergedLive...)
	h.wantLinks(links{newest, h.first, newest, newest})
	h.wantSwitches("switch "+older+" 0", "switch "+newest+" 0")
}
