// Package mirror is what a control plane knows of one host, as a fold of that host's log: a batch of events, a heartbeat that
// told something new, a dispatch, one after the other, each through the rules of package fsm in their Remote half.
//
// It is pure. The same entries in the same order always give the same state, so that a snapshot is only a shortcut: the log is the
// truth. [Apply] recognises what it has seen before by (epoch, pos), whatever number of times it arrives, so that a receiver may
// answer after storing and be retried after dying in between.
//
// The host is the authority on the host. An event that the rules refuse is kept with the reason and counted as seen; the record that
// a later heartbeat carries whole then takes over ("resynced").
//
// What a host sends is bounded here, too: [Admit] refuses a batch before it is stored, and a state never grows beyond the limits
// of limits.go.
package mirror
