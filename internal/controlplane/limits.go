package controlplane

import "time"

const (
	// maxHeader bounds the headers of a request; an agent's are a few hundred bytes.
	maxHeader = 16 << 10
	// headerTimeout and bodyTimeout bound how long a request may take to arrive. A batch of 1 MiB over a bad line takes a while.
	headerTimeout = 15 * time.Second
	bodyTimeout   = 60 * time.Second
	// answerTimeout bounds how long an answer may take to be taken.
	answerTimeout = 60 * time.Second
	// idleTimeout bounds how long a connection may do nothing. It is above the wait of a long poll.
	idleTimeout = 3 * time.Minute
	// workTimeout bounds the work on one request of an agent, which gives up after some two minutes.
	workTimeout = 30 * time.Second
	// maxWorking bounds the requests that are worked on at once: each may hold a batch unpacked.
	maxWorking = 128
	// retryAfter and retrySpread say when to try again, in seconds, so that a fleet does not come back as one.
	retryAfter  = 2
	retrySpread = 10
	// closeTimeout bounds how long a stop waits for what is being worked on.
	closeTimeout = 10 * time.Second
	// lifeSign is how often an empty line shows an operator's program that a connection lives.
	lifeSign = 20 * time.Second
	// manyResults is the number of results above which reasons are cut short, to shortReason bytes, to stay below wire.MaxAnswer.
	manyResults = 100
	shortReason = 200
	// defaultLines and maxLines bound the lines of the log that are shown without following.
	defaultLines = 50
	maxLines     = 10_000
	// widen is by how much further back it is looked for lines, when there were too few.
	widen = 4
	// trimSpread is the part of the time between two trims of the log within which the first one is done after a start, so that the
	// instances of a cluster, which start together, do not do it at once.
	trimSpread = 6
	// maxName bounds channel, ref and specialisation, which people read.
	maxName = 128
	// working is how many hosts one request of an operator works on at once.
	working = 16
	// maxGeneration bounds the generation that a host claims to have seen, since a dispatch gets one above it. It is the last whole number
	// up to which every reader of JSON is exact (RFC 8259 section 6).
	maxGeneration = 1<<53 - 1
)
