package fleetstore

import "time"

const (
	// maxPayload bounds one message. A batch of wire.MaxBatch bytes that does not compress, and a snapshot, are below it; it
	// is what NATS recommends at most. An external cluster may have less: what does not fit is refused, and the sender splits it.
	maxPayload = 8 << 20
	// maxUnpacked bounds what a message may become when it is unpacked.
	maxUnpacked = 64 << 20
	// callTimeout bounds one request to JetStream. An election in a cluster takes a few seconds.
	callTimeout = 5 * time.Second
	// maxTries bounds how often a change is folded again. Only instances that speak for the same host at the same time are in
	// each other's way, and one of them always succeeds.
	maxTries = 50
	// staleAfter is the number of conflicts in a row after which a snapshot is not trusted: it may be of a log that was lost.
	staleAfter = 3
	// pauseUnit is the longest first pause before a change is folded again.
	pauseUnit = 5 * time.Millisecond
	maxPause  = 250 * time.Millisecond
	// startTimeout bounds the start of the embedded server, which reads its directory.
	startTimeout = 60 * time.Second
	// memoryLimit bounds the bucket of heartbeats, which is in memory: ten thousand of some ten kilobytes, and room.
	memoryLimit = 512 << 20
)
