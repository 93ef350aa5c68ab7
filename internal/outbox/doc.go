// Package outbox is the durable queue of events that are owed to the control plane. It lives in the agent's database file.
//
// It promises:
//   - Durable with its cause: Append writes into the transaction of the transition that the entry reports. Either both are
//     there after a crash or neither is.
//   - At least once, in order: Pending gives what is not acknowledged, oldest first, and takes nothing away. Only Ack and
//     Reject do, each in transactions of its own. All of it may be repeated after a crash.
//   - Positions only rise: an entry's position is above that of every entry ever appended to this file, also when all of them
//     are gone. Positions may leave gaps. With the epoch of the file a position names an event for ever.
//   - One bad entry blocks nothing: an entry that does not verify is set aside among the dead letters, with its bytes.
//   - Bounded: acknowledged entries are kept for readers up to a bound, results of probes are coalesced when too many wait.
//     What reports a transition is never dropped.
//   - Patient: a Sender tries for as long as it takes. An entry becomes a dead letter only if the receiver names it, or rejects
//     it alone while it takes another. What a receiver answers cannot empty the queue, and cannot make the sender spin.
//
// A Queue may be used by many goroutines; only one of them may be sending. Append is called inside the caller's write
// transaction. The caller opens the file, calls Init in it once, and must not delete the buckets.
//
// The choices and their cost are in DESIGN.md beside this file.
package outbox
