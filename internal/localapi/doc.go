// Package localapi is the agent's door on its own host: HTTP and JSON over a unix socket.
//
//	GET  /v1/status             the Status; with ?watch=1 one per line, a new one at every change
//	GET  /v1/events             events after ?after=POS, at most ?limit=N, oldest first; with ?follow=1 one per line for ever
//	GET  /v1/history            changes of state, newest first; ?limit=N, ?rollout=ID
//	POST /v1/activate           an ActivateRequest; answers with an ActivateReply
//
// Whoever may connect may read: root and one group, by the mode of the socket. Changing anything takes root, or the very user
// that runs the agent, which the kernel tells by the credentials of the peer. Requests are bounded in size, number and time.
//
// Status is the stable contract of `status --json`; status.schema.json describes it.
package localapi
