// Package fleetstore keeps a fleet on NATS JetStream: the log of every host, and what is derived from it or asked for.
//
//	stream  NIXFLEET_LOG        one subject per host, one message per accepted entry (mirror.Entry); the truth, in full or since a checkpoint
//	bucket  nixfleet-mirror     host → snapshot of the fold of its log, with the sequence that it stands for; a shortcut
//	bucket  nixfleet-targets    host → newest wire.Dispatch; its generation is raised by compare-and-swap
//	bucket  nixfleet-heartbeat  host → last heartbeat; in memory, said anew every minute
//	bucket  nixfleet-accused    channel and closure → the first host that went back from it
//
// # Guarantees
//
// An entry is in the log before [Store.Change] returns, synced to disk in an embedded server and replicated in a cluster. It was
// appended with the sequence of the host's last message as a condition, so that it follows exactly the state for which it was made:
// two instances, or a retry that overtakes a publication whose answer was lost, can never both append. Whoever loses reads
// and folds again. No window of message ids is relied upon.
//
// A snapshot is written after the entry that it contains, and may be missing or old: what follows it in the log is folded. Without the
// bucket every state is rebuilt from the log when it is next asked for.
//
// The log is bounded by [Store.Trim], per host. What it purges was folded into a checkpoint before: a message of the log with the whole
// state, which stays, and which is read back before anything goes. So the log alone always gives the state, with or without
// snapshots, and wherever Trim is cut off; the last message of a host is never purged.
//
// Instances keep no state. The targets that a [Targets] holds are a copy that the bucket's watch keeps fresh.
//
// Keys are base32: names hold characters that a subject may not.
package fleetstore
