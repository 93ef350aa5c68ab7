package fsm

import "time"

// Payload is what happened, as it is reported: the body of an event in both of its halves and of the outbox entry.
// The set is closed, its members are values, never pointers; its tags are the words on disk and on the wire.
//
//sumtype:decl
type Payload interface {
	PayloadKind() PayloadKind
	Sequence() uint64
	OccurredAt() time.Time // when it was observed; stamps and history carry this moment

	// withSeq gives the payload under the number, with its moment in UTC and its lists present.
	withSeq(seq uint64) Payload
}

// PayloadKind is the tag of a payload.
type PayloadKind string

// The kinds of payload.
const (
	KindDispatchAck           PayloadKind = "DispatchAck"
	KindDispatchRejected      PayloadKind = "DispatchRejected"
	KindActivationStarted     PayloadKind = "ActivationStarted"
	KindActivationCompleted   PayloadKind = "ActivationCompleted"
	KindActivationDeferred    PayloadKind = "ActivationDeferred"
	KindActivationFailed      PayloadKind = "ActivationFailed"
	KindDeferralCancelled     PayloadKind = "DeferralCancelled"
	KindProbeTopologyDeclared PayloadKind = "ProbeTopologyDeclared"
	KindProbeObservedFirst    PayloadKind = "ProbeObservedFirst"
	KindProbeResult           PayloadKind = "ProbeResult"
	KindProbeFailureFirst     PayloadKind = "ProbeFailureFirst"
	KindFailed                PayloadKind = "Failed"
	KindLeftTarget            PayloadKind = "LeftTarget"
	KindConverged             PayloadKind = "Converged"
	KindRollbackComplete      PayloadKind = "RollbackComplete"
	KindRollbackDeferred      PayloadKind = "RollbackDeferred"
	KindRollbackFailed        PayloadKind = "RollbackFailed"
	KindBootDefaultRestored   PayloadKind = "BootDefaultRestored"
	KindSuperseded            PayloadKind = "Superseded"
)

// DispatchAck says that the host accepted the rollout and what its way back is.
type DispatchAck struct {
	TargetClosure            string    `json:"target_closure"`
	CurrentClosureAtDispatch string    `json:"current_closure_at_dispatch"`
	Prior                    Prior     `json:"prior"`
	ReceivedAt               time.Time `json:"received_at"`
	Seq                      uint64    `json:"seq"`
}

// DispatchRejected says that the host refused the rollout and touched nothing.
type DispatchRejected struct {
	Reason     FailureReason `json:"reason"`
	Detail     string        `json:"detail,omitempty"`
	RejectedAt time.Time     `json:"rejected_at"`
	Seq        uint64        `json:"seq"`
}

// ActivationStarted says that switch-to-configuration is about to run.
type ActivationStarted struct {
	StartedAt    time.Time `json:"started_at"`
	SwitchMethod string    `json:"switch_method"` // switch or boot
	Attempt      int       `json:"attempt"`
	Seq          uint64    `json:"seq"`
}

// ActivationCompleted says that the running system was read and is the target.
type ActivationCompleted struct {
	ObservedCurrentClosure string    `json:"observed_current_closure"`
	Specialisation         string    `json:"specialisation,omitempty"` // of the target, if that is what runs
	ExitCode               int       `json:"exit_code"`                // of switch-to-configuration; 0 where a boot completed it
	Degraded               []string  `json:"degraded,omitempty"`       // what was not clean, in words
	FailedUnits            []string  `json:"failed_units,omitempty"`   // units that failed now and not before
	BootID                 string    `json:"boot_id,omitempty"`
	CompletedAt            time.Time `json:"completed_at"`
	Seq                    uint64    `json:"seq"`
}

// ActivationDeferred says that the target was made the boot default and waits for a reboot, and why.
type ActivationDeferred struct {
	Components  []ComponentChange `json:"components"`
	BootID      string            `json:"boot_id"`
	SoftReboots uint32            `json:"soft_reboots,omitempty"`
	DeferredAt  time.Time         `json:"deferred_at"`
	Seq         uint64            `json:"seq"`
}

// ActivationFailed says that the target does not run and why.
type ActivationFailed struct {
	ExitCode   int           `json:"exit_code"`
	StderrTail string        `json:"stderr_tail"`
	Reason     FailureReason `json:"reason,omitempty"`
	FailedAt   time.Time     `json:"failed_at"`
	Seq        uint64        `json:"seq"`
}

// DeferralCancelled says that a staged target was taken back before any reboot.
type DeferralCancelled struct {
	RevertedToClosure string    `json:"reverted_to_closure"`
	CancelledBy       string    `json:"cancelled_by,omitempty"`
	Left              []string  `json:"left,omitempty"` // legs that another hand had changed
	CancelledAt       time.Time `json:"cancelled_at"`
	Seq               uint64    `json:"seq"`
}

// ProbeTopologyDeclared names every probe that the running system declares, before any of them reports.
type ProbeTopologyDeclared struct {
	Probes     []ProbeDeclaration `json:"probes"`
	DeclaredAt time.Time          `json:"declared_at"`
	Seq        uint64             `json:"seq"`
}

// ProbeDeclaration is one declared probe.
type ProbeDeclaration struct {
	Name string    `json:"probe_name"`
	Kind string    `json:"kind"`
	Mode ProbeMode `json:"mode"`
}

// ProbeObservedFirst is the first result of any probe since completion.
type ProbeObservedFirst struct {
	ProbeName  string    `json:"probe_name"`
	Mode       ProbeMode `json:"mode"`
	ObservedAt time.Time `json:"observed_at"`
	Seq        uint64    `json:"seq"`
}

// ProbeResult is a change of a probe's result.
type ProbeResult struct {
	ProbeName     string      `json:"probe_name"`
	Mode          ProbeMode   `json:"mode"`
	Status        ProbeStatus `json:"status"`
	ObservedAt    time.Time   `json:"observed_at"`
	FailureReason string      `json:"failure_reason,omitempty"`
	Seq           uint64      `json:"seq"`
}

// ProbeFailureFirst is the first failure since the probes last passed.
type ProbeFailureFirst struct {
	ProbeName     string    `json:"probe_name"`
	Mode          ProbeMode `json:"mode"`
	FirstFailedAt time.Time `json:"first_failed_at"`
	Seq           uint64    `json:"seq"`
}

// SustainedFailure says that enforced probes failed for longer than is tolerated. It is reported as Failed.
type SustainedFailure struct {
	FailedAt              time.Time `json:"failed_at"`
	SustainedDurationSecs uint64    `json:"sustained_duration_secs"`
	FailingProbes         []string  `json:"failing_probes"`
	PolicyApplied         Policy    `json:"policy_applied"`
	Seq                   uint64    `json:"seq"`
}

// LeftTarget says that another hand made the host run something else during the soak.
type LeftTarget struct {
	ObservedCurrentClosure string    `json:"observed_current_closure"`
	LeftAt                 time.Time `json:"left_at"`
	Seq                    uint64    `json:"seq"`
}

// ConvergedReached says that the soak was served and every enforced probe passes. It is reported as Converged.
type ConvergedReached struct {
	CurrentClosure string    `json:"current_closure"`
	Specialisation string    `json:"specialisation,omitempty"` // of the target, if that is what runs
	ConvergedAt    time.Time `json:"converged_at"`
	Seq            uint64    `json:"seq"`
}

// RollbackComplete says that the host runs, and would boot, what it ran before.
type RollbackComplete struct {
	RevertedToClosure string    `json:"reverted_to_closure"`
	ExitCode          int       `json:"exit_code"`
	Left              []string  `json:"left,omitempty"` // legs that another hand had changed
	CompletedAt       time.Time `json:"completed_at"`
	Seq               uint64    `json:"seq"`
}

// RollbackDeferred says that profile and boot default are back and the running system follows with a reboot.
type RollbackDeferred struct {
	Components  []ComponentChange `json:"components"`
	ToClosure   string            `json:"to_closure"`
	BootID      string            `json:"boot_id"`
	SoftReboots uint32            `json:"soft_reboots,omitempty"`
	DeferredAt  time.Time         `json:"deferred_at"`
	Seq         uint64            `json:"seq"`
}

// RollbackFailed says that the way back did not succeed; it is tried again at the next start.
type RollbackFailed struct {
	ExitCode   int           `json:"exit_code"`
	StderrTail string        `json:"stderr_tail"`
	Reason     FailureReason `json:"reason"`
	FailedAt   time.Time     `json:"failed_at"`
	Seq        uint64        `json:"seq"`
}

// BootDefaultRestored says that profile and boot default are back while the running system was left, as Halt asks.
type BootDefaultRestored struct {
	Profile     string    `json:"profile"`
	BootDefault string    `json:"boot_default"`
	Left        []string  `json:"left,omitempty"`
	RestoredAt  time.Time `json:"restored_at"`
	Seq         uint64    `json:"seq"`
}

// Superseded says that a newer rollout took the host over.
type SupersededBy struct {
	ByRolloutID  string    `json:"by_rollout_id"`
	SupersededAt time.Time `json:"superseded_at"`
	Seq          uint64    `json:"seq"`
}
