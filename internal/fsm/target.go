package fsm

// accepts reports whether a closure that was observed is what the rollout wants: the specialisation that the dispatch
// named or, unless it named one, the target or any specialisation of it. The observer says of which specialisation of the
// target the closure is; empty means of none.
func (r Record) accepts(closure, specialisation string) bool {
	switch {
	case closure == "":
		return false
	case r.Specialisation != "":
		return specialisation == r.Specialisation
	case specialisation != "":
		return true
	default:
		return closure == r.TargetClosure
	}
}

func (r Record) targetInWords() string {
	if r.Specialisation != "" {
		return "specialisation " + r.Specialisation + " of " + r.TargetClosure
	}
	return r.TargetClosure
}
