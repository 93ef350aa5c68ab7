package outbox

import (
	"context"
	"time"
)

// Receiver takes batches of events. It knows the network, and the sender does not.
type Receiver interface {
	// Deliver hands over a batch: at least one entry, all of one epoch, in order. A nil error means that the receiver has
	// stored what the Receipt says. A receiver that answered and did not take the batch is a *Rejected; any other error says
	// that the answer is not known. It must bound its own time, and end when ctx does.
	Deliver(ctx context.Context, batch []Entry) (Receipt, error)
}

// Receipt is what a receiver says of a batch.
type Receipt struct {
	Whole bool // the batch is acknowledged as it is, by a receiver that names no positions
	// Acked is, without Whole, the highest position of this epoch up to which everything is stored.
	Acked uint64
	// Refused were stored and break the receiver's rules. They are acknowledged like others, and shown.
	Refused []Refusal
}

// Refusal is why a receiver does not apply an event that it has stored.
type Refusal struct {
	Pos    uint64
	Reason string
}

// Rejected is the error of a receiver that answered and did not take a batch.
type Rejected struct {
	Permanent  bool          // the same batch will be answered so again: 4xx, but not 401, 403, 404, 408, 425, 429
	TooLarge   bool          // 413
	Pos        uint64        // the entry that the answer names as the cause; 0: none
	RetryAfter time.Duration // as the answer asks; 0: it does not
	Reason     string        // for people
}

func (r *Rejected) Error() string { return r.Reason }
