package wire

import "time"

// Bounds that both sides keep to. A message beyond one is refused as a whole, with 413 where it is a request.
const (
	// MaxEvents bounds one batch, so that an answer stays small and a retry cheap.
	MaxEvents = 500
	// MaxBatch bounds the body of a batch, in bytes. One event is a few kilobytes, with the tail of an output some twenty.
	MaxBatch = 1 << 20
	// MaxDispatch, MaxAnswer and MaxProblem bound what a control plane sends to an agent, in bytes.
	MaxDispatch = 64 << 10
	MaxAnswer   = 256 << 10
	MaxProblem  = 64 << 10
	// MaxHeartbeat and MaxHeartbeatReply bound heartbeats, which carry records whole, in bytes.
	MaxHeartbeat      = 4 << 20
	MaxHeartbeatReply = 4 << 20
	// MaxWait bounds how long a receiver may hold a request for a dispatch.
	MaxWait = 60 * time.Second
	// MaxNesting bounds how deep a value may nest.
	MaxNesting = 32
)

// Paths of the protocol, below the URL of the control plane.
const (
	DispatchPath  = "/v1/agent/dispatch"
	EventsPath    = "/v1/agent/events"
	HeartbeatPath = "/v1/agent/heartbeat"
)

// Content types of the protocol.
const (
	JSON  = "application/json"
	Batch = "application/cloudevents-batch+json; charset=UTF-8" // CloudEvents 1.0, JSON Event Format section 4
)
