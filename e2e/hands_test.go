//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// rebuild is `nixos-rebuild switch` by hand, to its end.
func (h *host) rebuild(target string) {
	h.t.Helper()
	h.Run("nix-env", "--profile", systemProfile, "--set", target)
	h.Run("systemd-run", "--wait", "--collect", "--quiet", "--service-type=exec", "--unit=nixos-rebuild-switch-to-configuration",
		target+"/bin/switch-to-configuration", "switch")
}

// recoverAgain has the agent hold the host against its records now, as it does when it starts: the slow tick takes half a minute.
func (h *host) recoverAgain() {
	h.t.Helper()
	h.Run("systemctl", "restart", agentUnit)
	h.awaitRecovery()
}

// wantNotices holds the notices of the host against exactly these kinds.
func (h *host) wantNotices(kinds ...string) []event {
	h.t.Helper()
	notices := h.eventsOf("")
	var got []string
	for _, e := range notices {
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, kinds) {
		h.t.Fatalf("notices: got %v, want %v\n%s", got, kinds, h.agent("events").Stdout)
	}
	return notices
}

// TestRebuildWhileActivating: the other switch begins when the agent's own check has long passed.
func TestRebuildWhileActivating(t *testing.T) {
	t.Parallel()
	h := newCachedHost(t)
	failing, target := h.pushToCache("25.11.2", 1, trusted), h.pushToCache("25.11.3", 1, trusted)
	h.KnobFor(failing, simhost.KnobExitAt, simhost.PointBootLoader+" 7")
	h.startCache()
	var ran []string
	// While the closure is fetched; it is still under way when that is there.
	for _, tt := range []struct {
		byHand, target, state string
		events                []string
	}{
		// One that fails goes back to what the other hand brought.
		{"by-hand-1", failing, "Reverted", []string{"DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete"}},
		{"by-hand-2", target, "Converged", convergedLive},
	} {
		h.Write(cacheDir+"/fault", "stall", 0o644)
		rollout := h.detach(tt.target)
		h.Eventually("the closure is fetched", func() (string, bool) {
			said := h.Journal("--unit=" + cacheUnit)
			return said, strings.Contains(said, "GET "+h.narOf(tt.target))
		})
		byHand := h.rebuildTo(tt.byHand, simhost.PointLocked)
		h.Remove(cacheDir + "/fault")
		h.Eventually("the other switch is named", func() (string, bool) {
			st := h.status()
			why := strings.Join(st.Why, "\n")
			return st.Summary + "\n" + why, st.state() == "Activating" && strings.Contains(why, "switch") && strings.Contains(why, "wait")
		})
		if ran := h.Switches(); ran[len(ran)-1].Toplevel != byHand {
			t.Errorf("two switches at once: %+v", ran)
		}
		h.waitAt(byHand)
		h.Go(simhost.PointLocked)
		h.awaitRollout(rollout, tt.state)
		h.wantEvents(rollout, tt.events...)
		ran = append(ran, "switch "+byHand+" 0")
		if tt.state == "Reverted" {
			h.wantLinks(links{byHand, h.first, byHand, byHand})
			ran = append(ran, "switch "+tt.target+" 7", "boot "+byHand+" 0")
		} else {
			h.wantLinks(links{tt.target, h.first, tt.target, tt.target})
			ran = append(ran, "switch "+tt.target+" 0")
		}
		h.wantSwitches(ran...)
	}

	// Between the agent's last look and the lock, which the agent's own switch then finds taken.
	for _, tt := range []struct{ byHand, label, knob, state string }{
		{"by-hand-3", "25.11.4", simhost.PointBootLoader + " 7", "Reverted"},
		{"by-hand-4", "25.11.5", "", "Converged"},
	} {
		target := h.Add(nixos(tt.label))
		h.KnobFor(target, simhost.KnobExitAt, tt.knob)
		h.KnobFor(target, simhost.Once(simhost.KnobWaitAt), simhost.PointStart)
		rollout := h.detach(target)
		h.AwaitPoint(simhost.PointStart)
		byHand := h.rebuildTo(tt.byHand, simhost.PointLocked)
		h.Go(simhost.PointStart)
		h.Eventually("the holder of the lock is named", func() (string, bool) {
			st := h.status()
			why := strings.Join(st.Why, "\n")
			return st.Summary + "\n" + why, strings.Contains(why, "waiting for another switch to end: switch-to-conf")
		})
		h.waitAt(byHand)
		h.Go(simhost.PointLocked)
		h.awaitRollout(rollout, tt.state)
		if tt.state == "Reverted" {
			h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationFailed", "RollbackComplete")
			h.wantLinks(links{byHand, h.first, byHand, byHand})
			continue
		}
		h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
		h.wantLinks(links{target, h.first, target, target})
	}
	h.wantNoNotices()
}

func TestRebuildWhileSoaking(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	// The slow tick finds it; nobody asked.
	target := h.Add(nixos("25.11.2"))
	h.wantCode(0, "activate", target, "--soak", "10m")
	rollout := h.rollout()
	byHand := h.Add(nixos("by-hand"))
	h.rebuild(byHand)
	if st := h.status(); st.state() != "Soaking" && st.state() != "Failed" || !strings.Contains(strings.Join(append(st.Why, st.Summary), "\n"), "another") {
		t.Errorf("status at once: %+v", st)
	}
	st := h.awaitRollout(rollout, "Failed")
	if st.Verdict != "unsuccessful" || st.Rollout.FailureReason != "another-hand" || !strings.Contains(st.Then, "does not fight another hand") {
		t.Errorf("status: %+v", st)
	}
	events := h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "LeftTarget")
	if body := events[4].body(t); body["observed_current_closure"] != byHand {
		t.Errorf("LeftTarget: %v", body)
	}
	h.wantQuarantine("left", map[string]int{})
	h.wantLinks(links{byHand, h.first, byHand, byHand})
	h.wantSwitches("switch "+target+" 0", "switch "+byHand+" 0")

	h.wantNoNotices()
}

func TestDrift(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	byHand, next := h.Add(nixos("by-hand")), h.Add(nixos("25.11.3"))
	h.converges(next)
	h.rebuild(byHand)
	for range 2 {
		h.recoverAgain()
	}
	st := h.status()
	if st.state() != "Converged" || st.Verdict != "unsuccessful" || !strings.Contains(st.Summary, "another hand made the host run something else") {
		t.Errorf("status: %+v", st)
	}
	drift := h.wantNotices("Drift")
	if text, _ := drift[0].body(t)["text"].(string); !strings.Contains(text, byHand) || !strings.Contains(text, next) {
		t.Errorf("notice: %s", drift[0].Body)
	}
	h.wantLinks(links{byHand, h.first, byHand, byHand})

	// Brought back to the target, and then another generation is chosen in the boot menu: that is another drift. The next
	// boot, at which nobody chooses, brings the target again.
	h.rebuild(next)
	h.recoverAgain()
	if st := h.status(); st.Verdict != "at-target" {
		t.Errorf("status: %+v", st)
	}
	h.ChooseOnce(h.first)
	h.Reboot()
	h.awaitAgent()
	h.awaitRecovery()
	h.recoverAgain()
	st = h.status()
	if st.state() != "Converged" || st.Verdict != "unsuccessful" || st.Running.Path != h.first || st.NextBoot.Path != next {
		t.Errorf("status: %+v", st)
	}
	if text, _ := h.wantNotices("Drift", "Drift")[1].body(t)["text"].(string); !strings.Contains(text, "booted "+h.first) {
		t.Errorf("notice: %s", text)
	}
	h.wantLinks(links{h.first, h.first, next, next})
	h.Reboot()
	h.awaitAgent()
	h.awaitRecovery()
	if st := h.status(); st.Verdict != "at-target" {
		t.Errorf("status: %+v", st)
	}
	h.wantNotices("Drift", "Drift")
	h.wantLinks(links{next, next, next, next})
	h.wantEvents(h.rollout(), convergedLive...)
}

func TestProfileChangedBehindItsBack(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	byHand := h.Add(nixos("by-hand"))

	// While a target waits for its reboot: said once and left so. The boot entry is the target's still, and the reboot boots it.
	target, rollout := h.deferKernel("25.11.2")
	h.Run("nix-env", "--profile", systemProfile, "--set", byHand)
	for range 2 {
		h.recoverAgain()
	}
	if st := h.status(); st.state() != "Deferred" || st.Verdict != "reboot-needed" || st.NextBoot.Path != target || !strings.Contains(strings.Join(st.Notes, "\n"), "profile") {
		t.Errorf("status: %+v", st)
	}
	if text, _ := h.wantNotices("AnotherHand")[0].body(t)["text"].(string); !strings.Contains(text, "the profile (now "+byHand+")") || strings.Contains(text, "boot default") {
		t.Errorf("notice: %s", text)
	}
	h.wantEvents(rollout, deferredEvents...)
	h.Reboot()
	h.awaitAgent()
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, completedAfter...)
	h.wantLinks(links{target, target, byHand, target})

	// Cancelled: what the other hand has changed is left, and said; the boot default goes back.
	staged, rollout := h.deferKernelOther("25.11.3")
	other := h.Add(nixos("by-hand-again"))
	h.Run("nix-env", "--profile", systemProfile, "--set", other)
	h.wantCode(0, "cancel")
	events := h.wantEvents(rollout, cancelledEvents...)
	if left, _ := events[3].body(t)["left"].([]any); len(left) != 1 || !strings.Contains(left[0].(string), other) {
		t.Errorf("DeferralCancelled: %s", events[3].Body)
	}
	h.wantLinks(links{target, target, other, target})

	// While it is activated, after the profile was set: what runs and what boots is the target, and that the profile is not is
	// said.
	next := h.Add(func() simhost.Closure { c := nixos("25.11.4"); c.Kernel = "linux-6.18.2"; return c }())
	h.waitAt(next, simhost.PointUnits)
	rollout = h.detach(next)
	h.AwaitPoint(simhost.PointUnits)
	h.Run("nix-env", "--profile", systemProfile, "--set", byHand)
	h.Go(simhost.PointUnits)
	st := h.awaitRollout(rollout, "Converged")
	if !slices.Contains(st.Rollout.Degraded, "the system profile is "+byHand) {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{next, target, byHand, next})
	h.wantSwitches("boot "+target+" 0", "boot "+staged+" 0", "boot "+target+" 0", "switch "+next+" 0")
	h.wantNotices("AnotherHand")

	// The way back of one that follows a deferral is what the other hand has brought meanwhile, not what ran before.
	h.deferKernelOther("25.11.5")
	h.rebuild(byHand)
	failing := h.Add(func() simhost.Closure { c := nixos("25.11.6"); c.Kernel = "linux-6.18.2"; return c }())
	h.KnobFor(failing, simhost.KnobExitAt, simhost.PointBootLoader+" 7")
	h.wantCode(4, "activate", failing)
	h.awaitState("Reverted")
	h.wantLinks(links{byHand, target, byHand, byHand})
}

func TestDeferredTargetSwitchedToByHand(t *testing.T) {
	t.Parallel()
	plain := func(c simhost.Closure) simhost.Closure { c.Inhibitors = nil; return c }
	h := newHost(t, hostOptions{first: plain})

	// What a switch by hand brings is all that was waited for: it is complete, without a reboot.
	closure := plain(nixos("25.11.2"))
	closure.DBus = simhost.DBusDaemon
	bus := h.Add(closure)
	h.wantCode(3, "activate", bus)
	rollout := h.rollout()
	h.Run(bus+"/bin/switch-to-configuration", "switch")
	h.recoverAgain()
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, completedAfter...)
	h.wantLinks(links{bus, h.first, bus, bus})
	h.wantSwitches("boot "+bus+" 0", "switch "+bus+" 0")

	// The kernel is not brought by it: still Deferred, and the reboot completes it.
	closure.Label, closure.Kernel = "25.11.3", "linux-6.18.2"
	kernel := h.Add(closure)
	h.wantCode(3, "activate", kernel)
	rollout = h.rollout()
	h.Run(kernel+"/bin/switch-to-configuration", "switch")
	h.recoverAgain()
	st := h.status()
	if st.state() != "Deferred" || st.Verdict != "reboot-needed" || !strings.Contains(strings.Join(st.Notes, "\n"), "switched to by hand") {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(rollout, deferredEvents...)
	h.wantLinks(links{kernel, h.first, kernel, kernel})
	h.SoftReboot()
	h.awaitAgent()
	h.awaitRecovery()
	h.wantEvents(rollout, deferredEvents...)

	h.Reboot()
	h.awaitAgent()
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, completedAfter...)
	h.wantLinks(links{kernel, kernel, kernel, kernel})
	h.wantNoNotices()
}
