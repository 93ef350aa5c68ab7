//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const (
	killAgent = "/usr/local/bin/kill-agent"
	killLog   = "/var/log/kills"

	// killAgentScript is run by what the agent runs, outside of its unit. Who kills "and waits" goes on when the next agent is
	// up and has found its attempt still running; otherwise the attempt has ended when the next agent comes.
	killAgentScript = `#!/bin/sh
# kill-agent WHERE main|all [wait]
unit=` + agentUnit + `
before=$(systemctl show --property=InvocationID --value $unit)
echo "$1" >>` + killLog + `
systemctl kill --signal=KILL --kill-whom="$2" $unit
[ "$3" = wait ] || exit 0
until [ "$(systemctl show --property=InvocationID --value $unit)" != "$before" ] && [ "$(systemctl show --property=ActiveState --value $unit)" = active ]
do sleep 0.02; done
`
	// killBeside stands before a program of Nix on the PATH, and kills the agent before and after the program has done its work,
	// where a file says so.
	killBeside = `#!/bin/sh
kill_if() {
	[ ! -e "/etc/sim/kill-$1" ] || { rm "/etc/sim/kill-$1"; ` + killAgent + ` "$1" "$2" $3; }
}
kill_if before-%[1]s all wait
/usr/bin/%[1]s "$@"
code=$?
kill_if after-%[1]s main
exit $code
`
	// askedAgent is the agent of a target. Asked whether it could take over, it kills the one that asks, once.
	askedAgent = `#!/bin/sh
if [ "$1" = check ] && mkdir /run/asked; then
	` + killAgent + ` inspect main
	exec sleep infinity
fi
exec /usr/local/bin/nixfleet-agent "$@"
`
)

// killsBeside makes the agent die before and after each program of Nix that its next attempts run.
func (h *host) killsBeside(programs ...string) (kills []string) {
	h.t.Helper()
	for _, program := range programs {
		for _, when := range []string{"before-", "after-"} {
			h.Write("/etc/sim/kill-"+when+program, "", 0o644)
			kills = append(kills, when+program)
		}
	}
	return kills
}

// killsAt makes the agent die at points of a closure's script: at the last one so that the script has ended when the next agent
// comes, at the others so that it runs yet.
func (h *host) killsAt(closure, action string, points ...string) (kills []string) {
	h.t.Helper()
	var lines []string
	for i, point := range points {
		whom, wait := "all", "wait"
		if i%2 == 1 {
			whom = "main"
		}
		if i == len(points)-1 {
			wait = ""
		}
		lines = append(lines, fmt.Sprintf("%s [ $NIXOS_ACTION != %s ] || %s %s-%s %s %s", point, action, killAgent, action, point, whom, wait))
		kills = append(kills, action+"-"+point)
	}
	h.KnobFor(closure, simhost.KnobExecAt, strings.Join(lines, "\n"))
	return kills
}

// wantKills holds the kills since the last call against exactly these.
func (h *host) wantKills(want ...string) {
	h.t.Helper()
	if got := strings.Fields(h.Read(killLog)); !slices.Equal(got, want) {
		h.t.Errorf("the agent was killed at\n     %q, not at\n     %q", got, want)
	}
	h.Remove(killLog)
}

// newKillHost boots a host whose agent comes back at once, and on which everything is there that can kill it.
func newKillHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t, hostOptions{})
	h.Write(killAgent, killAgentScript, 0o755)
	for _, program := range []string{"nix-store", "nix-env"} {
		h.Write("/usr/local/sbin/"+program, fmt.Sprintf(killBeside, program), 0o755)
	}
	h.Write("/etc/systemd/system/"+agentUnit+".d/restart.conf", "[Service]\nRestartSec=100ms\n", 0o644)
	h.Run("systemctl", "daemon-reload")
	return h
}

func TestKilledInEveryPhase(t *testing.T) {
	t.Parallel()
	t.Run("live", func(t *testing.T) {
		t.Parallel()
		h := newKillHost(t)
		// Waiting in Check for another switch to end.
		h.Run("mkdir", "-p", "/run/nixos")
		h.Run("systemd-run", "--quiet", "--collect", "--unit=rebuild", "flock", "/run/nixos/switch-to-configuration.lock",
			"sh", "-c", ": >/run/rebuilding; while [ -e /run/rebuilding ]; do sleep 0.02; done")
		h.Eventually("the lock is held", func() (string, bool) { return "", h.Exists("/run/rebuilding") })
		const asked = "/usr/local/bin/asked-agent"
		h.Write(asked, askedAgent, 0o755)
		closure := nixos("25.11.2")
		closure.Units = map[string]string{agentUnit: strings.Replace(unitText("The agent of the target"), "=/usr/local/bin/nixfleet-agent", "="+asked, 1)}
		target := h.Add(closure)
		kills := append(h.killsBeside("nix-store"), "inspect")
		kills = append(kills, h.killsBeside("nix-env")...)
		kills = append(kills, h.killsAt(target, "switch", simhost.PointLocked, simhost.PointChecked, simhost.PointBootLoader, simhost.PointStopped,
			simhost.PointUnlinked, simhost.PointLinked, simhost.PointUnits)...)
		rollout := h.detach(target)
		h.Eventually("it waits in Check", func() (string, bool) {
			st := h.status()
			return st.Summary, st.Rollout.Phase == "check" && strings.Contains(strings.Join(st.Why, "\n"), "another switch is under way")
		})
		h.killAgent()
		h.Remove("/run/rebuilding")
		h.awaitState("Converged")
		h.wantKills(kills...)
		h.wantEvents(rollout, convergedLive...)
		h.wantLinks(links{target, h.first, target, target})
		h.wantSwitches("switch " + target + " 0")
		h.wantNoNotices()
	})
	t.Run("staged", func(t *testing.T) {
		t.Parallel()
		h := newKillHost(t)
		closure := nixos("25.11.2")
		closure.Kernel = "linux-6.18.2"
		target := h.Add(closure)
		kills := h.killsBeside("nix-store", "nix-env")
		kills = append(kills, h.killsAt(target, "boot", simhost.PointLocked, simhost.PointBootLoader)...)
		rollout := h.detach(target, "--soak", "3s")
		h.awaitState("Deferred")
		h.wantKills(kills...)
		h.killAgent()
		h.awaitRecovery()
		h.wantEvents(rollout, deferredEvents...)
		h.wantLinks(links{h.first, h.first, target, target})

		// A cancel that is killed in each of its legs.
		kills = h.killsBeside("nix-env")
		kills = append(kills, h.killsAt(h.first, "boot", simhost.PointLocked, simhost.PointBootLoader)...)
		h.wantCode(0, "cancel")
		h.awaitState("Reverted")
		h.wantKills(kills...)
		h.wantEvents(rollout, with(deferredEvents, "DeferralCancelled")...)
		h.wantLinks(links{h.first, h.first, h.first, h.first})
		h.wantSwitches("boot "+target+" 0", "boot "+h.first+" 0")

		// Once more, to its end: killed while it soaks after the reboot.
		h.KnobFor(target, simhost.KnobExecAt, "")
		rollout = h.detach(target, "--soak", "3s")
		h.awaitState("Deferred")
		h.Reboot()
		h.awaitAgent()
		h.awaitState("Soaking")
		h.killAgent()
		h.awaitState("Converged")
		h.wantEvents(rollout, with(deferredEvents, "ActivationCompleted", "ProbeTopologyDeclared", "ProbeTopologyDeclared", "Converged")...)
		h.wantLinks(links{target, target, target, target})
		h.wantSwitches("boot "+target+" 0", "boot "+h.first+" 0", "boot "+target+" 0")
		h.wantNoNotices()
	})
	t.Run("failing", func(t *testing.T) {
		t.Parallel()
		h := newKillHost(t)
		target := h.Add(nixos("fails"))
		// The switch ends with the target running, twice; the agent dies with the end of each.
		kills := h.killsAt(target, "switch", simhost.PointLinked)
		kills = append(kills, kills...)
		h.KnobFor(target, simhost.KnobPanicAt, simhost.PointLinked)
		back := h.killsAt(h.first, "boot", simhost.PointStart, simhost.PointBootLoader)
		// The knob of one closure serves both of its runs.
		h.KnobFor(h.first, simhost.KnobExecAt, h.Read("/etc/sim/"+strings.TrimPrefix(h.first, "/nix/store/")+"/"+simhost.KnobExecAt)+
			strings.Join([]string{
				simhost.PointLocked + " [ $NIXOS_ACTION != test ] || " + killAgent + " test-locked main wait",
				simhost.PointUnlinked + " [ $NIXOS_ACTION != test ] || " + killAgent + " test-unlinked all wait",
				simhost.PointEnd + " [ $NIXOS_ACTION != test ] || " + killAgent + " test-end main",
			}, "\n"))
		back = append(back, "test-locked", "test-unlinked", "test-end")
		// Only the way back sets the profile from here on: the way forth has done so when its switch has begun.
		h.KnobFor(target, simhost.Once(simhost.KnobWaitAt), simhost.PointLocked)
		rollout := h.detach(target)
		h.AwaitPoint(simhost.PointLocked)
		kills = append(append(kills, h.killsBeside("nix-env")...), back...)
		h.Go(simhost.PointLocked)
		st := h.awaitState("Reverted")
		h.wantKills(kills...)
		if st.Rollout.FailureReason != "switch-interrupted" {
			t.Errorf("status: %+v", st)
		}
		h.wantEvents(rollout, with(failedLate, "RollbackComplete")...)
		h.wantLinks(links{h.first, h.first, h.first, h.first})
		h.wantSwitches("switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0", "test "+h.first+" 0")
		if rows := strings.TrimSpace(h.wantCode(0, "quarantine", "list")); strings.Count(rows, "\n") != 0 || !strings.Contains(rows, " 1 x ") || !strings.Contains(rows, target) {
			t.Errorf("quarantine: %s", rows)
		}

		// Across systemd the way back is staged, and a kill there is no reboot. Killed again as soon as that is done.
		h.KnobFor(h.first, simhost.KnobExecAt, "")
		h.configure(`"criticalComponents": {"systemd": "switch"}`)
		closure := nixos("fails-with-systemd")
		closure.Systemd = "systemd-258.1"
		target = h.failLate(closure)
		before := len(h.Switches())
		kills = h.killsAt(h.first, "boot", simhost.PointLocked, simhost.PointBootLoader)
		rollout = h.detach(target)
		h.Eventually("the way back is staged", func() (string, bool) { st := h.status(); return st.Summary, st.Verdict == "reboot-needed" })
		h.wantKills(kills...)
		h.killAgent()
		h.awaitRecovery()
		h.wantEvents(rollout, with(failedLate, "RollbackDeferred")...)
		h.Reboot()
		h.awaitAgent()
		h.awaitState("Reverted")
		h.killAgent()
		h.awaitRecovery()
		h.wantEvents(rollout, with(failedLate, "RollbackDeferred", "RollbackComplete")...)
		h.wantLinks(links{h.first, h.first, h.first, h.first})
		h.lastSwitches(before, "switch "+target+" 101", "switch "+target+" 101", "boot "+h.first+" 0")
		h.wantNoNotices()
	})
}
