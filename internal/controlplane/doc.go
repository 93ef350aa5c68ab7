// Package controlplane answers agents and operators over HTTPS. What it knows is in package fleetstore; an instance keeps nothing that
// another one would need.
//
// Who asks is told by the client certificate: a host speaks for itself alone, under /v1/agent/, and an operator for the fleet, under
// /v1/operator/. Events are answered after they are stored, and a dispatch is in the log before an agent reads it. Bodies, headers, time
// and the number of requests that are worked on at once are bounded.
//
// A request of an agent that failed says so with 503 and Retry-After where trying again is right, which is whenever the log was not
// available; nothing is known of such a request, and what was stored of it is recognised when it comes again.
package controlplane
