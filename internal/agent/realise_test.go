package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// program puts a program into the running system, in the place of the one that is there.
func (r *rig) program(name, script string) {
	r.Helper()
	tools, err := r.Resolve(r.Running() + "/sw/bin")
	r.must(err)
	at := r.Path(tools + "/" + name)
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) { // it is shared, and not to be written to
		r.Fatal(err)
	}
	r.must(os.WriteFile(at, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
}

func TestAFetchTellsHowFarItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	target := r.add()
	going := r.Path("/run/go")
	r.program("nix-store", `echo "these 40 paths will be fetched (120.31 MiB download, 512.00 MiB unpacked):" >&2
for i in 1 2 3; do echo "copying path '/nix/store/$i' from 'http://cache.example.org'..." >&2; done
while [ ! -e `+going+` ]; do sleep 0.05; done`)
	r.start()
	id := r.activate(target).RolloutID
	fetching := func(st localapi.Status) bool {
		const words = "realising: 3 of 40 paths, 120.31 MiB download"
		return st.Rollout != nil && st.Rollout.Progress == words && slices.Contains(st.Why, words)
	}
	r.until("it is told how far the fetch is", fetching)
	r.restart() // the fetch goes on meanwhile
	r.until("the next agent knows it, too", fetching)
	r.must(os.WriteFile(going, nil, 0o600))
	st := r.rests(id, fsm.Converged)
	if st.Rollout.Progress != "" {
		t.Errorf("still says %q", st.Rollout.Progress)
	}
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
}

func TestAnUnreachableCacheIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.label++
	target, err := r.AddToCache(simhost.NixOS("web", fmt.Sprintf("25.12.%d", r.label)))
	r.must(err)
	r.must(r.Knob(simhost.KnobCache, "unreachable"))
	r.start()
	id := r.activate(target).RolloutID
	st := r.until("it is said that the cache does not answer", func(st localapi.Status) bool {
		return st.Rollout != nil && strings.Contains(st.Rollout.Progress, "cache-unreachable") && strings.Contains(st.Rollout.Progress, "trying again")
	})
	if st.Rollout.State != string(fsm.Activating) || st.Rollout.Phase != string(fsm.PhaseRealise) || !strings.Contains(st.Rollout.Progress, "(http://cache.example.org)") {
		t.Errorf("%+v", st.Rollout)
	}
	r.must(r.Knob(simhost.KnobCache, ""))
	r.rests(id, fsm.Converged)
	r.links(target, target, target)
}

// A target without the signatures that are asked for is refused also where it is in the store, touches nothing and accuses
// nobody.
func TestATargetWithoutSignaturesIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(cfg *config.Config) { cfg.Verify.Signatures = 1 })
	target := r.add()
	r.program("nix", `[ "$4" = verify ] || exit 9
if [ -e `+r.Path("/run/signed")+` ]; then exit 0; fi
for path; do :; done
echo "path '$path' is untrusted" >&2; exit 2`)
	r.start()
	id := r.activate(target).RolloutID
	st := r.rests(id, fsm.Failed)
	if st.Rollout.FailureReason != string(fsm.ReasonUntrusted) || !strings.Contains(st.Rollout.FailureDetail, ": "+target) || !strings.Contains(st.Rollout.FailureDetail, "hint: sign the closure") {
		t.Errorf("failed with %s: %s", st.Rollout.FailureReason, st.Rollout.FailureDetail)
	}
	r.links(r.first, r.first, r.first)
	r.expectSwitches()
	r.untilNoRoots()
	r.must(os.WriteFile(r.Path("/run/signed"), nil, 0o600))
	r.rests(r.activate(target).RolloutID, fsm.Converged) // it was not quarantined
}

// withAgentUnit is a closure whose agent is the one of this test, started by that command line.
func withAgentUnit(execStart string) func(c *simhost.Closure) {
	return func(c *simhost.Closure) {
		c.Units = map[string]string{"nixfleet-agent.service": "[Service]\nType=notify\nExecStart=" + execStart + "\n"}
	}
}

// The target's agent finds the store in the hands of the one that asks, and looks at it all the same.
func TestTheTargetsAgentLooksAtTheStore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.must(os.WriteFile(r.Path("/etc/agent"), []byte("#!/bin/sh\nexec "+binary+" \"$@\"\n"), 0o755))
	r.must(os.WriteFile(r.Path("/etc/good.json"), []byte(`{"soak": "0s"}`), 0o600))
	r.must(os.WriteFile(r.Path("/etc/bad.json"), []byte(`{"soak": "0s", "newer": 1}`), 0o600))
	r.start()
	good := r.add(withAgentUnit("/etc/agent run --config /etc/good.json"))
	r.rests(r.activate(good).RolloutID, fsm.Converged)
	r.links(good, good, good)

	bad := r.add(withAgentUnit("/etc/agent run --config /etc/bad.json"))
	id := r.activate(bad).RolloutID
	st := r.rests(id, fsm.Failed)
	if st.Rollout.FailureReason != string(fsm.ReasonAgentRefuses) || !strings.Contains(st.Rollout.FailureDetail, `unknown field "newer"`) {
		t.Errorf("failed with %s: %s", st.Rollout.FailureReason, st.Rollout.FailureDetail)
	}
	r.links(good, good, good)
	r.expectEvents(id, "DispatchAck", "ActivationFailed")
}

func TestAStoreThatIsHeldIsAccepted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.must(Acceptable(r.cfg)) // there is none yet
	r.start()
	r.must(Acceptable(r.cfg))
	r.stop()
	r.must(Acceptable(r.cfg))
	r.unwritable()
	for _, held := range []bool{false, true} {
		if held {
			r.start()
		}
		if err := Acceptable(r.cfg); err == nil || !strings.Contains(err.Error(), "newer agent") {
			t.Errorf("held: %t: a store of a newer agent: %v", held, err)
		}
	}
}

// A store that is written to all the time is copied until a copy is whole.
func TestAStoreThatIsWrittenToIsAccepted(t *testing.T) {
	r := newRig(t)
	copies := t.TempDir()
	t.Setenv("TMPDIR", copies)
	r.must(os.MkdirAll(r.cfg.StateDir, 0o700))
	st, _, err := store.Open(r.cfg.StorePath(), store.Options{})
	r.must(err)
	defer st.Close()
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			err := st.Update(func(tx *store.Tx) error {
				return tx.AppendBoot(store.Boot{BootID: fmt.Sprint(n), At: time.Unix(int64(n), 0)})
			})
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 3 {
		if err := Acceptable(r.cfg); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	r.must(<-ended)
	if left, err := os.ReadDir(copies); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
