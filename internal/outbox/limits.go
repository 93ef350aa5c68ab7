package outbox

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
