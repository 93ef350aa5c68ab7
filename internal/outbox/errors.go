package outbox

import "errors"

var (
	// ErrAckBeyond refuses an acknowledgement of what was never handed out. Nothing has changed.
	ErrAckBeyond = errors.New("acknowledged beyond what was sent")

	// ErrNotPending refuses to reject what is not waiting for an answer: it was never appended or handed out, is acknowledged,
	// or was coalesced away.
	ErrNotPending = errors.New("not pending")

	errRenewed = errors.New("the events have a new epoch")

	errNoBuckets = errors.New("the outbox was not initialised")
)
