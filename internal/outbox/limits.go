package outbox

import "time"

const (
	// maxKept and maxKeptBytes bound the acknowledged entries that are kept for readers. An operator looks back over days;
	// 4 MiB is a sixteenth of the file's cap.
	maxKept      = 5000
	maxKeptBytes = 4 << 20

	// maxCoalescable is the number of undelivered coalescable entries up to which each is kept. Beyond it, a new one
	// replaces an older one of its key. It is hours of flapping probes, and small beside the cap of the file.
	maxCoalescable = 1000

	// maxDead and maxDeadBytes bound the dead letters. Each was refused or is unreadable, and each is shown; beyond the
	// bound the oldest goes, and is counted.
	maxDead      = 1000
	maxDeadBytes = 4 << 20

	// maxChunk is the number of entries that one transaction settles or deletes. Deleting is quick in chunks of this size,
	// and a full disk that refuses a large transaction still takes a small one.
	maxChunk = 1000

	// shrink is the factor by which a chunk that was refused gets smaller: three steps to a single entry.
	shrink = 10

	// defaultBatch is the number of entries that a reader gets who names no limit.
	defaultBatch = 100
)

// Of the sender.
const (
	// maxBatch and maxBatchBytes bound a batch: an answer stays small and a retry cheap. A receiver takes at least 1 MiB; what
	// the wire adds to a stored event, as its type and the names of host and fields, is less than 512 bytes.
	maxBatch      = 500
	maxBatchBytes = 1<<20 - maxBatch*512

	// A wait is drawn between 0 and a ceiling, which doubles from firstBackoff to maxBackoff: an outage of seconds costs
	// seconds, and ten thousand hosts do not come back together. leastBackoff keeps a run of small draws from being a burst.
	firstBackoff = time.Second
	maxBackoff   = 5 * time.Minute
	leastBackoff = 100 * time.Millisecond

	// maxRetryAfter bounds what a receiver may ask for: a wrong header must not silence a host for days.
	maxRetryAfter = time.Hour

	// growth is the part by which a batch grows again that was split for its size: one request in six finds the bound.
	growth = 8

	// patience is the number of failed attempts before events are tried out of turn; maxAccused, how many of them. See
	// Sender.accuseFirst.
	patience   = 3
	maxAccused = 8
)
