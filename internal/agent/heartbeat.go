package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// heartbeat makes the heartbeat of this moment. It reads the store and the host, and may be called by any goroutine.
func (l *loop) heartbeat(ctx context.Context) (wire.Heartbeat, error) {
	facts, err := l.host.Facts(ctx)
	if err != nil {
		return wire.Heartbeat{}, fmt.Errorf("read host: %w", err)
	}
	// The cursor is read before the records: they may be newer than it says, never older.
	stats, err := l.queue.Stats()
	if err != nil {
		return wire.Heartbeat{}, err
	}
	live, next, err := l.claims()
	if err != nil {
		return wire.Heartbeat{}, fmt.Errorf("read records: %w", err)
	}
	hb := wire.Heartbeat{
		Host: l.hostname, At: l.opt.Wall().UTC(), AgentVersion: l.opt.Version,
		Facts: wire.Facts{
			BootID: facts.BootID, SoftReboots: facts.SoftReboots, Booted: facts.Booted, Running: facts.Running, Profile: facts.Profile,
			NextBoot: facts.BootDefault.Closure, Loader: facts.BootDefault.Loader,
		},
		Cursor:     wire.Cursor{Epoch: l.store.Epoch(), Highest: stats.LastPos, Acked: stats.AckedPos, LowestKept: stats.LowestKept},
		Outbox:     wire.Outbox{Depth: stats.Depth, OldestAt: stats.OldestAt, DeadLetters: stats.DeadLetters},
		Generation: l.generation(),
		Records:    []json.RawMessage{},
		Degraded:   append([]string{}, l.board.copy().degraded...),
	}
	for _, rec := range []*fsm.Record{live, next} {
		if rec == nil {
			continue
		}
		raw, err := fsm.EncodeRecord(*rec)
		if err != nil {
			return wire.Heartbeat{}, err
		}
		hb.Records = append(hb.Records, raw)
		if rec.State == fsm.Deferred && facts.Running == rec.TargetClosure {
			if hb.StillOld, err = l.stillOld(ctx, *rec); err != nil {
				return wire.Heartbeat{}, err
			}
		}
	}
	if hold, err := l.heldNow(); err == nil && hold != nil {
		hb.Hold = hold.Reason
	}
	return hb, nil
}

// learned takes what a control plane knows of this host from the reply to a heartbeat. Nothing of it overrules what the host
// knows of itself.
func (l *loop) learned(ctx context.Context, reply wire.HeartbeatReply) error {
	if l.opening.ReadOnly != "" {
		return nil
	}
	if reply.Cursor != nil {
		if err := l.renewEpoch(*reply.Cursor); err != nil {
			return err
		}
	}
	return l.adopt(ctx, reply.Snapshots)
}

// renewEpoch begins a new epoch where the receiver knows events of this one that this host does not: its disk was restored from a
// backup, and gives out their positions again. That shows where the receiver has more of them, and where it has another one at a
// position.
func (l *loop) renewEpoch(receiver wire.Cursor) error {
	stats, err := l.queue.Stats()
	if err != nil || receiver.Epoch != l.store.Epoch() {
		return err
	}
	if receiver.Acked <= stats.LastPos {
		same, err := l.sameEvent(receiver)
		if err != nil || same {
			return err
		}
	}
	err = l.turn(func(t *turn) error {
		epoch, err := t.tx.RenewEpoch()
		if err != nil {
			return err
		}
		if err := outbox.Renew(t.tx.Bolt(), epoch); err != nil {
			return err
		}
		return t.notify(notice{Kind: noticeEpochRenewed, Host: l.hostname, Text: fmt.Sprintf(
			"the control plane has event %d of epoch %s, and this host knows of %d: its store is an older copy; epoch %s begins",
			receiver.Acked, receiver.Epoch, stats.LastPos, epoch)})
	})
	if err == nil {
		l.log.Warn("new epoch: the control plane knows more events of the old one than this host")
	}
	return err
}

// sameEvent reports whether the event that the receiver has at its cursor is the one that this host has there, as far as can be told.
func (l *loop) sameEvent(receiver wire.Cursor) (bool, error) {
	if receiver.Acked == 0 || receiver.AckedAt.IsZero() {
		return true, nil
	}
	at, err := l.queue.Entries(receiver.Acked-1, 1)
	if err != nil || len(at) == 0 || at[0].Pos != receiver.Acked || at[0].Epoch != receiver.Epoch {
		return true, err
	}
	return at[0].At.Equal(receiver.AckedAt), nil
}

// adopt takes records over from the control plane's mirror, on a host that has lost its own: only where no rollout has a claim, and
// only those that it does not have.
func (l *loop) adopt(ctx context.Context, snapshots []json.RawMessage) error {
	if len(snapshots) == 0 {
		return nil
	}
	live, next, err := l.claims()
	if err != nil || live != nil || next != nil {
		return err
	}
	adopted := ""
	err = l.turn(func(t *turn) error {
		adopted = ""
		var newest fsm.Record
		for _, raw := range snapshots {
			rec, err := fsm.DecodeRecord(raw)
			if err != nil || rec.Hostname != l.hostname {
				l.log.Warn("snapshot of the control plane is not of this host, or cannot be read", slog.Any("err", err))
				continue
			}
			if _, err := t.tx.Record(rec.RolloutID); err == nil {
				continue
			}
			rec.Work = nil
			if err := t.put(rec); err != nil {
				return err
			}
			if adopted == "" || owns(rec) && !owns(newest) || owns(rec) == owns(newest) && rec.ReceivedAt.After(newest.ReceivedAt) {
				adopted, newest = rec.RolloutID, rec
			}
		}
		if adopted == "" {
			return errNothingNew
		}
		return t.tx.SetLive(adopted)
	})
	if err != nil || adopted == "" {
		return somethingNew(err)
	}
	l.log.Info("records adopted from the control plane", slog.String("rollout", adopted))
	l.recover(ctx, onStart)
	l.watchSoak()
	return nil
}
