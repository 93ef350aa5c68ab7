//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/testhost"
)

func TestFailedSwitchIsUndone(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.configure(`"deadlines": {"switch": "6s"}`)
	all := links{h.first, h.first, h.first, h.first}
	var ran []string
	for _, tt := range []struct {
		name, knob, value string
		reason, said      string
		started           int // attempts
		switches          []string
		accused           bool
	}{
		{"after the boot loader", simhost.KnobExitAt, simhost.PointBootLoader + " 7", "switch-failed", "ended with exit code 7", 1,
			[]string{"switch TARGET 7", "boot FIRST 0"}, true},
		{"in a check of the site", simhost.KnobPreSwitchCheck, "fail", "switch-interrupted", "Pre-switch check 'site' failed", 2,
			[]string{"switch TARGET 1", "switch TARGET 1"}, true},
		{"with a full boot partition", simhost.KnobBootLoader, "full", "disk-full", "No space left on device", 2,
			[]string{"switch TARGET 1", "switch TARGET 1"}, false},
		{"killed with the running link moved", simhost.KnobDieAt, simhost.PointLinked, "switch-interrupted", "SIGKILL", 2,
			[]string{"switch TARGET -", "switch TARGET -", "boot FIRST 0", "test FIRST 0"}, true},
		// The way back takes up what the switch had on its lists.
		{"hanging over its deadline", simhost.KnobHangAt, simhost.PointStopped, "switch-interrupted", "was ended at its deadline", 2,
			[]string{"switch TARGET -", "switch TARGET -", "boot FIRST 0", "test FIRST 0"}, true},
	} {
		target := h.Add(nixos(strings.ReplaceAll(tt.name, " ", "-")))
		h.KnobFor(target, tt.knob, tt.value)
		out := h.wantCode(4, "activate", target)
		if !strings.Contains(out, tt.said) {
			t.Errorf("%s: activate: %s", tt.name, out)
		}
		st := h.status()
		if st.state() != "Reverted" || st.Verdict != "unsuccessful" || st.Rollout.FailureReason != tt.reason || !strings.Contains(st.Rollout.FailureDetail, tt.said) {
			t.Errorf("%s: status: %+v", tt.name, st)
		}
		want := []string{"DispatchAck"}
		for range tt.started {
			want = append(want, "ActivationStarted")
		}
		h.wantEvents(st.Rollout.ID, append(want, "ActivationFailed", "RollbackComplete")...)
		h.wantLinks(all)
		for _, line := range tt.switches {
			ran = append(ran, strings.NewReplacer("TARGET", target, "FIRST", h.first).Replace(line))
		}
		h.wantSwitches(ran...)

		// What was accused is not tried again unless it is forced.
		if tt.accused {
			h.wantComplaint(1, h.agent("activate", target), "failed on this host before")
		}
		h.KnobFor(target, tt.knob, "")
	}

	// A mended closure goes live, and units that fail in it are named.
	closure := nixos("25.11.3")
	closure.Units = map[string]string{
		"good.service":   "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
		"broken.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
	}
	target := h.Add(closure)
	h.wantCode(0, "activate", target)
	rollout := h.rollout()
	st := h.awaitState("Converged")
	if !strings.Contains(strings.Join(st.Rollout.Degraded, "\n"), "broken.service failed") {
		t.Errorf("status: %+v", st)
	}
	if body := h.wantEvents(rollout, convergedLive...)[2].body(t); body["exit_code"] != float64(4) {
		t.Errorf("ActivationCompleted: %v", body)
	}
	h.wantLinks(links{target, h.first, target, target})
	h.wantNoNotices()
}

func TestLostSwitchIsRepeated(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	target := h.Add(nixos("25.11.2"))
	h.KnobFor(target, simhost.Once(simhost.KnobWaitAt), simhost.PointLinked)
	rollout := h.detach(target)
	h.AwaitPoint(simhost.PointLinked)
	// Everything of the unit at once, as the kernel does for want of memory: nobody is left to write a result.
	h.Run("systemctl", "kill", "--signal=KILL", "nixfleet-switch-*.service")
	h.awaitState("Converged")
	h.wantEvents(rollout, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	h.wantLinks(links{target, h.first, target, target})
	h.wantSwitches("switch "+target+" -", "switch "+target+" 0")
	if h.Exists("/run/nixos/start-list") || h.Exists("/run/nixos/restart-list") {
		t.Error("the lists of the switch that was cut off are still there")
	}
}

// wantComplaint holds a verb that refuses against how refusals look: its exit code, nothing on stdout, one line that says why,
// and at most one more with a hint.
func (h *host) wantComplaint(code int, got testhost.Result, said string) {
	h.t.Helper()
	lines := strings.Split(strings.TrimSuffix(got.Stderr, "\n"), "\n")
	if got.Code != code || got.Stdout != "" || !strings.HasPrefix(lines[0], "nixfleet-agent: ") || !strings.Contains(lines[0], said) ||
		len(lines) > 2 || (len(lines) == 2 && !strings.HasPrefix(lines[1], "hint: ")) {
		h.t.Errorf("want exit code %d and one line with %q, got %s", code, said, got)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	all := links{h.first, h.first, h.first, h.first}
	const gone = "/nix/store/00000000000000000000000000000000-nixos-system-web-1"
	foreign := nixos("foreign")
	foreign.System = "riscv64-linux"
	appliance := nixos("appliance")
	appliance.NotSwitchable = true
	other := simhost.NixOS("web", "1")
	other.NotNixOS = true
	for _, tt := range []struct{ name, target, said string }{
		{"no path", "result", "result"},
		{"not of the store", "/etc/hostname", "/etc/hostname"},
		{"no store path", "/nix/store/short", "/nix/store/short"},
		{"within a store path", h.first + "/kernel", h.first + "/kernel"},
		{"not NixOS", h.Add(other), "NixOS"},
		{"another machine", h.Add(foreign), "riscv64-linux"},
		{"not switchable", h.Add(appliance), "switch-to-configuration"},
	} {
		for _, verb := range []string{"activate", "explain"} {
			t.Logf("%s, %s", verb, tt.name)
			h.wantComplaint(1, h.agent(verb, tt.target), tt.said)
		}
		h.wantLinks(all)
		if events := h.events(); len(events) != 0 {
			t.Fatalf("%s: events: %v", tt.name, events)
		}
	}
	if st := h.status(); st.Target != nil || st.Verdict != "at-target" {
		t.Errorf("status: %+v", st)
	}

	// What is in no store may still be in a cache: that it is nowhere is learned when it is fetched.
	h.wantComplaint(1, h.agent("explain", gone), gone)
	out := h.wantCode(4, "activate", gone)
	if !strings.Contains(out, "not-found") {
		t.Errorf("activate: %s", out)
	}
	st := h.status()
	if st.state() != "Failed" || st.Rollout.FailureReason != "not-found" || !strings.Contains(strings.Join(st.Why, "\n"), "hint: copy it to this host") {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationFailed")
	h.wantLinks(all)
	h.wantSwitches()

	// Who is not root may not even knock.
	got := h.Exec("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "nixfleet-agent", "--config", configFile, "activate", h.first)
	if got.Code != 1 && got.Code != 5 || strings.Count(got.Stderr, "\n") > 2 || got.Stdout != "" {
		t.Errorf("activate as nobody: %s", got)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationFailed")
	h.wantNoNotices()
}
