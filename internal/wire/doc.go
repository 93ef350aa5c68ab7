// Package wire holds the JSON shapes that an agent and a control plane speak, and nothing else: no I/O, no rules.
//
//	GET  /v1/agent/dispatch?wait=60&have=G   200 with a Dispatch whose generation is above G, or 204 when the wait is over
//	POST /v1/agent/events                    a CloudEvents 1.0 batch of Event; 200 with an Answer, or any other 2xx
//	POST /v1/agent/heartbeat                 a Heartbeat; 200 with a HeartbeatReply, or 204
//
// Who asks is told by the client certificate, whose name is the host's. Both sides keep to the bounds of limits.go, ignore fields
// that they do not know, and only ever add fields. docs/protocol.md says it in full.
package wire
