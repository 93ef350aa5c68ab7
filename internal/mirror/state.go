package mirror

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// State is what the log of a host says of it. The zero State with a Host is that of an empty log.
type State struct {
	Host     string    `json:"host"`
	Epochs   []Epoch   `json:"epochs,omitempty"`   // in the order in which they were met; the last is the host's now
	Rollouts []Rollout `json:"rollouts,omitempty"` // the last to change is last
	Refusals []Refusal `json:"refusals,omitempty"` // oldest first, bounded
	Notices  []Notice  `json:"notices,omitempty"`  // oldest first, bounded

	Dispatched uint64 `json:"dispatched,omitempty"` // generation of the newest dispatch
	Answered   uint64 `json:"answered,omitempty"`   // generation of the newest dispatch that the host has answered
	Seen       uint64 `json:"seen,omitempty"`       // highest generation that the host knew and this log, at that time, did not

	Purged *Purged `json:"purged,omitempty"` // what is no longer in this log; nil: it is whole
}

// Purged says what was purged of a log, at a checkpoint. The purge itself follows the checkpoint, if nothing came between.
type Purged struct {
	Through uint64    `json:"through"` // sequence of the last message that was purged
	Before  time.Time `json:"before"`  // what was received up to then is gone
}

// Epoch is how far the events of one epoch have been taken.
type Epoch struct {
	Epoch string `json:"epoch"`
	Pos   uint64 `json:"pos"` // everything up to here is stored, or was before this log was lost
	// At is the time of the event at Pos, by which a host tells that its store is an older copy. Zero: this log does not have it.
	At time.Time `json:"at,omitzero"`
	// Marks are of the last events that were taken, oldest first, without a gap among what was stored; Odd of other events at
	// their positions, so that each of these is stored once.
	Marks []Mark `json:"marks,omitempty"`
	Odd   []Mark `json:"odd,omitempty"`
}

// Mark tells an event from another one at the same position.
type Mark struct {
	Pos uint64 `json:"p"`
	Sum uint32 `json:"s"` // of type, subject and time
}

// Rollout is a record in its mirror half, with where it comes from.
type Rollout struct {
	Record      fsm.Record
	Epoch       string // of the last event or heartbeat that changed it; empty: only the dispatch did
	ResyncedSeq uint64 // the record was taken from a heartbeat as of this number; 0: never
	Inferred    bool   // the last change was concluded from a heartbeat's facts, of a host that had lost its state
	// Missed: events of it may be lost, since a heartbeat moved the cursor or the rules refused one, and none came after that.
	Missed bool
	// GoneAt is when a heartbeat showed that the rollout is over on the host, and no event had told how it ended nor will one: the
	// record is as it was when it was last heard of. Zero: there is no such doubt.
	GoneAt time.Time
}

// Refusal is an event that the rules refused.
type Refusal struct {
	Epoch     string    `json:"epoch"`
	Pos       uint64    `json:"pos"`
	Kind      string    `json:"kind"`
	RolloutID string    `json:"rolloutId"`
	At        time.Time `json:"at"`
	Reason    string    `json:"reason"`
}

// Notice is an event that moves no record: a notice of the host, or a kind that this version does not know.
type Notice struct {
	Epoch     string          `json:"epoch"`
	Pos       uint64          `json:"pos"`
	Type      string          `json:"type"`
	RolloutID string          `json:"rolloutId,omitempty"`
	At        time.Time       `json:"at"`
	Data      json.RawMessage `json:"data,omitempty"` // absent where it was too large to be kept here
}

type rolloutJSON struct {
	Record      json.RawMessage `json:"record"`
	Epoch       string          `json:"epoch,omitempty"`
	ResyncedSeq uint64          `json:"resyncedSeq,omitempty"`
	Inferred    bool            `json:"inferred,omitempty"`
	Missed      bool            `json:"missed,omitempty"`
	GoneAt      time.Time       `json:"goneAt,omitzero"`
}

// MarshalJSON writes the record as package fsm does, the fields of a newer agent among them.
func (r Rollout) MarshalJSON() ([]byte, error) {
	record, err := fsm.EncodeRecord(r.Record)
	if err != nil {
		return nil, err
	}
	return json.Marshal(rolloutJSON{Record: record, Epoch: r.Epoch, ResyncedSeq: r.ResyncedSeq, Inferred: r.Inferred, Missed: r.Missed, GoneAt: r.GoneAt})
}

// UnmarshalJSON is the way back of MarshalJSON.
func (r *Rollout) UnmarshalJSON(data []byte) error {
	var raw rolloutJSON
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	record, err := fsm.DecodeRecord(raw.Record)
	if err != nil {
		return err
	}
	*r = Rollout{Record: record, Epoch: raw.Epoch, ResyncedSeq: raw.ResyncedSeq, Inferred: raw.Inferred, Missed: raw.Missed, GoneAt: raw.GoneAt}
	return nil
}

// Encode writes a state as a snapshot.
func Encode(s State) ([]byte, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode mirror of %s: %w", s.Host, err)
	}
	return data, nil
}

// Decode reads what Encode wrote.
func Decode(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("decode mirror: %w", err)
	}
	return s, nil
}

// Rollout is the rollout of an id.
func (s State) Rollout(id string) (Rollout, bool) {
	if i := s.find(id); i >= 0 {
		return s.Rollouts[i], true
	}
	return Rollout{}, false
}

// Generation is the highest generation that is known of the host. A dispatch gets the next one.
func (s State) Generation() uint64 { return max(s.Dispatched, s.Seen) }

// Cursor is what a control plane answers to a heartbeat; nil for a host of which it knows nothing.
func (s State) Cursor() *wire.Cursor {
	if len(s.Epochs) == 0 {
		return nil
	}
	last := s.Epochs[len(s.Epochs)-1]
	return &wire.Cursor{Epoch: last.Epoch, Highest: last.Pos, Acked: last.Pos, AckedAt: last.At}
}

func (s State) find(id string) int {
	return slices.IndexFunc(s.Rollouts, func(r Rollout) bool { return r.Record.RolloutID == id })
}

// clone shares nothing with s that is written to: a record is only ever replaced whole.
func (s State) clone() State {
	s.Epochs = slices.Clone(s.Epochs)
	for i := range s.Epochs {
		s.Epochs[i].Marks, s.Epochs[i].Odd = slices.Clone(s.Epochs[i].Marks), slices.Clone(s.Epochs[i].Odd)
	}
	s.Rollouts = slices.Clone(s.Rollouts)
	s.Refusals = slices.Clone(s.Refusals)
	s.Notices = slices.Clone(s.Notices)
	return s
}

// epoch finds the place of an epoch, which is made if it is new. What was the host's before stays known, for its duplicates.
func (s *State) epoch(name string) int {
	if i := slices.IndexFunc(s.Epochs, func(e Epoch) bool { return e.Epoch == name }); i >= 0 {
		return i
	}
	s.Epochs = bounded(append(s.Epochs, Epoch{Epoch: name}), maxEpochs)
	return len(s.Epochs) - 1
}

// put stores a rollout as the last to change. Beyond the bound the oldest at rest goes, and a live one only where there is no other.
func (s *State) put(r Rollout) {
	if i := s.find(r.Record.RolloutID); i >= 0 {
		s.Rollouts = slices.Delete(s.Rollouts, i, i+1)
	}
	s.Rollouts = append(s.Rollouts, r)
	if len(s.Rollouts) <= maxRollouts {
		return
	}
	oldest := max(0, slices.IndexFunc(s.Rollouts[:maxRollouts], func(r Rollout) bool { return AtRest(r.Record.State) || !r.GoneAt.IsZero() }))
	s.Rollouts = slices.Delete(s.Rollouts, oldest, oldest+1)
}

// RolledBack reports whether a rollout failed and the host went back to what it ran before, which speaks against its target.
func (r Rollout) RolledBack() bool {
	return r.Record.State == fsm.Reverted && !r.Record.FailedAt.IsZero() && r.Record.FailureReason.Accuses()
}

// AtRest reports whether a rollout in this state goes on only by an operator's hand, as far as a mirror can tell: the way back of a
// Failed one may still be under way.
func AtRest(state fsm.State) bool { return state == fsm.Failed || state.Terminal() }

// bounded keeps the last n of a list.
func bounded[T any](list []T, n int) []T {
	if len(list) > n {
		return slices.Delete(list, 0, len(list)-n)
	}
	return list
}

// clipped keeps the beginning of a text, whole characters of it.
func clipped(s string, n int) string {
	if len(s) <= n {
		return s
	}
	cut := 0
	for i := range s {
		if i > n {
			break
		}
		cut = i
	}
	return s[:cut] + "…"
}
