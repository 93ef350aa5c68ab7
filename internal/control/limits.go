package control

import "time"

const (
	// defaultTimeout bounds a request and its answer, beside what the size of the request and a long-poll's wait add.
	defaultTimeout = 30 * time.Second
	// slowestRate is the slowest uplink, in bytes per second, over which a large request still gets through.
	slowestRate = 8 << 10
	// connectTimeout bounds connecting, and again the handshake: what takes longer was dropped by a firewall.
	connectTimeout = 10 * time.Second
	// idleTimeout ends an unused connection. It is longer than the pause between two heartbeats.
	idleTimeout = 90 * time.Second

	// maxFile bounds what is read of a certificate, a key or a bundle of CAs. The bundle of all public CAs is 500 kB.
	maxFile = 4 << 20
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 64 << 10
	// maxDrained is how much of an answer that nobody asked for is read so that its connection can be used again, in bytes.
	maxDrained = 4 << 10
	// maxWords bounds a text of the other side that is repeated in a log, in status or in a dead letter, in bytes.
	maxWords = 512

	// maxRetryAfter is the longest pause that a receiver may ask for: a wrong date must not silence a host for years.
	maxRetryAfter = time.Hour

	// Between two requests for a dispatch that failed there is a random pause up to a bound that doubles from backoffMin to
	// backoffMax, so that a fleet does not come back as one.
	backoffMin = time.Second
	backoffMax = 5 * time.Minute
	// pace is the shortest time from one request for a dispatch to the next, also if each is answered at once.
	pace = time.Second
)
