package agent

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	before  = "/nix/store/00000000000000000000000000000001-nixos-system-web-25.11.1"
	target  = "/nix/store/00000000000000000000000000000002-nixos-system-web-25.11.2"
	foreign = "/nix/store/00000000000000000000000000000003-nixos-system-web-25.11.9"
	child   = "/nix/store/00000000000000000000000000000004-nixos-system-web-25.11.2" // the specialisation "office" of target

	thisBoot = "11111111-1111-1111-1111-111111111111"
)

var moment = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// situation is one thing that an operator may find when asking for the status.
type situation struct {
	name string
	snapshot
}

// host is a host that runs, has as its profile, and would boot what is said.
func hostThat(running, profile, bootDefault string) system.Facts {
	return system.Facts{
		BootID: thisBoot, Hostname: "web", Booted: before, Running: running, RunningSince: moment.Add(-3 * time.Hour),
		Profile: profile, ProfileSince: moment.Add(-2 * time.Hour),
		BootDefault: system.BootDefault{Closure: bootDefault, Loader: system.LoaderSystemdBoot, Entry: "nixos-generation-7.conf"},
	}
}

// recordOf is a rollout to target on a host that was wholly on before, with what edit makes of it.
func recordOf(state fsm.State, edit func(rec *fsm.Record)) *fsm.Record {
	rec := fsm.Record{
		Hostname: "web", RolloutID: "local@abc-1", Channel: localChannel, TargetClosure: target, State: state,
		Policy: fsm.RollbackAndHalt, Soak: fsm.MillisOf(5 * time.Minute),
		CreatedAt: moment.Add(-time.Hour), ReceivedAt: moment.Add(-time.Hour),
		Prior: fsm.Prior{Running: before, Profile: before, BootDefault: before}, LastEventSeq: 3,
	}
	if edit != nil {
		edit(&rec)
	}
	return &rec
}

func activatingIn(p fsm.Phase, edit func(rec *fsm.Record)) *fsm.Record {
	return recordOf(fsm.Activating, func(rec *fsm.Record) {
		work := fsm.Work{Kind: fsm.WorkSwitch}.Enter(p, fsm.BootStamp{BootID: thisBoot})
		if p == fsm.PhaseBoot {
			work.Kind = fsm.WorkStage
		}
		rec.Work = &work
		if edit != nil {
			edit(rec)
		}
	})
}

var newKernel = []fsm.ComponentChange{
	{Component: "kernel", From: "linux-6.12.1", To: "linux-6.18.4"},
	{Component: "dbus", From: "", To: "broker"},
}

func deferredRecord() *fsm.Record {
	return recordOf(fsm.Deferred, func(rec *fsm.Record) {
		rec.Components, rec.StagedBoot, rec.DeferredAt = newKernel, fsm.BootStamp{BootID: thisBoot}, moment.Add(-time.Minute)
		rec.Work = &fsm.Work{Kind: fsm.WorkStage, Phase: fsm.PhaseStaged, Touched: true, Boot: rec.StagedBoot}
	})
}

func namedChild(rec *fsm.Record) *fsm.Record {
	rec.Specialisation = "gaming"
	return rec
}

// cancellingRecord is a deferral whose boot default is being returned; with a reason, without success.
func cancellingRecord(failed fsm.FailureReason) *fsm.Record {
	rec := deferredRecord()
	rec.Work = &fsm.Work{Kind: fsm.WorkUnstage, Phase: fsm.PhaseUndoBoot, Touched: true, Boot: rec.StagedBoot}
	if failed != "" {
		rec.RollbackFailureReason, rec.RollbackFailureDetail = failed, "the boot default is "+target+"\nhint: the boot partition may be full\n"
	}
	return rec
}

func isHeld(s *snapshot) { s.held = &held{Reason: "audit of the week", Since: moment.Add(-time.Hour)} }

func soakingRecord(edit func(rec *fsm.Record)) *fsm.Record {
	return recordOf(fsm.Soaking, func(rec *fsm.Record) {
		rec.CurrentClosure, rec.ActivationCompletedAt, rec.TopologyDeclaredAt = target, moment.Add(-time.Minute), moment.Add(-time.Minute)
		rec.SoakServed, rec.SoakMark = fsm.MillisOf(40*time.Second), fsm.SoakMark{BootID: thisBoot, Up: fsm.MillisOf(100 * time.Second)}
		if edit != nil {
			edit(rec)
		}
	})
}

func convergedRecord(edit func(rec *fsm.Record)) *fsm.Record {
	return recordOf(fsm.Converged, func(rec *fsm.Record) {
		rec.CurrentClosure, rec.ConvergedAt, rec.EndedAt = target, moment.Add(-time.Minute), moment.Add(-time.Minute)
		if edit != nil {
			edit(rec)
		}
	})
}

func failedRecord(reason fsm.FailureReason, detail string, work *fsm.Work, edit func(rec *fsm.Record)) *fsm.Record {
	return recordOf(fsm.Failed, func(rec *fsm.Record) {
		rec.FailureReason, rec.FailureDetail, rec.FailedAt, rec.Work = reason, detail, moment.Add(-time.Minute), work
		rec.PolicyApplied = rec.Policy
		if edit != nil {
			edit(rec)
		}
	})
}

func wayBack(p fsm.Phase) *fsm.Work {
	return &fsm.Work{Kind: fsm.WorkUndo, Phase: p, Touched: true, Boot: fsm.BootStamp{BootID: thisBoot}}
}

const switchFailed = "switch-to-configuration switch exited with 9, and the running system is still " + before + "\n\nhint: look at the unit's journal\nFailed to start web.service\n"

func situations() []situation {
	in := func(name string, facts system.Facts, live, next *fsm.Record, edits ...func(s *snapshot)) situation {
		s := snapshot{facts: facts, live: live, next: next}
		for _, edit := range edits {
			edit(&s)
		}
		return situation{name: name, snapshot: s}
	}
	saying := func(text string) func(s *snapshot) {
		return func(s *snapshot) { s.progress = map[string]string{"local@abc-1": text} }
	}
	nextSaying := func(text string) func(s *snapshot) {
		return func(s *snapshot) { s.progress = map[string]string{"local@abc-2": text} }
	}
	second := func(rec *fsm.Record) *fsm.Record {
		rec.RolloutID, rec.TargetClosure = "local@abc-2", foreign
		return rec
	}
	all := []situation{
		in("never told", hostThat(before, before, before), nil, nil),
		in("pending", hostThat(before, before, before), recordOf(fsm.Pending, nil), nil),
	}
	for _, p := range []struct {
		phase    fsm.Phase
		progress string
	}{
		{fsm.PhaseCheck, "waiting: another switch of this host is under way: process 812 (nixos-rebuild)"},
		{fsm.PhaseRealise, "realising the closure"},
		{fsm.PhaseRealise, "realising: 12 of 40 paths, 120.31 MiB download"},
		{fsm.PhaseRealise, "cache-unreachable: a substituter that may have " + target + " does not answer (https://cache.example.org); trying again in 8s"},
		{fsm.PhaseInspect, ""},
		{fsm.PhaseProfile, "setting the system profile"},
		{fsm.PhaseSwitch, "running switch-to-configuration switch, once more"},
		{fsm.PhaseBoot, "running switch-to-configuration boot"},
	} {
		all = append(all, in("activating, "+string(p.phase), hostThat(before, before, before), activatingIn(p.phase, nil), nil, saying(p.progress)))
	}
	all = append(all,
		in("activating, and a newer one waits", hostThat(before, target, before), activatingIn(fsm.PhaseSwitch, nil), second(recordOf(fsm.Pending, nil)),
			saying("running switch-to-configuration switch")),
		in("activating, as the file tells with the agent down", hostThat(before, target, before), activatingIn(fsm.PhaseSwitch, nil), nil, fromFile),
		in("deferred, the boot default is the target", hostThat(before, target, target), deferredRecord(), nil),
		in("deferred, the boot default is another", hostThat(before, foreign, foreign), deferredRecord(), nil),
		in("deferred, the boot default is what ran before", hostThat(before, before, before), deferredRecord(), nil),
		in("deferred, the boot default cannot be told", hostThat(before, target, ""), deferredRecord(), nil, func(s *snapshot) {
			s.facts.BootDefault = system.BootDefault{Loader: system.LoaderUnknown, Reason: "neither loader.conf nor grub.cfg was found"}
		}),
		in("deferred, the boot default is a specialisation of the target", hostThat(before, target, child), deferredRecord(), nil),
		in("deferred, the boot default is another specialisation than the one that was named", hostThat(before, target, child), namedChild(deferredRecord()), nil),
		in("deferred, switched to by hand", hostThat(target, target, target), deferredRecord(), nil),
		in("deferred, and a newer one is being prepared", hostThat(before, target, target), deferredRecord(), second(activatingIn(fsm.PhaseRealise, nil)),
			nextSaying("realising the closure")),
		in("deferred, and a newer one failed to be prepared", hostThat(before, target, target), deferredRecord(),
			second(failedRecord(fsm.ReasonNotFound, "no substituter has it", nil, nil))),
		in("deferred, being cancelled", hostThat(before, before, target), cancellingRecord(""), nil,
			saying("running switch-to-configuration boot of "+before)),
		in("deferred, cancelling it failed", hostThat(before, before, target), cancellingRecord(fsm.ReasonBootDefaultUnset), nil),
		in("converged, held, and a newer one waits", hostThat(target, target, target), convergedRecord(nil), second(recordOf(fsm.Pending, nil)), isHeld),
		in("never told, held, and the first one waits", hostThat(before, before, before), nil, recordOf(fsm.Pending, nil), isHeld),
		in("soaking", hostThat(target, target, target), soakingRecord(nil), nil),
		in("soaking, degraded and not before a moment", hostThat(target, target, target), soakingRecord(func(rec *fsm.Record) {
			rec.Degraded, rec.SoakDueAt = []string{"web.service failed"}, moment.Add(time.Hour)
		}), nil),
		in("soaking, a probe fails", hostThat(target, target, target), soakingRecord(func(rec *fsm.Record) {
			rec.Soak = 0
			rec.Probes = map[string]fsm.Probe{"http": {Mode: fsm.Enforce, Status: fsm.Fail, Reason: "connection refused"}}
		}), nil),
		in("soaking, another hand switched the host", hostThat(foreign, target, target), soakingRecord(nil), nil),
		in("converged", hostThat(target, target, target), convergedRecord(nil), nil),
		in("converged, a specialisation boots next", hostThat(target, target, child), convergedRecord(nil), nil),
		in("converged, degraded", hostThat(target, target, target), convergedRecord(func(rec *fsm.Record) { rec.Degraded = []string{"web.service failed"} }), nil),
		in("converged, the host drifted", hostThat(foreign, target, target), convergedRecord(nil), nil),
		in("converged, another boots next", hostThat(target, before, before), convergedRecord(nil), nil),
		in("converged, a newer one is being prepared", hostThat(target, target, target), convergedRecord(nil), second(activatingIn(fsm.PhaseCheck, nil))),
		in("failed before anything was touched", hostThat(before, before, before),
			failedRecord(fsm.ReasonNotFound, "no substituter has "+target+"\nhint: copy it to the host, or to a cache that it uses", nil, nil), nil),
		in("failed, called off for a newer one", hostThat(before, before, before), failedRecord(fsm.ReasonCancelled, "a newer target arrived before anything was touched: local@abc-2", nil, nil), nil),
		in("failed, another hand took the host", hostThat(foreign, foreign, foreign), failedRecord(fsm.ReasonAnotherHand, "the target was booted, and "+foreign+" runs since: another hand switched the host", nil, nil), nil),
		in("failed, on the way back: profile", hostThat(before, target, target), failedRecord(fsm.ReasonSwitchFailed, switchFailed, wayBack(fsm.PhaseUndoProfile), nil), nil,
			saying("setting the profile back to "+before)),
		in("failed, on the way back: boot default", hostThat(target, before, target), failedRecord(fsm.ReasonSwitchFailed, switchFailed, wayBack(fsm.PhaseUndoBoot), nil), nil,
			saying("running switch-to-configuration boot of "+before)),
		in("failed, on the way back: running system", hostThat(target, before, before), failedRecord(fsm.ReasonSwitchFailed, switchFailed, wayBack(fsm.PhaseUndoRunning), nil), nil,
			saying("running switch-to-configuration test of "+before)),
		in("failed, the way back failed", hostThat(before, before, target), failedRecord(fsm.ReasonSwitchFailed, switchFailed, wayBack(fsm.PhaseUndoBoot), func(rec *fsm.Record) {
			rec.RollbackFailureReason, rec.RollbackFailureDetail = fsm.ReasonBootDefaultUnset, "the boot default is "+target+"\nhint: see the journal of the unit; the boot partition may be full\n"
			rec.Work.Left = []string{"profile: left at " + foreign}
		}), nil),
		in("failed, the way back failed and is tried again", hostThat(before, before, target), failedRecord(fsm.ReasonSwitchFailed, "", wayBack(fsm.PhaseUndoBoot), func(rec *fsm.Record) {
			rec.RollbackFailureReason, rec.RollbackFailureDetail = fsm.ReasonBootDefaultUnset, "the boot default is "+target
		}), nil, saying("running switch-to-configuration boot of "+before)),
		in("failed, the way back met another hand", hostThat(foreign, before, before), failedRecord(fsm.ReasonSwitchFailed, "", nil, func(rec *fsm.Record) {
			rec.RollbackFailureReason, rec.RollbackFailureDetail = fsm.ReasonAnotherHand, "the host runs "+foreign+", which is neither the target nor what ran before; it is left so"
		}), nil),
		in("failed, the way back waits for a reboot", hostThat(target, before, before), failedRecord(fsm.ReasonUnhealthy, "failing for 60 s: http", wayBack(fsm.PhaseStaged), func(rec *fsm.Record) {
			rec.Components, rec.StagedBoot = newKernel, fsm.BootStamp{BootID: thisBoot}
		}), nil),
		in("failed under halt, the boot default is back", hostThat(target, before, before), failedRecord(fsm.ReasonSwitchFailed, switchFailed, nil, func(rec *fsm.Record) {
			rec.Policy, rec.PolicyApplied = fsm.Halt, fsm.Halt
		}), nil),
		in("reverted", hostThat(before, before, before), recordOf(fsm.Reverted, func(rec *fsm.Record) {
			rec.FailureReason, rec.FailureDetail, rec.RevertedTo, rec.CurrentClosure, rec.EndedAt = fsm.ReasonSwitchFailed, switchFailed, before, before, moment
		}), nil),
		in("reverted, but for what another hand changed", hostThat(before, foreign, before), recordOf(fsm.Reverted, func(rec *fsm.Record) {
			rec.FailureReason, rec.RevertedTo, rec.CurrentClosure, rec.EndedAt = fsm.ReasonSwitchFailed, before, before, moment
		}), nil),
		in("cancelled", hostThat(before, before, before), recordOf(fsm.Reverted, func(rec *fsm.Record) { rec.RevertedTo, rec.EndedAt = before, moment }), nil),
		in("superseded", hostThat(before, before, before), recordOf(fsm.Superseded, func(rec *fsm.Record) { rec.SupersededBy, rec.EndedAt = "local@abc-2", moment }), nil),
		in("frozen in a state of a newer agent", hostThat(before, before, before), recordOf("Hibernating", nil), nil),
		in("the host cannot be read", system.Facts{}, convergedRecord(nil), nil, unreadable),
		in("the host cannot be read while deferred", system.Facts{}, deferredRecord(), nil, unreadable),
		in("read only", hostThat(target, target, target), convergedRecord(nil), nil, func(s *snapshot) {
			s.agent.ReadOnly = "it was written by a newer agent, and agents below schema 2 may not write it; this one has schema 1"
		}),
	)
	return all
}

func fromFile(s *snapshot) { s.source, s.agent = localapi.FromFile, localapi.Agent{} }

func unreadable(s *snapshot) { s.factsErr = errors.New("read boot id: permission denied") }

func (s situation) status() localapi.Status {
	snap := s.snapshot
	snap.at, snap.hostname = moment, "web"
	if snap.source == "" {
		snap.source, snap.agent.Running, snap.agent.Ready = localapi.FromAgent, true, true
	}
	snap.now = fsm.Now{Wall: moment, Up: 130 * time.Second, BootID: thisBoot}
	snap.specialises = func(closure, of string) string {
		if closure == child && of == target {
			return "office"
		}
		return ""
	}
	snap.label = func(closure string) string { return closure[strings.LastIndex(closure, "-")+1:] }
	return snap.status()
}

// TestStatusInWords pins what an operator reads in every situation: testdata/status.txt is to be read as one.
func TestStatusInWords(t *testing.T) {
	var out strings.Builder
	for _, s := range situations() {
		writeSituation(&out, s.name, s.status())
	}
	checkGolden(t, "status.txt", out.String())
}

func writeSituation(out *strings.Builder, name string, st localapi.Status) {
	fmt.Fprintf(out, "# %s\n", name)
	fmt.Fprintf(out, "%s: %s\n", st.Verdict, st.Summary)
	for _, line := range st.Why {
		fmt.Fprintf(out, "  why:  %s\n", line)
	}
	fmt.Fprintf(out, "  then: %s\n", st.Then)
	for _, line := range st.Notes {
		fmt.Fprintf(out, "  note: %s\n", line)
	}
	if st.Next != nil {
		fmt.Fprintf(out, "  next: %s %s: %s\n", st.Next.ID, st.Next.State, st.Next.Why)
	}
	fmt.Fprintf(out, "  STATUS=%s\n\n", oneline(st))
}

func TestEveryStateHasASituation(t *testing.T) {
	var met []fsm.State
	for _, s := range situations() {
		if s.live != nil {
			met = append(met, s.live.State)
		}
	}
	for _, state := range fsm.States() {
		if !slices.Contains(met, state) {
			t.Errorf("no situation has a rollout in state %s", state)
		}
	}
}

// Every status is whole: it says something, says what is next, and lists are lists.
func TestEveryStatusIsWhole(t *testing.T) {
	for _, s := range situations() {
		st := s.status()
		if st.Verdict == "" || st.Summary == "" || st.Then == "" || st.Why == nil || st.Notes == nil {
			t.Errorf("%s: %+v", s.name, st)
		}
		for _, text := range slices.Concat([]string{st.Summary, st.Then}, st.Why, st.Notes) {
			if strings.TrimSpace(text) != text || strings.Contains(text, "\n") || strings.Contains(text, "()") || text == "" {
				t.Errorf("%s: %q is no line of its own", s.name, text)
			}
		}
		if s.live != nil && (st.Target == nil || st.Target.Path != target || st.Rollout == nil || st.Rollout.State != string(s.live.State)) {
			t.Errorf("%s: target %+v, rollout %+v", s.name, st.Target, st.Rollout)
		}
	}
}

// checkGolden holds text against a file of testdata, or rewrites that.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	at := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("%s, line %d:\n got %s\nwant %s\n(go test -update rewrites it)", at, i+1, gotLines[i], wantLines[i])
		}
	}
	t.Fatalf("%s has %d lines instead of %d (go test -update rewrites it)", at, len(gotLines), len(wantLines))
}
