package activate

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// pid1 answers as PID 1 does; what it knows is one unit. The tests on a booted host have the real one.
type pid1 struct {
	state   unitState
	started []string
	answers []error // of starts, in order; then nil
}

func (p *pid1) startTransient(_ context.Context, unit string, _ []sddbus.Property) error {
	p.started = append(p.started, unit)
	if len(p.answers) == 0 {
		return nil
	}
	err := p.answers[0]
	p.answers = p.answers[1:]
	return err
}

func (p *pid1) unit(context.Context, string) (unitState, error) { return p.state, nil }
func (p *pid1) stop(context.Context, string) error              { return nil }
func (p *pid1) resetFailed(context.Context, string) error       { return nil }
func (p *pid1) systemState(context.Context) (string, error)     { return "running", nil }
func (p *pid1) failedUnits(context.Context) ([]string, error)   { return nil, nil }
func (p *pid1) close()                                          {}
func (p *pid1) dial(context.Context) (manager, error)           { return p, nil }
func unreachable(context.Context) (manager, error)              { return nil, errors.New("nobody answers") }
func silentJournal(context.Context, ...string) string           { return "" }

const invocation = "0123456789abcdef0123456789abcdef"

// notFound is how a unit reads that PID 1 does not know: like a success.
var notFound = unitState{LoadState: "not-found", ActiveState: "inactive", SubState: "dead", Result: "success"}

func ofState(active, sub, result string, code, status int) unitState {
	return unitState{LoadState: "loaded", ActiveState: active, SubState: sub, Result: result, ExecMainCode: code, ExecMainStatus: status, InvocationID: invocation}
}

func newSystemd(t *testing.T, dial func(context.Context) (manager, error)) (*Systemd, JobID) {
	t.Helper()
	root := t.TempDir()
	file := filepath.Join(root, "proc/sys/kernel/random/boot_id")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("boot-1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := NewSystemd(AttemptOptions{StateDir: t.TempDir(), Executable: "/agent", Host: system.New(root), Now: time.Now}, slog.New(slog.DiscardHandler))
	s.dial, s.journal = dial, silentJournal
	return s, JobID{Rollout: "stable@abc", Step: "switch", Attempt: 1}
}

// begin leaves of an attempt what its body leaves when it is killed.
func begin(t *testing.T, s *Systemd, id JobID, bootID string) marker {
	t.Helper()
	m := marker{PID: 1, PIDStart: 1, BootID: bootID, InvocationID: invocation, StartedAt: time.Now()}
	d := s.attempts.dir(id)
	if err := errors.Join(d.create(), d.mark(m)); err != nil {
		t.Fatal(err)
	}
	return m
}

// switch-to-configuration resets every failed unit, and a result must not go with its unit: it is in the state directory.
func TestResultOutlivesItsUnit(t *testing.T) {
	for _, dial := range []func(context.Context) (manager, error){(&pid1{state: notFound}).dial, unreachable} {
		s, id := newSystemd(t, dial)
		m := begin(t, s, id, "boot-1")
		want := Result{Kind: KindExited, ExitCode: 4, InvocationID: m.InvocationID, BootID: m.BootID, StartedAt: m.StartedAt, EndedAt: time.Now()}
		if err := s.attempts.dir(id).finish(want); err != nil {
			t.Fatal(err)
		}
		seen, err := s.Look(context.Background(), id)
		if err != nil || seen.State != JobEnded || seen.Result.ExitCode != 4 {
			t.Errorf("got %+v, %v", seen, err)
		}
	}
}

func TestLookAtAUnit(t *testing.T) {
	const failedLines = `{"MESSAGE_ID":"98e322203f7a4ed290d09fe03c09fe15","EXIT_CODE":"exited","EXIT_STATUS":"4"}
{"MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","UNIT_RESULT":"exit-code"}
`
	tests := []struct {
		name    string
		begun   bool
		boot    string
		unit    unitState
		journal string
		state   JobState
		kind    ResultKind
		exit    int
	}{
		{"never heard of", false, "", notFound, "", JobAbsent, "", 0},
		{"about to run", false, "", unitState{LoadState: "loaded", ActiveState: "inactive", SubState: "dead", Result: "success", JobQueued: true}, "", JobRunning, "", 0},
		{"starting", false, "", ofState("activating", "start", "success", 0, 0), "", JobRunning, "", 0},
		{"its binary is missing", false, "", ofState("failed", "failed", "exit-code", 1, 203), "", JobLost, KindLost, -1},
		{"being stopped", true, "boot-1", ofState("deactivating", "stop-sigterm", "success", 0, 0), "", JobRunning, "", 0},

		{"a unit that is gone is no success", true, "boot-1", notFound, "", JobLost, KindLost, -1},
		{"of an earlier boot", true, "boot-0", ofState("active", "exited", "success", 1, 0), "", JobLost, KindLost, -1},
		{"of another invocation", true, "boot-1", func() unitState {
			u := ofState("active", "exited", "success", 1, 0)
			u.InvocationID = "fedcba9876543210fedcba9876543210"
			return u
		}(), "", JobLost, KindLost, -1},
		{"gone, and the journal knows", true, "boot-1", notFound, failedLines, JobEnded, KindExited, 4},

		{"exit 0", true, "boot-1", ofState("active", "exited", "success", 1, 0), "", JobEnded, KindExited, 0},
		{"exit 4", true, "boot-1", ofState("failed", "failed", "exit-code", 1, 4), "", JobEnded, KindExited, 4},
		{"the body was killed", true, "boot-1", ofState("failed", "failed", "signal", 2, 9), "", JobEnded, KindSignaled, -1},
		{"PID 1's own deadline", true, "boot-1", ofState("failed", "failed", "timeout", 2, 9), "", JobEnded, KindTimeout, -1},
		{"status 0 of a unit that was told to end", true, "boot-1", ofState("failed", "failed", "timeout", 1, 0), "", JobEnded, KindTimeout, -1},
		{"the program was signaled", true, "boot-1", ofState("failed", "failed", "exit-code", 1, 128+15), "", JobEnded, KindSignaled, -1},
		{"the program was ended at its deadline", true, "boot-1", ofState("failed", "failed", "exit-code", 1, 124), "", JobEnded, KindTimeout, -1},
		{"the body ran nothing", true, "boot-1", ofState("failed", "failed", "exit-code", 1, ExitNotRun), "", JobLost, KindLost, -1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, id := newSystemd(t, (&pid1{state: test.unit}).dial)
			s.journal = func(context.Context, ...string) string { return test.journal }
			if test.begun {
				begin(t, s, id, test.boot)
			}
			seen, err := s.Look(context.Background(), id)
			if err != nil || seen.State != test.state || seen.Result.Kind != test.kind {
				t.Fatalf("got %+v, %v", seen, err)
			}
			if test.kind != "" && seen.Result.ExitCode != test.exit {
				t.Errorf("exit code is %d, want %d", seen.Result.ExitCode, test.exit)
			}
			if seen.Result.Succeeded() && test.name != "exit 0" {
				t.Error("it counts as a success")
			}
		})
	}
}

func TestStartOfAUnit(t *testing.T) {
	broken := io.ErrUnexpectedEOF // the connection went before there was an answer
	exists := dbus.Error{Name: errUnitExists}
	refused := dbus.Error{Name: "org.freedesktop.systemd1.BadUnitSetting"}
	for name, test := range map[string]struct {
		answers []error
		starts  int
		fails   bool
	}{
		"started":                              {nil, 1, false},
		"it is there already":                  {[]error{exists}, 1, false},
		"started, but the answer did not come": {[]error{broken, exists}, 2, false},
		"PID 1 executes itself anew":           {[]error{broken, broken, nil}, 3, false},
		"PID 1 does not take it":               {[]error{refused}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pid1{state: notFound, answers: test.answers}
			s, id := newSystemd(t, p.dial)
			err := s.Start(context.Background(), Job{ID: id, Argv: []string{"/bin/true"}})
			if (err != nil) != test.fails || len(p.started) != test.starts || p.started[0] != id.Name()+".service" {
				t.Errorf("got %v after %q", err, p.started)
			}
		})
	}
}

func TestTransientProperties(t *testing.T) {
	job := Job{ID: JobID{Rollout: "r", Step: "switch", Attempt: 1}, Description: "d", Env: []string{"A=b"}, Deadline: time.Hour}
	got := map[string]any{}
	for _, p := range transientProperties(job, []string{"/agent", "--", "/x", "$HOME", "${A}$$"}) {
		got[p.Name] = p.Value.Value()
	}
	want := map[string]any{
		"Description": "d", "Type": "oneshot", "RemainAfterExit": true, "Environment": []string{"A=b"},
		// PID 1 expands variables in arguments.
		"ExecStart":        []execStart{{Path: "/agent", Args: []string{"/agent", "--", "/x", "$$HOME", "$${A}$$$$"}}},
		"TimeoutStartUSec": uint64(61 * 60 * 1e6), "TimeoutStopUSec": uint64(30 * 1e6), "KillMode": "control-group", "IgnoreOnIsolate": true,
		"StandardInput": "null", "StandardOutput": "journal", "StandardError": "journal", "SyslogIdentifier": "nixfleet-switch", "OOMScoreAdjust": int32(-900),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if sddbusType := dbus.SignatureOf([]execStart{}).String(); sddbusType != "a(sasb)" {
		t.Errorf("ExecStart is of type %s", sddbusType)
	}
}

func TestEndInJournal(t *testing.T) {
	const (
		exit4   = `{"MESSAGE_ID":"98e322203f7a4ed290d09fe03c09fe15","EXIT_CODE":"exited","EXIT_STATUS":"4"}`
		byKill  = `{"MESSAGE_ID":"98e322203f7a4ed290d09fe03c09fe15","EXIT_CODE":"killed","EXIT_STATUS":"KILL"}`
		failed  = `{"MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","UNIT_RESULT":"exit-code"}`
		signal  = `{"MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","UNIT_RESULT":"signal"}`
		timeout = `{"MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","UNIT_RESULT":"timeout"}`
		done    = `{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","JOB_TYPE":"start","JOB_RESULT":"done"}`
	)
	for name, test := range map[string]struct {
		lines []string
		known bool
		want  Result
	}{
		"nothing":                    {nil, false, Result{}},
		"not of PID 1":               {[]string{"text", `{"MESSAGE":[1,2]}`, `{"MESSAGE_ID":null}`}, false, Result{}},
		"an exit and no end":         {[]string{exit4}, false, Result{}},
		"exit 4":                     {[]string{exit4, failed}, true, Result{Kind: KindExited, ExitCode: 4}},
		"killed":                     {[]string{byKill, signal}, true, Result{Kind: KindSignaled, ExitCode: -1, Signal: 9}},
		"timeout":                    {[]string{byKill, timeout}, true, Result{Kind: KindTimeout, ExitCode: -1}},
		"success":                    {[]string{done}, true, Result{Kind: KindExited}},
		"failed, it is not told how": {[]string{failed}, true, Result{Kind: KindLost, ExitCode: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			end, known := endInJournal(strings.Join(test.lines, "\n"))
			if known != test.known {
				t.Fatalf("known is %t: %+v", known, end)
			}
			if !known {
				return
			}
			r := Result{ExitCode: -1}
			end.fill(&r)
			if r.Note = ""; !reflect.DeepEqual(r, test.want) {
				t.Errorf("got %+v, want %+v", r, test.want)
			}
		})
	}
}

func TestForeignFailures(t *testing.T) {
	own := JobID{Rollout: "r", Step: "undo-boot", Attempt: 12}.Name() + ".service"
	got := foreignFailures([]string{"z.service", own, "session-1.scope", "nixfleet-agent.service", "a.mount"})
	if want := []string{"a.mount", "nixfleet-agent.service", "z.service"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestUnitFromProperties(t *testing.T) {
	got := unitFrom(map[string]any{
		"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(4),
		"InvocationID": []byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef},
		"Job":          []any{uint32(0), dbus.ObjectPath("/")},
	})
	if want := ofState("failed", "failed", "exit-code", 1, 4); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := unitFrom(nil); got.loaded() || got.busy() {
		t.Errorf("nothing reads as %+v", got)
	}
}

func TestLastLines(t *testing.T) {
	for _, test := range []struct {
		text         string
		lines, bytes int
		want         string
	}{
		{"", 3, 10, ""}, {"a\n", 3, 10, "a"}, {"a\nb\nc\nd\n", 2, 100, "c\nd"}, {"aaaa\nbb\ncc", 9, 7, "bb\ncc"}, {"long line", 1, 4, "line"}, {"\xff\n", 1, 9, "\uFFFD"},
	} {
		if got := lastLines(test.text, test.lines, test.bytes); got != test.want {
			t.Errorf("lastLines(%q, %d, %d) = %q, want %q", test.text, test.lines, test.bytes, got, test.want)
		}
	}
}
