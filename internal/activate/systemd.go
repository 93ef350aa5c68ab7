package activate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// Systemd is the Launcher that gives attempts to PID 1 as transient units: outside of the agent's control group and sandbox,
// output to the journal.
//
// An attempt is followed by its files, and PID 1 is asked only where they leave something open: its connections, and its
// memory of units, are what a switch takes away. What is believed, in this order: the result that the body wrote; the lock
// that it holds; the unit, if it is the invocation that the marker names; the journal of that invocation. Else it is lost.
type Systemd struct {
	attempts AttemptOptions
	log      *slog.Logger
	dial     func(context.Context) (manager, error)
	journal  journal
}

// NewSystemd returns a launcher of transient units.
func NewSystemd(attempts AttemptOptions, log *slog.Logger) *Systemd {
	return &Systemd{attempts: attempts, log: log, dial: dialManager, journal: runJournalctl}
}

func unitName(id JobID) string { return id.Name() + ".service" }

// converse has one conversation with PID 1, and another where the connection broke before there was an answer. So what is
// asked must be good to be asked twice.
func (s *Systemd) converse(ctx context.Context, what string, talk func(context.Context, manager) error) error {
	ctx, cancel := context.WithTimeout(ctx, managerPatience)
	defer cancel()
	pause := pollFirst
	for {
		err := s.talkOnce(ctx, talk)
		if err == nil {
			return nil
		}
		if answered(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if rest(ctx, pause) != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		pause = min(2*pause, pollMost)
	}
}

func (s *Systemd) talkOnce(ctx context.Context, talk func(context.Context, manager) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	return talk(ctx, m)
}

// Start starts the attempt's unit. That a unit of its name exists means that it was started.
func (s *Systemd) Start(ctx context.Context, job Job) error {
	bootID, err := s.attempts.Host.BootID()
	if err != nil {
		return err
	}
	if err := s.attempts.dir(job.ID).create(); err != nil {
		return err
	}
	properties := transientProperties(job, s.attempts.argv(job, bootID, 0))
	err = s.converse(ctx, "start "+unitName(job.ID), func(ctx context.Context, m manager) error {
		return m.startTransient(ctx, unitName(job.ID), properties)
	})
	if named(err, errUnitExists) {
		return nil
	}
	return err
}

func (s *Systemd) unit(ctx context.Context, id JobID) (unitState, error) {
	var unit unitState
	err := s.converse(ctx, "look at "+unitName(id), func(ctx context.Context, m manager) error {
		var err error
		unit, err = m.unit(ctx, unitName(id))
		return err
	})
	return unit, err
}

// Look finds out where an attempt is.
func (s *Systemd) Look(ctx context.Context, id JobID) (Observed, error) {
	seen, m, err := s.attempts.look(id)
	if err != nil || seen.State == JobEnded || seen.State == JobRunning {
		return seen, err
	}
	if seen.State == JobLost {
		if bootID, err := s.attempts.Host.BootID(); err == nil && m.BootID != "" && bootID != m.BootID {
			return seen, nil
		}
	}
	unit, err := s.unit(ctx, id)
	if err != nil {
		return Observed{}, err
	}
	if unit.busy() {
		return Observed{State: JobRunning}, nil
	}
	// The unit may have run between the two looks.
	if seen, m, err = s.attempts.look(id); err != nil || seen.State == JobEnded || seen.State == JobRunning {
		return seen, err
	}
	if seen.State == JobLost {
		return s.withoutResult(ctx, seen, m, unit), nil
	}
	if unit.loaded() && unit.ActiveState != "inactive" {
		result := s.attempts.lost(marker{})
		result.Note = fmt.Sprintf("the unit ended before the program began: %s, %d/%d", unit.Result, unit.ExecMainCode, unit.ExecMainStatus)
		return Observed{State: JobLost, Result: result}, nil
	}
	return Observed{State: JobAbsent}, nil
}

// withoutResult finds out how an attempt ended that has left no result: its disk was full, or its body was killed.
func (s *Systemd) withoutResult(ctx context.Context, seen Observed, m marker, unit unitState) Observed {
	if m.InvocationID == "" {
		return seen
	}
	end, known := unitEnd{}, false
	if unit.loaded() && unit.InvocationID == m.InvocationID {
		end, known = endOfUnit(unit)
	}
	if !known {
		end, known = s.journal.endOf(ctx, m.InvocationID)
	}
	if !known {
		return seen
	}
	result := seen.Result
	end.fill(&result)
	if result.Kind == KindLost {
		return Observed{State: JobLost, Result: result}
	}
	return Observed{State: JobEnded, Result: result}
}

// Stop ends an attempt that runs.
func (s *Systemd) Stop(ctx context.Context, id JobID) error {
	dir := s.attempts.dir(id)
	err := s.converse(ctx, "stop "+unitName(id), func(ctx context.Context, m manager) error {
		return m.stop(ctx, unitName(id))
	})
	switch {
	case named(err, errNoSuchUnit):
		// Its body may still run where PID 1 has lost it.
		var m marker
		if _, m, err = s.attempts.look(id); err == nil {
			err = stopBody(m)
		}
	case err != nil:
		return err
	}
	pause := pollFirst
	for err == nil {
		var unit unitState
		if unit, err = s.unit(ctx, id); err != nil || !unit.busy() {
			break
		}
		err = rest(ctx, pause)
		pause = min(2*pause, pollMost)
	}
	if err != nil {
		return err
	}
	return dir.awaitFree(ctx)
}

// Tail is the end of what the attempt wrote to the journal.
func (s *Systemd) Tail(ctx context.Context, id JobID, lines int) string {
	m, _, err := s.attempts.dir(id).marker()
	if err != nil {
		return ""
	}
	return s.journal.tail(ctx, unitName(id), m.InvocationID, lines)
}

// Output is what the attempt wrote to the journal after a position, which is a cursor of the journal.
func (s *Systemd) Output(ctx context.Context, id JobID, after string) (text, next string) {
	m, begun, err := s.attempts.dir(id).marker()
	if err != nil || !begun {
		return "", after
	}
	return s.journal.after(ctx, unitName(id), m.InvocationID, after)
}

// retirePatience is how long the unit of an attempt may take to end once the result is there: its body only has to exit.
const retirePatience = 10 * time.Second

// Retire takes the unit of an attempt that has ended from PID 1: a success remains active, a failure remains failed.
func (s *Systemd) Retire(ctx context.Context, id JobID) {
	ctx, cancel := context.WithTimeout(ctx, retirePatience)
	defer cancel()
	name := unitName(id)
	pause := pollFirst
	for {
		unit, err := s.unit(ctx, id)
		if err == nil && unit.busy() {
			if err = rest(ctx, pause); err == nil {
				pause = min(2*pause, pollMost)
				continue
			}
		}
		if err == nil && unit.loaded() {
			err = s.converse(ctx, "retire "+name, func(ctx context.Context, m manager) error {
				if unit.ActiveState == "failed" {
					return m.resetFailed(ctx, name)
				}
				return m.stop(ctx, name)
			})
		}
		if err != nil && !named(err, errNoSuchUnit) {
			s.log.Debug("retire unit", slog.String("unit", name), slog.Any("err", err))
		}
		return
	}
}

// Forget removes what is left of an attempt that does not run.
func (s *Systemd) Forget(ctx context.Context, id JobID) error {
	dir := s.attempts.dir(id)
	if _, err := os.Stat(string(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.Retire(ctx, id)
	return dir.forget()
}

// SystemState is the state of the host's service manager, as systemctl is-system-running says it.
func (s *Systemd) SystemState(ctx context.Context) (string, error) {
	var state string
	err := s.converse(ctx, "read state of the system", func(ctx context.Context, m manager) error {
		var err error
		state, err = m.systemState(ctx)
		return err
	})
	return state, err
}

// UnitRuns reports whether a unit is active or about to be.
func (s *Systemd) UnitRuns(ctx context.Context, name string) (bool, error) {
	var unit unitState
	err := s.converse(ctx, "look at "+name, func(ctx context.Context, m manager) error {
		var err error
		unit, err = m.unit(ctx, name)
		return err
	})
	return unit.busy() || unit.loaded() && unit.ActiveState == "active", err
}

// FailedUnits lists the units that have failed, those of attempts and scopes left out.
func (s *Systemd) FailedUnits(ctx context.Context) ([]string, error) {
	var units []string
	err := s.converse(ctx, "list failed units", func(ctx context.Context, m manager) error {
		var err error
		units, err = m.failedUnits(ctx)
		return err
	})
	return foreignFailures(units), err
}
