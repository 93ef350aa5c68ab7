package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const (
	// crashSeeds is how many seeds every case is played with; the first one is printed and can be set with CRASH_SEED.
	crashSeeds      = 12
	crashSeedsShort = 2
	// crashesOfABoot stays below the number of starts without progress that make the agent give a phase up.
	crashesOfABoot = 4
	// crashWithin is the longest life of an agent that is going to be killed: a whole activation takes about as long.
	crashWithin = 400 * time.Millisecond
)

// crashCase is one way that an activation can go.
type crashCase struct {
	name    string
	target  func(c *simhost.Closure)
	failsAt []string // points of the switch at one of which it fails
	reboots bool
	state   string // of the rollout at its end
	kinds   string // of all that is reported, in order
}

var crashCases = []crashCase{
	{name: "live", state: "Converged",
		kinds: `^DispatchAck ActivationStarted ActivationCompleted (ProbeTopologyDeclared )+Converged $`},
	{name: "deferred", state: "Converged", reboots: true, target: func(c *simhost.Closure) { c.Kernel = "linux-6.18.4" },
		kinds: `^DispatchAck ActivationStarted ActivationDeferred ActivationCompleted (ProbeTopologyDeclared )+Converged $`},
	{name: "failing", state: "Reverted", failsAt: []string{simhost.PointChecked, simhost.PointBootLoader, simhost.PointUnits},
		kinds: `^DispatchAck (ActivationStarted ){1,2}ActivationFailed RollbackComplete $`},
}

// TestKilledAtRandom kills the real daemon at random moments of an activation and starts it again, until the rollout is at its
// end. The host then is where it should be, its switch was never run twice for one attempt nor beside another, and what was
// reported is whole, in order and told once.
func TestKilledAtRandom(t *testing.T) {
	binary := buildAgent(t)
	first, seeds := uint64(time.Now().UnixNano()), crashSeeds
	if testing.Short() {
		seeds = crashSeedsShort
	}
	if set := os.Getenv("CRASH_SEED"); set != "" {
		if _, err := fmt.Sscan(set, &first); err != nil {
			t.Fatalf("CRASH_SEED=%s: %v", set, err)
		}
	}
	t.Logf("CRASH_SEED=%d", first)
	for i := range seeds {
		for _, c := range crashCases {
			seed := first + uint64(i)
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				t.Parallel()
				newVictim(t, binary, seed).play(c)
			})
		}
	}
}

// victim is a host whose agent is killed.
type victim struct {
	*testing.T
	*simhost.Host
	random *rand.Rand
	client *localapi.Client
	argv   []string
	log    *os.File
	daemon *exec.Cmd
	first  string
	target string
	kills  []string // after how long each life ended
}

func newVictim(t *testing.T, binary string, seed uint64) *victim {
	t.Helper()
	dir, err := os.MkdirTemp("", "nf-*") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{T: t, random: rand.New(rand.NewPCG(seed, 0))}
	v.Cleanup(func() {
		if v.daemon != nil {
			_ = v.daemon.Process.Kill()
			_ = v.daemon.Wait()
		}
		if v.Failed() {
			text, _ := os.ReadFile(v.log.Name())
			v.Logf("killed after %v; the agents' log:\n%s", v.kills, text)
		}
		_ = v.log.Close()
		_ = os.RemoveAll(dir)
	})
	v.log, err = os.Create(filepath.Join(dir, "agent.log"))
	v.must(err)
	v.Host, err = simhost.Create(filepath.Join(dir, "host"), simhost.Options{Hostname: "web", First: simhost.NixOS("web", "25.11.1")})
	v.must(err)
	v.first = v.Running()
	config := filepath.Join(dir, "config.json")
	v.must(os.WriteFile(config, []byte(`{"soak": "0s"}`), 0o644))
	v.argv = []string{binary, "--root", v.Root(), "--config", config, "run"}
	v.client = localapi.NewClient(v.Path("/run/nixfleet-agent/agent.sock"))
	return v
}

func (v *victim) must(err error) {
	v.Helper()
	if err != nil {
		v.Fatal(err)
	}
}

func (v *victim) play(c crashCase) {
	closure := simhost.NixOS("web", "25.11.2")
	if c.target != nil {
		c.target(&closure)
	}
	var err error
	v.target, err = v.AddClosure(closure)
	v.must(err)
	if len(c.failsAt) > 0 {
		v.must(v.KnobFor(v.target, simhost.KnobExitAt, c.failsAt[v.random.IntN(len(c.failsAt))]+" 9"))
	}

	v.crash(v.ask)
	v.start()
	v.ask()
	if c.reboots {
		v.until("Deferred")
		v.kill()
		v.must(v.Boot())
		v.crash(func() {})
		v.start()
	}
	v.until(c.state)
	v.untilTidy()
	reported := v.reported()
	v.stop()

	v.start() // nothing is left to be done or said
	v.until(c.state)
	if again := v.reported(); len(again) != len(reported) {
		v.Errorf("a start at rest reported %d more", len(again)-len(reported))
	}
	v.stop()
	v.checkLinks(c)
	v.checkEvents(c, reported)
	v.checkSwitches(c, reported)
}

// crash starts the agent and kills it, some times. do is done while it lives, and may fail with it.
func (v *victim) crash(do func()) {
	for range 1 + v.random.IntN(crashesOfABoot) {
		v.start()
		life := time.Duration(v.random.Int64N(int64(crashWithin)))
		v.kills = append(v.kills, life.String())
		daemon := v.daemon
		timer := time.AfterFunc(life, func() { _ = daemon.Process.Kill() })
		do()
		_ = daemon.Wait() // it was killed
		timer.Stop()
		v.daemon = nil
	}
}

func (v *victim) start() {
	v.Helper()
	v.daemon = exec.Command(v.argv[0], v.argv[1:]...)
	v.daemon.Stdout, v.daemon.Stderr = v.log, v.log
	v.must(v.daemon.Start())
}

func (v *victim) kill() {
	v.Helper()
	v.must(v.daemon.Process.Kill())
	_ = v.daemon.Wait() // it was killed
	v.daemon = nil
}

func (v *victim) stop() {
	v.Helper()
	v.must(v.daemon.Process.Signal(syscall.SIGTERM))
	err := v.daemon.Wait()
	v.daemon = nil
	v.must(err)
}

// ask hands the agent its target, unless it has it already. An agent that is killed meanwhile answers nothing; whether it has
// taken the target, the next one knows.
func (v *victim) ask() {
	v.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for ctx.Err() == nil {
		st, err := v.client.Status(ctx)
		if err == nil && st.Rollout != nil {
			return
		}
		if err == nil && st.Agent.Ready {
			_, err = v.client.Activate(ctx, localapi.ActivateRequest{Target: v.target})
			var refused *localapi.Error
			if errors.As(err, &refused) {
				v.Fatalf("activate: %v", err)
			}
			if err == nil {
				return
			}
		}
		if syscall.Kill(v.daemon.Process.Pid, 0) != nil || v.isDead() {
			return
		}
		time.Sleep(2 * time.Millisecond) // polls a condition
	}
	v.Fatal("the agent never took its target")
}

// isDead reports whether the daemon was killed and waits to be waited for.
func (v *victim) isDead() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.daemon.Process.Pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// until waits until the rollout is in a state and owes nothing but a reboot.
func (v *victim) until(state string) {
	v.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		st, err := v.client.Status(ctx)
		if err == nil && st.Rollout != nil && st.Rollout.State == state {
			return
		}
		if ctx.Err() != nil || v.isDead() {
			v.Fatalf("wait for %s: %v, %s, rollout %+v", state, err, st.Summary, st.Rollout)
		}
		time.Sleep(5 * time.Millisecond) // polls a condition
	}
}

// untilTidy waits until the rollout's roots are gone, which is after the commit that ended it.
func (v *victim) untilTidy() {
	v.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(v.Path(activate.RootsDir), "*"))
		v.must(err)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			v.Fatalf("roots are left: %v", left)
		}
	}
}

func (v *victim) reported() []localapi.Event {
	v.Helper()
	events, err := v.client.Events(context.Background(), 0, 1000)
	v.must(err)
	return events
}

func (v *victim) checkLinks(c crashCase) {
	v.Helper()
	want := v.target
	if len(c.failsAt) > 0 {
		want = v.first
	}
	if v.Running() != want || v.Profile() != want {
		v.Errorf("%s runs and %s is the profile instead of %s", v.Running(), v.Profile(), want)
	}
	// What would be booted is only proven by booting it.
	v.must(v.Boot())
	if v.Booted() != want {
		v.Errorf("%s was booted instead of %s", v.Booted(), want)
	}
}

func (v *victim) checkEvents(c crashCase, events []localapi.Event) {
	v.Helper()
	var kinds strings.Builder
	last := uint64(0)
	for i, e := range events {
		if e.Pos != uint64(i)+1 {
			v.Errorf("event %d is at position %d", i+1, e.Pos)
		}
		if e.RolloutID != events[0].RolloutID {
			v.Errorf("%s was reported of %q beside %q", e.Kind, e.RolloutID, events[0].RolloutID)
		}
		var body struct {
			Seq uint64 `json:"seq"`
		}
		v.must(json.Unmarshal(e.Body, &body))
		if body.Seq <= last {
			v.Errorf("%s has seq %d after %d", e.Kind, body.Seq, last)
		}
		last = body.Seq
		kinds.WriteString(e.Kind + " ")
	}
	if !regexp.MustCompile(c.kinds).MatchString(kinds.String()) {
		v.Errorf("reported was %s", kinds.String())
	}
}

// checkSwitches holds what really ran against the attempts that were reported. The daemon's death is not the switch's, so
// every attempt at the target ran, to its end, once.
func (v *victim) checkSwitches(c crashCase, events []localapi.Event) {
	v.Helper()
	var attempts []int
	for _, e := range events {
		if e.Kind != "ActivationStarted" {
			continue
		}
		var body struct {
			Attempt int `json:"attempt"`
		}
		v.must(json.Unmarshal(e.Body, &body))
		attempts = append(attempts, body.Attempt)
	}
	if !slices.IsSorted(attempts) || len(slices.Compact(slices.Clone(attempts))) != len(attempts) {
		v.Errorf("attempts were numbered %v", attempts)
	}
	runs, err := v.Switches()
	v.must(err)
	ofTarget := 0
	for _, run := range runs {
		if !run.Ended {
			v.Errorf("%s of %s did not come to its end", run.Action, run.Toplevel)
		}
		if run.Toplevel == v.target {
			ofTarget++
		}
	}
	if ofTarget != len(attempts) {
		v.Errorf("the target's switch ran %d times for the attempts %v", ofTarget, attempts)
	}
	back := len(runs) - ofTarget
	if most := len(c.failsAt) * 2 / 3; back > most { // a boot and a test of the prior system
		v.Errorf("the prior system's switch ran %d times instead of at most %d", back, most)
	}
	v.checkOneAtATime()
}

func (v *victim) checkOneAtATime() {
	v.Helper()
	text, err := os.ReadFile(v.Path(simhost.SwitchLog))
	v.must(err)
	running := ""
	for line := range strings.Lines(string(text)) {
		switch word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case word == "started" && running != "":
			v.Errorf("%s started while %s ran", rest, running)
		case word == "started":
			running = rest
		default:
			running = ""
		}
	}
}
