package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const (
	// settingGeneration is where the generation of the newest dispatch is stored that was taken note of.
	settingGeneration = "generation"
	// maxRolloutID bounds the id of a rollout, in bytes: it is a key of the store and part of every event.
	maxRolloutID = 200
	// maxGeneration is the largest whole number that every reader of JSON keeps whole. A control plane that counts up from one
	// never comes to it.
	maxGeneration = 1<<53 - 1
	// maxSoak bounds the soak that a dispatch may ask for: more is a mistake in the unit.
	maxSoak = 90 * 24 * time.Hour
)

// dispatched takes note of a dispatch: it is answered with an acknowledgement, by starting the rollout, or with a rejection, in
// the transaction that stores its generation. The same dispatch again, and one for a rollout that is known, do nothing.
//
// An error means that nothing was stored; the control plane sends it again.
func (l *loop) dispatched(ctx context.Context, d wire.Dispatch) error {
	if l.opening.ReadOnly != "" {
		return store.ErrReadOnly
	}
	err := l.turn(func(t *turn) error {
		last, err := generationIn(t.tx)
		if err != nil {
			return err
		}
		if d.Generation == last {
			return errNothingNew
		}
		if d.Generation > maxGeneration { // not noted: it would make every later one stale, for ever
			return t.refuseUnreadable(l.hostname, d, fmt.Sprintf("generations end at %d", uint64(maxGeneration)))
		}
		if why := unusable(d); why != "" {
			return errors.Join(t.refuseUnreadable(l.hostname, d, why), t.noteGeneration(d.Generation, last))
		}
		_, err = t.tx.Record(d.RolloutID)
		switch {
		case err == nil: // its outcome is the answer; a retry needs a new id
			return t.noteGeneration(d.Generation, last)
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		if err := l.take(ctx, t, d, last); err != nil {
			return err
		}
		return t.noteGeneration(d.Generation, last)
	})
	return somethingNew(err)
}

// errNothingNew ends a turn that has nothing to store.
var errNothingNew = errors.New("there is nothing new")

// somethingNew is the error of a turn that may have had nothing to store.
func somethingNew(err error) error {
	if errors.Is(err, errNothingNew) {
		return nil
	}
	return err
}

// take makes the record of a dispatch, and starts it, lets it wait, or rejects it.
func (l *loop) take(ctx context.Context, t *turn, d wire.Dispatch, last uint64) error {
	rec := fsm.Record{
		Hostname: l.hostname, RolloutID: d.RolloutID, Channel: d.Channel, Generation: d.Generation, TargetClosure: d.Target,
		Specialisation: d.Specialisation, State: fsm.Pending, Policy: fsm.Policy(d.Policy), Soak: fsm.Millis(d.SoakMS),
		SoakDueAt: utcOrZero(d.SoakDueAt), Force: d.Force, ExpiresAt: utcOrZero(d.ExpiresAt), CreatedAt: t.now.Wall, ReceivedAt: t.now.Wall,
	}
	if rec.Policy == "" {
		rec.Policy = fsm.Policy(l.opt.Config.Policy)
	}
	reason, detail := l.rejects(ctx, rec, d, last, t.now.Wall)
	if reason != "" {
		rec, err := t.raise(rec, fsm.LocalDispatchRejected{DispatchRejected: fsm.DispatchRejected{
			Reason: reason, Detail: detail, RejectedAt: t.now.Wall}})
		if err != nil {
			return err
		}
		l.log.Warn("dispatch rejected", slog.String("rollout", d.RolloutID), slog.String("reason", string(reason)), slog.String("detail", detail))
		return t.put(rec)
	}
	placed, _, err := l.place(ctx, t, rec)
	if err != nil {
		return err
	}
	return t.put(placed)
}

// rejects says why a dispatch is not taken; an empty reason takes it. A hold does not reject: the rollout waits.
func (l *loop) rejects(ctx context.Context, rec fsm.Record, d wire.Dispatch, last uint64, now time.Time) (fsm.FailureReason, string) {
	switch {
	case d.Host != l.hostname:
		return fsm.ReasonWrongHost, fmt.Sprintf("it is for %q; this host is %q", d.Host, l.hostname)
	case d.Generation < last:
		return fsm.ReasonStaleGeneration, fmt.Sprintf("its generation is %d; %d was seen", d.Generation, last)
	case !rec.ExpiresAt.IsZero() && now.After(rec.ExpiresAt):
		return fsm.ReasonExpired, "it expired at " + rec.ExpiresAt.Format(time.RFC3339)
	}
	req := localapi.ActivateRequest{Target: d.Target, Specialisation: d.Specialisation, Force: d.Force}
	if err := l.acceptTarget(ctx, req); err != nil {
		return reasonOfTarget(err), err.Error()
	}
	if err := l.quarantined(rec); err != nil {
		var failure *activate.Failure
		if errors.As(err, &failure) {
			return fsm.FailureReason(failure.Reason), failure.Detail
		}
		return fsm.ReasonQuarantined, err.Error()
	}
	if used := l.store.HighWater(); used >= storeHighWater {
		return fsm.ReasonBusy, fmt.Sprintf("the store is %.0f %% full and takes no new rollout", used*100)
	}
	return "", ""
}

// reasonOfTarget is the word for why a closure is no target.
func reasonOfTarget(err error) fsm.FailureReason {
	var failure *activate.Failure
	if errors.As(err, &failure) {
		return fsm.FailureReason(failure.Reason)
	}
	var unfit *system.NotSwitchable
	if !errors.As(err, &unfit) {
		return fsm.ReasonNotSwitchable
	}
	switch unfit.Reason {
	case system.NotAStorePath:
		return fsm.ReasonBadPath
	case system.DoesNotExist:
		return fsm.ReasonNotFound
	case system.NotNixOS:
		return fsm.ReasonNotNixOS
	case system.WrongMachine:
		return fsm.ReasonWrongMachine
	case system.NoSwitchToConfiguration:
		return fsm.ReasonNotSwitchable
	default:
		return fsm.ReasonBadPath
	}
}

// unusable says why no rollout can be made of a dispatch; empty: one can.
func unusable(d wire.Dispatch) string {
	unprintable := func(r rune) bool { return r <= ' ' || r == 0x7f || r > 0xffff }
	switch {
	case d.RolloutID == "" || len(d.RolloutID) > maxRolloutID || strings.ContainsFunc(d.RolloutID, unprintable):
		return fmt.Sprintf("the id of its rollout, %.*q, is not one: it has 1 to %d bytes and no blanks", maxRolloutID, d.RolloutID, maxRolloutID)
	case strings.HasPrefix(d.RolloutID, localChannel+"@") || d.Channel == localChannel:
		return fmt.Sprintf("rollout %s: the channel %q is the host's own", d.RolloutID, localChannel)
	case d.SoakMS < 0 || d.SoakMS > maxSoak.Milliseconds():
		return fmt.Sprintf("rollout %s: a soak of %d ms is none", d.RolloutID, d.SoakMS)
	case d.Policy != "" && d.Policy != string(fsm.RollbackAndHalt) && d.Policy != string(fsm.Halt):
		return fmt.Sprintf("rollout %s: the policy %.40q is not known", d.RolloutID, d.Policy)
	default:
		return ""
	}
}

// refuseUnreadable answers a dispatch of which no record can be made: with a notice of the host, since there is no rollout. It is
// given once, however often the same dispatch comes.
func (t *turn) refuseUnreadable(host string, d wire.Dispatch, why string) error {
	text := fmt.Sprintf("dispatch of generation %d: %s", d.Generation, why)
	said, err := t.notifyOnce(text, notice{Kind: noticeDispatchRefused, Host: host, Text: text})
	if err == nil && !said {
		return errNothingNew
	}
	return err
}

func generationIn(tx *store.Tx) (uint64, error) {
	raw, err := tx.Setting(settingGeneration)
	if err != nil || raw == nil {
		return 0, err
	}
	generation, err := strconv.ParseUint(string(raw), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read generation: %w", err)
	}
	return generation, nil
}

// noteGeneration stores that a dispatch was taken note of. A generation never goes back.
func (t *turn) noteGeneration(generation, last uint64) error {
	if generation <= last {
		return nil
	}
	return t.tx.PutSetting(settingGeneration, strconv.AppendUint(nil, generation, 10))
}

// generation is that of the newest dispatch that was taken note of; 0 for none, or where it cannot be read.
func (l *loop) generation() (generation uint64) {
	err := l.store.View(func(tx *store.Tx) error {
		var err error
		generation, err = generationIn(tx)
		return err
	})
	if err != nil {
		l.log.Error("read generation", slog.Any("err", err))
	}
	return generation
}

func utcOrZero(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return at.UTC()
}
