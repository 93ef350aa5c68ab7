package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/checksum"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// count says how often something was said to the service manager, by its beginning.
func count(said []string, beginning string) int {
	n := 0
	for _, line := range said {
		if strings.HasPrefix(line, beginning) {
			n++
		}
	}
	return n
}

func TestReadyIsSaidOnceAndBeforeWork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := r.add()
	r.must(r.Knob(simhost.KnobWaitAt, simhost.PointStart))
	r.start()
	id := r.activate(next).RolloutID
	r.awaitPoint(simhost.PointStart)
	// A switch that was cut off is owed to the next start.
	r.powerCutWithoutBoot()
	r.must(r.Knob(simhost.KnobWaitAt, ""))

	ready, goOn := make(chan []string, 1), make(chan struct{})
	a := r.launch(func(opt *Options) {
		notify := opt.Notify
		opt.Notify = func(state string) {
			notify(state)
			if state == "READY=1" {
				ready <- r.switches()
				<-goOn
			}
		}
	})
	if got := <-ready; !slices.Equal(got, []string{ran(activate.ActionSwitch, next)}) {
		t.Errorf("before READY were run: %v", got)
	}
	st := r.status() // the socket answers before READY is said
	if st.Agent.Ready || st.Rollout == nil || st.Rollout.ID != id {
		t.Errorf("while it starts: %+v, rollout %+v", st.Agent, st.Rollout)
	}
	close(goOn)
	r.rests(id, fsm.Converged)
	said := a.notified()
	if said[0] != "READY=1" || count(said, "READY=1") != 1 {
		t.Errorf("said to the service manager: %v", said)
	}
	r.stop()
	if said = a.notified(); said[len(said)-1] != "STOPPING=1" {
		t.Errorf("said last: %v", said)
	}
}

// powerCutWithoutBoot ends the agent and the work below it at once. The host has not rebooted: the boot id is as it was.
func (r *rig) powerCutWithoutBoot() {
	r.Helper()
	r.stop()
	r.killAttempts()
}

func TestStatusOfTheServiceFollowsTheStateInTheWordsOfStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	live, staged := r.add(), r.add(withKernel("6.18.4"))
	r.must(r.Knob(simhost.Once(simhost.KnobWaitAt), simhost.PointLinked))
	a := r.start()
	says := func(st localapi.Status) {
		t.Helper()
		want := "STATUS=" + oneline(st)
		r.await(want, func() bool {
			said := slices.DeleteFunc(a.notified(), func(line string) bool { return !strings.HasPrefix(line, "STATUS=") })
			return len(said) > 0 && said[len(said)-1] == want
		})
	}
	says(r.status())
	id := r.activate(live).RolloutID
	r.awaitPoint(simhost.PointLinked)
	says(r.status())
	r.must(r.Go(simhost.PointLinked))
	says(r.rests(id, fsm.Converged))
	id = r.activate(staged).RolloutID
	says(r.rests(id, fsm.Deferred))

	said := a.notified()
	for i, line := range said[1:] {
		if line == said[i] && strings.HasPrefix(line, "STATUS=") {
			t.Errorf("%q was said twice in a row", line)
		}
	}
	for _, want := range []string{"STATUS=idle", "STATUS=activating: check", "STATUS=activating: switch; running switch-to-configuration switch",
		"STATUS=converged", "STATUS=deferred: the target waits for a reboot (kernel)"} {
		if count(said, want) == 0 {
			t.Errorf("%q was never said: %v", want, said)
		}
	}
}

func TestTheWatchdogIsFedByTheLoopAlone(t *testing.T) {
	t.Parallel()
	const interval = 60 * time.Millisecond
	r := newRig(t)
	next := r.add()
	stuck, goOn := make(chan struct{}), make(chan struct{})
	a := r.start(func(opt *Options) {
		notify := opt.Notify
		opt.Watchdog = interval
		opt.Notify = func(state string) {
			notify(state)
			if strings.HasPrefix(state, "STATUS=activating: check") {
				close(stuck)
				<-goOn // the loop hangs here
			}
		}
	})
	fed := func() int { return count(a.notified(), "WATCHDOG=1") }
	r.await("the watchdog to be fed", func() bool { return fed() >= 3 })
	id := r.activate(next).RolloutID
	<-stuck
	then := fed()
	hung := time.NewTicker(interval)
	defer hung.Stop()
	for range 5 { // a loop that lives would feed it fifteen times meanwhile
		<-hung.C
	}
	if got := fed(); got != then {
		t.Errorf("the watchdog was fed %d times while the loop hung", got-then)
	}
	close(goOn)
	r.await("the watchdog to be fed again", func() bool { return fed() > then })
	r.rests(id, fsm.Converged)
}

// unwritable makes the store one that only a newer agent may write.
func (r *rig) unwritable() {
	r.Helper()
	db, err := bbolt.Open(r.cfg.StorePath(), 0o600, &bbolt.Options{Timeout: patience})
	r.must(err)
	defer db.Close()
	r.must(db.Update(func(tx *bbolt.Tx) error {
		const bucket, key = "about", "store"
		b := tx.Bucket([]byte(bucket))
		payload, err := checksum.Open(b.Get([]byte(key)), bucket, key)
		if err != nil {
			return err
		}
		var about map[string]any
		if err := json.Unmarshal(payload, &about); err != nil {
			return err
		}
		about["schema"], about["min_reader"] = 1000, 999
		if payload, err = json.Marshal(about); err != nil {
			return err
		}
		return b.Put([]byte(key), checksum.Seal(payload, bucket, key))
	}))
}

func TestAStoreOfANewerAgentIsOnlyRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	staged, other := r.add(withKernel("6.18.4")), r.add()
	r.start()
	id := r.activate(staged).RolloutID
	r.rests(id, fsm.Deferred)
	r.stop()
	r.must(r.Boot()) // there would be something to say
	r.unwritable()
	before, err := os.ReadFile(r.cfg.StorePath())
	r.must(err)

	a := r.start()
	st := r.status()
	if !strings.Contains(st.Agent.ReadOnly, "newer agent") || st.Rollout == nil || st.Rollout.ID != id || st.Rollout.State != string(fsm.Deferred) {
		t.Errorf("agent %+v, rollout %+v", st.Agent, st.Rollout)
	}
	r.await("the service manager to be told", func() bool { return count(a.notified(), "STATUS=read only: ") > 0 })
	if said := a.notified(); said[0] != "READY=1" {
		t.Errorf("said first: %v", said)
	}
	_, err = r.client.Activate(ctxOf(r), localapi.ActivateRequest{Target: other})
	var refused *localapi.Error
	if !errors.As(err, &refused) || refused.Code != localapi.CodeReadOnly || refused.Hint == "" {
		t.Errorf("an activation: %v", err)
	}
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationDeferred")
	r.stop()
	after, err := os.ReadFile(r.cfg.StorePath())
	r.must(err)
	if string(after) != string(before) {
		t.Error("the file was changed")
	}
	if kept, _ := filepath.Glob(r.cfg.StorePath() + ".*"); len(kept) > 0 {
		t.Errorf("beside it lies %v", kept)
	}
}

func TestAResetIsReportedOnceAndItsRolloutsAreNewOnes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(at string) error
	}{
		{"garbage", func(at string) error { return os.WriteFile(at, []byte("this is no database\n"), 0o600) }},
		{"cut short", func(at string) error { return os.Truncate(at, 5000) }},
		{"empty", func(at string) error { return os.Truncate(at, 0) }},
		{"a directory", func(at string) error { return errors.Join(os.Remove(at), os.Mkdir(at, 0o700)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			staged := r.add(withKernel("6.18.4"))
			r.start()
			lost := r.activate(staged).RolloutID
			r.rests(lost, fsm.Deferred)
			epoch := r.status().Agent.Epoch
			r.stop()
			r.must(tt.damage(r.cfg.StorePath()))

			a := r.start()
			st := r.status()
			if st.Rollout != nil || !strings.Contains(strings.Join(st.Notes, "\n"), "could not be read at the last start") {
				t.Errorf("rollout %+v, notes %v", st.Rollout, st.Notes)
			}
			if said := a.notified(); said[0] != "READY=1" {
				t.Errorf("said first: %v", said)
			}
			if st.Agent.Epoch == epoch || st.Agent.Epoch == "" {
				t.Errorf("the epoch is %q still", st.Agent.Epoch)
			}
			var told notice
			r.event("", noticeStateReset, &told)
			if told.Seen == nil || told.Seen.Running != r.first || told.Seen.Profile != staged || told.Seen.BootDefault != staged || told.Seen.BootID == "" {
				t.Errorf("told %+v with %+v", told, told.Seen)
			}
			kept, _ := filepath.Glob(r.cfg.StorePath() + ".unreadable-*")
			if len(kept) != 1 || !strings.Contains(told.Text, filepath.Base(kept[0])) {
				t.Errorf("kept are %v; told was %q", kept, told.Text)
			}
			if len(r.roots()) == 0 {
				t.Error("the roots of the rollout that was lost are gone: nothing tells of it")
			}
			r.restart()
			r.restart()
			r.expectEvents("", noticeStateReset)
			if again := r.activate(staged).RolloutID; again == lost || !strings.Contains(again, r.status().Agent.Epoch) {
				t.Errorf("a rollout after the reset is %s, one before it was %s", again, lost)
			}
		})
	}
}

func TestLocalRolloutsAreNumberedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	seen := map[string]bool{}
	for i := range 6 {
		id := r.activate(r.first).RolloutID
		if seen[id] {
			t.Errorf("%s was given out twice", id)
		}
		seen[id] = true
		r.rests(id, fsm.Converged)
		if i%2 == 1 {
			r.restart()
		}
	}
}

func TestASecondAgentIsLockedOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.start()
	second := r.launch()
	r.agent = first
	<-second.done
	if !errors.Is(second.err, store.ErrLocked) {
		t.Errorf("a second agent: %v", second.err)
	}
	if said := second.notified(); len(said) > 0 {
		t.Errorf("the second said %v", said)
	}
	r.rests(r.activate(r.first).RolloutID, fsm.Converged)
}
