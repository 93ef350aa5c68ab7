package fsm

// Stamp numbers an event. It is the only way to number one: the number is the record's LastEventSeq plus one, taken in the
// transaction that applies the event. The event's moment is brought to UTC.
func Stamp(ev Event, seq uint64) Event { return ev.withSeq(seq) }

// Seq is the number of an event; 0 means that it was never stamped, and Step refuses it.
func Seq(ev Event) uint64 { return ev.Payload().Sequence() }
