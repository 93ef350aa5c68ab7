package fsm

import (
	"encoding/json"
	"fmt"
)

// IllegalForState says that the table has no such event in this state. The record is unchanged.
type IllegalForState struct {
	State     State
	Kind      Kind
	RolloutID string
}

func (e IllegalForState) Error() string {
	return fmt.Sprintf("apply %s to rollout %s: illegal in state %s", e.Kind, e.RolloutID, e.State)
}

// SeqRegression says that an event's number is not above the last one applied: it is a duplicate or was never stamped.
// The record is unchanged.
type SeqRegression struct{ Last, Got uint64 }

func (e SeqRegression) Error() string {
	return fmt.Sprintf("apply event: its sequence number %d is not above %d, the last one applied", e.Got, e.Last)
}

// Invariant says that an event is legal in its state but claims what the record does not bear out. The record is unchanged.
type Invariant struct{ What string }

func (e Invariant) Error() string { return "apply event: " + e.What }

func invariantf(format string, args ...any) Invariant {
	return Invariant{What: fmt.Sprintf(format, args...)}
}

// UnknownKind is the error of the decoders for a kind that this version does not have: a newer agent wrote it. Raw is the
// input as it was read, so that it can be kept and written back byte for byte.
type UnknownKind struct {
	Kind string
	Raw  json.RawMessage
}

func (e *UnknownKind) Error() string { return fmt.Sprintf("decode event: unknown kind %q", e.Kind) }
