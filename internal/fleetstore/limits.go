package fleetstore

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxPayload bounds one message. A batch of wire.MaxBatch bytes that does not compress, and a snapshot, are below it; it
	// is what NATS recommends at most. An external cluster may have less: what does not fit is refused, and the sender splits it.
	maxPayload = 8 << 20
	// maxUnpacked bounds what a message may become when it is unpacked.
	maxUnpacked = 64 << 20
	// callTimeout bounds one request to JetStream. An election in a cluster takes a few seconds.
	callTimeout = 5 * time.Second
	// firstTry bounds the first of several such requests where another one does no harm; each may take twice as long as the one before.
	firstTry = 500 * time.Millisecond
	// maxTries bounds how often a change is folded again. Only instances that speak for the same host at the same time are in
	// each other's way, and one of them always succeeds.
	maxTries = 50
	// staleAfter is the number of conflicts in a row after which a snapshot is not trusted: it may be of a log that was lost.
	staleAfter = 3
	// pauseUnit is the longest first pause before a change is folded again.
	pauseUnit = 5 * time.Millisecond
	maxPause  = 250 * time.Millisecond
	// slack is the part of a bound by which a purge goes further than it must, so that the next one is not due at once: each writes
	// the host's whole state into the log.
	slack = 10
	// startTimeout bounds the start of the embedded server, which reads its directory.
	startTimeout = 60 * time.Second
	// memoryLimit bounds the bucket of heartbeats, which is in memory: ten thousand of some ten kilobytes, and room.
	memoryLimit = 512 << 20
	// notAvailable is the code with which JetStream says that the cluster has no leader (JSClusterNotAvailErr in nats-server's errors.json).
	notAvailable jetstream.ErrorCode = 10008
)
