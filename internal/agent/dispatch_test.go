package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

func byForce(req *localapi.ActivateRequest) { req.Force = true }

func halting(req *localapi.ActivateRequest) { req.Policy = string(fsm.Halt) }

func TestALiveActivationIsRootedUntilItRests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := r.add()
	r.must(r.Knob(simhost.KnobWaitAt, simhost.PointBootLoader))
	r.start()
	id := r.activate(next).RolloutID
	r.awaitPoint(simhost.PointBootLoader)
	if got := r.roots(); !slices.Equal(got, slices.Sorted(slices.Values([]string{r.first, next}))) {
		t.Errorf("rooted during the switch: %v", got)
	}
	r.must(r.Go(simhost.PointBootLoader))
	r.rests(id, fsm.Converged)
	r.links(next, next, next)
	r.untilNoRoots()
	r.expectSwitches(ran(activate.ActionSwitch, next))
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	r.expectHistory(id, "Pending>Activating", "Activating>Soaking", "Soaking>Converged")
	r.await("the attempts to be forgotten", func() bool {
		left, _ := filepath.Glob(filepath.Join(r.cfg.StateDir, "attempts", "*"))
		return len(left) == 0
	})
}

// The way back is rooted before the first thing on the host is changed, and as long as the target waits for its reboot.
func TestTheWayBackIsRootedBeforeTheProfileIsSet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := r.add(withKernel("6.18.4"))
	seen := r.Path("/var/log/rooted")
	tool, err := r.Tool(r.first, "nix-env")
	r.must(err)
	script, err := os.ReadFile(tool)
	r.must(err)
	shebang, rest, _ := strings.Cut(string(script), "\n")
	spying := fmt.Sprintf("%s\nfor link in '%s'/*; do readlink \"$link\"; done >'%s'\n%s", shebang, r.Path(activate.RootsDir), seen, rest)
	r.must(os.Remove(tool))
	r.must(os.WriteFile(tool, []byte(spying), 0o755))

	r.start()
	id := r.activate(next).RolloutID
	r.rests(id, fsm.Deferred)
	want := slices.Sorted(slices.Values([]string{r.first, next}))
	text, err := os.ReadFile(seen)
	r.must(err)
	before := strings.Fields(string(text))
	slices.Sort(before)
	if got := slices.Compact(before); !slices.Equal(got, want) {
		t.Errorf("rooted when the profile was set: %v", got)
	}
	if got := r.roots(); !slices.Equal(got, want) {
		t.Errorf("rooted while deferred: %v", got)
	}
}

func TestASecondActivationWaitsAndAThirdReplacesIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two, three := r.add(), r.add(), r.add()
	r.must(r.Knob(simhost.Once(simhost.KnobWaitAt), simhost.PointLinked))
	r.start()
	first := r.activate(one)
	r.awaitPoint(simhost.PointLinked)

	second := r.activate(two)
	if second.State != string(fsm.Pending) || !strings.Contains(second.Waiting, first.RolloutID) || !strings.Contains(second.Waiting, string(fsm.PhaseSwitch)) {
		t.Errorf("the second one: %+v", second)
	}
	st := r.status()
	if st.Next == nil || st.Next.ID != second.RolloutID || st.Rollout.ID != first.RolloutID || !strings.Contains(st.Next.Why, first.RolloutID) {
		t.Errorf("while it waits: rollout %+v, next %+v", st.Rollout, st.Next)
	}

	third := r.activate(three)
	if st := r.status(); st.Next == nil || st.Next.ID != third.RolloutID {
		t.Errorf("next is %+v and not the newest", st.Next)
	}
	r.must(r.Go(simhost.PointLinked))
	r.rests(third.RolloutID, fsm.Converged)
	r.links(three, three, three)
	r.expectSwitches(ran(activate.ActionSwitch, one), ran(activate.ActionSwitch, three))
	r.expectEvents(second.RolloutID, "Superseded")
	r.expectHistory(second.RolloutID, "Pending>Superseded")
	var by fsm.SupersededBy
	r.event(second.RolloutID, fsm.KindSuperseded, &by)
	if by.ByRolloutID != third.RolloutID {
		t.Errorf("the second was superseded by %s", by.ByRolloutID)
	}
	if got := r.events(first.RolloutID); !slices.Contains(got, "ActivationCompleted") {
		t.Errorf("the first, whose switch ran, reported %v", got)
	}
	if st := r.status(); st.Next != nil {
		t.Errorf("something waits still: %+v", st.Next)
	}
	r.untilNoRoots()
}

func TestANewerTargetTakesOverAtOnceWhatTouchedNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fetched, err := r.AddToCache(simhost.NixOS("web", "25.13.1"))
	r.must(err)
	next := r.add()
	r.must(r.Knob(simhost.KnobCache, "unreachable")) // the first one waits for its cache
	r.start()
	first := r.activate(fetched).RolloutID
	r.until("the cache is waited for", func(st localapi.Status) bool {
		return st.Rollout.Phase == string(fsm.PhaseRealise) && strings.Contains(st.Rollout.Progress, "trying again")
	})
	second := r.activate(next)
	if second.Waiting != "" {
		t.Errorf("the second one waits: %+v", second)
	}
	r.rests(second.RolloutID, fsm.Converged)
	r.links(next, next, next)
	r.expectSwitches(ran(activate.ActionSwitch, next))
	r.expectEvents(first, "DispatchAck", "ActivationFailed", "Superseded")
	r.expectHistory(first, "Pending>Activating", "Activating>Failed", "Failed>Superseded")
	var failed fsm.ActivationFailed
	r.event(first, fsm.KindActivationFailed, &failed)
	if failed.Reason != fsm.ReasonCancelled || !strings.Contains(failed.StderrTail, second.RolloutID) {
		t.Errorf("called off with %+v", failed)
	}
	r.untilNoRoots()
	// Nobody accused the closure that was called off.
	r.must(r.Knob(simhost.KnobCache, ""))
	again := r.activate(fetched).RolloutID
	r.rests(again, fsm.Converged)
	r.links(fetched, fetched, fetched)
}

func TestANewTargetWhileDeferredInheritsTheWayBackAndOneRebootIsEnough(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.add(withKernel("6.18.4")), r.add(withKernel("6.18.5"))
	r.start()
	first := r.activate(one).RolloutID
	r.rests(first, fsm.Deferred)
	second := r.activate(two).RolloutID
	st := r.rests(second, fsm.Deferred)
	if !strings.Contains(strings.Join(st.Why, "\n"), "6.18.5") {
		t.Errorf("why = %v", st.Why)
	}
	r.links(r.first, two, two)
	r.expectEvents(first, "DispatchAck", "ActivationStarted", "ActivationDeferred", "Superseded")
	var ack fsm.DispatchAck
	r.event(second, fsm.KindDispatchAck, &ack)
	if want := (fsm.Prior{Running: r.first, Profile: r.first, BootDefault: r.first}); ack.Prior != want {
		t.Errorf("the way back of the second is %+v: a closure that never ran", ack.Prior)
	}
	r.reboot()
	r.start()
	r.rests(second, fsm.Converged)
	r.links(two, two, two)
	r.expectSwitches(ran(activate.ActionBoot, one), ran(activate.ActionBoot, two))
	r.expectEvents(second, "DispatchAck", "ActivationStarted", "ActivationDeferred", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	r.untilNoRoots()
}

// A newer target that cannot be prepared leaves the older one in its place.
func TestANewerTargetThatCannotBePreparedLeavesTheDeferredOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := r.add(withKernel("6.18.4"))
	r.start()
	first := r.activate(one).RolloutID
	r.rests(first, fsm.Deferred)
	second := r.activate("/nix/store/00000000000000000000000000000000-nixos-system-web-1").RolloutID
	st := r.until("the second failed", func(st localapi.Status) bool { return st.Next != nil && st.Next.State == string(fsm.Failed) })
	if st.Rollout.ID != first || st.Rollout.State != string(fsm.Deferred) || st.Next.ID != second || st.Next.FailureReason != string(fsm.ReasonNotFound) {
		t.Errorf("rollout %+v, next %+v", st.Rollout, st.Next)
	}
	r.links(r.first, one, one)
	r.expectEvents(second, "DispatchAck", "ActivationFailed")
	r.reboot()
	r.start()
	r.rests(first, fsm.Converged)
	r.links(one, one, one)
}

func TestTheClosureThatRunsIsCompletedWithoutASwitch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	id := r.activate(r.first).RolloutID
	r.rests(id, fsm.Converged)
	r.links(r.first, r.first, r.first)
	r.expectSwitches()
	r.expectEvents(id, "DispatchAck", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	r.untilNoRoots()

	// Where only the profile is another's, there is something to do, and no unit is restarted for it.
	other := r.add()
	r.must(r.SetProfile(other))
	id = r.activate(r.first).RolloutID
	r.rests(id, fsm.Converged)
	r.links(r.first, r.first, r.first)
	r.expectSwitches(ran(activate.ActionBoot, r.first))
}

func TestForcePassesTheQuarantineOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.add()
	r.must(r.Knob(simhost.KnobExitAt, simhost.PointChecked+" 9"))
	r.start()
	id := r.activate(bad).RolloutID
	r.rests(id, fsm.Reverted)
	refused := func() {
		t.Helper()
		_, err := r.client.Activate(ctxOf(r), localapi.ActivateRequest{Target: bad})
		if err == nil || !strings.Contains(err.Error(), "failed on this host before") {
			t.Fatalf("a quarantined closure: %v", err)
		}
	}
	refused()
	id = r.activate(bad, byForce).RolloutID
	st := r.rests(id, fsm.Reverted)
	if st.Rollout.FailureReason != string(fsm.ReasonSwitchFailed) {
		t.Errorf("failed with %s", st.Rollout.FailureReason)
	}
	refused()
	r.links(r.first, r.first, r.first)
}

func TestAFailureBeforeTheProfileTouchesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		reason fsm.FailureReason
		set    func(r *rig) (target string)
	}{
		{"found nowhere", fsm.ReasonNotFound, func(*rig) string {
			return "/nix/store/00000000000000000000000000000000-nixos-system-web-1"
		}},
		{"without a trusted signature", fsm.ReasonUntrusted, func(r *rig) string {
			r.must(r.Knob(simhost.KnobCache, "unsigned"))
			at, err := r.AddToCache(simhost.NixOS("web", "25.13.1"))
			r.must(err)
			return at
		}},
		{"no system, which only shows once it is fetched", fsm.ReasonNotNixOS, func(r *rig) string {
			at, err := r.AddToCache(simhost.Closure{Name: "hello", Label: "1", NotNixOS: true})
			r.must(err)
			return at
		}},
		{"of another host", fsm.ReasonWrongHost, func(r *rig) string {
			return r.add(func(c *simhost.Closure) { c.Name = "db" })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			target := tt.set(r)
			entries := r.bootFiles()
			r.start()
			id := r.activate(target).RolloutID
			st := r.rests(id, fsm.Failed)
			if st.Rollout.FailureReason != string(tt.reason) || st.Verdict != localapi.Unsuccessful || len(st.Why) == 0 {
				t.Errorf("failed with %s, why %v", st.Rollout.FailureReason, st.Why)
			}
			r.links(r.first, r.first, r.first)
			if now := r.bootFiles(); !slices.Equal(now, entries) {
				t.Errorf("the boot partition was %v and is %v", entries, now)
			}
			r.expectSwitches()
			r.expectEvents(id, "DispatchAck", "ActivationFailed")
			r.expectHistory(id, "Pending>Activating", "Activating>Failed")
			r.untilNoRoots()
			// Nobody accuses the closure: it may be asked for again.
			if _, err := r.client.Activate(ctxOf(r), localapi.ActivateRequest{Target: target}); err != nil && strings.Contains(err.Error(), "before") {
				t.Errorf("asked for again: %v", err)
			}
		})
	}
}

// bootFiles are the files of the boot partition.
func (r *rig) bootFiles() []string {
	r.Helper()
	var files []string
	for _, pattern := range []string{"loader/*", "loader/entries/*", "EFI/nixos/*"} {
		found, err := filepath.Glob(r.Path("/boot/" + pattern))
		r.must(err)
		files = append(files, found...)
	}
	return files
}

func TestHaltLeavesTheRunningSystem(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.add()
	r.must(r.KnobFor(bad, simhost.KnobBootLoader, "silent")) // exit 0, and the host would not boot it
	r.start()
	id := r.activate(bad, halting).RolloutID
	st := r.rests(id, fsm.Failed)
	if st.Rollout.FailureReason != string(fsm.ReasonBootDefaultUnset) || !strings.Contains(st.Then, "halt") {
		t.Errorf("failed with %s, then %q", st.Rollout.FailureReason, st.Then)
	}
	r.links(bad, r.first, r.first)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationFailed", "BootDefaultRestored")
	r.expectHistory(id, "Pending>Activating", "Activating>Failed")
	var back fsm.BootDefaultRestored
	r.event(id, fsm.KindBootDefaultRestored, &back)
	if back.Profile != r.first || back.BootDefault != r.first || len(back.Left) > 0 {
		t.Errorf("restored %+v", back)
	}
	r.untilNoRoots()
}

func TestHaltAsConfiguredIsTheDefaultOfLocalRollouts(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(cfg *config.Config) { cfg.Policy = config.PolicyHalt })
	bad := r.add()
	r.must(r.Knob(simhost.KnobExitAt, simhost.PointBootLoader+" 9"))
	r.start()
	id := r.activate(bad).RolloutID
	r.rests(id, fsm.Failed)
	r.links(r.first, r.first, r.first)
	r.expectEvents(id, "DispatchAck", "ActivationStarted", "ActivationFailed", "BootDefaultRestored")
	r.expectSwitches(ran(activate.ActionSwitch, bad), ran(activate.ActionBoot, r.first))
}

func TestAFailedSwitchIsUndoneLegByLeg(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.add()
	r.must(r.KnobFor(bad, simhost.KnobExitAt, simhost.PointUnits+" 9"))
	r.start()
	id := r.activate(bad).RolloutID
	r.rests(id, fsm.Reverted)
	r.links(r.first, r.first, r.first)
	runs := r.switches()
	if len(runs) < 3 || runs[0] != ran(activate.ActionSwitch, bad) ||
		!slices.Equal(runs[len(runs)-2:], []string{ran(activate.ActionBoot, r.first), ran(activate.ActionTest, r.first)}) {
		t.Errorf("run were %v", runs)
	}
	got := r.events(id)
	if got[len(got)-1] != "RollbackComplete" || slices.Contains(got, "ActivationCompleted") {
		t.Errorf("reported %v", got)
	}
	r.untilNoRoots()
}

func TestAWayBackThatFailsIsSaidAndTriedAgainByTheNextStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := r.add()
	r.must(r.KnobFor(bad, simhost.KnobExitAt, simhost.PointBootLoader+" 9"))
	r.must(r.KnobFor(r.first, simhost.KnobBootLoader, "full"))
	r.start()
	id := r.activate(bad).RolloutID
	st := r.until("the way back failed", func(st localapi.Status) bool { return st.Rollout.WayBackFailed != "" && st.Rollout.Progress == "" })
	if st.Verdict != localapi.Unsuccessful || !strings.Contains(st.Summary, "the way back did not succeed") || !strings.Contains(st.Then, "restart the agent") {
		t.Errorf("summary %q, then %q", st.Summary, st.Then)
	}
	if why := strings.Join(st.Why, "\n"); !strings.Contains(why, "switch-failed") || !strings.Contains(why, "the way back: ") {
		t.Errorf("why = %s", why)
	}
	r.links(r.first, r.first, bad)
	if len(r.roots()) == 0 {
		t.Error("the way back is not rooted any more")
	}
	if got := r.events(id); got[len(got)-1] != "RollbackFailed" {
		t.Errorf("reported %v", got)
	}
	// A start that finds the same says it again, and a start that can, goes back.
	r.restart()
	r.await("the way back to fail again", func() bool {
		got := r.events(id)
		return len(got) > 1 && slices.Equal(got[len(got)-2:], []string{"RollbackFailed", "RollbackFailed"})
	})
	r.stop()
	r.must(r.KnobFor(r.first, simhost.KnobBootLoader, ""))
	r.start()
	r.rests(id, fsm.Reverted)
	r.links(r.first, r.first, r.first)
	if got := r.events(id); got[len(got)-1] != "RollbackComplete" {
		t.Errorf("reported %v", got)
	}
	r.untilNoRoots()
}

// What a failed rollout wrote is kept as long as it is the last word about the host, and not for ever.
func TestOutputOfAFailedRolloutIsDroppedOnceAnotherFollowed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	attempts := func() []string {
		names, err := filepath.Glob(filepath.Join(r.cfg.StateDir, "attempts", "*"))
		r.must(err)
		return names
	}
	r.start()
	failed := r.activate("/nix/store/" + strings.Repeat("0", 32) + "-nixos-system-web-1").RolloutID
	r.rests(failed, fsm.Failed)
	r.restart()
	if len(attempts()) == 0 {
		t.Error("the output of a failed rollout is gone while it is the last one")
	}
	r.rests(r.activate(r.add()).RolloutID, fsm.Converged)
	r.restart()
	r.await("the output is dropped", func() bool { return len(attempts()) == 0 })
	if st := r.status(); len(st.Notes) != 0 {
		t.Errorf("notes %v", st.Notes)
	}
}

// What a turn decides not to do is no trouble of the store.
func TestARefusalIsNoTroubleOfTheStore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	if _, err := r.client.Cancel(ctxOf(r), localapi.CancelRequest{}); err == nil {
		t.Error("there was something to cancel")
	}
	if st := r.status(); len(st.Notes) != 0 {
		t.Errorf("notes %v", st.Notes)
	}
}
