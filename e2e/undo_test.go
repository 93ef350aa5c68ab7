//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// failLate adds a closure that is running when its switch is cut off, each time.
func (h *host) failLate(closure simhost.Closure) string {
	h.t.Helper()
	target := h.Add(closure)
	h.KnobFor(target, simhost.KnobPanicAt, simhost.PointLinked)
	return target
}

// failEarly adds a closure whose switch fails when only the boot loader is written.
func (h *host) failEarly(closure simhost.Closure) string {
	h.t.Helper()
	target := h.Add(closure)
	h.KnobFor(target, simhost.KnobExitAt, simhost.PointBootLoader+" 7")
	return target
}

var (
	failedEarly = []string{"DispatchAck", "ActivationStarted", "ActivationFailed"}
	failedLate  = []string{"DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationFailed"}
)

func with(events []string, more ...string) []string { return append(slices.Clone(events), more...) }

// left are the legs that the rollout's last event says were left to another hand.
func (h *host) left(rollout string) string {
	h.t.Helper()
	events := h.eventsOf(rollout)
	return fmt.Sprint(events[len(events)-1].body(h.t)["left"])
}

func TestUndoIsLiveWhereItCanBe(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{first: func(c simhost.Closure) simhost.Closure {
		c.Inhibitors = nil
		c.Units = map[string]string{"web.service": oneshotThat + "/bin/true\n"}
		return c
	}})
	h.configure(`"criticalComponents": {"kernel": "switch", "dbus": "switch", "systemd": "switch"}`)
	all := links{h.first, h.first, h.first, h.first}
	like := func(label string) simhost.Closure {
		closure := nixos(label)
		closure.Inhibitors = nil
		closure.Units = map[string]string{"worker.service": oneshotThat + "/bin/true\n"}
		return closure
	}

	// Another kernel is only loaded by a reboot: the way back is live, and the units of before are up.
	kernel := like("kernel")
	kernel.Kernel, kernel.Initrd, kernel.Firmware = "linux-6.18.2", "initrd-linux-6.18.2", "firmware-2"
	target := h.failLate(kernel)
	h.wantCode(4, "activate", target)
	st := h.status()
	if st.state() != "Reverted" || st.Rollout.FailureReason != "switch-interrupted" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackComplete")...)
	h.wantLinks(all)
	h.wantSwitches("switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0", "test "+h.first+" 0")
	if web, worker := h.Property("web.service", "ActiveState"), h.Property("worker.service", "ActiveState"); web != "active" || worker != "inactive" {
		t.Errorf("web.service is %s, worker.service is %s", web, worker)
	}

	// PID 1 and the bus are not exchanged under a running system, on no way.
	for name, change := range map[string]func(*simhost.Closure){
		"systemd": func(c *simhost.Closure) { c.Systemd = "systemd-258.1" },
		"dbus":    func(c *simhost.Closure) { c.DBus = simhost.DBusDaemon },
	} {
		before := len(h.Switches())
		closure := like(name)
		change(&closure)
		target := h.failLate(closure)
		out := h.wantCode(4, "activate", target)
		st := h.status()
		if st.state() != "Failed" || st.Verdict != "reboot-needed" || st.Then != "Reboot this host to return to "+h.first+"." ||
			len(st.Rollout.Components) != 1 || st.Rollout.Components[0].Name != name || !strings.Contains(out, "the way back waits for a reboot") {
			t.Errorf("%s: activate: %s\nstatus: %+v", name, out, st)
		}
		h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackDeferred")...)
		h.wantLinks(links{target, h.first, h.first, h.first})
		h.lastSwitches(before, "switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0")

		// Neither a restart of the agent nor one of user space is the reboot.
		h.killAgent()
		h.awaitRecovery()
		h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackDeferred")...)
		h.Reboot()
		h.awaitAgent()
		h.awaitState("Reverted")
		h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackDeferred", "RollbackComplete")...)
		h.wantLinks(all)
		h.lastSwitches(before, "switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0")
	}
	h.wantNoNotices()
}

func TestHaltLeavesTheRunningSystem(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.configure(`"policy": "halt"`)
	target := h.failLate(nixos("late"))
	h.wantCode(4, "activate", target)
	st := h.status()
	if st.state() != "Failed" || !strings.Contains(st.Then, "it was left running the target, as the policy halt asks") ||
		!strings.Contains(strings.Join(st.Notes, "\n"), "the running system is "+target+", before the rollout it was "+h.first) {
		t.Errorf("status: %+v", st)
	}
	events := h.wantEvents(st.Rollout.ID, with(failedLate, "BootDefaultRestored")...)
	if body := events[4].body(t); body["profile"] != h.first || body["boot_default"] != h.first {
		t.Errorf("BootDefaultRestored: %v", body)
	}
	h.wantLinks(links{target, h.first, h.first, h.first})
	h.wantSwitches("switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0")
	h.wantComplaint(1, h.agent("activate", target), "failed on this host before")

	// Nothing is owed: a restart leaves it so, and the next closure starts from here. Its way back is not the one that failed.
	h.killAgent()
	h.awaitRecovery()
	mended := h.failEarly(nixos("mended"))
	h.wantCode(4, "activate", mended)
	h.KnobFor(mended, simhost.KnobExitAt, "")
	h.wantLinks(links{target, h.first, h.first, h.first})
	h.wantCode(0, "activate", "--force", mended)
	h.awaitState("Converged")
	h.wantLinks(links{mended, h.first, mended, mended})
	h.wantNoNotices()
}

func TestUndoLeavesAnotherHand(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	other := h.Add(nixos("by-hand"))
	said := func(rollout string, lines ...string) {
		t.Helper()
		notes := strings.Join(h.status().Notes, "\n")
		for _, line := range lines {
			if !strings.Contains(notes, line) {
				t.Errorf("status does not say %q: %s", line, notes)
			}
		}
		if left := h.left(rollout); strings.Count(left, "left at "+other) != len(lines) {
			t.Errorf("left: %s", left)
		}
	}

	// The profile is set by somebody while the switch runs that then fails: only the rest goes back.
	target := h.failEarly(nixos("profile"))
	h.waitAt(target, simhost.PointBootLoader)
	rollout := h.detach(target)
	h.AwaitPoint(simhost.PointBootLoader)
	h.Run("nix-env", "--profile", systemProfile, "--set", other)
	h.Go(simhost.PointBootLoader)
	h.awaitState("Reverted")
	h.wantEvents(rollout, with(failedEarly, "RollbackComplete")...)
	h.wantLinks(links{h.first, h.first, other, h.first})
	said(rollout, "the profile is "+other+", before the rollout it was "+h.first)
	h.wantSwitches("switch "+target+" 7", "boot "+h.first+" 0")
	h.Run("nix-env", "--profile", systemProfile, "--set", h.first)

	// Profile and boot default.
	before := len(h.Switches())
	target = h.failLate(nixos("boot-default"))
	h.KnobFor(target, simhost.KnobExecAt, simhost.PointLinked+" nix-env --profile "+systemProfile+" --set "+other+"; "+
		other+"/sim/install-boot-loader "+other)
	h.KnobFor(target, simhost.KnobPanicAt, "")
	h.KnobFor(target, simhost.KnobExitAt, simhost.PointLinked+" 0")
	rollout = h.detach(target)
	h.awaitState("Reverted")
	h.wantEvents(rollout, with(failedEarly, "RollbackComplete")...)
	h.wantLinks(links{h.first, h.first, other, other})
	said(rollout, "the profile is "+other, "the boot default is "+other)
	h.lastSwitches(before, "switch "+target+" 0", "test "+h.first+" 0")

	// Somebody's switch is under way when the way back wants to begin: it is waited for, and what it changed is left.
	h.Run(h.first+"/bin/switch-to-configuration", "boot")
	h.Run("nix-env", "--profile", systemProfile, "--set", h.first)
	h.Run(h.first+"/bin/switch-to-configuration", "boot")
	before = len(h.Switches())
	target = h.failEarly(nixos("locked"))
	h.KnobFor(target, simhost.KnobExecAt, simhost.PointBootLoader+" systemd-run --quiet --collect --unit=rebuild flock /run/nixos/switch-to-configuration.lock "+
		"sh -c ': >/run/rebuilding; while [ -e /run/rebuilding ]; do sleep 0.02; done'; "+
		`until [ "$(cat "/proc/$(systemctl show --property=MainPID --value rebuild)/comm")" = flock ]; do sleep 0.02; done`)
	rollout = h.detach(target)
	h.Eventually("the way back waits for the other switch, which is named", func() (string, bool) {
		why := strings.Join(h.status().Why, "\n")
		return why, strings.Contains(why, "waiting for another switch to end: flock (pid ") || strings.Contains(why, "waiting for another switch to end: sh (pid ")
	})
	h.wantEvents(rollout, failedEarly...)
	h.Remove("/run/rebuilding")
	h.awaitState("Reverted")
	h.wantEvents(rollout, with(failedEarly, "RollbackComplete")...)
	h.wantLinks(links{h.first, h.first, h.first, h.first})
	ran := h.Switches()[before:]
	if last := ran[len(ran)-1]; last.Action != "boot" || last.Toplevel != h.first || last.ExitCode != 0 {
		t.Errorf("last switch: %+v", last)
	}
	h.wantNoNotices()
}

func TestUndoThatFails(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.configure(`"deadlines": {"switch": "6s"}`)
	h.limit("/boot", "4m")

	// The boot partition fills up behind the target's back: the boot default cannot go back, all the rest does.
	target := h.failLate(nixos("fills-up"))
	h.KnobFor(target, simhost.KnobExecAt, simhost.PointLinked+" if [ -e /run/sim/second ]; then "+fmt.Sprintf(fillScript, "/boot", 0)+"; fi; : >/run/sim/second")
	h.wantCode(4, "activate", target)
	rollout := h.rollout()
	wantStuck := func() {
		t.Helper()
		st := h.status()
		why := strings.Join(st.Why, "\n")
		if st.state() != "Failed" || st.Verdict != "unsuccessful" || st.Summary != "failed, and the way back did not succeed (undo-boot)" ||
			!strings.Contains(st.Then, "mend the cause and restart the agent") || !strings.Contains(why, "the way back: boot-default-not-set") ||
			!slices.Equal(st.Notes, []string{"the boot default is " + target + ", before the rollout it was " + h.first}) {
			t.Errorf("status: %+v", st)
		}
		h.wantLinks(links{h.first, h.first, h.first, target})
	}
	h.wantEvents(rollout, with(failedLate, "RollbackFailed")...)
	wantStuck()
	h.wantSwitches("switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 1", "test "+h.first+" 0")
	h.wantComplaint(1, h.agent("activate", target), "failed on this host before")

	// The next start tries again, and once there is room it succeeds.
	h.Run("systemctl", "restart", agentUnit)
	h.awaitAgent()
	h.awaitEvents(rollout, with(failedLate, "RollbackFailed", "RollbackFailed")...)
	wantStuck()
	h.Remove("/boot/ballast")
	h.Run("systemctl", "restart", agentUnit)
	h.awaitAgent()
	h.awaitState("Reverted")
	h.wantEvents(rollout, with(failedLate, "RollbackFailed", "RollbackFailed", "RollbackComplete")...)
	h.wantLinks(links{h.first, h.first, h.first, h.first})
	h.lastSwitches(4, "boot "+h.first+" 1", "boot "+h.first+" 0")

	// The same where the profile cannot be set: what runs and what boots does not wait for it.
	before := len(h.Switches())
	target = h.failLate(nixos("read-only"))
	const profiles = "/nix/var/nix/profiles"
	h.Run("mount", "--bind", profiles, profiles)
	h.KnobFor(target, simhost.KnobExecAt, simhost.PointLinked+" mount -o remount,bind,ro "+profiles)
	h.wantCode(4, "activate", target)
	st := h.status()
	if st.Summary != "failed, and the way back did not succeed (undo-profile)" || !strings.Contains(strings.Join(st.Why, "\n"), "the way back: profile-not-set") ||
		!slices.Equal(st.Notes, []string{"the profile is " + target + ", before the rollout it was " + h.first}) {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackFailed")...)
	h.wantLinks(links{h.first, h.first, target, h.first})
	h.Run("umount", profiles)
	h.Run("systemctl", "restart", agentUnit)
	h.awaitAgent()
	h.awaitState("Reverted")
	h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackFailed", "RollbackComplete")...)
	h.wantLinks(links{h.first, h.first, h.first, h.first})
	h.lastSwitches(before, "switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0", "test "+h.first+" 0")

	// A way back that is itself cut off, or hangs over its deadline, is repeated like a switch: what it had on its lists is not
	// left lying.
	for point, knob := range map[string]string{
		simhost.PointStopped: simhost.KnobDieAt, simhost.PointUnlinked: simhost.KnobDieAt, simhost.PointLinked: simhost.KnobDieAt,
		simhost.PointUnits: simhost.KnobHangAt,
	} {
		before := len(h.Switches())
		target = h.failLate(nixos("undo-cut-off-at-" + point))
		h.once(h.first, knob, point)
		h.wantCode(4, "activate", target)
		st := h.awaitState("Reverted")
		h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackComplete")...)
		h.wantLinks(links{h.first, h.first, h.first, h.first})
		h.lastSwitches(before, "switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0", "test "+h.first+" -", "test "+h.first+" 0")
		if h.Exists("/run/nixos/start-list") || h.Exists("/run/nixos/restart-list") {
			t.Errorf("cut off at %s: the lists are still there", point)
		}
	}

	// The moment without a running link, twice: it is made anew, and nothing else is taken for another hand.
	before = len(h.Switches())
	target = h.Add(nixos("unlinked"))
	h.KnobFor(target, simhost.KnobDieAt, simhost.PointUnlinked)
	h.wantCode(4, "activate", target)
	st = h.awaitState("Reverted")
	if st.Rollout.FailureReason != "switch-interrupted" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, with(failedLate, "RollbackComplete")...)
	h.wantLinks(links{h.first, h.first, h.first, h.first})
	h.lastSwitches(before, "switch "+target+" -", "switch "+target+" -", "boot "+h.first+" 0", "test "+h.first+" 0")
	h.wantNoNotices()
}
