//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// deferKernel stages a closure with another kernel.
func (h *host) deferKernel(label string, args ...string) (target, rollout string) {
	h.t.Helper()
	closure := nixos(label)
	closure.Kernel = "linux-6.18.2"
	target = h.Add(closure)
	h.wantCode(3, append([]string{"activate", target}, args...)...)
	rollout = h.rollout()
	h.wantEvents(rollout, deferredEvents...)
	return target, rollout
}

// completedAfter are the events of a rollout that was completed by a reboot.
var completedAfter = append(slices.Clone(deferredEvents), "ActivationCompleted", "ProbeTopologyDeclared", "Converged")

func TestRebootCompletesOnce(t *testing.T) {
	t.Parallel()
	bothFormats(t, func(t *testing.T, format string) {
		h := newHost(t, hostOptions{format: format})
		target, rollout := h.deferKernel("25.11.2", "--soak", "4s")
		before := h.BootID()
		h.wantLinks(links{h.first, h.first, target, target})
		h.Reboot()
		h.awaitAgent()
		if h.BootID() == before {
			t.Fatal("the host was not rebooted")
		}
		if st := h.awaitState("Soaking"); st.Verdict != "in-progress" || st.Running.Path != target {
			t.Errorf("status: %+v", st)
		}
		h.wantLinks(links{target, target, target, target})
		if st := h.awaitState("Converged"); st.Verdict != "at-target" {
			t.Errorf("status: %+v", st)
		}
		events := h.wantEvents(rollout, completedAfter...)
		if body := events[3].body(t); body["boot_id"] != h.BootID() || body["observed_current_closure"] != target {
			t.Errorf("ActivationCompleted: %v", body)
		}
		h.wantSwitches("boot " + target + " 0")

		// What is at rest stays so over restarts and reboots.
		h.Run("systemctl", "restart", agentUnit)
		h.Reboot()
		h.awaitAgent()
		h.awaitState("Converged")
		h.wantEvents(rollout, completedAfter...)
		h.wantLinks(links{target, target, target, target})
		h.wantNoNotices()
	})
}

func TestRestartIsNotAReboot(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	target, rollout := h.deferKernel("25.11.2")
	before := h.BootID()
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"restart", func() { h.Run("systemctl", "restart", agentUnit) }},
		{"kill", func() { h.killAgent() }},
		{"soft reboot", h.SoftReboot},
		{"restart after a soft reboot", func() { h.Run("systemctl", "restart", agentUnit) }},
	} {
		step.do()
		h.awaitAgent()
		h.awaitRecovery()
		if st := h.status(); st.state() != "Deferred" || st.Verdict != "reboot-needed" || st.Rollout.ID != rollout {
			t.Errorf("after %s: %+v", step.name, st)
		}
		if all := h.events(); len(all) != len(deferredEvents) {
			t.Errorf("after %s: events %v", step.name, all)
		}
		h.wantLinks(links{h.first, h.first, target, target})
	}
	if h.BootID() != before || h.SoftReboots() != 1 {
		t.Fatalf("boot %s after %s, %d soft reboots", h.BootID(), before, h.SoftReboots())
	}
	h.wantSwitches("boot " + target + " 0")

	h.Reboot()
	h.awaitAgent()
	h.awaitState("Converged")
	h.wantEvents(rollout, completedAfter...)
	h.wantNoNotices()
}

// awaitRecovery waits until the agent that runs has recovered: it says so in the journal.
func (h *host) awaitRecovery() {
	h.t.Helper()
	h.Eventually("the agent has recovered", func() (string, bool) {
		st := h.status()
		return st.Summary, st.Source == "agent" && st.Agent.Ready
	})
}

// killAgent kills every process of the service, and waits until systemd has started it again.
func (h *host) killAgent() {
	h.t.Helper()
	before := h.Property(agentUnit, "InvocationID")
	h.Run("systemctl", "kill", "--signal=KILL", agentUnit)
	h.Eventually("the agent is started again", func() (string, bool) {
		now := h.Property(agentUnit, "InvocationID")
		return now, now != before && h.Property(agentUnit, "ActiveState") == "active"
	})
}

func TestBootedPreviousGeneration(t *testing.T) {
	t.Parallel()
	bothFormats(t, func(t *testing.T, format string) {
		h := newHost(t, hostOptions{format: format})
		target, rollout := h.deferKernel("25.11.2")
		h.ChooseOnce(h.first)
		h.Reboot()
		h.awaitAgent()
		st := h.awaitState("Reverted")
		if st.Verdict != "unsuccessful" || st.Rollout.FailureReason != "booted-other" || !strings.Contains(st.Rollout.FailureDetail, "booted "+h.first+" instead of the target") {
			t.Errorf("status: %+v", st)
		}
		events := h.wantEvents(rollout, append(slices.Clone(deferredEvents), "ActivationFailed", "RollbackComplete")...)
		if body := events[3].body(t); body["reason"] != "booted-other" || !strings.Contains(body["stderr_tail"].(string), h.first) {
			t.Errorf("ActivationFailed: %v", body)
		}
		if body := events[4].body(t); body["reverted_to_closure"] != h.first {
			t.Errorf("RollbackComplete: %v", body)
		}
		h.wantLinks(links{h.first, h.first, h.first, h.first})
		h.wantSwitches("boot "+target+" 0", "boot "+h.first+" 0")

		// A choice in the boot menu accuses nobody: the closure may be tried again, and a reboot then completes it.
		h.wantCode(3, "activate", target)
		again := h.rollout()
		h.Reboot()
		h.awaitAgent()
		h.awaitState("Converged")
		h.wantEvents(again, completedAfter...)
		h.wantLinks(links{target, target, target, target})

		// What is neither the target nor what ran before is named as such. It is another hand's choice: what runs is left,
		// profile and boot default go back.
		third, rollout := h.deferKernelOther("25.11.3")
		h.ChooseOnce(h.first)
		h.Reboot()
		h.awaitAgent()
		h.awaitEvents(rollout, append(slices.Clone(deferredEvents), "ActivationFailed", "RollbackFailed")...)
		st = h.status()
		if st.state() != "Failed" || st.Verdict != "unsuccessful" || !strings.Contains(st.Rollout.FailureDetail, h.first+" instead of the target: neither the target nor the system from before") {
			t.Errorf("status: %+v", st)
		}
		h.wantLinks(links{h.first, h.first, target, target})
		ran := h.Switches()
		if last := ran[len(ran)-2:]; last[0].Toplevel != third || last[1].Toplevel != target || last[1].Action != "boot" {
			t.Errorf("last switches: %+v", last)
		}
		h.wantNoNotices()
	})
}

func (h *host) deferKernelOther(label string) (target, rollout string) {
	h.t.Helper()
	closure := nixos(label)
	closure.Kernel = "linux-6.19.0"
	target = h.Add(closure)
	h.wantCode(3, "activate", target)
	return target, h.rollout()
}

// awaitEvents waits until a rollout has reported as many events, and then holds them against exactly these kinds.
func (h *host) awaitEvents(rollout string, kinds ...string) []event {
	h.t.Helper()
	h.Eventually("the rollout has reported its events", func() (string, bool) {
		events := h.eventsOf(rollout)
		return h.agent("events").Stdout, len(events) >= len(kinds)
	})
	return h.wantEvents(rollout, kinds...)
}
