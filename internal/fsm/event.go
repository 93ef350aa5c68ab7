package fsm

// Event is an input of Step. Its two halves carry the same payload: Local… events are raised by the host itself, Remote…
// events are what a control plane makes of a reported payload. The set is closed; its members are values, never pointers.
//
//sumtype:decl
type Event interface {
	Kind() Kind
	Payload() Payload

	// withSeq hides the method of the embedded payload, so that no event passes for a payload.
	withSeq(seq uint64) Event
}

// Kind is the tag of an event.
type Kind string

// The kinds of event, in pairs: the host's half and the mirror's.
const (
	KindLocalActivate                Kind = "LocalActivate"
	KindRemoteDispatchAck            Kind = "RemoteDispatchAck"
	KindLocalDispatchRejected        Kind = "LocalDispatchRejected"
	KindRemoteDispatchRejected       Kind = "RemoteDispatchRejected"
	KindLocalActivationStarted       Kind = "LocalActivationStarted"
	KindRemoteActivationStarted      Kind = "RemoteActivationStarted"
	KindLocalActivationCompleted     Kind = "LocalActivationCompleted"
	KindRemoteActivationCompleted    Kind = "RemoteActivationCompleted"
	KindLocalActivationDeferred      Kind = "LocalActivationDeferred"
	KindRemoteActivationDeferred     Kind = "RemoteActivationDeferred"
	KindLocalActivationFailed        Kind = "LocalActivationFailed"
	KindRemoteActivationFailed       Kind = "RemoteActivationFailed"
	KindLocalDeferralCancelled       Kind = "LocalDeferralCancelled"
	KindRemoteDeferralCancelled      Kind = "RemoteDeferralCancelled"
	KindLocalProbeTopologyDeclared   Kind = "LocalProbeTopologyDeclared"
	KindRemoteProbeTopologyDeclared  Kind = "RemoteProbeTopologyDeclared"
	KindLocalProbeObservedFirst      Kind = "LocalProbeObservedFirst"
	KindRemoteProbeObservedFirst     Kind = "RemoteProbeObservedFirst"
	KindLocalProbeResult             Kind = "LocalProbeResult"
	KindRemoteProbeResult            Kind = "RemoteProbeResult"
	KindLocalProbeFailureFirst       Kind = "LocalProbeFailureFirst"
	KindRemoteProbeFailureFirst      Kind = "RemoteProbeFailureFirst"
	KindLocalSustainedFailureCrossed Kind = "LocalSustainedFailureCrossed"
	KindRemoteFailed                 Kind = "RemoteFailed"
	KindLocalLeftTarget              Kind = "LocalLeftTarget"
	KindRemoteLeftTarget             Kind = "RemoteLeftTarget"
	KindLocalConvergedReached        Kind = "LocalConvergedReached"
	KindRemoteConverged              Kind = "RemoteConverged"
	KindLocalRollbackCompleted       Kind = "LocalRollbackCompleted"
	KindRemoteRollbackComplete       Kind = "RemoteRollbackComplete"
	KindLocalRollbackDeferred        Kind = "LocalRollbackDeferred"
	KindRemoteRollbackDeferred       Kind = "RemoteRollbackDeferred"
	KindLocalRollbackFailed          Kind = "LocalRollbackFailed"
	KindRemoteRollbackFailed         Kind = "RemoteRollbackFailed"
	KindLocalBootDefaultRestored     Kind = "LocalBootDefaultRestored"
	KindRemoteBootDefaultRestored    Kind = "RemoteBootDefaultRestored"
	KindLocalSuperseded              Kind = "LocalSuperseded"
	KindRemoteSuperseded             Kind = "RemoteSuperseded"
)

// The two halves of every event. LocalActivate carries the acknowledgement that it causes.
type (
	LocalActivate                struct{ DispatchAck }
	RemoteDispatchAck            struct{ DispatchAck }
	LocalDispatchRejected        struct{ DispatchRejected }
	RemoteDispatchRejected       struct{ DispatchRejected }
	LocalActivationStarted       struct{ ActivationStarted }
	RemoteActivationStarted      struct{ ActivationStarted }
	LocalActivationCompleted     struct{ ActivationCompleted }
	RemoteActivationCompleted    struct{ ActivationCompleted }
	LocalActivationDeferred      struct{ ActivationDeferred }
	RemoteActivationDeferred     struct{ ActivationDeferred }
	LocalActivationFailed        struct{ ActivationFailed }
	RemoteActivationFailed       struct{ ActivationFailed }
	LocalDeferralCancelled       struct{ DeferralCancelled }
	RemoteDeferralCancelled      struct{ DeferralCancelled }
	LocalProbeTopologyDeclared   struct{ ProbeTopologyDeclared }
	RemoteProbeTopologyDeclared  struct{ ProbeTopologyDeclared }
	LocalProbeObservedFirst      struct{ ProbeObservedFirst }
	RemoteProbeObservedFirst     struct{ ProbeObservedFirst }
	LocalProbeResult             struct{ ProbeResult }
	RemoteProbeResult            struct{ ProbeResult }
	LocalProbeFailureFirst       struct{ ProbeFailureFirst }
	RemoteProbeFailureFirst      struct{ ProbeFailureFirst }
	LocalSustainedFailureCrossed struct{ SustainedFailure }
	RemoteFailed                 struct{ SustainedFailure }
	LocalLeftTarget              struct{ LeftTarget }
	RemoteLeftTarget             struct{ LeftTarget }
	LocalConvergedReached        struct{ ConvergedReached }
	RemoteConverged              struct{ ConvergedReached }
	LocalRollbackCompleted       struct{ RollbackComplete }
	RemoteRollbackComplete       struct{ RollbackComplete }
	LocalRollbackDeferred        struct{ RollbackDeferred }
	RemoteRollbackDeferred       struct{ RollbackDeferred }
	LocalRollbackFailed          struct{ RollbackFailed }
	RemoteRollbackFailed         struct{ RollbackFailed }
	LocalBootDefaultRestored     struct{ BootDefaultRestored }
	RemoteBootDefaultRestored    struct{ BootDefaultRestored }
	LocalSuperseded              struct{ SupersededBy }
	RemoteSuperseded             struct{ SupersededBy }
)
