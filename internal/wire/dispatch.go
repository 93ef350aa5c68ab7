package wire

import "time"

// Dispatch asks a host to bring itself to a target. It is a request: the agent answers it with a DispatchAck or a
// DispatchRejected event. The same dispatch may be sent any number of times.
type Dispatch struct {
	Generation     uint64    `json:"generation"` // of this host's dispatches; it only rises
	Host           string    `json:"host"`
	RolloutID      string    `json:"rolloutId"` // channel@ref; never used again for another target
	Channel        string    `json:"channel"`
	Target         string    `json:"target"` // store path of a system closure
	Specialisation string    `json:"specialisation,omitempty"`
	SoakMS         int64     `json:"soakMs"`
	SoakDueAt      time.Time `json:"soakDueAt,omitzero"` // not before this moment, either
	Policy         string    `json:"policy,omitempty"`   // rollback-and-halt or halt; empty: as the host is configured
	Force          bool      `json:"force,omitempty"`    // pass the quarantine and the checks of host name and machine type, once
	ExpiresAt      time.Time `json:"expiresAt,omitzero"` // not to be started after this moment
}
