// Package fsm holds the rules: which event moves a rollout on a host from which state to which, and what must then be done.
//
// At its heart is one function, [Step]. It takes a record, an event, the present moment and the failure policy as
// values and gives back the next record and the effects, in order, as data. It performs no I/O and reads no clock, so that
// the host and the mirror that a control plane keeps of it run the same rules: events come in two halves, Local… on the
// host and Remote… in the mirror, and differ only in their effects.
//
// What is no event is pure all the same: the clock of a soak ([CountSoak], [RestartSoak]) and the question whether a rollout
// may converge ([ConvergeGate]), which Step asks again. Records, events and payloads have one encoding, in which what a
// newer agent wrote is kept.
//
// The caller must make the new record, the emitted events and the history row durable in one transaction before it acts on
// any effect, and must hand out sequence numbers through [Stamp] alone.
package fsm
