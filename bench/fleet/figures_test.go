package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i) // 100 down to 1
	}
	for _, c := range []struct {
		samples []time.Duration
		p       int
		want    time.Duration
	}{
		{[]time.Duration{7}, 50, 7},
		{[]time.Duration{7}, 99, 7},
		{[]time.Duration{9, 1}, 50, 1},
		{[]time.Duration{9, 1}, 51, 9},
		{[]time.Duration{3, 1, 2}, 50, 2},
		{[]time.Duration{3, 1, 2}, 0, 1},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred[:50], 99, 100},
	} {
		before := slices.Clone(c.samples)
		if got := percentile(c.samples, c.p); got != c.want {
			t.Errorf("p%d of %v is %d, want %d", c.p, c.samples, got, c.want)
		}
		if !slices.Equal(before, c.samples) {
			t.Error("the samples were sorted in their place")
		}
	}
}

func TestGrowth(t *testing.T) {
	stages := []stage{
		{Hosts: 100, BytesPerHost: 100, EventCPU: 1, RolloutCPU: 2, RolloutSeconds: 1, JoinSeconds: 1},
		{Hosts: 1000, BytesPerHost: 50, EventCPU: 2, RolloutCPU: 20, RolloutSeconds: 10, JoinSeconds: 100},
	}
	got := map[string]growth{}
	for _, g := range growths(stages) {
		if g.From != 100 || g.To != 1000 {
			t.Errorf("from %d to %d", g.From, g.To)
		}
		got[g.What] = g
	}
	for what, want := range map[string]struct {
		ratio   float64
		verdict verdict
		words   string
	}{
		"memory per host":                {0.5, passed, "better than linear"},
		"processor per event":            {2, passed, "worse than linear"},
		"processor per host and rollout": {10, failed, "worse than linear"},
		"time per host and rollout":      {1, "", "linear"},
		"time per host to join":          {10, "", "worse than linear"},
	} {
		if g := got[what]; g.Ratio != want.ratio || g.Verdict != want.verdict || g.words() != want.words {
			t.Errorf("%s: %+v, %s; want %+v", what, g, g.words(), want)
		}
	}
	if g, ok := got["processor per host at rest"]; ok {
		t.Errorf("what was not measured is compared: %+v", g)
	}
	if !(&report{Growth: growths(stages)}).failed() {
		t.Error("a run with a quadratic cost does not fail")
	}
	if got := growths(stages[:1]); got != nil {
		t.Errorf("one fleet has grown: %v", got)
	}
}

func TestDrainIsJudgedByItsBestTry(t *testing.T) {
	for _, c := range []struct {
		seconds []float64
		want    verdict
	}{
		{[]float64{2}, passed},
		{[]float64{2.01}, failed},
		{[]float64{2.5, 1.9}, passed},
		{[]float64{2.5, 2.6, 2.1}, failed},
		{nil, failed},
	} {
		d := drained{Seconds: c.seconds, Bound: 2}
		d.judge()
		if d.Verdict != c.want || (&report{Drain: d}).failed() != (c.want == failed) {
			t.Errorf("%v: %s, want %s", c.seconds, d.Verdict, c.want)
		}
	}
}

func TestStages(t *testing.T) {
	for _, c := range []struct {
		hosts int
		want  []int
	}{
		{10_000, []int{100, 1000, 10_000}},
		{200, []int{20, 200}},
		{199, []int{199}},
		{20, []int{20}},
		{50_000, []int{500, 5000, 50_000}},
	} {
		if got := (options{hosts: c.hosts}).stages(); !slices.Equal(got, c.want) {
			t.Errorf("%d hosts in %v, want %v", c.hosts, got, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		args  string
		hosts int // 0: refused
	}{
		{"", manyHosts},
		{"-quick", quickHosts},
		{"-quick -hosts 500", 500},
		{"-hosts 20", 20},
		{"-hosts 19", 0},
		{"-hosts -5", 0},
		{"10000", 0},
		{"-fast", 0},
	} {
		var stderr bytes.Buffer
		opt, err := parse(strings.Fields(c.args), &stderr)
		if (err != nil) != (c.hosts == 0) || err == nil && opt.hosts != c.hosts {
			t.Errorf("%q: %d hosts, %v", c.args, opt.hosts, err)
		}
		if (err != nil) != (stderr.Len() > 0) {
			t.Errorf("%q: %v, and it says %q", c.args, err, stderr.String())
		}
	}
}

func TestLonelyAgentsAreThoseThatDoNotFit(t *testing.T) {
	for _, c := range []struct{ files, hosts, want int }{
		{30_000, 10_000, 0},
		{2*10_000 + spareFiles + posting, 10_000, 0},
		{20_000, 10_000, spareFiles + posting},
		{20_000, 100, 0},
	} {
		got := lonely(c.files, c.hosts)
		if got != c.want {
			t.Errorf("%d files, %d hosts: %d, want %d", c.files, c.hosts, got, c.want)
		}
		if open := 2*c.hosts - got + min(got, posting) + spareFiles; open > c.files {
			t.Errorf("%d files, %d hosts: %d would be open", c.files, c.hosts, open)
		}
	}
}

func TestProcIsRead(t *testing.T) {
	status := "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
	if got, err := statusField(status, "VmRSS"); err != nil || got != 1<<20 {
		t.Errorf("%d, %v", got, err)
	}
	if got, err := statusField(status, "VmSwap"); err == nil {
		t.Errorf("a field that is not there is %d", got)
	}
	// From proc(5): pid (comm) state ppid pgrp session tty tpgid flags minflt cminflt majflt cmajflt utime stime ...
	got, err := cpuTime("7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 100 1 1")
	if err != nil || got != 3*time.Second {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := cpuTime("7 (a) S 1"); err == nil {
		t.Errorf("a line that is cut off is %s", got)
	}
}

func TestReportIsPrinted(t *testing.T) {
	stages := []stage{{Hosts: 100, EventsPerSec: 512, BytesPerHost: 4096, EventCPU: 1}, {Hosts: 1000, EventsPerSec: 640, BytesPerHost: 4096, EventCPU: 3, Retried: 2, RetriedWhy: "503"}}
	r := &report{Notes: []string{"small"}, Stages: stages, Growth: growths(stages), Drain: drained{Events: 10_000, Seconds: []float64{2.5, 1.5}, Bound: 2, Verdict: passed}}
	var out bytes.Buffer
	if err := r.write(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"note: small", "512         640 1/s", "4           4 KiB", "fail    3.00 x", "pass    1.00 x", "last made again for: 503", "1.50 s  at most 2 s", "try 2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := r.write(&out, true); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Stages) != 2 || back.Stages[1].EventsPerSec != 640 || len(back.Drain.Seconds) != 2 || back.Growth[0].Verdict == "" {
		t.Errorf("%+v, %v", back, err)
	}
}
