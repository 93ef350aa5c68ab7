package fsm

import (
	"encoding/json"
	"time"
)

// Record is all that is known of one rollout on one host. It is stored whole at every change.
//
// Times are UTC. A zero time means that the thing has not happened.
type Record struct {
	Hostname       string `json:"hostname"`
	RolloutID      string `json:"rollout_id"` // channel@ref, or local@<epoch>-<n>
	Channel        string `json:"channel,omitempty"`
	Generation     uint64 `json:"generation,omitempty"` // of the dispatch; only rises
	TargetClosure  string `json:"target_closure"`
	Specialisation string `json:"specialisation,omitempty"` // of the target, if the dispatch named one
	State          State  `json:"state"`

	Policy    Policy    `json:"policy"`
	Soak      Millis    `json:"soak_ms"`
	SoakDueAt time.Time `json:"soak_due_at,omitzero"` // not converged before this moment, whatever was served
	Force     bool      `json:"force,omitempty"`      // passes quarantine and identity checks once
	ExpiresAt time.Time `json:"expires_at,omitzero"`  // not started after this moment

	CreatedAt             time.Time `json:"created_at"`
	ReceivedAt            time.Time `json:"received_at,omitzero"`
	ActivationStartedAt   time.Time `json:"activation_started_at,omitzero"` // of the last attempt
	ActivationCompletedAt time.Time `json:"activation_completed_at,omitzero"`
	ActivationFailedAt    time.Time `json:"activation_failed_at,omitzero"`
	DeferredAt            time.Time `json:"deferred_at,omitzero"`
	FailedAt              time.Time `json:"failed_at,omitzero"`
	ConvergedAt           time.Time `json:"converged_at,omitzero"`
	EndedAt               time.Time `json:"ended_at,omitzero"` // Converged, Reverted or Superseded

	Prior          Prior    `json:"prior,omitzero"`
	CurrentClosure string   `json:"current_closure,omitempty"` // last observed to run: at completion, on leaving the target, after the way back
	Degraded       []string `json:"degraded,omitempty"`        // what was not clean about the completion, in words

	Components []ComponentChange `json:"components,omitempty"` // why Deferred, or why the way back is staged
	StagedBoot BootStamp         `json:"staged_boot,omitzero"` // the boot in which the target, or the way back, was staged

	Probes               map[string]Probe `json:"probes,omitempty"`
	TopologyDeclaredAt   time.Time        `json:"topology_declared_at,omitzero"`
	ProbeObservedFirstAt time.Time        `json:"probe_observed_first_at,omitzero"`
	ProbeFailureFirstAt  time.Time        `json:"probe_failure_first_at,omitzero"` // cleared when no enforce probe fails

	SoakServed Millis   `json:"soak_served_ms,omitempty"`
	SoakMark   SoakMark `json:"soak_mark,omitzero"`

	FailureReason FailureReason `json:"failure_reason,omitempty"`
	FailureDetail string        `json:"failure_detail,omitempty"`
	PolicyApplied Policy        `json:"policy_applied,omitempty"`

	// Why the way back did not succeed, as long as it has not.
	RollbackFailureReason FailureReason `json:"rollback_failure_reason,omitempty"`
	RollbackFailureDetail string        `json:"rollback_failure_detail,omitempty"`

	RevertedTo   string `json:"reverted_to,omitempty"`
	SupersededBy string `json:"superseded_by,omitempty"`

	Work         *Work  `json:"work,omitempty"`     // what is owed; absent in the mirror and at rest
	Attempts     int    `json:"attempts,omitempty"` // attempts ever started; an attempt's number is never used again
	LastEventSeq uint64 `json:"last_event_seq"`

	// Unknown holds the fields that a newer agent wrote; they survive rewriting. What it wrote inside of prior and work is
	// here under that key, as an object of the leftovers; other nested values are replaced whole.
	Unknown map[string]json.RawMessage `json:"-"`
}

// Policy says what the host does by itself when a rollout fails.
type Policy string

const (
	// RollbackAndHalt brings profile, boot default and running system back.
	RollbackAndHalt Policy = "rollback-and-halt"
	// Halt leaves the running system. After a failed activation it brings profile and boot default back, so that a reboot is
	// safe; a host that did not stay healthy is left as it is.
	Halt Policy = "halt"
)

// Prior is the way back: what the host ran and would have booted when the rollout was accepted, read from the host and
// never taken from the dispatch. Each is a store path; empty where it could not be told.
type Prior struct {
	Running     string `json:"running,omitempty"`
	Profile     string `json:"profile,omitempty"`
	BootDefault string `json:"boot_default,omitempty"`
}

// ComponentChange names one component that differs between what runs and the target.
type ComponentChange struct {
	Component string `json:"component"` // dbus, systemd, kernel, init, inhibitor:<key>, or what the operator added
	From      string `json:"from"`      // empty: absent
	To        string `json:"to"`
}

// BootStamp identifies the boot in which something was done. A soft reboot keeps the id and raises the count.
type BootStamp struct {
	BootID      string `json:"boot_id"`
	SoftReboots uint32 `json:"soft_reboots,omitempty"`
}

// SoakMark is the moment up to which the soak has been counted.
type SoakMark struct {
	BootID string `json:"boot_id"`
	Up     Millis `json:"up_ms"` // time since boot, suspend not counted
}

// ProbeMode says whether a probe gates convergence.
type ProbeMode string

// The modes of a probe: enforce gates, observe is only reported, disabled does not run.
const (
	Enforce  ProbeMode = "enforce"
	Observe  ProbeMode = "observe"
	Disabled ProbeMode = "disabled"
)

// ProbeStatus is the outcome of one run of a probe.
type ProbeStatus string

// The outcomes of a probe.
const (
	Pass ProbeStatus = "pass"
	Fail ProbeStatus = "fail"
)

// Probe is a declared probe with its last result since completion, if there is one.
type Probe struct {
	Kind       string      `json:"kind,omitempty"`
	Mode       ProbeMode   `json:"mode"`
	Status     ProbeStatus `json:"status,omitempty"` // empty: no result since completion
	ObservedAt time.Time   `json:"observed_at,omitzero"`
	Reason     string      `json:"failure_reason,omitempty"`
}

// Now is the present moment as the caller reads it.
type Now struct {
	Wall        time.Time
	Up          time.Duration // since boot, suspend not counted (CLOCK_MONOTONIC)
	BootID      string
	SoftReboots uint32
}
