package main

import (
	"testing"
	"time"
)

func TestAFigureIsJudgedByItsBoundAndTheMachine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		figure  figure
		stretch float64
		want    verdict
	}{
		{"within the bound", figure{Value: 10, Bound: 10}, 1, passed},
		{"within the bound on a slow machine", figure{Value: 10, Bound: 10}, 5, passed},
		{"above it on an idle machine", figure{Value: 10.1, Bound: 10}, 1, failed},
		{"above it on a machine that was faster than an idle one", figure{Value: 10.1, Bound: 10}, 0.5, failed},
		{"above it on a slow machine", figure{Value: 19, Bound: 10}, 2, noisy},
		{"further above it than the machine was slow", figure{Value: 21, Bound: 10}, 2, failed},
		{"a ratio within the bound", figure{Value: 100, Ratio: 2, Bound: 2.5, BoundsRatio: true}, 1, passed},
		{"a ratio above the bound", figure{Value: 1, Ratio: 2.6, Bound: 2.5, BoundsRatio: true}, 1, failed},
		{"a ratio above the bound on an unsteady machine", figure{Value: 1, Ratio: 2.6, Bound: 2.5, BoundsRatio: true}, 1.1, noisy},
		{"no bound", figure{Value: 1000}, 1, shown},
	} {
		if got := c.figure.judge(c.stretch).Verdict; got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestTheMachineIsToBlameByAsMuchAsItsGaugeSays(t *testing.T) {
	t.Parallel()
	gauge := times{40, 10, 20, 30, 50} // in no order
	if got := gauge.median(); got != 30 {
		t.Errorf("median %d, want 30", got)
	}
	if got := gauge.quantile(1); got != 50 {
		t.Errorf("slowest %d, want 50", got)
	}
	if got := slowness(gauge, 10); got != 3 {
		t.Errorf("slowness %v, want 3", got)
	}
	steady := times{100, 101, 102, 103}
	if got := unsteadiness(steady); got >= 1 {
		t.Errorf("a steady gauge counts as unsteady: %v", got)
	}
	torn := times{100, 100, 400, 400}
	if got := unsteadiness(torn); got <= 2 {
		t.Errorf("an unsteady gauge counts as steady: %v", got)
	}
}

func TestThingsAreMeasuredInTurns(t *testing.T) {
	t.Parallel()
	var order []int
	one := func(which int) func(int) (time.Duration, error) {
		return func(round int) (time.Duration, error) {
			order = append(order, which)
			return time.Duration(10*round + which), nil
		}
	}
	all, err := inTurns(2, one(1), one(2))
	if err != nil {
		t.Fatal(err)
	}
	if len(order) != 4 || order[0] != 1 || order[1] != 2 || order[2] != 1 || order[3] != 2 {
		t.Errorf("order %v", order)
	}
	if len(all[1]) != 2 || all[1][0] != 2 || all[1][1] != 12 {
		t.Errorf("times of the second: %v", all[1])
	}
}
