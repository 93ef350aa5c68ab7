//go:build e2e

package e2e

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// Values of the closure that hosts are installed with.
const (
	firstKernel  = "linux-6.12.1"
	firstSystemd = "257.3"
	firstInit    = "systemd 2"
)

// wantDeferred activates a closure that must wait for a reboot, and holds everything that can be seen against that. The links
// that a reboot does not change are those of before.
func (h *host) wantDeferred(target string, want ...component) (rollout string) {
	h.t.Helper()
	running, booted, failed := h.Running(), h.Booted(), h.failedUnits()
	out := h.wantCode(3, "activate", target)
	st := h.status()
	if st.state() != "Deferred" || st.Verdict != "reboot-needed" || st.Target.Path != target || st.NextBoot.Path != target {
		h.t.Errorf("status: %+v", st)
	}
	// Values are store paths where a closure has them; these tests give the names in them.
	got := slices.Clone(st.Rollout.Components)
	for i := range got {
		got[i].From, got[i].To = shortened(got[i].From), shortened(got[i].To)
	}
	if !reflect.DeepEqual(got, want) {
		h.t.Errorf("components:\n got %v\nwant %v", got, want)
	}
	for _, c := range st.Rollout.Components {
		if line := c.Name + ": " + orAbsent(c.From) + " -> " + orAbsent(c.To); !strings.Contains(out, line) || !slices.Contains(st.Why, line) {
			h.t.Errorf("%q is not said by activate (%s) and status (%q)", line, out, st.Why)
		}
	}
	if !strings.Contains(st.Then, "Reboot this host") {
		h.t.Errorf("what next: %s", st.Then)
	}
	h.wantEvents(st.Rollout.ID, deferredEvents...)
	h.wantLinks(links{running, booted, target, target})
	if now := h.failedUnits(); now != failed {
		h.t.Errorf("failed units: %s", now)
	}
	if ran := h.Switches()[len(h.Switches())-1]; ran.Action != "boot" || ran.Toplevel != target || ran.ExitCode != 0 {
		h.t.Errorf("last switch: %+v", ran)
	}
	return st.Rollout.ID
}

func orAbsent(value string) string {
	if value == "" {
		return "(absent)"
	}
	return value
}

func (h *host) failedUnits() string {
	h.t.Helper()
	return h.Run("systemctl", "list-units", "--failed", "--plain", "--no-legend")
}

// shortened is a path of the store without its hash and what follows the name, and any other text as it is.
func shortened(value string) string {
	rest, ok := strings.CutPrefix(value, "/nix/store/")
	if !ok {
		return value
	}
	name, _, _ := strings.Cut(rest, "/")
	_, name, _ = strings.Cut(name, "-")
	return name
}

func TestCriticalComponentDefers(t *testing.T) {
	t.Parallel()
	// Without the inhibitor that goes with the bus each component is seen alone.
	plain := func(c simhost.Closure) simhost.Closure { c.Inhibitors = nil; return c }
	h := newHost(t, hostOptions{first: plain})
	superseded := ""
	for _, tt := range []struct {
		name   string
		change func(*simhost.Closure)
		want   []component
	}{
		{"dbus", func(c *simhost.Closure) { c.DBus = simhost.DBusDaemon }, []component{{"dbus", "broker", "dbus"}}},
		{"systemd", func(c *simhost.Closure) { c.Systemd = "systemd-258.1" }, []component{{"systemd", firstSystemd, "258.1"}}},
		{"kernel", func(c *simhost.Closure) { c.Kernel = "linux-6.18.2" }, []component{{"kernel", firstKernel, "linux-6.18.2"}}},
		{"init", func(c *simhost.Closure) { c.InitInterface = "systemd 3" }, []component{{"init", firstInit, "systemd 3"}}},
		{"all", func(c *simhost.Closure) {
			c.DBus, c.Systemd, c.Kernel, c.InitInterface = "", "systemd-258.1", "linux-6.18.2", "systemd 3"
		}, []component{
			{"dbus", "broker", ""}, {"systemd", firstSystemd, "258.1"}, {"kernel", firstKernel, "linux-6.18.2"}, {"init", firstInit, "systemd 3"},
		}},
	} {
		closure := plain(nixos("critical-" + tt.name))
		tt.change(&closure)
		target := h.Add(closure)
		explained := h.wantCode(0, "explain", target)
		for _, c := range tt.want {
			if !strings.Contains(explained, "deferred") || !strings.Contains(explained, c.Name+": ") {
				t.Errorf("explain %s: %s", tt.name, explained)
			}
		}
		rollout := h.wantDeferred(target, tt.want...)
		// The newer target takes the host over from the one that was never booted.
		if superseded != "" {
			h.wantEvents(superseded, append(slices.Clone(deferredEvents), "Superseded")...)
		}
		superseded = rollout
	}
	h.wantNoNotices()
}

func TestInhibitorDefers(t *testing.T) {
	t.Parallel()
	inhibited := func(c simhost.Closure, inhibitors map[string]string) simhost.Closure {
		c.Inhibitors = inhibitors
		return c
	}
	h := newHost(t, hostOptions{first: func(c simhost.Closure) simhost.Closure {
		return inhibited(c, map[string]string{"dbus-implementation": "broker", "fstab": "/nix/store/a-fstab", "site policy": "1"})
	}})

	one := h.Add(inhibited(nixos("one"), map[string]string{"dbus-implementation": "broker", "fstab": "/nix/store/b-fstab", "site policy": "1"}))
	h.wantDeferred(one, component{"inhibitor:fstab", "fstab", "fstab"})
	bus := inhibited(nixos("bus"), map[string]string{"dbus-implementation": "dbus", "fstab": "/nix/store/a-fstab"})
	bus.DBus = simhost.DBusDaemon
	h.wantDeferred(h.Add(bus), component{"dbus", "broker", "dbus"}, component{"inhibitor:dbus-implementation", "broker", "dbus"})
	two := h.Add(inhibited(nixos("two"), map[string]string{"dbus-implementation": "broker", "fstab": "", "site policy": "2"}))
	h.wantDeferred(two, component{"inhibitor:fstab", "fstab", ""}, component{"inhibitor:site policy", "1", "2"})

	// NixOS compares only keys that both closures have, and takes what is not JSON for none: these go live.
	others := h.Add(inhibited(nixos("others"), map[string]string{"dbus-implementation": "broker", "new": "1"}))
	h.wantCode(0, "activate", others)
	h.awaitState("Converged")
	text := nixos("text")
	text.InhibitorsRaw = "dbus-implementation\nnew\n"
	unparsable := h.Add(text)
	h.wantCode(0, "activate", unparsable)
	h.awaitState("Converged")
	h.wantLinks(links{unparsable, h.first, unparsable, unparsable})
	h.wantEvents(h.rollout(), convergedLive...)

	// The operator may let a component go live. NixOS then has the last word, and where it refuses, the target is staged.
	h.configure(`"criticalComponents": {"init": "switch"}`)
	refused := nixos("refused")
	refused.InitInterface = "systemd 3"
	target := h.Add(refused)
	h.wantCode(3, "activate", target)
	st := h.status()
	if want := []component{{"init", firstInit, "systemd 3"}}; st.state() != "Deferred" || !reflect.DeepEqual(st.Rollout.Components, want) {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationDeferred")
	h.wantLinks(links{unparsable, h.first, target, target})
	ran := h.Switches()
	if last := ran[len(ran)-2:]; last[0].Action != "switch" || last[0].ExitCode != 100 || last[1].Action != "boot" || last[1].ExitCode != 0 {
		t.Errorf("last switches: %+v", last)
	}
	h.wantNoNotices()
}
