// Package localapi is the agent's door on its own host: HTTP and JSON over a unix socket.
//
//	GET  /v1/status             the Status; with ?watch=1 one per line, a new one at every change
//	GET  /v1/events             events after ?after=POS, at most ?limit=N, oldest first; with ?follow=1 one per line for ever
//	GET  /v1/history            changes of state, newest first; ?limit=N, ?rollout=ID
//	GET  /v1/quarantine         the closures in quarantine
//	POST /v1/activate           an ActivateRequest; answers with an ActivateReply
//	POST /v1/cancel             a CancelRequest; answers with a CancelReply
//	POST /v1/hold               a HoldRequest; answers with the Hold
//	POST /v1/resume             a ResumeRequest; answers with the Hold that was in force
//	POST /v1/quarantine/clear   a QuarantineClearRequest; answers with a QuarantineClearReply
//
// Whoever may connect may read: root and one group, by the mode of the socket. Changing anything takes root, or the very user
// that runs the agent, which the kernel tells by the credentials of the peer. Requests are bounded in size, number and time, and
// streams in number: whoever watches takes no place from those who ask. A peer that does not read is given up.
//
// An answer that is not 200 has an Error as its body. A stream ends when the agent stops, the client goes, or the agent cannot
// go on; a client that wants more asks again, events from the last position that it has seen.
//
// Status is the stable contract of `status --json`; status.schema.json, which is StatusSchema, describes it.
package localapi
