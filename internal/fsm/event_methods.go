package fsm

func (LocalActivate) Kind() Kind                { return KindLocalActivate }
func (RemoteDispatchAck) Kind() Kind            { return KindRemoteDispatchAck }
func (LocalDispatchRejected) Kind() Kind        { return KindLocalDispatchRejected }
func (RemoteDispatchRejected) Kind() Kind       { return KindRemoteDispatchRejected }
func (LocalActivationStarted) Kind() Kind       { return KindLocalActivationStarted }
func (RemoteActivationStarted) Kind() Kind      { return KindRemoteActivationStarted }
func (LocalActivationCompleted) Kind() Kind     { return KindLocalActivationCompleted }
func (RemoteActivationCompleted) Kind() Kind    { return KindRemoteActivationCompleted }
func (LocalActivationDeferred) Kind() Kind      { return KindLocalActivationDeferred }
func (RemoteActivationDeferred) Kind() Kind     { return KindRemoteActivationDeferred }
func (LocalActivationFailed) Kind() Kind        { return KindLocalActivationFailed }
func (RemoteActivationFailed) Kind() Kind       { return KindRemoteActivationFailed }
func (LocalDeferralCancelled) Kind() Kind       { return KindLocalDeferralCancelled }
func (RemoteDeferralCancelled) Kind() Kind      { return KindRemoteDeferralCancelled }
func (LocalProbeTopologyDeclared) Kind() Kind   { return KindLocalProbeTopologyDeclared }
func (RemoteProbeTopologyDeclared) Kind() Kind  { return KindRemoteProbeTopologyDeclared }
func (LocalProbeObservedFirst) Kind() Kind      { return KindLocalProbeObservedFirst }
func (RemoteProbeObservedFirst) Kind() Kind     { return KindRemoteProbeObservedFirst }
func (LocalProbeResult) Kind() Kind             { return KindLocalProbeResult }
func (RemoteProbeResult) Kind() Kind            { return KindRemoteProbeResult }
func (LocalProbeFailureFirst) Kind() Kind       { return KindLocalProbeFailureFirst }
func (RemoteProbeFailureFirst) Kind() Kind      { return KindRemoteProbeFailureFirst }
func (LocalSustainedFailureCrossed) Kind() Kind { return KindLocalSustainedFailureCrossed }
func (RemoteFailed) Kind() Kind                 { return KindRemoteFailed }
func (LocalLeftTarget) Kind() Kind              { return KindLocalLeftTarget }
func (RemoteLeftTarget) Kind() Kind             { return KindRemoteLeftTarget }
func (LocalConvergedReached) Kind() Kind        { return KindLocalConvergedReached }
func (RemoteConverged) Kind() Kind              { return KindRemoteConverged }
func (LocalRollbackCompleted) Kind() Kind       { return KindLocalRollbackCompleted }
func (RemoteRollbackComplete) Kind() Kind       { return KindRemoteRollbackComplete }
func (LocalRollbackDeferred) Kind() Kind        { return KindLocalRollbackDeferred }
func (RemoteRollbackDeferred) Kind() Kind       { return KindRemoteRollbackDeferred }
func (LocalRollbackFailed) Kind() Kind          { return KindLocalRollbackFailed }
func (RemoteRollbackFailed) Kind() Kind         { return KindRemoteRollbackFailed }
func (LocalBootDefaultRestored) Kind() Kind     { return KindLocalBootDefaultRestored }
func (RemoteBootDefaultRestored) Kind() Kind    { return KindRemoteBootDefaultRestored }
func (LocalSuperseded) Kind() Kind              { return KindLocalSuperseded }
func (RemoteSuperseded) Kind() Kind             { return KindRemoteSuperseded }

func (e LocalActivate) Payload() Payload                { return e.DispatchAck }
func (e RemoteDispatchAck) Payload() Payload            { return e.DispatchAck }
func (e LocalDispatchRejected) Payload() Payload        { return e.DispatchRejected }
func (e RemoteDispatchRejected) Payload() Payload       { return e.DispatchRejected }
func (e LocalActivationStarted) Payload() Payload       { return e.ActivationStarted }
func (e RemoteActivationStarted) Payload() Payload      { return e.ActivationStarted }
func (e LocalActivationCompleted) Payload() Payload     { return e.ActivationCompleted }
func (e RemoteActivationCompleted) Payload() Payload    { return e.ActivationCompleted }
func (e LocalActivationDeferred) Payload() Payload      { return e.ActivationDeferred }
func (e RemoteActivationDeferred) Payload() Payload     { return e.ActivationDeferred }
func (e LocalActivationFailed) Payload() Payload        { return e.ActivationFailed }
func (e RemoteActivationFailed) Payload() Payload       { return e.ActivationFailed }
func (e LocalDeferralCancelled) Payload() Payload       { return e.DeferralCancelled }
func (e RemoteDeferralCancelled) Payload() Payload      { return e.DeferralCancelled }
func (e LocalProbeTopologyDeclared) Payload() Payload   { return e.ProbeTopologyDeclared }
func (e RemoteProbeTopologyDeclared) Payload() Payload  { return e.ProbeTopologyDeclared }
func (e LocalProbeObservedFirst) Payload() Payload      { return e.ProbeObservedFirst }
func (e RemoteProbeObservedFirst) Payload() Payload     { return e.ProbeObservedFirst }
func (e LocalProbeResult) Payload() Payload             { return e.ProbeResult }
func (e RemoteProbeResult) Payload() Payload            { return e.ProbeResult }
func (e LocalProbeFailureFirst) Payload() Payload       { return e.ProbeFailureFirst }
func (e RemoteProbeFailureFirst) Payload() Payload      { return e.ProbeFailureFirst }
func (e LocalSustainedFailureCrossed) Payload() Payload { return e.SustainedFailure }
func (e RemoteFailed) Payload() Payload                 { return e.SustainedFailure }
func (e LocalLeftTarget) Payload() Payload              { return e.LeftTarget }
func (e RemoteLeftTarget) Payload() Payload             { return e.LeftTarget }
func (e LocalConvergedReached) Payload() Payload        { return e.ConvergedReached }
func (e RemoteConverged) Payload() Payload              { return e.ConvergedReached }
func (e LocalRollbackCompleted) Payload() Payload       { return e.RollbackComplete }
func (e RemoteRollbackComplete) Payload() Payload       { return e.RollbackComplete }
func (e LocalRollbackDeferred) Payload() Payload        { return e.RollbackDeferred }
func (e RemoteRollbackDeferred) Payload() Payload       { return e.RollbackDeferred }
func (e LocalRollbackFailed) Payload() Payload          { return e.RollbackFailed }
func (e RemoteRollbackFailed) Payload() Payload         { return e.RollbackFailed }
func (e LocalBootDefaultRestored) Payload() Payload     { return e.BootDefaultRestored }
func (e RemoteBootDefaultRestored) Payload() Payload    { return e.BootDefaultRestored }
func (e LocalSuperseded) Payload() Payload              { return e.SupersededBy }
func (e RemoteSuperseded) Payload() Payload             { return e.SupersededBy }

func (e LocalActivate) withSeq(seq uint64) Event { return LocalActivate{numbered(e.DispatchAck, seq)} }
func (e RemoteDispatchAck) withSeq(seq uint64) Event {
	return RemoteDispatchAck{numbered(e.DispatchAck, seq)}
}
func (e LocalDispatchRejected) withSeq(seq uint64) Event {
	return LocalDispatchRejected{numbered(e.DispatchRejected, seq)}
}
func (e RemoteDispatchRejected) withSeq(seq uint64) Event {
	return RemoteDispatchRejected{numbered(e.DispatchRejected, seq)}
}
func (e LocalActivationStarted) withSeq(seq uint64) Event {
	return LocalActivationStarted{numbered(e.ActivationStarted, seq)}
}
func (e RemoteActivationStarted) withSeq(seq uint64) Event {
	return RemoteActivationStarted{numbered(e.ActivationStarted, seq)}
}
func (e LocalActivationCompleted) withSeq(seq uint64) Event {
	return LocalActivationCompleted{numbered(e.ActivationCompleted, seq)}
}
func (e RemoteActivationCompleted) withSeq(seq uint64) Event {
	return RemoteActivationCompleted{numbered(e.ActivationCompleted, seq)}
}
func (e LocalActivationDeferred) withSeq(seq uint64) Event {
	return LocalActivationDeferred{numbered(e.ActivationDeferred, seq)}
}
func (e RemoteActivationDeferred) withSeq(seq uint64) Event {
	return RemoteActivationDeferred{numbered(e.ActivationDeferred, seq)}
}
func (e LocalActivationFailed) withSeq(seq uint64) Event {
	return LocalActivationFailed{numbered(e.ActivationFailed, seq)}
}
func (e RemoteActivationFailed) withSeq(seq uint64) Event {
	return RemoteActivationFailed{numbered(e.ActivationFailed, seq)}
}
func (e LocalDeferralCancelled) withSeq(seq uint64) Event {
	return LocalDeferralCancelled{numbered(e.DeferralCancelled, seq)}
}
func (e RemoteDeferralCancelled) withSeq(seq uint64) Event {
	return RemoteDeferralCancelled{numbered(e.DeferralCancelled, seq)}
}
func (e LocalProbeTopologyDeclared) withSeq(seq uint64) Event {
	return LocalProbeTopologyDeclared{numbered(e.ProbeTopologyDeclared, seq)}
}
func (e RemoteProbeTopologyDeclared) withSeq(seq uint64) Event {
	return RemoteProbeTopologyDeclared{numbered(e.ProbeTopologyDeclared, seq)}
}
func (e LocalProbeObservedFirst) withSeq(seq uint64) Event {
	return LocalProbeObservedFirst{numbered(e.ProbeObservedFirst, seq)}
}
func (e RemoteProbeObservedFirst) withSeq(seq uint64) Event {
	return RemoteProbeObservedFirst{numbered(e.ProbeObservedFirst, seq)}
}
func (e LocalProbeResult) withSeq(seq uint64) Event {
	return LocalProbeResult{numbered(e.ProbeResult, seq)}
}
func (e RemoteProbeResult) withSeq(seq uint64) Event {
	return RemoteProbeResult{numbered(e.ProbeResult, seq)}
}
func (e LocalProbeFailureFirst) withSeq(seq uint64) Event {
	return LocalProbeFailureFirst{numbered(e.ProbeFailureFirst, seq)}
}
func (e RemoteProbeFailureFirst) withSeq(seq uint64) Event {
	return RemoteProbeFailureFirst{numbered(e.ProbeFailureFirst, seq)}
}
func (e LocalSustainedFailureCrossed) withSeq(seq uint64) Event {
	return LocalSustainedFailureCrossed{numbered(e.SustainedFailure, seq)}
}
func (e RemoteFailed) withSeq(seq uint64) Event {
	return RemoteFailed{numbered(e.SustainedFailure, seq)}
}
func (e LocalLeftTarget) withSeq(seq uint64) Event {
	return LocalLeftTarget{numbered(e.LeftTarget, seq)}
}
func (e RemoteLeftTarget) withSeq(seq uint64) Event {
	return RemoteLeftTarget{numbered(e.LeftTarget, seq)}
}
func (e LocalConvergedReached) withSeq(seq uint64) Event {
	return LocalConvergedReached{numbered(e.ConvergedReached, seq)}
}
func (e RemoteConverged) withSeq(seq uint64) Event {
	return RemoteConverged{numbered(e.ConvergedReached, seq)}
}
func (e LocalRollbackCompleted) withSeq(seq uint64) Event {
	return LocalRollbackCompleted{numbered(e.RollbackComplete, seq)}
}
func (e RemoteRollbackComplete) withSeq(seq uint64) Event {
	return RemoteRollbackComplete{numbered(e.RollbackComplete, seq)}
}
func (e LocalRollbackDeferred) withSeq(seq uint64) Event {
	return LocalRollbackDeferred{numbered(e.RollbackDeferred, seq)}
}
func (e RemoteRollbackDeferred) withSeq(seq uint64) Event {
	return RemoteRollbackDeferred{numbered(e.RollbackDeferred, seq)}
}
func (e LocalRollbackFailed) withSeq(seq uint64) Event {
	return LocalRollbackFailed{numbered(e.RollbackFailed, seq)}
}
func (e RemoteRollbackFailed) withSeq(seq uint64) Event {
	return RemoteRollbackFailed{numbered(e.RollbackFailed, seq)}
}
func (e LocalBootDefaultRestored) withSeq(seq uint64) Event {
	return LocalBootDefaultRestored{numbered(e.BootDefaultRestored, seq)}
}
func (e RemoteBootDefaultRestored) withSeq(seq uint64) Event {
	return RemoteBootDefaultRestored{numbered(e.BootDefaultRestored, seq)}
}
func (e LocalSuperseded) withSeq(seq uint64) Event {
	return LocalSuperseded{numbered(e.SupersededBy, seq)}
}
func (e RemoteSuperseded) withSeq(seq uint64) Event {
	return RemoteSuperseded{numbered(e.SupersededBy, seq)}
}

// numbered keeps the static type of a payload through withSeq.
func numbered[P Payload](p P, seq uint64) P { return p.withSeq(seq).(P) }
