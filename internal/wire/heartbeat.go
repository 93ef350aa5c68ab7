package wire

import (
	"encoding/json"
	"time"
)

// Heartbeat is what a host is, now. It carries the live records whole, so that a control plane that missed something, or lost all
// of it, knows the host again.
type Heartbeat struct {
	Host         string    `json:"host"`
	At           time.Time `json:"at"`
	AgentVersion string    `json:"agentVersion"`
	Facts        Facts     `json:"facts"`

	// Records are the records that have a claim on the host, as package fsm encodes them.
	Records []json.RawMessage `json:"records"`
	// Components still to come of a Deferred record: those that do not run the target's although the running link says so.
	StillOld []string `json:"stillOld,omitempty"`

	Cursor     Cursor   `json:"cursor"`
	Outbox     Outbox   `json:"outbox"`
	Generation uint64   `json:"generation"` // of the last dispatch that was taken note of
	Degraded   []string `json:"degraded"`   // what keeps the agent from its full work, in words
	Hold       string   `json:"hold,omitempty"`
}

// Facts are those of package system. A closure is a store path; empty where it cannot be told.
type Facts struct {
	BootID      string `json:"bootId"`
	SoftReboots uint32 `json:"softReboots"`
	Booted      string `json:"booted"`
	Running     string `json:"running"`
	Profile     string `json:"profile"`
	NextBoot    string `json:"nextBoot"`
	Loader      string `json:"loader"`
}

// Cursor says which events of a host there are.
type Cursor struct {
	Epoch   string `json:"epoch"`
	Highest uint64 `json:"highest"` // position of the last event ever; 0: none
	// Acked is, from an agent, what it knows to be acknowledged; from a control plane, what it has stored.
	Acked uint64 `json:"acked"`
	// AckedAt is, from a control plane, the time of the event that it has at Acked. A host whose store was restored from a backup has
	// another one there.
	AckedAt    time.Time `json:"ackedAt,omitzero"`
	LowestKept uint64    `json:"lowestKept,omitempty"` // lowest position that the agent could still send
}

// Outbox says what waits to be delivered.
type Outbox struct {
	Depth       int       `json:"depth"`
	OldestAt    time.Time `json:"oldestAt,omitzero"`
	DeadLetters int       `json:"deadLetters"`
}

// HeartbeatReply is what a control plane knows of the host.
type HeartbeatReply struct {
	// Cursor is what it has stored of the host; its epoch is the newest that it has seen. Absent: it knows nothing of the host.
	Cursor *Cursor `json:"cursor,omitempty"`
	// Snapshots are records of the host as the control plane has them. An agent that lost its state adopts their outcome.
	Snapshots []json.RawMessage `json:"snapshots,omitempty"`
	// Generation is that of the newest dispatch for the host.
	Generation uint64 `json:"generation,omitempty"`
}
