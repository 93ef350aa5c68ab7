package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// verdict is what became of a figure.
type verdict string

const (
	passed verdict = "pass"
	noisy  verdict = "noisy" // above its bound on a machine that was slow or unsteady meanwhile
	failed verdict = "fail"
	shown  verdict = "shown" // it has no bound
)

// figure is one line of the report. Its JSON is that of -json.
type figure struct {
	Name        string  `json:"name"`
	What        string  `json:"what"`
	Value       float64 `json:"value"`
	Unit        string  `json:"unit"`
	Bound       float64 `json:"bound,omitempty"` // of Value, or of Ratio if BoundsRatio; 0: none
	BoundsRatio bool    `json:"boundsRatio,omitempty"`
	Anchor      string  `json:"anchor,omitempty"` // what Value is set against
	AnchorValue float64 `json:"anchorValue,omitempty"`
	AnchorUnit  string  `json:"anchorUnit,omitempty"`
	Ratio       float64 `json:"ratio,omitempty"`
	Samples     int     `json:"samples"`
	Stretch     float64 `json:"stretch"` // by how much the machine was too slow or too unsteady; 1: not at all
	Verdict     verdict `json:"verdict"`
	Note        string  `json:"note,omitempty"`
}

// against sets the figure beside its anchor.
func (f figure) against(what string, value float64, unit string) figure {
	f.Anchor, f.AnchorValue, f.AnchorUnit = what, value, unit
	if value > 0 {
		f.Ratio = f.Value / value
	}
	return f
}

// judge holds the figure against its bound, which may be stretched.
func (f figure) judge(stretch float64) figure {
	f.Stretch = max(stretch, 1)
	judged := f.Value
	if f.BoundsRatio {
		judged = f.Ratio
	}
	switch {
	case f.Bound == 0:
		f.Verdict = shown
	case judged <= f.Bound:
		f.Verdict = passed
	case judged <= f.Bound*f.Stretch:
		f.Verdict = noisy
	default:
		f.Verdict = failed
	}
	return f
}

func (f figure) print(out io.Writer) error {
	value := amount(f.Value, f.Unit)
	bound := "no bound"
	switch {
	case f.BoundsRatio:
		value = fmt.Sprintf("%.2f x", f.Ratio)
		bound = fmt.Sprintf("at most %.2f x", f.Bound)
	case f.Bound > 0:
		bound = "at most " + amount(f.Bound, f.Unit)
	}
	if _, err := fmt.Fprintf(out, "%-5s  %-9s %12s  %-18s %s\n", f.Verdict, f.Name, value, bound, f.What); err != nil {
		return err
	}
	if f.Anchor != "" {
		beside := fmt.Sprintf("%.2f x", f.Ratio)
		if f.BoundsRatio {
			beside = amount(f.Value, f.Unit)
		}
		if _, err := fmt.Fprintf(out, "%16s %12s  of %s: %s\n", "", beside, f.Anchor, amount(f.AnchorValue, f.AnchorUnit)); err != nil {
			return err
		}
	}
	if f.Verdict == noisy {
		if _, err := fmt.Fprintf(out, "%16s %12s  the machine was that much too slow or unsteady\n", "", fmt.Sprintf("%.2f x", f.Stretch)); err != nil {
			return err
		}
	}
	if f.Note != "" {
		_, err := fmt.Fprintf(out, "%16s %12s  %s\n", "", "", f.Note)
		return err
	}
	return nil
}

// amount shows a value as exactly as it can be told from its bound.
func amount(v float64, unit string) string {
	switch {
	case v == float64(int64(v)) || v >= 100:
		return fmt.Sprintf("%.0f %s", v, unit)
	case v >= 1:
		return fmt.Sprintf("%.2f %s", v, unit)
	default:
		return fmt.Sprintf("%.3g %s", v, unit)
	}
}

// times are the samples of one thing.
type times []time.Duration

// quantile gives the sample below which the share q of all lies.
func (t times) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (t times) median() time.Duration { return t.quantile(0.5) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// slowness is how many times longer the gauge took than it takes on an idle machine.
func slowness(gauge times, idle time.Duration) float64 {
	return float64(gauge.median()) / float64(idle)
}

// usualSpread is how far the quartiles of an fdatasync lie apart on an idle machine, as a ratio.
const usualSpread = 1.25

// unsteadiness is how many times further than usual the quartiles of the gauge lie apart.
func unsteadiness(gauge times) float64 {
	return float64(gauge.quantile(0.75)) / float64(gauge.quantile(0.25)) / usualSpread
}

// inTurns calls each function the number of times given, in turns, and gives the times that each reports.
func inTurns(rounds int, functions ...func(round int) (time.Duration, error)) ([]times, error) {
	all := make([]times, len(functions))
	for round := range rounds {
		for i, f := range functions {
			took, err := f(round)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], took)
		}
	}
	return all, nil
}
