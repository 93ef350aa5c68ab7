package fsm

import (
	"maps"
	"slices"
)

// clone gives a copy that shares nothing that is ever written to.
func (r Record) clone() Record {
	r.Degraded = slices.Clone(r.Degraded)
	r.Components = slices.Clone(r.Components)
	r.Probes = maps.Clone(r.Probes)
	r.Unknown = maps.Clone(r.Unknown)
	if r.Work != nil {
		work := *r.Work
		work.Left = slices.Clone(work.Left)
		r.Work = &work
	}
	return r
}

// kept copies a payload's list into a record, where an empty list is no list.
func kept[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return slices.Clone(list)
}
