//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// bounded is what a reader may take: it waits three seconds for an agent that starts.
const bounded = 20 * time.Second

func TestStatusWithoutAgent(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	target, rollout := h.deferKernel("25.11.2")

	up := h.status()
	if up.Source != "agent" || !up.Agent.Running || !up.Agent.Ready {
		t.Errorf("with the agent up: %+v", up)
	}
	if line := h.wantCode(3, "status", "--oneline"); strings.Count(line, "\n") != 1 || !strings.Contains(line, "deferred") {
		t.Errorf("status --oneline: %q", line)
	}

	h.Run("systemctl", "stop", agentUnit)
	down := h.status()
	if down.Source != "file" || down.Agent.Running || down.state() != "Deferred" || down.Rollout.ID != rollout ||
		down.Running != up.Running || down.NextBoot != up.NextBoot || !strings.Contains(strings.Join(down.Notes, "\n"), "no agent answers") {
		t.Errorf("with the agent down: %+v", down)
	}
	if shown := h.wantCode(3, "status"); !strings.Contains(shown, "no agent answers; this was read from its file") {
		t.Errorf("status with the agent down: %s", shown)
	}
	h.wantEvents(rollout, deferredEvents...)
	if got := h.agent("events"); !strings.Contains(got.Stderr, "no agent answers") {
		t.Errorf("events with the agent down: %s", got)
	}
	if got := h.agent("history"); got.Code != 0 || !strings.Contains(got.Stdout, "Deferred") {
		t.Errorf("history with the agent down: %s", got)
	}
	h.wantComplaint(5, h.agent("activate", target), "no agent answers")

	// An agent that holds its store and does not answer yet.
	holder := h.startHolder()
	h.within(bounded, "status while the store is held", func() {
		held := h.status()
		if held.Verdict != "no-agent" || held.Running != up.Running || !strings.Contains(held.Summary, "starting, stopping or stuck") {
			t.Errorf("while the store is held: %+v", held)
		}
	})
	holder()
	if st := h.status(); st.Source != "file" || st.state() != "Deferred" {
		t.Errorf("after the store was released: %+v", st)
	}

	// Asked at every moment of a start, and of a stop, it answers the same.
	seen := map[string]int{}
	for _, verb := range []string{"start", "restart", "restart", "stop", "start"} {
		h.Run("systemctl", "--no-block", verb, agentUnit)
		for range 8 {
			st := h.status()
			seen[st.Source]++
			if st.state() != "Deferred" || st.Verdict != "reboot-needed" {
				t.Errorf("during %s: %+v", verb, st)
			}
		}
	}
	if seen["agent"] == 0 {
		t.Errorf("answers: %v", seen)
	}
	h.awaitAgent()

	// An agent that is stuck does not take its readers with it.
	h.Run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", agentUnit)
	h.within(bounded, "status of an agent that is stuck", func() {
		if got := h.agent("status"); got.Code == -1 || got.Stdout+got.Stderr == "" {
			t.Errorf("status of an agent that is stuck: %s", got)
		}
	})
	h.Run("systemctl", "kill", "--kill-whom=main", "--signal=CONT", agentUnit)
	h.awaitState("Deferred")
	h.wantEvents(rollout, deferredEvents...)
	h.wantNoNotices()
}

// startHolder holds the lock of the store, as an agent does that has opened it, until the function that it returns is called.
func (h *host) startHolder() (release func()) {
	h.t.Helper()
	h.Run("systemd-run", "--quiet", "--unit=holder", "flock", stateFile, "sleep", "infinity")
	h.Eventually("the store is held", func() (string, bool) {
		got := h.Exec("flock", "--nonblock", stateFile, "true")
		return got.String(), got.Code == 1
	})
	return func() {
		h.t.Helper()
		h.Run("systemctl", "stop", "holder.service")
	}
}
