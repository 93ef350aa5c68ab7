// Package control is the agent's side of the protocol that package wire describes: it delivers events, asks for dispatches and
// sends heartbeats, over HTTPS with mutual TLS.
//
// It promises:
//   - Never under another name: a request is sent only with a client certificate whose DNS names hold the name of this host.
//   - TLS 1.3 or nothing, and only with a server that the configured CA vouches for. Redirects are not followed; HTTPS_PROXY
//     and NO_PROXY count as they do for net/http.
//   - Rotation under way: the files of certificate, key and CA are read for every request, and a change is used by the next one.
//     What cannot be used (a pair that is half written, a certificate for another host) is said, and the one before stays.
//   - Bounded: whatever the other side sends costs at most the bytes of wire's limits, the time of the request's deadline, and
//     one request a second. Nothing of it is believed before it was checked; no answer makes the agent crash, spin or grow.
//   - An event counts as delivered only by an answer that says so, whole: what was cut off is sent again.
//
// Errors are of type *Error: one line in an operator's words and, where there is one, a hint. One that wraps an *outbox.Rejected
// is an answer; every other one may go away by itself.
//
// A Client may be used by many goroutines. It starts none of its own beside those of net/http's idle connections, which Close ends.
package control
