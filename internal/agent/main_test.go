package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const (
	// patience bounds every wait for a condition. What is waited for takes milliseconds to seconds; a machine that needs
	// longer is stuck.
	patience = time.Minute
	// pollPause is how often a condition is looked at.
	pollPause = 5 * time.Millisecond
)

// binary is the real agent, which is the body of every attempt.
var binary string

func TestMain(m *testing.M) {
	os.Exit(withBinary(m))
}

func withBinary(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nixfleet-agent-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "nixfleet-agent")
	if text, err := exec.Command("go", "build", "-o", binary, "../../cmd/nixfleet-agent").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the agent: %v\n%s", err, text)
		return 1
	}
	return m.Run()
}

// rig is a host that is a directory, with an agent that runs in this process and can be started again and again.
type rig struct {
	*testing.T
	*simhost.Host
	cfg    config.Config
	first  string // what the host runs to begin with
	agent  *running
	client *localapi.Client
	label  int
	log    *logFile
}

// running is one life of the agent.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	mu   sync.Mutex
	said []string // to the service manager
}

func (a *running) notify(state string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = append(a.said, state)
}

func (a *running) notified() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.said)
}

// logFile keeps what the agent logs, to be shown if the test fails.
type logFile struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func newRig(t *testing.T, edits ...func(cfg *config.Config)) *rig {
	t.Helper()
	// The path of a socket is short, that of t.TempDir need not be.
	dir, err := os.MkdirTemp("", "nf-*")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, log: &logFile{}}
	r.Cleanup(func() {
		if r.agent != nil {
			r.stop()
		}
		r.killAttempts()
		if r.Failed() {
			r.Logf("the log of the agent:\n%s", r.log.text.String())
		}
		_ = os.RemoveAll(dir)
	})
	r.Host, err = simhost.Create(filepath.Join(dir, "host"), simhost.Options{Hostname: "web", First: simhost.NixOS("web", "25.11.1")})
	r.must(err)
	r.first = r.Running()
	r.cfg = config.Default()
	r.cfg.Soak = 0
	for _, edit := range edits {
		edit(&r.cfg)
	}
	r.cfg = r.cfg.WithRoot(r.Root())
	r.must(r.cfg.Validate())
	r.client = localapi.NewClient(r.cfg.SocketPath)
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// options are those of an agent on this host.
func (r *rig) options() Options {
	return Options{
		Config: r.cfg, Root: r.Root(), Version: "test", Executable: binary,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// launch starts the agent and does not wait for it.
func (r *rig) launch(edits ...func(opt *Options)) *running {
	ctx, cancel := context.WithCancel(context.Background())
	a := &running{cancel: cancel, done: make(chan struct{})}
	opt := r.options()
	opt.Notify = a.notify
	for _, edit := range edits {
		edit(&opt)
	}
	r.agent = a
	go func() {
		defer close(a.done)
		a.err = Run(ctx, opt)
	}()
	return a
}

// start starts the agent and waits until it has recovered and answers.
func (r *rig) start(edits ...func(opt *Options)) *running {
	r.Helper()
	a := r.launch(edits...)
	r.until("the agent answers", func(st localapi.Status) bool { return st.Agent.Ready })
	return a
}

// stop ends the agent as its service manager does, and waits until it has.
func (r *rig) stop() {
	r.Helper()
	a := r.agent
	r.agent = nil
	a.cancel()
	select {
	case <-a.done:
	case <-time.After(patience):
		r.Error("the agent does not end")
		return
	}
	if a.err != nil {
		r.Errorf("the agent ended with: %v", a.err)
	}
}

func (r *rig) restart() *running {
	r.Helper()
	r.stop()
	return r.start()
}

// add puts a system closure with a version of its own into the store.
func (r *rig) add(edits ...func(c *simhost.Closure)) string {
	r.Helper()
	r.label++
	c := simhost.NixOS("web", fmt.Sprintf("25.12.%d", r.label))
	for _, edit := range edits {
		edit(&c)
	}
	at, err := r.AddClosure(c)
	r.must(err)
	return at
}

func withKernel(version string) func(c *simhost.Closure) {
	return func(c *simhost.Closure) { c.Kernel = "linux-" + version }
}

func ctxOf(r *rig) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.Cleanup(cancel)
	return ctx
}

// activate hands the agent a target and gives the rollout.
func (r *rig) activate(target string, edits ...func(req *localapi.ActivateRequest)) localapi.ActivateReply {
	r.Helper()
	req := localapi.ActivateRequest{Target: target}
	for _, edit := range edits {
		edit(&req)
	}
	reply, err := r.client.Activate(ctxOf(r), req)
	if err != nil {
		r.Fatalf("activate %s: %v", target, err)
	}
	return reply
}

func (r *rig) status() localapi.Status {
	r.Helper()
	st, err := r.client.Status(ctxOf(r))
	r.must(err)
	return st
}

// until waits until the status is as it should become.
func (r *rig) until(what string, met func(st localapi.Status) bool) localapi.Status {
	r.Helper()
	var st localapi.Status
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollPause) {
		if st, err = r.client.Status(context.Background()); err == nil && met(st) {
			return st
		}
		select {
		case <-r.agent.done:
			r.Fatalf("wait until %s: the agent has ended: %v", what, r.agent.err)
		default:
		}
	}
	r.Fatalf("waited in vain until %s; last: %v, %s, rollout %+v, next %+v", what, err, st.Summary, st.Rollout, st.Next)
	return st
}

// rests waits until the rollout owns the host in the state given, and owes nothing.
func (r *rig) rests(rollout string, state fsm.State) localapi.Status {
	r.Helper()
	return r.until(rollout+" rests "+string(state), func(st localapi.Status) bool {
		return st.Rollout != nil && st.Rollout.ID == rollout && st.Rollout.State == string(state) && (st.Rollout.Phase == "" || st.Rollout.Phase == "staged")
	})
}

// await waits for a condition of the host.
func (r *rig) await(what string, met func() bool) {
	r.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollPause) {
		if met() {
			return
		}
	}
	r.Fatalf("waited in vain for %s", what)
}

func (r *rig) awaitPoint(point string) {
	r.Helper()
	r.await("the switch to come to "+point, func() bool {
		_, err := os.Stat(r.AtPoint(point))
		return err == nil
	})
}

// links holds the host itself against what it should be.
func (r *rig) links(running, profile, bootDefault string) {
	r.Helper()
	for _, leg := range []struct{ what, is, want string }{
		{"running system", r.Running(), running}, {"profile", r.Profile(), profile}, {"boot default", r.bootDefault(), bootDefault},
	} {
		if leg.is != leg.want {
			r.Errorf("the %s is %s instead of %s", leg.what, filepath.Base(leg.is), filepath.Base(leg.want))
		}
	}
}

// bootDefault is what the entry that loader.conf names boots, read here and not by the agent.
func (r *rig) bootDefault() string {
	conf, err := os.ReadFile(r.Path("/boot/loader/loader.conf"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(conf)) {
		entry, found := strings.CutPrefix(strings.TrimSpace(line), "default ")
		if !found {
			continue
		}
		text, err := os.ReadFile(r.Path("/boot/loader/entries/" + entry))
		if err != nil {
			return ""
		}
		_, init, _ := strings.Cut(string(text), "init=")
		closure, _, _ := strings.Cut(init, "/init")
		return closure
	}
	return ""
}

// events gives the kinds of what was reported of a rollout, in their order; of the host itself if rollout is empty.
func (r *rig) events(rollout string) []string {
	r.Helper()
	var kinds []string
	for _, e := range r.allEvents() {
		if e.RolloutID == rollout {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (r *rig) allEvents() []localapi.Event {
	r.Helper()
	all, err := r.client.Events(ctxOf(r), 0, 1000)
	r.must(err)
	return all
}

func (r *rig) expectEvents(rollout string, want ...string) {
	r.Helper()
	if got := r.events(rollout); !slices.Equal(got, want) {
		r.Errorf("%s reported %v instead of %v", rollout, got, want)
	}
}

// event gives the body of the last event of that kind.
func (r *rig) event(rollout string, kind fsm.PayloadKind, into any) {
	r.Helper()
	all := r.allEvents()
	slices.Reverse(all)
	for _, e := range all {
		if e.RolloutID == rollout && e.Kind == string(kind) {
			r.must(json.Unmarshal(e.Body, into))
			return
		}
	}
	r.Fatalf("%s reported no %s", rollout, kind)
}

// history gives the changes of state of a rollout, oldest first, as "From>To".
func (r *rig) history(rollout string) []string {
	r.Helper()
	rows, err := r.client.History(ctxOf(r), rollout, 100)
	r.must(err)
	var out []string
	for _, row := range slices.Backward(rows) {
		out = append(out, row.From+">"+row.To)
	}
	return out
}

func (r *rig) expectHistory(rollout string, want ...string) {
	r.Helper()
	if got := r.history(rollout); !slices.Equal(got, want) {
		r.Errorf("%s went %v instead of %v", rollout, got, want)
	}
}

// switches gives what was run, as "action version": only what really ran counts.
func (r *rig) switches() []string {
	r.Helper()
	runs, err := r.Switches()
	r.must(err)
	var out []string
	for _, run := range runs {
		out = append(out, run.Action+" "+filepath.Base(run.Toplevel))
	}
	return out
}

func (r *rig) expectSwitches(want ...string) {
	r.Helper()
	if got := r.switches(); !slices.Equal(got, want) {
		r.Errorf("switch-to-configuration was run %v instead of %v", got, want)
	}
}

func ran(action activate.Action, toplevel string) string {
	return string(action) + " " + filepath.Base(toplevel)
}

// roots gives what the agent's garbage-collector roots lead to, sorted, each once.
func (r *rig) roots() []string {
	r.Helper()
	entries, err := os.ReadDir(r.Path(activate.RootsDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r.must(err)
	var out []string
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(r.Path(activate.RootsDir), e.Name()))
		if errors.Is(err, os.ErrNotExist) { // dropped just now
			continue
		}
		r.must(err)
		out = append(out, to)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// untilNoRoots waits until the roots are gone: they are dropped after the commit that ends the rollout.
func (r *rig) untilNoRoots() {
	r.Helper()
	r.await("the roots to go", func() bool { return len(r.roots()) == 0 })
}

// killAttempts ends, as a power cut does, whatever attempt of the agent runs below the root.
func (r *rig) killAttempts() {
	markers, _ := filepath.Glob(filepath.Join(r.cfg.StateDir, "attempts", "*", "started"))
	for _, at := range markers {
		var marker struct {
			PID int `json:"pid"`
		}
		text, err := os.ReadFile(at)
		if err != nil || json.Unmarshal(text, &marker) != nil || marker.PID <= 1 {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(at), "result")); err == nil {
			continue
		}
		_ = unix.Kill(marker.PID, unix.SIGKILL)
	}
	runs, _ := r.Switches()
	for _, run := range runs {
		if !run.Ended && runsBelow(run.PID, r.Root()) {
			_ = unix.Kill(-run.PID, unix.SIGKILL)
		}
	}
}

// runsBelow reports whether the process is one of this host's: numbers are used again.
func runsBelow(pid int, root string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(line), root)
}

// powerCut stops everything on the host at once and boots it again.
func (r *rig) powerCut() {
	r.Helper()
	r.stop()
	r.killAttempts()
	r.must(r.Boot())
}

// reboot shuts the host down in order and boots it again.
func (r *rig) reboot() {
	r.Helper()
	r.stop()
	r.must(r.Boot())
}
