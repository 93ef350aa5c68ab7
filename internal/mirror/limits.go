package mirror

const (
	// maxRollouts bounds the records of a host. At rest they are history, which the log tells in full; a host has two at work.
	maxRollouts = 32
	// maxEpochs bounds the epochs that are remembered. A new one is made when a host loses its state, and a late duplicate is
	// minutes old, not sixteen such losses.
	maxEpochs = 16
	// maxRefusals and maxNotices bound what is kept to be shown; the log keeps all of them.
	maxRefusals = 50
	maxNotices  = 20
	// maxMarks bounds by how many of an epoch's last events another event at the same position is told. A host learns in the answer to
	// its first heartbeat that its store is an older copy, before it sends: this is for what slips through.
	maxMarks = 64
	// maxReason bounds a refusal's reason, which may quote what was refused, in bytes.
	maxReason = 1 << 10
	// maxRecord bounds a record, encoded, in bytes. The tail of an output and some hundred probes stay well below it.
	maxRecord = 128 << 10
	// maxRolloutID, maxEpoch and maxNotice bound names and notices as they are kept, in bytes.
	maxRolloutID = 512
	maxEpoch     = 128
	maxNotice    = 4 << 10
)
