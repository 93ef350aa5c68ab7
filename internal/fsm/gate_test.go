package fsm

import (
	"reflect"
	"testing"
	"time"
)

func TestCountSoak(t *testing.T) {
	start := soakingRecord(nil) // marked in boot-1 after an hour
	for _, c := range []struct {
		name   string
		now    Now
		served time.Duration
	}{
		{"no time", firstBoot, 0},
		{"five minutes", later(firstBoot, 5*time.Minute), 5 * time.Minute},
		{"the wall clock jumped a year", Now{Wall: day0.AddDate(1, 0, 0), Up: time.Hour + time.Second, BootID: "boot-1"}, time.Second},
		{"the wall clock jumped back", Now{Wall: day0.AddDate(-1, 0, 0), Up: time.Hour + time.Second, BootID: "boot-1"}, time.Second},
		{"another boot", Now{Wall: at(600), Up: 2 * time.Hour, BootID: "boot-2"}, 0},
		{"an uptime that went back", Now{Wall: at(600), Up: time.Minute, BootID: "boot-1"}, 0},
		{"a soft reboot", Now{Wall: at(60), Up: time.Hour + time.Minute, BootID: "boot-1", SoftReboots: 1}, time.Minute},
	} {
		got := CountSoak(start, c.now)
		if got.SoakServed.Duration() != c.served {
			t.Errorf("%s: served %s, want %s", c.name, got.SoakServed.Duration(), c.served)
		}
		if want := (SoakMark{BootID: c.now.BootID, Up: MillisOf(c.now.Up)}); got.SoakMark != want {
			t.Errorf("%s: mark %+v, want %+v", c.name, got.SoakMark, want)
		}
	}
	for _, state := range States() {
		rec := endedRecord(state)
		if got := CountSoak(rec, later(firstBoot, time.Hour)); state != Soaking && !reflect.DeepEqual(got, rec) {
			t.Errorf("%s was counted", state)
		}
		if got := RestartSoak(rec, later(firstBoot, time.Hour)); state != Soaking && !reflect.DeepEqual(got, rec) {
			t.Errorf("the soak of %s was restarted", state)
		}
	}
}

// Counting often and counting once come to the same, whatever fractions of a millisecond there are.
func TestCountSoakLosesNothingToRounding(t *testing.T) {
	rec, now := soakingRecord(nil), firstBoot
	for range 100_000 {
		now = later(now, 333*time.Microsecond)
		rec = CountSoak(rec, now)
	}
	if want := MillisOf(100_000 * 333 * time.Microsecond); rec.SoakServed != want {
		t.Errorf("served %d ms, want %d", rec.SoakServed, want)
	}
}

func TestRestartSoakKeepsWhatWasServed(t *testing.T) {
	rec := soakingRecord(map[string]Probe{"http": {Mode: Enforce, Status: Fail}})
	rec.ProbeObservedFirstAt, rec.ProbeFailureFirstAt = at(9), at(10)
	rec = CountSoak(rec, later(firstBoot, 4*time.Minute))
	before := rec.clone()
	now := Now{Wall: at(7200), Up: 30 * time.Second, BootID: "boot-2"}
	got := RestartSoak(rec, now)

	want := before.clone()
	want.Probes, want.TopologyDeclaredAt, want.ProbeObservedFirstAt, want.ProbeFailureFirstAt = nil, time.Time{}, time.Time{}, time.Time{}
	want.SoakMark = SoakMark{BootID: "boot-2", Up: 30_000}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if !reflect.DeepEqual(rec, before) {
		t.Error("the input was changed")
	}
}

func TestConvergeGate(t *testing.T) {
	passing := map[string]Probe{"http": {Mode: Enforce, Status: Pass}, "dns": {Mode: Observe, Status: Fail}, "off": {Mode: Disabled}}
	full := later(firstBoot, 10*time.Minute)
	probes := func(more map[string]Probe) Record {
		all := map[string]Probe{}
		for name, p := range passing {
			all[name] = p
		}
		for name, p := range more {
			all[name] = p
		}
		return soakingRecord(all)
	}
	due := soakingRecord(passing)
	due.SoakDueAt = full.Wall.Add(time.Hour)

	for _, c := range []struct {
		name    string
		rec     Record
		now     Now
		waiting []string
	}{
		{"all is well", soakingRecord(passing), full, nil},
		{"no probe at all, and that declared", soakingRecord(map[string]Probe{}), full, nil},
		{"nothing declared", soakingRecord(nil), full, []string{"no probes declared since completion"}},
		{"soak not served", soakingRecord(passing), later(firstBoot, 10*time.Minute-time.Millisecond), []string{"9m59s of 10m0s soaked"}},
		{"served in another boot", soakingRecord(passing), Now{Wall: full.Wall, Up: 3 * time.Hour, BootID: "boot-2"}, []string{"0s of 10m0s soaked"}},
		{"not due", due, full, []string{"not before 2026-03-01T13:10:00Z"}},
		{"due", due, later(full, time.Hour), nil},
		{"no result", probes(map[string]Probe{"ssh": {Mode: Enforce}}), full, []string{"probe ssh has no result yet"}},
		{"failing", probes(map[string]Probe{"http": {Mode: Enforce, Status: Fail, Reason: "503"}, "a": {Mode: Enforce, Status: Fail}}), full,
			[]string{"probe a: fail", "probe http: fail (503)"}},
		{"a mode of a newer agent gates", probes(map[string]Probe{"ai": {Mode: "adaptive"}}), full, []string{"probe ai has no result yet"}},
		{"a status of a newer agent is no pass", probes(map[string]Probe{"http": {Mode: Enforce, Status: "degraded"}}), full, []string{"probe http: degraded"}},
		{"another state", pendingRecord(), full, []string{"the rollout is Pending, not Soaking"}},
	} {
		open, waiting := ConvergeGate(c.rec, c.now)
		if open != (len(c.waiting) == 0) || !reflect.DeepEqual(waiting, c.waiting) {
			t.Errorf("%s: open %t, waiting for %q, want %q", c.name, open, waiting, c.waiting)
		}
		// Step asks the same gate.
		ev := LocalConvergedReached{ConvergedReached{CurrentClosure: targetT, ConvergedAt: c.now.Wall}}
		if _, _, err := Step(c.rec, Stamp(ev, 101), c.now, ""); (err == nil) != open {
			t.Errorf("%s: gate open %t, Step says %v", c.name, open, err)
		}
	}
}
