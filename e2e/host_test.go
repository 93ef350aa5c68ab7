//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/testhost"
)

const (
	hostName   = "web"
	configFile = "/etc/nixfleet-agent.json"
	agentUnit  = "nixfleet-agent.service"
	stateFile  = "/var/lib/nixfleet-agent/state.db"
)

// config is that of a host whose soak is worth waiting for in a test.
const config = `{"hostname": "` + hostName + `", "soak": "1s"}`

// unitText is the service with the settings that nix/module.nix gives it.
func unitText(description string) string {
	return `[Unit]
Description=` + description + `
X-StopOnRemoval=false
StartLimitIntervalSec=0

[Service]
X-RestartIfChanged=false
X-StopIfChanged=false
Environment=HOME=/var/lib/nixfleet-agent
ExecStart=/usr/local/bin/nixfleet-agent run --config ` + configFile + `
Type=notify
NotifyAccess=main
WatchdogSec=3min
Restart=always
RestartSec=2s
KillMode=mixed
TimeoutStopSec=30s
StateDirectory=nixfleet-agent
StateDirectoryMode=0700
RuntimeDirectory=nixfleet-agent
RuntimeDirectoryPreserve=yes

[Install]
WantedBy=multi-user.target
`
}

// host is a booted host with the agent on it.
type host struct {
	*testhost.Host
	t     *testing.T
	first string // the closure that it was installed with
}

type hostOptions struct {
	format string // of the boot entries
	first  func(simhost.Closure) simhost.Closure
}

// newHost boots a host on which the agent runs.
func newHost(t *testing.T, opts hostOptions) *host {
	t.Helper()
	machines <- struct{}{}
	t.Cleanup(func() { <-machines })
	first := nixos("25.11.1")
	if opts.first != nil {
		first = opts.first(first)
	}
	h := &host{Host: testhost.New(t, base, testhost.Options{Name: hostName, EntryFormat: opts.format, First: first}), t: t}
	h.first = h.Profile()
	h.Install(binary, "/usr/local/bin/nixfleet-agent", 0o755)
	h.Write(configFile, config, 0o644)
	h.Write("/etc/systemd/system/"+agentUnit, unitText("Bring this host to its target closure"), 0o644)
	h.Enable(agentUnit, "multi-user.target")
	t.Cleanup(func() {
		if t.Failed() {
			h.explain()
		}
	})
	h.Boot()
	h.awaitAgent()
	return h
}

// configure adds a field to the configuration and restarts the agent.
func (h *host) configure(field string) {
	h.t.Helper()
	h.Write(configFile, strings.Replace(config, "{", "{"+field+", ", 1), 0o644)
	h.Run("systemctl", "restart", agentUnit)
}

// nixos is a closure of the host; what is not changed in it is the same in all.
func nixos(label string) simhost.Closure { return simhost.NixOS(hostName, label) }

// bothFormats runs a scenario on a host of each format of boot entries.
func bothFormats(t *testing.T, scenario func(t *testing.T, format string)) {
	t.Helper()
	for _, format := range []string{simhost.EntryFormatGeneration, simhost.EntryFormatHashed} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			scenario(t, format)
		})
	}
}

// explain puts into the log of a failed test what one would look for on the host.
func (h *host) explain() {
	h.t.Log(h.Console())
	if h.Exists("/run/systemd") {
		h.t.Logf("journal:\n%s", h.Exec("journalctl", "--no-pager", "--output=short-monotonic", "--lines=150", "_COMM=nixfleet-agent", "+", "UNIT="+agentUnit, "+", "SYSLOG_IDENTIFIER=nixfleet-agent").Stdout)
		h.t.Logf("status: %s", h.agent("status"))
		h.t.Logf("events:\n%s", h.agent("events").Stdout)
	}
	h.t.Logf("switches:\n%s", h.Read(simhost.SwitchLog))
}

// agent runs a verb of the command line.
func (h *host) agent(args ...string) testhost.Result {
	h.t.Helper()
	return h.Exec(append([]string{"nixfleet-agent", "--config", configFile}, args...)...)
}

// wantCode runs a verb that must end with the exit code, and returns its standard output.
func (h *host) wantCode(code int, args ...string) string {
	h.t.Helper()
	result := h.agent(args...)
	if result.Code != code {
		h.t.Fatalf("nixfleet-agent %s: want exit code %d, got %s", strings.Join(args, " "), code, result)
	}
	return result.Stdout
}

// awaitAgent waits until the service is up.
func (h *host) awaitAgent() {
	h.t.Helper()
	h.Eventually("the agent is up", func() (string, bool) {
		state := strings.TrimSpace(h.Exec("systemctl", "show", "--property=ActiveState", "--value", agentUnit).Stdout)
		return state, state == "active"
	})
}

// status is what a program would read of `status --json`.
type status struct {
	Source string `json:"source"`
	Agent  struct {
		Running bool `json:"running"`
		Ready   bool `json:"ready"`
	} `json:"agent"`
	Running  struct{ Path string }  `json:"running"`
	NextBoot struct{ Path string }  `json:"nextBoot"`
	Target   *struct{ Path string } `json:"target"`
	Rollout  *struct {
		ID            string      `json:"id"`
		State         string      `json:"state"`
		Phase         string      `json:"phase"`
		Components    []component `json:"components"`
		FailureReason string      `json:"failureReason"`
		FailureDetail string      `json:"failureDetail"`
		Degraded      []string    `json:"degraded"`
	} `json:"rollout"`
	Verdict string   `json:"verdict"`
	Summary string   `json:"summary"`
	Why     []string `json:"why"`
	Then    string   `json:"then"`
	Notes   []string `json:"notes"`
}

type component struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
}

func (s status) state() string {
	if s.Rollout == nil {
		return ""
	}
	return s.Rollout.State
}

// exitCodes are those of `status` for each verdict.
var exitCodes = map[string]int{"at-target": 0, "in-progress": 2, "reboot-needed": 3, "unsuccessful": 4, "no-agent": 5}

// status asks for the status, whose exit code must be that of its verdict.
func (h *host) status() status {
	h.t.Helper()
	result := h.agent("status", "--json")
	var st status
	if err := json.Unmarshal([]byte(result.Stdout), &st); err != nil {
		h.t.Fatalf("status --json: %v: %s", err, result)
	}
	if code, known := exitCodes[st.Verdict]; !known || result.Code != code {
		h.t.Fatalf("status --json: exit code %d with the verdict %q", result.Code, st.Verdict)
	}
	return st
}

// awaitState waits until the rollout that owns the host is in a state.
func (h *host) awaitState(state string) status {
	h.t.Helper()
	var st status
	h.Eventually("the rollout is "+state, func() (string, bool) {
		st = h.status()
		return fmt.Sprintf("%s: %s %q", st.state(), st.Summary, st.Why), st.state() == state
	})
	return st
}

// event is one line of `events --json`.
type event struct {
	Pos       uint64          `json:"pos"`
	Kind      string          `json:"kind"`
	RolloutID string          `json:"rolloutId"`
	Body      json.RawMessage `json:"body"`
}

func (e event) body(t *testing.T) map[string]any {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal(e.Body, &body); err != nil {
		t.Fatalf("body of event %d: %v", e.Pos, err)
	}
	return body
}

// events are all that the host reports, in order.
func (h *host) events() []event {
	h.t.Helper()
	var events []event
	for line := range strings.Lines(h.wantCode(0, "events", "--json", "--number", "1000")) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			h.t.Fatalf("events --json: %v: %s", err, line)
		}
		if len(events) > 0 && e.Pos != events[len(events)-1].Pos+1 {
			h.t.Fatalf("event %d follows event %d", e.Pos, events[len(events)-1].Pos)
		}
		events = append(events, e)
	}
	return events
}

// eventsOf are the events of one rollout.
func (h *host) eventsOf(rollout string) []event {
	h.t.Helper()
	return slices.DeleteFunc(h.events(), func(e event) bool { return e.RolloutID != rollout })
}

// wantEvents holds the events of one rollout against exactly these kinds, in this order, and returns them.
func (h *host) wantEvents(rollout string, kinds ...string) []event {
	h.t.Helper()
	events := h.eventsOf(rollout)
	var got []string
	for _, e := range events {
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, kinds) {
		h.t.Fatalf("events of %s:\n got %s\nwant %s", rollout, strings.Join(got, " "), strings.Join(kinds, " "))
	}
	return events
}

// wantNoNotices fails if the host has reported anything that belongs to no rollout.
func (h *host) wantNoNotices() {
	h.t.Helper()
	for _, e := range h.eventsOf("") {
		h.t.Errorf("notice %s: %s", e.Kind, e.Body)
	}
}

// links are what the host runs and boots.
type links struct{ running, booted, profile, bootDefault string }

func (h *host) wantLinks(want links) {
	h.t.Helper()
	got := links{h.Running(), h.Booted(), h.Profile(), h.BootDefault()}
	if got != want {
		h.t.Fatalf("links:\n got %+v\nwant %+v", got, want)
	}
}

// wantSwitches holds the runs of switch-to-configuration since the host was made against "ACTION CLOSURE EXIT-CODE", where a
// run without an end has "-".
func (h *host) wantSwitches(want ...string) {
	h.t.Helper()
	var got []string
	for _, s := range h.Switches() {
		code := "-"
		if s.Ended {
			code = fmt.Sprint(s.ExitCode)
		}
		got = append(got, s.Action+" "+s.Toplevel+" "+code)
	}
	if !slices.Equal(got, want) {
		h.t.Fatalf("switches:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// detach hands a closure to the agent without following it, and returns the rollout's id.
func (h *host) detach(closure string, args ...string) string {
	h.t.Helper()
	return strings.TrimSpace(h.wantCode(0, append([]string{"activate", "--detach", closure}, args...)...))
}

// rollout is the id of the rollout that owns the host.
func (h *host) rollout() string {
	h.t.Helper()
	st := h.status()
	if st.Rollout == nil {
		h.t.Fatal("no rollout owns the host")
	}
	return st.Rollout.ID
}
