// Package agent is the loop: the one place where the rooms meet.
//
// One goroutine owns the state. Requests, results of work and timers come to it as messages; it takes one at a time, runs
// the rules of package fsm inside one write transaction that stores the record, what is reported and the row of history,
// and acts only after the commit. What is owed is stored with the record, so that whatever instant the process is killed
// at, the next start finds in the file and on the host what to go on with.
//
// Work that blocks, such as a switch, is done by a worker: a goroutine that asks the loop to store each phase and each
// attempt before it touches the host. Every goroutine is waited for when [Run] returns. The work itself lives in units of
// its own and goes on when the agent stops.
package agent
