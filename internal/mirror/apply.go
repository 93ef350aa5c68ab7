package mirror

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Apply gives the state after one more entry of the log and, for a batch, what became of each of its events. The input is never
// changed. News reports whether anything but the log itself is different now: what is no news need not be appended.
func Apply(s State, e Entry) (next State, results []wire.Result, news bool) {
	next = s.clone()
	switch {
	case e.Checkpoint != nil:
		next = e.Checkpoint.clone()
		next.Host = s.Host
		news = true
	case e.Dispatch != nil:
		news = next.dispatch(*e.Dispatch, e)
	case e.Heartbeat != nil:
		news = next.heartbeat(*e.Heartbeat)
	case e.Seen > 0:
		news = next.see(e.Seen)
	default:
		results = make([]wire.Result, 0, len(e.Batch))
		for _, ev := range e.Batch {
			r, taken := next.event(ev)
			news = news || taken
			results = append(results, r)
		}
	}
	return next, results, news
}

// Acked is the position that acknowledges a batch: everything up to it is stored or known.
func Acked(results []wire.Result) uint64 {
	if len(results) == 0 {
		return 0
	}
	return results[len(results)-1].Pos
}

// dispatch notes what the host is asked for. A rollout that is known already keeps its record: it is the same request again, or one
// that the host, which has the last word, will answer.
func (s *State) dispatch(d wire.Dispatch, e Entry) bool {
	if d.Generation <= s.Dispatched {
		return false
	}
	s.Dispatched = d.Generation
	if i := s.find(d.RolloutID); i >= 0 {
		r := s.Rollouts[i]
		r.Record.Generation = max(r.Record.Generation, d.Generation)
		s.put(r)
		return true
	}
	s.put(Rollout{Record: fsm.Record{
		Hostname: s.Host, RolloutID: d.RolloutID, Channel: d.Channel, Generation: d.Generation,
		TargetClosure: d.Target, Specialisation: d.Specialisation, State: fsm.Pending,
		Policy: fsm.Policy(d.Policy), Soak: fsm.Millis(d.SoakMS), SoakDueAt: d.SoakDueAt.UTC(), Force: d.Force, ExpiresAt: d.ExpiresAt.UTC(),
		CreatedAt: e.At.UTC(),
	}})
	return true
}

// event takes one event, unless it was taken before. Its position is settled first: whatever becomes of it, it is never taken again.
func (s *State) event(ev wire.Event) (r wire.Result, taken bool) {
	epoch, pos, err := wire.ParseEventID(ev.ID)
	if err != nil {
		return wire.Result{Result: wire.Refused, Reason: err.Error()}, false // Admit lets none of these into a log
	}
	at := s.epoch(epoch)
	mark := markOf(ev, pos)
	if pos <= s.Epochs[at].Pos {
		return s.again(ev, at, mark)
	}
	s.Epochs[at].Pos, s.Epochs[at].At = pos, ev.Time.UTC()
	s.Epochs[at].Marks = bounded(append(s.Epochs[at].Marks, mark), maxMarks)
	return s.judge(ev, epoch, pos), true
}

// again takes an event whose position was taken before. It is the same event again or, as far as it can still be told, another one: then
// the host gives out positions anew, because its store is an older copy.
func (s *State) again(ev wire.Event, at int, mark Mark) (r wire.Result, taken bool) {
	e := &s.Epochs[at]
	r = wire.Result{Pos: mark.Pos, Result: wire.Duplicate}
	if len(e.Marks) == 0 || mark.Pos < e.Marks[0].Pos || slices.Contains(e.Marks, mark) {
		return r, false
	}
	r.Result, r.Reason = wire.Refused, "nothing was stored at this position; is the host's store an older copy?"
	if slices.ContainsFunc(e.Marks, func(m Mark) bool { return m.Pos == mark.Pos }) {
		r.Reason = "another event is stored at this position; is the host's store an older copy?"
	}
	if slices.Contains(e.Odd, mark) {
		return r, false
	}
	e.Odd = bounded(append(e.Odd, mark), maxMarks)
	kind, _ := wire.KindOf(ev.Type)
	s.refuse(Refusal{Epoch: e.Epoch, Pos: mark.Pos, Kind: kind, RolloutID: ev.Subject, At: ev.Time.UTC(), Reason: r.Reason})
	return r, true
}

// markOf is by what the event at a position is told from another one.
func markOf(ev wire.Event, pos uint64) Mark {
	sum := fnv.New32a()
	_, _ = fmt.Fprintf(sum, "%q %q %d", ev.Type, ev.Subject, ev.Time.UnixNano()) // a hash takes all that is written
	return Mark{Pos: pos, Sum: sum.Sum32()}
}

// refuse keeps a refusal, to be shown.
func (s *State) refuse(r Refusal) { s.Refusals = bounded(append(s.Refusals, r), maxRefusals) }

// judge finds what becomes of an event that is new.
func (s *State) judge(ev wire.Event, epoch string, pos uint64) wire.Result {
	kind, ours := wire.KindOf(ev.Type)
	if ev.Subject == "" || !ours {
		return s.note(ev, epoch, pos)
	}
	payload, err := fsm.DecodePayload(ev.Data)
	var unknown *fsm.UnknownKind
	switch {
	case errors.As(err, &unknown):
		return s.note(ev, epoch, pos)
	case err == nil && string(payload.PayloadKind()) != kind:
		err = fmt.Errorf("its type says %s and its data %s", kind, payload.PayloadKind())
	}
	if err == nil {
		var known bool
		if known, err = s.step(ev.Subject, epoch, payload); known {
			return wire.Result{Pos: pos, Result: wire.Duplicate, Reason: "a heartbeat had told it"}
		}
	}
	if err != nil {
		reason := clipped(err.Error(), maxReason)
		s.refuse(Refusal{Epoch: epoch, Pos: pos, Kind: kind, RolloutID: ev.Subject, At: ev.Time.UTC(), Reason: reason})
		if i := s.find(ev.Subject); i >= 0 {
			s.Rollouts[i].Missed = true
		}
		return wire.Result{Pos: pos, Result: wire.Refused, Reason: reason}
	}
	return wire.Result{Pos: pos, Result: wire.Applied}
}

// note keeps an event that moves no record.
func (s *State) note(ev wire.Event, epoch string, pos uint64) wire.Result {
	n := Notice{Epoch: epoch, Pos: pos, Type: clipped(ev.Type, maxRolloutID), RolloutID: ev.Subject, At: ev.Time.UTC(), Data: ev.Data}
	if len(n.Data) > maxNotice {
		n.Data = nil
	}
	s.Notices = bounded(append(s.Notices, n), maxNotices)
	return wire.Result{Pos: pos, Result: wire.Applied}
}

// step moves the record of a rollout. Known: the record that a heartbeat carried was already beyond this event.
func (s *State) step(id, epoch string, p fsm.Payload) (known bool, err error) {
	r, there := s.Rollout(id)
	if !there {
		r.Record = s.unheardOf(id, p)
	}
	if there && p.Sequence() <= r.ResyncedSeq {
		return true, nil
	}
	next, err := stepped(r.Record, p)
	if err != nil {
		return false, err
	}
	s.put(Rollout{Record: next, Epoch: epoch, ResyncedSeq: r.ResyncedSeq})
	s.answer(next)
	return false, nil
}

// stepped applies the mirror's half of a payload. The record must stay within its bound.
func stepped(rec fsm.Record, p fsm.Payload) (fsm.Record, error) {
	next, _, err := fsm.Step(rec, fsm.RemoteOf(p), fsm.Now{}, "")
	if err != nil {
		return rec, err
	}
	encoded, err := fsm.EncodeRecord(next)
	switch {
	case err != nil:
		return rec, err
	case len(encoded) > maxRecord:
		return rec, fmt.Errorf("the record would be of %d bytes, more than the limit of %d", len(encoded), maxRecord)
	}
	return next, nil
}

// unheardOf is the record of a rollout of which nothing was known: one that was asked for on the host itself, or before this log
// began. An acknowledgement says all that is needed.
func (s *State) unheardOf(id string, p fsm.Payload) fsm.Record {
	rec := fsm.Record{Hostname: s.Host, RolloutID: id, State: fsm.Pending, CreatedAt: p.OccurredAt().UTC()}
	if channel, _, ok := strings.Cut(id, "@"); ok {
		rec.Channel = channel
	}
	if ack, ok := p.(fsm.DispatchAck); ok {
		rec.TargetClosure = ack.TargetClosure
	}
	return rec
}

// answer notes that the host has spoken about a dispatch.
func (s *State) answer(rec fsm.Record) {
	if rec.State != fsm.Pending {
		s.Answered = max(s.Answered, rec.Generation)
	}
}
