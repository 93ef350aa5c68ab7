// Package store is the agent's one database file: rollout records, history, quarantined closures, boots and settings, beside
// the outbox that package outbox keeps in the same file.
//
// It promises:
//   - One Update is one durable transaction: all of it is on disk when Update returns nil, or none of it happened. An error
//     for which errors.Is(err, ErrUncertain) holds leaves it open which of the two.
//   - Open always ends with a usable store, an error that an operator can act on, or a store that may only be read. A file
//     that cannot be used is kept under another name. It does not panic, whatever the file contains.
//   - Every value carries a CRC32C over itself and its place, checked when it is read. A value that does not verify is moved
//     aside, kept and reported; the rest goes on.
//   - Only one process has the file open for writing, and locks die with their process.
//   - A newer agent's fields and buckets survive what this version writes.
//
// A Store may be used by many goroutines. There is one writer at a time; readers see the state of the last commit. The caller
// closes it, does not open a write transaction inside of another, and reports what Opening says, then calls
// Tx.OpeningReported in the transaction of that report.
//
// The choices and their cost are in DESIGN.md beside this file.
package store
