package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// verdict is what became of a figure that has a bound.
type verdict string

const (
	passed verdict = "pass"
	failed verdict = "fail"
)

// percentile gives the smallest sample that at least p percent of all are not above (nearest rank). There must be one.
func percentile(samples []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(samples))
	rank := (len(sorted)*p + 99) / 100
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// maxGrowth bounds how a cost per host grows from one fleet to the next, where it does not depend on how fast the machine is.
const maxGrowth = 2

// linear is the growth up to which a cost per host counts as the same: no two runs are quite alike.
const linear = 1.25

// growth is how a cost per host differs between a fleet and the next larger one.
type growth struct {
	What    string  `json:"what"`
	From    int     `json:"from"` // hosts
	To      int     `json:"to"`
	Ratio   float64 `json:"ratio"`           // of the costs per host; 1: the cost of a fleet is linear
	Bound   float64 `json:"bound,omitempty"` // 0: none
	Verdict verdict `json:"verdict,omitempty"`
}

// cost is a cost per host of a stage. It is bounded where it is counted and not timed, and where it is large enough to be told.
type cost struct {
	what    string
	perHost func(stage) float64
	bounded bool
}

var costs = []cost{
	{"memory per host", func(s stage) float64 { return float64(s.BytesPerHost) }, true},
	{"processor per event", func(s stage) float64 { return s.EventCPU }, true},
	{"processor per host and rollout", func(s stage) float64 { return s.RolloutCPU }, true},
	{"time per host and rollout", func(s stage) float64 { return s.RolloutSeconds / float64(s.Hosts) }, false},
	{"time per host to join", func(s stage) float64 { return s.JoinSeconds / float64(s.Hosts) }, false},
	{"processor per host at rest", func(s stage) float64 { return s.IdleCores / float64(s.Hosts) }, false},
}

// growths sets each stage against the one before.
func growths(stages []stage) []growth {
	var all []growth
	for _, c := range costs {
		for i := 1; i < len(stages); i++ {
			before, after := c.perHost(stages[i-1]), c.perHost(stages[i])
			if before <= 0 {
				continue // too small to be measured
			}
			g := growth{What: c.what, From: stages[i-1].Hosts, To: stages[i].Hosts, Ratio: after / before}
			if c.bounded {
				g.Bound, g.Verdict = maxGrowth, passed
				if g.Ratio > g.Bound {
					g.Verdict = failed
				}
			}
			all = append(all, g)
		}
	}
	return all
}

// words say what a growth is.
func (g growth) words() string {
	switch {
	case g.Ratio <= 1/linear:
		return "better than linear"
	case g.Ratio <= linear:
		return "linear"
	default:
		return "worse than linear"
	}
}

func (r *report) print(out io.Writer) error {
	var b strings.Builder
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	if len(r.Stages) > 0 {
		fmt.Fprintf(&b, "%-52s", "hosts")
		for _, s := range r.Stages {
			fmt.Fprintf(&b, " %11d", s.Hosts)
		}
		b.WriteString("\n")
		for _, row := range []struct {
			what, unit string
			value      func(stage) float64
		}{
			{"events stored, one a batch, all hosts at once", "1/s", func(s stage) float64 { return s.EventsPerSec }},
			{"dispatch to acknowledgement, one host, p50", "ms", func(s stage) float64 { return s.OneP50 }},
			{"dispatch to acknowledgement, one host, p99", "ms", func(s stage) float64 { return s.OneP99 }},
			{"dispatch to acknowledgement, all hosts at once, p50", "ms", func(s stage) float64 { return s.AllP50 }},
			{"dispatch to acknowledgement, all hosts at once, p99", "ms", func(s stage) float64 { return s.AllP99 }},
			{"dispatch to convergence of all hosts", "s", func(s stage) float64 { return s.RolloutSeconds }},
			{"memory of the control plane per waiting host", "KiB", func(s stage) float64 { return float64(s.BytesPerHost) / 1024 }},
			{"memory of the control plane without a host", "MiB", func(s stage) float64 { return float64(s.EmptyBytes) / (1 << 20) }},
			{"memory of the control plane at most", "MiB", func(s stage) float64 { return float64(s.PeakBytes) / (1 << 20) }},
			{"processor of the control plane at rest", "cores", func(s stage) float64 { return s.IdleCores }},
			{"processor of the control plane per event", "ms", func(s stage) float64 { return s.EventCPU }},
			{"processor of the control plane per host and rollout", "ms", func(s stage) float64 { return s.RolloutCPU }},
			{"all hosts connect, twice each", "s", func(s stage) float64 { return s.JoinSeconds }},
			{"list of all hosts", "s", func(s stage) float64 { return s.ListSeconds }},
			{"requests that were made again", "", func(s stage) float64 { return float64(s.Retried) }},
		} {
			fmt.Fprintf(&b, "%-52s", row.what)
			for _, s := range r.Stages {
				fmt.Fprintf(&b, " %11s", amount(row.value(s)))
			}
			fmt.Fprintf(&b, " %s\n", row.unit)
		}
		for _, s := range r.Stages {
			if s.Retried > 0 {
				fmt.Fprintf(&b, "%d hosts: a request was last made again for: %s\n", s.Hosts, s.RetriedWhy)
			}
		}
	}
	for _, g := range r.Growth {
		bound := "no bound"
		if g.Bound > 0 {
			bound = fmt.Sprintf("at most %.2f x", g.Bound)
		}
		fmt.Fprintf(&b, "%-5s  %5.2f x  %-15s %s from %d to %d hosts: %s\n", orShown(g.Verdict), g.Ratio, bound, g.What, g.From, g.To, g.words())
	}
	if len(r.Drain.Seconds) > 0 {
		for i, took := range r.Drain.Seconds {
			fmt.Fprintf(&b, "%-5s  %5.2f s  at most %.0f s     draining %d queued events from one agent", orShown(r.Drain.Verdict), took, r.Drain.Bound, r.Drain.Events)
			if len(r.Drain.Seconds) > 1 {
				fmt.Fprintf(&b, ", try %d", i+1)
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func orShown(v verdict) string {
	if v == "" {
		return "shown"
	}
	return string(v)
}

// amount shows a value with as many digits as can be told.
func amount(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
