package fsm

// RemoteOf gives the event that a mirror feeds to Step for a reported payload; nil for what is not in the closed set.
func RemoteOf(p Payload) Event {
	switch p := p.(type) {
	case DispatchAck:
		return RemoteDispatchAck{p}
	case DispatchRejected:
		return RemoteDispatchRejected{p}
	case ActivationStarted:
		return RemoteActivationStarted{p}
	case ActivationCompleted:
		return RemoteActivationCompleted{p}
	case ActivationDeferred:
		return RemoteActivationDeferred{p}
	case ActivationFailed:
		return RemoteActivationFailed{p}
	case DeferralCancelled:
		return RemoteDeferralCancelled{p}
	case ProbeTopologyDeclared:
		return RemoteProbeTopologyDeclared{p}
	case ProbeObservedFirst:
		return RemoteProbeObservedFirst{p}
	case ProbeResult:
		return RemoteProbeResult{p}
	case ProbeFailureFirst:
		return RemoteProbeFailureFirst{p}
	case SustainedFailure:
		return RemoteFailed{p}
	case LeftTarget:
		return RemoteLeftTarget{p}
	case ConvergedReached:
		return RemoteConverged{p}
	case RollbackComplete:
		return RemoteRollbackComplete{p}
	case RollbackDeferred:
		return RemoteRollbackDeferred{p}
	case RollbackFailed:
		return RemoteRollbackFailed{p}
	case BootDefaultRestored:
		return RemoteBootDefaultRestored{p}
	case SupersededBy:
		return RemoteSuperseded{p}
	default:
		return nil
	}
}

// LocalOf gives the host's half of a payload; nil for what is not in the closed set.
func LocalOf(p Payload) Event {
	switch p := p.(type) {
	case DispatchAck:
		return LocalActivate{p}
	case DispatchRejected:
		return LocalDispatchRejected{p}
	case ActivationStarted:
		return LocalActivationStarted{p}
	case ActivationCompleted:
		return LocalActivationCompleted{p}
	case ActivationDeferred:
		return LocalActivationDeferred{p}
	case ActivationFailed:
		return LocalActivationFailed{p}
	case DeferralCancelled:
		return LocalDeferralCancelled{p}
	case ProbeTopologyDeclared:
		return LocalProbeTopologyDeclared{p}
	case ProbeObservedFirst:
		return LocalProbeObservedFirst{p}
	case ProbeResult:
		return LocalProbeResult{p}
	case ProbeFailureFirst:
		return LocalProbeFailureFirst{p}
	case SustainedFailure:
		return LocalSustainedFailureCrossed{p}
	case LeftTarget:
		return LocalLeftTarget{p}
	case ConvergedReached:
		return LocalConvergedReached{p}
	case RollbackComplete:
		return LocalRollbackCompleted{p}
	case RollbackDeferred:
		return LocalRollbackDeferred{p}
	case RollbackFailed:
		return LocalRollbackFailed{p}
	case BootDefaultRestored:
		return LocalBootDefaultRestored{p}
	case SupersededBy:
		return LocalSuperseded{p}
	default:
		return nil
	}
}
