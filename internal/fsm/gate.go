package fsm

import (
	"fmt"
	"slices"
	"time"
)

// CountSoak moves the mark of a soaking record to now and adds the time since the old mark, in which the host was up. Time
// in another boot is never added, and the count never shrinks. Any other record comes back as it is.
func CountSoak(rec Record, now Now) Record {
	if rec.State != Soaking {
		return rec
	}
	rec.SoakServed, rec.SoakMark = served(rec, now), markAt(now)
	return rec
}

// RestartSoak is for a soaking record that nobody watched for a while: the agent or the host was restarted. What was
// served is kept, the gap is not counted; probes, results and the failure clock are forgotten, so that the topology must be
// declared again. Any other record comes back as it is.
func RestartSoak(rec Record, now Now) Record {
	if rec.State != Soaking {
		return rec
	}
	forgetProbes(&rec)
	rec.SoakMark = markAt(now)
	return rec
}

// ConvergeGate reports whether a soaking record may converge now and, in words for an operator, what it waits for.
func ConvergeGate(rec Record, now Now) (open bool, waiting []string) {
	if rec.State != Soaking {
		return false, []string{fmt.Sprintf("the rollout is %s, not %s", rec.State, Soaking)}
	}
	if done := served(rec, now); done < rec.Soak {
		waiting = append(waiting, fmt.Sprintf("%s of %s soaked", whole(done), whole(rec.Soak)))
	}
	if now.Wall.Before(rec.SoakDueAt) {
		waiting = append(waiting, "not before "+rec.SoakDueAt.UTC().Format(time.RFC3339))
	}
	if rec.TopologyDeclaredAt.IsZero() {
		waiting = append(waiting, "no probes declared since completion")
	}
	for _, name := range gating(rec) {
		switch probe := rec.Probes[name]; {
		case probe.Status == Pass:
		case probe.Status == "":
			waiting = append(waiting, fmt.Sprintf("probe %s has no result yet", name))
		case probe.Reason != "":
			waiting = append(waiting, fmt.Sprintf("probe %s: %s (%s)", name, probe.Status, probe.Reason))
		default:
			waiting = append(waiting, fmt.Sprintf("probe %s: %s", name, probe.Status))
		}
	}
	return len(waiting) == 0, waiting
}

// FailingProbes names, in order, the enforced probes whose last result is a failure.
func FailingProbes(rec Record) []string {
	var failing []string
	for _, name := range gating(rec) {
		if rec.Probes[name].Status == Fail {
			failing = append(failing, name)
		}
	}
	return failing
}

// gating names, in order, the probes that hold convergence back.
func gating(rec Record) []string {
	var names []string
	for name, probe := range rec.Probes {
		if probe.Mode.Gates() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// served is the soak up to now: what was counted, and the time since the mark if it was made in this boot.
func served(rec Record, now Now) Millis {
	mark := rec.SoakMark
	if mark.BootID == "" || mark.BootID != now.BootID {
		return rec.SoakServed
	}
	return rec.SoakServed + max(0, MillisOf(now.Up)-mark.Up)
}

func markAt(now Now) SoakMark { return SoakMark{BootID: now.BootID, Up: MillisOf(now.Up)} }

// endSoak counts the last of a soak and stops its clock.
func endSoak(rec Record, now Now) Record {
	rec = CountSoak(rec, now)
	rec.SoakMark = SoakMark{}
	return rec
}

// whole shows a span in whole seconds, rounded down: a soak is never said to be further than it is.
func whole(m Millis) time.Duration { return m.Duration().Truncate(time.Second) }
