package fsm

import "time"

// Effect is one thing to do about an event, as data. The set is closed. Effects are listed in the order in which they are
// to be carried out; the durable ones (RecordTransition, the report and the quarantines) are part of the transaction that
// stores the record, the others follow its commit.
//
//sumtype:decl
type Effect interface{ effect() }

// RecordTransition is one row of history; every change of state has exactly one.
type RecordTransition struct {
	Host      string
	RolloutID string
	From, To  State
	At        time.Time
}

// LocalEmitEvent reports a payload through the host's durable outbox.
type LocalEmitEvent struct {
	RolloutID string
	Payload   Payload
	Durable   bool
}

// RemoteAppendEventLog appends a payload to the control plane's log.
type RemoteAppendEventLog struct {
	Host      string
	RolloutID string
	Payload   Payload
}

// LocalFireSwitch starts the work towards the target.
type LocalFireSwitch struct {
	RolloutID     string
	TargetClosure string
}

// LocalResetProbeCache forgets every probe result of before.
type LocalResetProbeCache struct{ RolloutID string }

// LocalFireRollbackTo starts the way back of profile, boot default and running system.
type LocalFireRollbackTo struct {
	RolloutID string
	Prior     Prior
}

// LocalFireUnstage starts the way back of profile and boot default; the running system is left.
type LocalFireUnstage struct {
	RolloutID string
	Prior     Prior
}

// LocalQuarantine keeps the host from trying the closure again by itself. It comes right after the history row and before
// the way back is fired, since it belongs to the transaction and the way back follows it.
type LocalQuarantine struct {
	RolloutID string
	Closure   string
	Reason    FailureReason
}

// RemoteQuarantineOnChannel keeps the control plane from dispatching the closure on the channel again.
type RemoteQuarantineOnChannel struct {
	Channel   string
	RolloutID string
	Closure   string
}

func (RecordTransition) effect()          {}
func (LocalEmitEvent) effect()            {}
func (RemoteAppendEventLog) effect()      {}
func (LocalFireSwitch) effect()           {}
func (LocalResetProbeCache) effect()      {}
func (LocalFireRollbackTo) effect()       {}
func (LocalFireUnstage) effect()          {}
func (LocalQuarantine) effect()           {}
func (RemoteQuarantineOnChannel) effect() {}
