package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/bootrecovery"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// Limits of watching a soak.
const (
	// soakAgain is the least pause before the gate is tried again, when it was open and nothing could be concluded.
	soakAgain = time.Second
	// soakStep is how often the served time is stored. A crash loses at most that much of it, and an idle host is woken no
	// more than once a minute.
	soakStep = time.Minute
)

// watchSoak looks at the soak at once.
func (l *loop) watchSoak() { l.soakTimer = time.After(0) }

// soak counts the time served, declares the probes of a rollout that has none declared, converges when the gate is open, and
// sets the next look.
func (l *loop) soak(ctx context.Context) {
	l.soakTimer = nil
	live, _, err := l.claims()
	if err != nil || live == nil || live.State != fsm.Soaking {
		return
	}
	next := soakStep
	err = l.turn(func(t *turn) error {
		rec := fsm.CountSoak(*live, t.now)
		var err error
		if rec.TopologyDeclaredAt.IsZero() {
			rec, err = t.raise(rec, fsm.LocalProbeTopologyDeclared{ProbeTopologyDeclared: fsm.ProbeTopologyDeclared{
				Probes: []fsm.ProbeDeclaration{}, DeclaredAt: t.now.Wall,
			}})
			if err != nil {
				return err
			}
		}
		if open, _ := fsm.ConvergeGate(rec, t.now); open {
			// What is claimed is read now: another hand may have moved the host since the last look.
			if rec, err = l.concludeSoak(ctx, t, rec); err != nil {
				return err
			}
		}
		next = nextLook(rec, t.now)
		return t.put(rec)
	})
	if err != nil {
		l.log.Error("watch the soak", slog.String("rollout", live.RolloutID), slog.Any("err", err))
		next = storeRetry
	}
	live, _, err = l.claims()
	if err == nil && live != nil && live.State == fsm.Soaking {
		l.soakTimer = time.After(next)
	}
}

// concludeSoak converges, or finds that the host left its target. A running link that cannot be read concludes nothing.
func (l *loop) concludeSoak(ctx context.Context, t *turn, rec fsm.Record) (fsm.Record, error) {
	facts, err := l.host.Facts(ctx)
	if err != nil {
		return rec, err
	}
	switch running := l.see(rec, facts.Running); running.Is {
	case bootrecovery.Target:
		return t.raise(rec, fsm.LocalConvergedReached{ConvergedReached: fsm.ConvergedReached{
			CurrentClosure: running.Path, Specialisation: running.Specialisation, ConvergedAt: t.now.Wall,
		}})
	case bootrecovery.Prior, bootrecovery.Other:
		return t.raise(rec, fsm.LocalLeftTarget{LeftTarget: fsm.LeftTarget{ObservedCurrentClosure: running.Path, LeftAt: t.now.Wall}})
	default:
		return rec, nil
	}
}

// nextLook is when the soak is to be looked at again: when it is served, or after a step.
func nextLook(rec fsm.Record, now fsm.Now) time.Duration {
	left := (rec.Soak - rec.SoakServed).Duration()
	if due := rec.SoakDueAt.Sub(now.Wall); !rec.SoakDueAt.IsZero() && due > left {
		left = due
	}
	if left <= 0 {
		return soakAgain
	}
	return min(left, soakStep)
}
