package mirror

import (
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// heartbeat takes from a heartbeat what no event will tell any more.
//
// A record is taken over where its events were missed: the host knows them acknowledged and this log does not have them, or all of
// them have arrived and the rules refused some. While events are still on their way the record is left to them. It never goes
// back below the number that it has reached.
func (s *State) heartbeat(hb wire.Heartbeat) (news bool) {
	if hb.Cursor.Epoch == "" || len(hb.Cursor.Epoch) > maxEpoch {
		return false
	}
	epochs := len(s.Epochs)
	last := ""
	if epochs > 0 {
		last = s.Epochs[epochs-1].Epoch
	}
	at := s.epoch(hb.Cursor.Epoch)
	news = s.Epochs[len(s.Epochs)-1].Epoch != last
	news = s.see(hb.Generation) || news
	acked := min(hb.Cursor.Acked, hb.Cursor.Highest)
	missed := acked > s.Epochs[at].Pos
	if missed {
		s.Epochs[at] = Epoch{Epoch: hb.Cursor.Epoch, Pos: acked}
		for i := range s.Rollouts {
			s.Rollouts[i].Missed = s.Rollouts[i].Missed || s.Rollouts[i].Epoch == hb.Cursor.Epoch
		}
		news = true
	}
	arrived := s.Epochs[at].Pos >= hb.Cursor.Highest
	late := s.Epochs[at].Pos > hb.Cursor.Highest // events that the host had not yet stored when it said this have arrived

	carried, unread := map[string]bool{}, false
	for _, raw := range hb.Records {
		rec, err := fsm.DecodeRecord(raw)
		if err != nil || len(rec.RolloutID) > maxRolloutID {
			unread = true
			continue
		}
		carried[rec.RolloutID] = true
		if (missed || arrived) && len(raw) <= maxRecord && s.takeOver(rec, hb.Cursor.Epoch) {
			news = true
		}
	}
	if late || unread { // it does not tell what the host does not carry
		return news
	}
	news = s.infer(hb, carried, arrived) || news
	return s.miss(hb, carried, arrived) || news
}

// miss notes which rollouts are over on the host although no event has told so, and takes the note away from those that the host does
// carry. Their events were acknowledged to a control plane whose data is lost, or were refused: there is nothing to wait for. How such
// a rollout ended is not known, and is not made up.
//
// That a rollout is not carried is not enough: a host reads its records after its cursor, so that an event may be on its way that
// the cursor does not count. A host with a new epoch may yet adopt the record from the reply to this heartbeat, unless another
// rollout has a claim on it.
func (s *State) miss(hb wire.Heartbeat, carried map[string]bool, arrived bool) (news bool) {
	for i, r := range s.Rollouts {
		gone := arrived && !carried[r.Record.RolloutID] && !AtRest(r.Record.State) && r.Epoch != "" && !r.Inferred &&
			(r.Epoch == hb.Cursor.Epoch && r.Missed || r.Epoch != hb.Cursor.Epoch && len(carried) > 0)
		switch {
		case gone && r.GoneAt.IsZero() && !hb.At.IsZero():
			s.Rollouts[i].GoneAt = hb.At.UTC() // in its place: it is not the last to change
			news = true
		case carried[r.Record.RolloutID] && (r.Missed || !r.GoneAt.IsZero()):
			s.Rollouts[i].Missed, s.Rollouts[i].GoneAt = false, time.Time{}
			news = true
		}
	}
	return news
}

// see notes a generation that the host has taken note of, if this log has not given it out.
func (s *State) see(generation uint64) (news bool) {
	if generation <= s.Generation() {
		return false
	}
	s.Seen = generation
	return true
}

// takeOver replaces a record by the host's own, if that is further.
func (s *State) takeOver(rec fsm.Record, epoch string) bool {
	r, there := s.Rollout(rec.RolloutID)
	if there && rec.LastEventSeq <= r.Record.LastEventSeq {
		return false
	}
	rec = half(rec)
	rec.Hostname = s.Host
	if there {
		rec.Generation = max(rec.Generation, r.Record.Generation)
	}
	s.put(Rollout{Record: rec, Epoch: epoch, ResyncedSeq: rec.LastEventSeq})
	s.answer(rec)
	return true
}

// half is the half of a record that a mirror has: not the work that the host owes, nor the clock of its soak.
func half(rec fsm.Record) fsm.Record {
	rec.Work = nil
	rec.SoakServed, rec.SoakMark = 0, fsm.SoakMark{}
	return rec
}

// infer concludes that a rollout was completed, for a host that lost its state: it has no record of it, and it runs the target with
// all of the target's critical components. As long as events of the epoch in which the rollout was are on their way, they are the
// ones to say it; a host that has begun a new epoch without the record has none.
func (s *State) infer(hb wire.Heartbeat, carried map[string]bool, arrived bool) (news bool) {
	if hb.Facts.Running == "" || len(hb.StillOld) > 0 || hb.At.IsZero() {
		return false
	}
	for _, r := range s.clone().Rollouts {
		rec := r.Record
		if r.Epoch == hb.Cursor.Epoch && !arrived {
			continue
		}
		if rec.State == fsm.Deferred && hb.Facts.Booted != rec.TargetClosure {
			continue // what was deferred for its critical components is not proven by the running link alone
		}
		if carried[rec.RolloutID] || rec.TargetClosure != hb.Facts.Running || rec.State != fsm.Activating && rec.State != fsm.Deferred {
			continue
		}
		next, err := stepped(rec, fsm.ActivationCompleted{
			ObservedCurrentClosure: hb.Facts.Running, BootID: hb.Facts.BootID, CompletedAt: hb.At.UTC(), Seq: rec.LastEventSeq + 1,
		})
		if err != nil {
			continue // a specialisation was asked for: the running link does not tell which one runs
		}
		s.put(Rollout{Record: next, Epoch: r.Epoch, ResyncedSeq: r.ResyncedSeq, Inferred: true})
		news = true
	}
	return news
}

// maxSnapshots bounds the records that go to a host that lost its state: what it is to do now is among the last.
const maxSnapshots = 4

// Snapshots are the records that a host should hear of: those that it does not carry and that come from another epoch than its own,
// so that it has lost them. What was asked for and never answered is not among them: its dispatch is still there to be read.
func Snapshots(s State, hb wire.Heartbeat) []fsm.Record {
	carried := map[string]bool{}
	for _, raw := range hb.Records {
		if rec, err := fsm.DecodeRecord(raw); err == nil {
			carried[rec.RolloutID] = true
		}
	}
	var lost []fsm.Record
	for i := len(s.Rollouts) - 1; i >= 0 && len(lost) < maxSnapshots; i-- {
		r := s.Rollouts[i]
		if r.Epoch != "" && r.Epoch != hb.Cursor.Epoch && !carried[r.Record.RolloutID] {
			lost = append(lost, r.Record)
		}
	}
	return lost
}
