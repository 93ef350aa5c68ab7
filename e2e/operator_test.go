//go:build e2e

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// cancelledEvents are those of a deferral that the operator took back.
var cancelledEvents = append(slices.Clone(deferredEvents), "DeferralCancelled")

// deferKernelTo stages a closure with that kernel.
func (h *host) deferKernelTo(label, kernel string) (target, rollout string) {
	h.t.Helper()
	closure := nixos(label)
	closure.Kernel = kernel
	target = h.Add(closure)
	h.wantCode(3, "activate", target)
	return target, h.rollout()
}

// wantPrior holds the way back of a rollout against one closure in all of its parts.
func (h *host) wantPrior(rollout, closure string) {
	h.t.Helper()
	var ack struct {
		Prior struct{ Running, Profile, BootDefault string }
	}
	body := strings.NewReplacer("boot_default", "bootDefault").Replace(string(h.eventsOf(rollout)[0].Body))
	if err := json.Unmarshal([]byte(body), &ack); err != nil {
		h.t.Fatalf("DispatchAck: %v", err)
	}
	if p := ack.Prior; p.Running != closure || p.Profile != closure || p.BootDefault != closure {
		h.t.Errorf("the way back of %s is %+v, want %s", rollout, p, closure)
	}
}

func TestCancelledDeferral(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{format: simhost.EntryFormatHashed})
	all := links{h.first, h.first, h.first, h.first}

	// Profile and boot default go back, the reboot boots what ran, and nothing more is reported.
	one, rollout := h.deferKernelTo("25.11.2", "linux-6.18.2")
	h.wantLinks(links{h.first, h.first, one, one})
	h.wantCode(0, "cancel")
	st := h.status()
	if st.state() != "Reverted" || st.Verdict != "unsuccessful" || !strings.Contains(st.Summary, "cancelled") || st.NextBoot.Path != h.first {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(rollout, cancelledEvents...)
	h.wantLinks(all)
	h.wantSwitches("boot "+one+" 0", "boot "+h.first+" 0")
	h.wantComplaint(1, h.agent("cancel"), "there is no rollout to cancel")
	h.Reboot()
	h.awaitAgent()
	h.awaitRecovery()
	h.wantEvents(rollout, cancelledEvents...)
	h.wantLinks(all)

	// Nothing was wrong with it: it is staged again. A newer target supersedes it, and another one that, which is cancelled: the
	// way back is what ran, not what was staged before.
	var staged []string
	for _, tt := range []struct{ label, kernel string }{{"25.11.2", "linux-6.18.2"}, {"25.11.3", "linux-6.18.3"}, {"25.11.4", "linux-6.18.4"}} {
		target, rollout := h.deferKernelTo(tt.label, tt.kernel)
		h.wantPrior(rollout, h.first)
		h.wantLinks(links{h.first, h.first, target, target})
		if len(staged) > 0 {
			h.wantEvents(staged[len(staged)-1], append(slices.Clone(deferredEvents), "Superseded")...)
		}
		staged = append(staged, rollout)
	}
	h.wantCode(0, "cancel", staged[2])
	h.wantEvents(staged[2], cancelledEvents...)
	h.wantLinks(all)
	h.wantNoNotices()
}

func TestRunningClosureWhileDeferred(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	_, rollout := h.deferKernelTo("25.11.3", "linux-6.18.3")
	before := len(h.Switches())
	h.wantCode(0, "activate", h.first)
	again := h.rollout()
	h.awaitRollout(again, "Converged")
	h.wantEvents(rollout, append(slices.Clone(deferredEvents), "Superseded")...)
	if events := h.eventsOf(again); slices.ContainsFunc(events, func(e event) bool { return e.Kind == "ActivationDeferred" }) {
		t.Errorf("events: %v", events)
	}
	h.wantLinks(links{h.first, h.first, h.first, h.first})
	for _, ran := range h.Switches()[before:] {
		if ran.Action != "boot" || ran.Toplevel != h.first || ran.ExitCode != 0 {
			t.Errorf("what ran was switched to: %+v", ran)
		}
	}

	h.wantNoNotices()
}

// TestNewerTargetWhileDeferred: one reboot is enough, whatever the number of targets.
func TestNewerTargetWhileDeferred(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	_, older := h.deferKernelTo("25.11.2", "linux-6.18.2")
	_, newer := h.deferKernelTo("25.11.3", "linux-6.18.3")
	last, newest := h.deferKernelTo("25.11.4", "linux-6.18.4")
	h.Reboot()
	h.awaitAgent()
	h.awaitRollout(newest, "Converged")
	h.wantPrior(newest, h.first)
	h.wantEvents(newest, completedAfter...)
	for _, rollout := range []string{older, newer} {
		h.wantEvents(rollout, append(slices.Clone(deferredEvents), "Superseded")...)
	}
	h.wantLinks(links{last, last, last, last})
	h.wantNoNotices()
}

func TestQuarantine(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	all := links{h.first, h.first, h.first, h.first}
	bad, worse := h.Add(nixos("25.11.2")), h.Add(nixos("25.11.3"))
	for _, target := range []string{bad, worse} {
		h.KnobFor(target, simhost.KnobExitAt, simhost.PointBootLoader+" 7")
		h.wantCode(4, "activate", target)
	}
	ran := []string{"switch " + bad + " 7", "boot " + h.first + " 0", "switch " + worse + " 7", "boot " + h.first + " 0"}
	h.wantSwitches(ran...)

	const file = "/var/lib/nixfleet-agent/quarantine.json"
	for _, loss := range []struct {
		name string
		do   func()
	}{
		{"nothing", func() {}},
		{"the agent is restarted", func() { h.killAgent() }},
		{"the host is rebooted", h.Reboot},
		{"the database is lost", func() {
			h.Run("systemctl", "stop", agentUnit)
			h.Remove(stateFile)
			h.Run("systemctl", "start", agentUnit)
		}},
		{"the second copy is lost", func() {
			h.Run("systemctl", "stop", agentUnit)
			h.Remove(file)
			h.Run("systemctl", "start", agentUnit)
		}},
		{"the database is lost once more", func() {
			h.Run("systemctl", "stop", agentUnit)
			h.Remove(stateFile)
			h.Run("systemctl", "start", agentUnit)
		}},
	} {
		loss.do()
		h.awaitAgent()
		h.awaitRecovery()
		h.wantQuarantine(loss.name, map[string]int{bad: 1, worse: 1})
		h.wantComplaint(1, h.agent("activate", bad), bad+" failed on this host before (switch-failed, ")
	}
	h.wantSwitches(ran...)
	h.wantLinks(all)

	// Forced, it passes once: it fails again, and that is counted.
	h.wantCode(4, "activate", "--force", bad)
	h.wantQuarantine("forced", map[string]int{bad: 2, worse: 1})
	h.wantComplaint(1, h.agent("activate", bad), "failed on this host before")
	h.wantEvents(h.rollout(), "DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(all)

	// Cleared, it may be activated as any other.
	h.wantComplaint(1, h.agent("quarantine", "clear"), "name one closure, or all")
	h.wantComplaint(1, h.agent("quarantine", "clear", h.first), h.first+" is not in quarantine")
	h.KnobFor(bad, simhost.KnobExitAt, "")
	if cleared := h.wantCode(0, "quarantine", "clear", bad); cleared != bad+"\n" {
		t.Errorf("quarantine clear: %s", cleared)
	}
	h.wantQuarantine("cleared", map[string]int{worse: 1})
	h.killAgent()
	h.awaitRecovery()
	h.wantQuarantine("cleared and restarted", map[string]int{worse: 1})
	h.wantCode(0, "activate", bad)
	h.awaitState("Converged")
	h.wantLinks(links{bad, h.first, bad, bad})
	h.Run("systemctl", "stop", agentUnit)
	h.wantQuarantine("without an agent", map[string]int{worse: 1})
	h.Run("systemctl", "start", agentUnit)
	h.awaitRecovery()
	h.wantCode(0, "quarantine", "clear", "--all")
	h.wantQuarantine("cleared all", map[string]int{})
	var kinds []string
	for _, e := range h.eventsOf("") {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []string{"QuarantineCleared", "QuarantineCleared"}) {
		t.Errorf("notices: %v", kinds)
	}
}

// wantQuarantine holds the closures in quarantine, with how often each failed, against exactly these.
func (h *host) wantQuarantine(when string, want map[string]int) {
	h.t.Helper()
	got := map[string]int{}
	for line := range strings.Lines(h.wantCode(0, "quarantine", "list", "--json")) {
		var row struct {
			Closure, Reason string
			Attempts        int
			At              time.Time
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil || row.Reason != "switch-failed" || row.At.IsZero() {
			h.t.Errorf("%s: quarantine: %v: %s", when, err, line)
		}
		got[row.Closure] = row.Attempts
	}
	if len(got) != len(want) {
		h.t.Errorf("%s: quarantine %v, want %v", when, got, want)
	}
	for closure, attempts := range want {
		if got[closure] != attempts {
			h.t.Errorf("%s: quarantine %v, want %v", when, got, want)
		}
	}
}

// waiting is what `status --json` says of a hold and of a rollout that waits.
type waiting struct {
	Verdict string
	Hold    *struct{ Reason string }
	Next    *struct{ ID, State, Why string }
}

func (h *host) waiting() waiting {
	h.t.Helper()
	var w waiting
	if err := json.Unmarshal([]byte(h.agent("status", "--json").Stdout), &w); err != nil {
		h.t.Fatalf("status --json: %v", err)
	}
	return w
}

// wantHeld fails unless the host is held for that reason and the rollout waits, untouched, and says why.
func (h *host) wantHeld(when, reason, rollout string) {
	h.t.Helper()
	w := h.waiting()
	if w.Hold == nil || w.Hold.Reason != reason || w.Next == nil || w.Next.ID != rollout || w.Next.State != "Pending" ||
		!strings.Contains(w.Next.Why, "the host is held: "+reason) {
		h.t.Errorf("%s: %+v", when, w)
	}
	if said := h.agent("status").Stdout; !strings.Contains(said, reason) {
		h.t.Errorf("%s: status: %s", when, said)
	}
	h.wantEvents(rollout)
}

func TestHold(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	all := links{h.first, h.first, h.first, h.first}
	held := h.wantCode(0, "hold", "--reason", "the disk is being replaced")
	if !strings.Contains(held, "the disk is being replaced") {
		t.Errorf("hold: %s", held)
	}
	target := h.Add(nixos("25.11.2"))
	accepted := h.agent("activate", "--detach", target)
	rollout := strings.TrimSpace(accepted.Stdout)
	if accepted.Code != 0 || !strings.Contains(accepted.Stderr, "it waits: the host is held: the disk is being replaced") {
		t.Errorf("activate: %s", accepted)
	}
	h.wantHeld("at first", "the disk is being replaced", rollout)
	h.killAgent()
	h.awaitRecovery()
	h.wantHeld("after a restart", "the disk is being replaced", rollout)
	h.Reboot()
	h.awaitAgent()
	h.awaitRecovery()
	h.wantHeld("after a reboot", "the disk is being replaced", rollout)
	h.wantLinks(all)
	h.wantSwitches()
	resumed := h.wantCode(0, "resume")
	if !strings.Contains(resumed, "the disk is being replaced") {
		t.Errorf("resume: %s", resumed)
	}
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{target, h.first, target, target})

	// While a target waits for its reboot: the reboot completes it, as it would without the hold. What comes after it waits.
	staged, deferral := h.deferKernelTo("25.11.3", "linux-6.18.2")
	h.wantCode(0, "hold", "--reason", "an audit", "--until", "24h")
	newer := h.Add(nixos("25.11.4"))
	waits := h.detach(newer)
	h.wantHeld("deferred", "an audit", waits)
	h.Reboot()
	h.awaitAgent()
	h.awaitRollout(deferral, "Converged")
	h.wantEvents(deferral, completedAfter...)
	h.wantLinks(links{staged, staged, staged, staged})
	h.wantHeld("after the reboot", "an audit", waits)

	// A hold with an end ends by itself.
	h.wantComplaint(1, h.agent("hold", "--reason", "too late", "--until", "2020-01-01T00:00:00Z"), "the hold would end in the past")
	h.wantCode(0, "hold", "--reason", "a moment", "--until", "3s")
	h.wantHeld("for a moment", "a moment", waits)
	h.within(10*time.Second, "the end of a hold of three seconds", func() { h.awaitRollout(waits, "Deferred") })
	h.wantLinks(links{staged, staged, newer, newer})
	if w := h.waiting(); w.Hold != nil || w.Next != nil {
		t.Errorf("after the hold: %+v", w)
	}
	if again := h.wantCode(0, "resume"); !strings.Contains(again, "this host was not held") {
		t.Errorf("resume: %s", again)
	}
	var kinds []string
	for _, e := range h.eventsOf("") {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []string{"HostHeld", "HostResumed", "HostHeld", "HostHeld"}) {
		t.Errorf("notices: %v", kinds)
	}
}

func TestSwitchWaitsForTheBoot(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	const slow = "slow.service"
	h.Write("/etc/systemd/system/"+slow, "[Service]\nType=oneshot\nTimeoutStartSec=infinity\n"+
		"ExecStart=/bin/sh -c 'until [ -e /run/slow-done ]; do sleep 0.05; done'\n", 0o644)
	h.Enable(slow, "multi-user.target")
	staged, deferral := h.deferKernelTo("25.11.2", "linux-6.18.2")
	live := nixos("25.11.3")
	live.Kernel = "linux-6.18.2"
	target := h.Add(live)
	h.PowerOff()
	h.BootEarly()
	h.awaitAgent()
	h.Eventually("the boot goes on", func() (string, bool) {
		state := strings.TrimSpace(h.Exec("systemctl", "is-system-running").Stdout)
		return state, state == "starting"
	})
	// What was booted is told at once; nothing is switched for it.
	h.awaitRollout(deferral, "Converged")
	h.wantEvents(deferral, completedAfter...)

	rollout := h.detach(target)
	waits := func() {
		h.Eventually("it waits for the boot", func() (string, bool) {
			st := h.status()
			why := strings.Join(st.Why, "\n")
			return st.Summary + "\n" + why, st.state() == "Activating" && st.Verdict == "in-progress" && strings.Contains(why, "the host is not up yet") &&
				strings.Contains(why, "its state is starting")
		})
	}
	waits()
	h.killAgent()
	waits()
	h.wantEvents(rollout, "DispatchAck")
	h.wantLinks(links{staged, staged, staged, staged})
	h.wantSwitches("boot " + staged + " 0")
	h.Write("/run/slow-done", "", 0o644)
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{target, staged, target, target})
	h.wantSwitches("boot "+staged+" 0", "switch "+target+" 0")
	h.wantNoNotices()
}
