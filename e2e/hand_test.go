//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const systemProfile = "/nix/var/nix/profiles/system"

// rebuildTo is what nixos-rebuild does: the profile, and the switch in a unit of its own. It waits at a point until Go.
func (h *host) rebuildTo(label, point string) string {
	h.t.Helper()
	target := h.Add(nixos(label))
	h.waitAt(target, point)
	h.Run("nix-env", "--profile", systemProfile, "--set", target)
	h.Run("systemd-run", "--collect", "--quiet", "--service-type=exec", "--unit=nixos-rebuild-switch-to-configuration",
		target+"/bin/switch-to-configuration", "switch")
	h.AwaitPoint(point)
	return target
}

func TestAnotherSwitchIsAwaited(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	byHand := h.rebuildTo("by-hand", simhost.PointLocked)
	target := h.Add(nixos("25.11.2"))
	rollout := h.detach(target)
	h.Eventually("the other switch is named", func() (string, bool) {
		st := h.status()
		why := strings.Join(st.Why, "\n")
		return st.Summary + "\n" + why, strings.Contains(why, "another switch is under way: ")
	})
	h.wantEvents(rollout, "DispatchAck")
	h.Go(simhost.PointLocked)
	h.awaitState("Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{target, h.first, target, target})
	h.wantSwitches("switch "+byHand+" 0", "switch "+target+" 0")

	// The way back of one that fails leads to what the host ran when it was touched, not to what it ran before it waited.
	byHand = h.rebuildTo("by-hand-again", simhost.PointLocked)
	failing := h.Add(nixos("25.11.3"))
	h.KnobFor(failing, simhost.KnobExitAt, simhost.PointBootLoader+" 7")
	rollout = h.detach(failing)
	h.Eventually("it waits", func() (string, bool) {
		why := strings.Join(h.status().Why, "\n")
		return why, strings.Contains(why, "another switch is under way: ")
	})
	h.waitAt(byHand) // once: the way back runs its script again
	h.Go(simhost.PointLocked)
	h.awaitState("Reverted")
	h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(links{byHand, h.first, byHand, byHand})
}

func TestAnotherHandIsLeft(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	// While a target waits for its reboot, somebody switches to something else: it is said once and left so.
	_, rollout := h.deferKernel("25.11.2")
	byHand := h.Add(nixos("by-hand"))
	h.Run("nix-env", "--profile", systemProfile, "--set", byHand)
	h.Run(byHand+"/bin/switch-to-configuration", "switch")
	for range 2 {
		h.Run("systemctl", "restart", agentUnit)
		h.awaitRecovery()
	}
	st := h.status()
	if st.state() != "Deferred" || st.Verdict != "unsuccessful" || st.NextBoot.Path != byHand || !strings.Contains(st.Then, "would boot "+byHand) {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(rollout, deferredEvents...)
	if notices := h.eventsOf(""); len(notices) != 1 || notices[0].Kind != "AnotherHand" || !strings.Contains(string(notices[0].Body), byHand) {
		t.Errorf("notices: %v", notices)
	}
	h.wantLinks(links{byHand, h.first, byHand, byHand})

	// The reboot then brings what it had to bring, and the rollout says so.
	h.Reboot()
	h.awaitAgent()
	events := h.awaitEvents(rollout, append(deferredEvents[:3:3], "ActivationFailed", "RollbackFailed")...)
	if body := events[3].body(t); body["reason"] != "booted-other" || !strings.Contains(body["stderr_tail"].(string), byHand) {
		t.Errorf("ActivationFailed: %v", body)
	}
	if st := h.status(); st.state() != "Failed" || st.Verdict != "unsuccessful" {
		t.Errorf("status: %+v", st)
	}
	h.wantLinks(links{byHand, byHand, byHand, byHand})
	ran := h.Switches()
	if last := ran[len(ran)-1]; last.Toplevel != byHand {
		t.Errorf("another hand was fought: %+v", last)
	}
}
