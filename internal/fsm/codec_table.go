package fsm

// variant reads one member of a closed set and knows it again. Only values are members, never pointers to them.
type variant[I any] struct {
	decode func(data []byte) (I, error)
	is     func(v I) bool
}

// payloads is every payload that can be read and written.
var payloads = map[PayloadKind]variant[Payload]{
	KindDispatchAck:           payloadVariant[DispatchAck](),
	KindDispatchRejected:      payloadVariant[DispatchRejected](),
	KindActivationStarted:     payloadVariant[ActivationStarted](),
	KindActivationCompleted:   payloadVariant[ActivationCompleted](),
	KindActivationDeferred:    payloadVariant[ActivationDeferred](),
	KindActivationFailed:      payloadVariant[ActivationFailed](),
	KindDeferralCancelled:     payloadVariant[DeferralCancelled](),
	KindProbeTopologyDeclared: payloadVariant[ProbeTopologyDeclared](),
	KindProbeObservedFirst:    payloadVariant[ProbeObservedFirst](),
	KindProbeResult:           payloadVariant[ProbeResult](),
	KindProbeFailureFirst:     payloadVariant[ProbeFailureFirst](),
	KindFailed:                payloadVariant[SustainedFailure](),
	KindLeftTarget:            payloadVariant[LeftTarget](),
	KindConverged:             payloadVariant[ConvergedReached](),
	KindRollbackComplete:      payloadVariant[RollbackComplete](),
	KindRollbackDeferred:      payloadVariant[RollbackDeferred](),
	KindRollbackFailed:        payloadVariant[RollbackFailed](),
	KindBootDefaultRestored:   payloadVariant[BootDefaultRestored](),
	KindSuperseded:            payloadVariant[SupersededBy](),
}

// events is every event that can be read and written.
var events = map[Kind]variant[Event]{
	KindLocalActivate:                eventVariant[LocalActivate](),
	KindRemoteDispatchAck:            eventVariant[RemoteDispatchAck](),
	KindLocalDispatchRejected:        eventVariant[LocalDispatchRejected](),
	KindRemoteDispatchRejected:       eventVariant[RemoteDispatchRejected](),
	KindLocalActivationStarted:       eventVariant[LocalActivationStarted](),
	KindRemoteActivationStarted:      eventVariant[RemoteActivationStarted](),
	KindLocalActivationCompleted:     eventVariant[LocalActivationCompleted](),
	KindRemoteActivationCompleted:    eventVariant[RemoteActivationCompleted](),
	KindLocalActivationDeferred:      eventVariant[LocalActivationDeferred](),
	KindRemoteActivationDeferred:     eventVariant[RemoteActivationDeferred](),
	KindLocalActivationFailed:        eventVariant[LocalActivationFailed](),
	KindRemoteActivationFailed:       eventVariant[RemoteActivationFailed](),
	KindLocalDeferralCancelled:       eventVariant[LocalDeferralCancelled](),
	KindRemoteDeferralCancelled:      eventVariant[RemoteDeferralCancelled](),
	KindLocalProbeTopologyDeclared:   eventVariant[LocalProbeTopologyDeclared](),
	KindRemoteProbeTopologyDeclared:  eventVariant[RemoteProbeTopologyDeclared](),
	KindLocalProbeObservedFirst:      eventVariant[LocalProbeObservedFirst](),
	KindRemoteProbeObservedFirst:     eventVariant[RemoteProbeObservedFirst](),
	KindLocalProbeResult:             eventVariant[LocalProbeResult](),
	KindRemoteProbeResult:            eventVariant[RemoteProbeResult](),
	KindLocalProbeFailureFirst:       eventVariant[LocalProbeFailureFirst](),
	KindRemoteProbeFailureFirst:      eventVariant[RemoteProbeFailureFirst](),
	KindLocalSustainedFailureCrossed: eventVariant[LocalSustainedFailureCrossed](),
	KindRemoteFailed:                 eventVariant[RemoteFailed](),
	KindLocalLeftTarget:              eventVariant[LocalLeftTarget](),
	KindRemoteLeftTarget:             eventVariant[RemoteLeftTarget](),
	KindLocalConvergedReached:        eventVariant[LocalConvergedReached](),
	KindRemoteConverged:              eventVariant[RemoteConverged](),
	KindLocalRollbackCompleted:       eventVariant[LocalRollbackCompleted](),
	KindRemoteRollbackComplete:       eventVariant[RemoteRollbackComplete](),
	KindLocalRollbackDeferred:        eventVariant[LocalRollbackDeferred](),
	KindRemoteRollbackDeferred:       eventVariant[RemoteRollbackDeferred](),
	KindLocalRollbackFailed:          eventVariant[LocalRollbackFailed](),
	KindRemoteRollbackFailed:         eventVariant[RemoteRollbackFailed](),
	KindLocalBootDefaultRestored:     eventVariant[LocalBootDefaultRestored](),
	KindRemoteBootDefaultRestored:    eventVariant[RemoteBootDefaultRestored](),
	KindLocalSuperseded:              eventVariant[LocalSuperseded](),
	KindRemoteSuperseded:             eventVariant[RemoteSuperseded](),
}

func payloadVariant[T Payload]() variant[Payload] {
	return variant[Payload]{
		decode: func(data []byte) (Payload, error) { return decodeExact[T](data) },
		is:     func(v Payload) bool { _, ok := v.(T); return ok },
	}
}

func eventVariant[T Event]() variant[Event] {
	return variant[Event]{
		decode: func(data []byte) (Event, error) { return decodeExact[T](data) },
		is:     func(v Event) bool { _, ok := v.(T); return ok },
	}
}
