package bootrecovery

import "github.com/nixfleet/nixfleet-agent/internal/fsm"

// Facts are what the host shows at one moment, each closure seen from the record in question.
type Facts struct {
	Boot fsm.BootStamp // of now

	Booted      Seen
	Running     Seen
	Profile     Seen
	BootDefault Seen

	Unit Unit // the attempt that the record's work names

	// StillOld names the critical components that do not run the target's although the running link says so: after a
	// forced live switch the bus or PID 1 may still be the old one.
	StillOld []string

	FellBack bool // the loader counted the target's entry down and chose another one
	Held     bool // the operator holds this host
	Expired  bool // the record was not started in time
	Starting bool // the agent has just started; false on the slow tick
}

// Seen is a closure and what it is to the record.
type Seen struct {
	Path           string // empty: could not be read
	Is             Which
	Specialisation string // of the target, if that is what it is
}

// Which says what a closure is to a record.
type Which string

// A closure is the target (or one of its specialisations), the way back, another one, or not known. The target wins where
// target and way back are the same.
const (
	Target  Which = "target"
	Prior   Which = "prior"
	Other   Which = "other"
	Unknown Which = "unknown"
)

// Unit is the state of the attempt in flight.
type Unit string

// The states of an attempt: none is named by the record, its unit runs, it left its result, it has not started (no marker), or
// it started and neither runs nor left a result.
const (
	NoAttempt   Unit = "none"
	Running     Unit = "running"
	Ended       Unit = "ended"
	NotStarted  Unit = "not-started"
	Interrupted Unit = "interrupted"
)
