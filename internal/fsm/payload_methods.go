package fsm

import "time"

func (DispatchAck) PayloadKind() PayloadKind           { return KindDispatchAck }
func (DispatchRejected) PayloadKind() PayloadKind      { return KindDispatchRejected }
func (ActivationStarted) PayloadKind() PayloadKind     { return KindActivationStarted }
func (ActivationCompleted) PayloadKind() PayloadKind   { return KindActivationCompleted }
func (ActivationDeferred) PayloadKind() PayloadKind    { return KindActivationDeferred }
func (ActivationFailed) PayloadKind() PayloadKind      { return KindActivationFailed }
func (DeferralCancelled) PayloadKind() PayloadKind     { return KindDeferralCancelled }
func (ProbeTopologyDeclared) PayloadKind() PayloadKind { return KindProbeTopologyDeclared }
func (ProbeObservedFirst) PayloadKind() PayloadKind    { return KindProbeObservedFirst }
func (ProbeResult) PayloadKind() PayloadKind           { return KindProbeResult }
func (ProbeFailureFirst) PayloadKind() PayloadKind     { return KindProbeFailureFirst }
func (SustainedFailure) PayloadKind() PayloadKind      { return KindFailed }
func (LeftTarget) PayloadKind() PayloadKind            { return KindLeftTarget }
func (ConvergedReached) PayloadKind() PayloadKind      { return KindConverged }
func (RollbackComplete) PayloadKind() PayloadKind      { return KindRollbackComplete }
func (RollbackDeferred) PayloadKind() PayloadKind      { return KindRollbackDeferred }
func (RollbackFailed) PayloadKind() PayloadKind        { return KindRollbackFailed }
func (BootDefaultRestored) PayloadKind() PayloadKind   { return KindBootDefaultRestored }
func (SupersededBy) PayloadKind() PayloadKind          { return KindSuperseded }

func (p DispatchAck) Sequence() uint64           { return p.Seq }
func (p DispatchRejected) Sequence() uint64      { return p.Seq }
func (p ActivationStarted) Sequence() uint64     { return p.Seq }
func (p ActivationCompleted) Sequence() uint64   { return p.Seq }
func (p ActivationDeferred) Sequence() uint64    { return p.Seq }
func (p ActivationFailed) Sequence() uint64      { return p.Seq }
func (p DeferralCancelled) Sequence() uint64     { return p.Seq }
func (p ProbeTopologyDeclared) Sequence() uint64 { return p.Seq }
func (p ProbeObservedFirst) Sequence() uint64    { return p.Seq }
func (p ProbeResult) Sequence() uint64           { return p.Seq }
func (p ProbeFailureFirst) Sequence() uint64     { return p.Seq }
func (p SustainedFailure) Sequence() uint64      { return p.Seq }
func (p LeftTarget) Sequence() uint64            { return p.Seq }
func (p ConvergedReached) Sequence() uint64      { return p.Seq }
func (p RollbackComplete) Sequence() uint64      { return p.Seq }
func (p RollbackDeferred) Sequence() uint64      { return p.Seq }
func (p RollbackFailed) Sequence() uint64        { return p.Seq }
func (p BootDefaultRestored) Sequence() uint64   { return p.Seq }
func (p SupersededBy) Sequence() uint64          { return p.Seq }

func (p DispatchAck) OccurredAt() time.Time           { return p.ReceivedAt }
func (p DispatchRejected) OccurredAt() time.Time      { return p.RejectedAt }
func (p ActivationStarted) OccurredAt() time.Time     { return p.StartedAt }
func (p ActivationCompleted) OccurredAt() time.Time   { return p.CompletedAt }
func (p ActivationDeferred) OccurredAt() time.Time    { return p.DeferredAt }
func (p ActivationFailed) OccurredAt() time.Time      { return p.FailedAt }
func (p DeferralCancelled) OccurredAt() time.Time     { return p.CancelledAt }
func (p ProbeTopologyDeclared) OccurredAt() time.Time { return p.DeclaredAt }
func (p ProbeObservedFirst) OccurredAt() time.Time    { return p.ObservedAt }
func (p ProbeResult) OccurredAt() time.Time           { return p.ObservedAt }
func (p ProbeFailureFirst) OccurredAt() time.Time     { return p.FirstFailedAt }
func (p SustainedFailure) OccurredAt() time.Time      { return p.FailedAt }
func (p LeftTarget) OccurredAt() time.Time            { return p.LeftAt }
func (p ConvergedReached) OccurredAt() time.Time      { return p.ConvergedAt }
func (p RollbackComplete) OccurredAt() time.Time      { return p.CompletedAt }
func (p RollbackDeferred) OccurredAt() time.Time      { return p.DeferredAt }
func (p RollbackFailed) OccurredAt() time.Time        { return p.FailedAt }
func (p BootDefaultRestored) OccurredAt() time.Time   { return p.RestoredAt }
func (p SupersededBy) OccurredAt() time.Time          { return p.SupersededAt }

func (p DispatchAck) withSeq(seq uint64) Payload {
	p.Seq, p.ReceivedAt = seq, p.ReceivedAt.UTC()
	return p
}

func (p DispatchRejected) withSeq(seq uint64) Payload {
	p.Seq, p.RejectedAt = seq, p.RejectedAt.UTC()
	return p
}

func (p ActivationStarted) withSeq(seq uint64) Payload {
	p.Seq, p.StartedAt = seq, p.StartedAt.UTC()
	return p
}

func (p ActivationCompleted) withSeq(seq uint64) Payload {
	p.Seq, p.CompletedAt = seq, p.CompletedAt.UTC()
	return p
}

func (p ActivationDeferred) withSeq(seq uint64) Payload {
	p.Seq, p.DeferredAt = seq, p.DeferredAt.UTC()
	p.Components = nonNil(p.Components)
	return p
}

func (p ActivationFailed) withSeq(seq uint64) Payload {
	p.Seq, p.FailedAt = seq, p.FailedAt.UTC()
	return p
}

func (p DeferralCancelled) withSeq(seq uint64) Payload {
	p.Seq, p.CancelledAt = seq, p.CancelledAt.UTC()
	return p
}

func (p ProbeTopologyDeclared) withSeq(seq uint64) Payload {
	p.Seq, p.DeclaredAt = seq, p.DeclaredAt.UTC()
	p.Probes = nonNil(p.Probes)
	return p
}

func (p ProbeObservedFirst) withSeq(seq uint64) Payload {
	p.Seq, p.ObservedAt = seq, p.ObservedAt.UTC()
	return p
}

func (p ProbeResult) withSeq(seq uint64) Payload {
	p.Seq, p.ObservedAt = seq, p.ObservedAt.UTC()
	return p
}

func (p ProbeFailureFirst) withSeq(seq uint64) Payload {
	p.Seq, p.FirstFailedAt = seq, p.FirstFailedAt.UTC()
	return p
}

func (p SustainedFailure) withSeq(seq uint64) Payload {
	p.Seq, p.FailedAt = seq, p.FailedAt.UTC()
	p.FailingProbes = nonNil(p.FailingProbes)
	return p
}

func (p LeftTarget) withSeq(seq uint64) Payload {
	p.Seq, p.LeftAt = seq, p.LeftAt.UTC()
	return p
}

func (p ConvergedReached) withSeq(seq uint64) Payload {
	p.Seq, p.ConvergedAt = seq, p.ConvergedAt.UTC()
	return p
}

func (p RollbackComplete) withSeq(seq uint64) Payload {
	p.Seq, p.CompletedAt = seq, p.CompletedAt.UTC()
	return p
}

func (p RollbackDeferred) withSeq(seq uint64) Payload {
	p.Seq, p.DeferredAt = seq, p.DeferredAt.UTC()
	p.Components = nonNil(p.Components)
	return p
}

func (p RollbackFailed) withSeq(seq uint64) Payload {
	p.Seq, p.FailedAt = seq, p.FailedAt.UTC()
	return p
}

func (p BootDefaultRestored) withSeq(seq uint64) Payload {
	p.Seq, p.RestoredAt = seq, p.RestoredAt.UTC()
	return p
}

func (p SupersededBy) withSeq(seq uint64) Payload {
	p.Seq, p.SupersededAt = seq, p.SupersededAt.UTC()
	return p
}

// nonNil makes a list that is always present in JSON an empty one instead of null.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
