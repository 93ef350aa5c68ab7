package mirror

import (
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Entry is one message of a host's log. Exactly one of Batch, Heartbeat, Dispatch, Seen and Checkpoint is there.
type Entry struct {
	Host string    `json:"host"`
	At   time.Time `json:"at"` // when it was received

	Batch     []wire.Event    `json:"batch,omitempty"`
	Heartbeat *wire.Heartbeat `json:"heartbeat,omitempty"` // one that told something that no event had told
	Dispatch  *wire.Dispatch  `json:"dispatch,omitempty"`  // what the host is asked for from now on
	Seen      uint64          `json:"seen,omitempty"`      // a generation that the host has seen and this log does not know

	// Checkpoint is the whole state at this place of the log. A fold that meets it needs nothing that was before it, so that what was
	// may be purged. Its Purged says what that is.
	Checkpoint *State `json:"checkpoint,omitempty"`

	// Results are what was answered to Batch. They are there for the readers of the log; Apply finds them again by itself.
	Results []wire.Result `json:"results,omitempty"`
}
