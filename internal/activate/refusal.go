package activate

import "strings"

// Texts of switch-to-configuration and of its pre-switch checks. They are no interface: they only add to what the facts say.
const (
	preSwitchFailed   = "Pre-switch checks failed"
	inhibitorsRefused = "Pre-switch check 'switchInhibitors' failed"
	inhibitorsDiffer  = "There are changes to critical components of the system:"
	unitsFailedPrefix = "warning: the following units failed: "
	noSpaceLeft       = "No space left on device"
	quotaExceeded     = "Disk quota exceeded"
	databaseFull      = "database or disk is full" // SQLite, below Nix

	// maxNamed bounds what is taken from an output; a closure has a handful of inhibitors.
	maxNamed = 64
)

// refusedInhibitors reads from the end of an output which inhibitors made NixOS refuse: "key : old -> new", one to a line,
// between two known texts. None if the check of inhibitors did not refuse.
func refusedInhibitors(tail string) []Change {
	before, _, refused := strings.Cut(tail, inhibitorsRefused)
	if !refused {
		return nil
	}
	var changes []Change
	if _, list, ok := strings.Cut(before, inhibitorsDiffer); ok {
		for line := range strings.Lines(list) {
			key, values, ok := strings.Cut(strings.TrimSpace(line), " : ")
			from, to, both := strings.Cut(values, " -> ")
			if !ok || !both || len(changes) == maxNamed {
				continue
			}
			changes = append(changes, Change{Component: inhibitorPrefix + strings.TrimSpace(key), From: strings.TrimSpace(from),
				To: strings.TrimSpace(to), Treatment: Defer})
		}
	}
	if len(changes) == 0 {
		changes = []Change{{Component: inhibitorPrefix + "unnamed", Treatment: Defer}}
	}
	return changes
}

// unitsNamedFailed reads from the end of an output which units switch-to-configuration found failed.
func unitsNamedFailed(tail string) []string {
	var units []string
	for line := range strings.Lines(tail) {
		list, ok := strings.CutPrefix(strings.TrimSpace(line), unitsFailedPrefix)
		if !ok {
			continue
		}
		for unit := range strings.SplitSeq(list, ", ") {
			if unit = strings.TrimSpace(unit); unit != "" && len(units) < maxNamed {
				units = append(units, unit)
			}
		}
	}
	return units
}

func diskFull(tail string) bool {
	return contains(tail, []string{noSpaceLeft, quotaExceeded, databaseFull})
}
