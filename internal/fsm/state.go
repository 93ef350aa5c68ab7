package fsm

// State says where a rollout stands on one host. The constants are the words on disk and on the wire.
type State string

const (
	// Pending: the rollout was accepted for this host and nothing has been done. A hold or a switch that still runs keeps a
	// rollout here. It ends when the host starts the work, refuses it, or a newer rollout replaces it. Nothing on the host
	// may have been touched.
	Pending State = "Pending"

	// Activating: the host works towards the target: it checks, realises, sets the profile and switches. It ends with an
	// observed outcome. A host never leaves it because time passed or because the agent was restarted.
	Activating State = "Activating"

	// Deferred: the target is the profile and the boot default, and the running system is as it was, because a critical
	// component cannot be exchanged under a running system. It ends when the target runs with those components, when
	// something else was booted, or when the deferral is cancelled or superseded. No probe runs and nothing is claimed.
	Deferred State = "Deferred"

	// Soaking: the target was observed to run, and the host is watched. It ends healthy after the soak was served, or
	// unhealthy, or when another hand took the host away from the target. Results of before completion never count.
	Soaking State = "Soaking"

	// Converged: the target ran for the whole soak and every enforced probe passed. Terminal.
	Converged State = "Converged"

	// Failed: the target was refused, could not be activated, or did not stay healthy. The way back, where one is owed,
	// is work of this state. It ends in Reverted when the host is back, or in Superseded by a newer rollout.
	Failed State = "Failed"

	// Reverted: the host runs what it ran before the rollout. Terminal.
	Reverted State = "Reverted"

	// Superseded: a newer rollout took the host over before this one came to its end. Terminal.
	Superseded State = "Superseded"
)

// States lists every state in the order in which a rollout meets them.
func States() []State {
	return []State{Pending, Activating, Deferred, Soaking, Converged, Failed, Reverted, Superseded}
}

// Known reports whether s is one of the states of this version. A record in an unknown state was written by a newer agent:
// it is kept as it is and reported.
func (s State) Known() bool {
	for _, k := range States() {
		if s == k {
			return true
		}
	}
	return false
}

// Terminal reports whether no event leads out of s.
func (s State) Terminal() bool { return s == Converged || s == Reverted || s == Superseded }
