package fsm

// FailureReason says in one word why a rollout was refused, failed, or why its way back did not succeed. The set is open:
// a reader that does not know a reason shows it as it is.
type FailureReason string

// Reasons that touch nothing and accuse nobody's closure.
const (
	ReasonBadPath          FailureReason = "bad-path"          // not the syntax of a store path
	ReasonNotNixOS         FailureReason = "not-nixos"         // no nixos-version
	ReasonNotSwitchable    FailureReason = "not-switchable"    // no bin/switch-to-configuration
	ReasonWrongMachine     FailureReason = "wrong-machine"     // built for another system
	ReasonWrongHost        FailureReason = "wrong-host"        // built for another host name
	ReasonQuarantined      FailureReason = "quarantined"       // failed here before
	ReasonExpired          FailureReason = "expired"           // not started in time
	ReasonStaleGeneration  FailureReason = "stale-generation"  // an older dispatch than the last one
	ReasonHeld             FailureReason = "held"              // the operator holds this host
	ReasonNotFound         FailureReason = "not-found"         // no substituter has it
	ReasonUnreachable      FailureReason = "cache-unreachable" // no substituter answered
	ReasonUntrusted        FailureReason = "no-trusted-signature"
	ReasonDiskFull         FailureReason = "disk-full"
	ReasonRealiseKilled    FailureReason = "realise-killed"
	ReasonRealiseFailed    FailureReason = "realise-failed"
	ReasonBusy             FailureReason = "busy" // another switch held the lock for too long
	ReasonBootNotFinished  FailureReason = "boot-not-finished"
	ReasonAgentRefuses     FailureReason = "agent-refuses" // the target's own agent would not accept configuration or database
	ReasonBootPinned       FailureReason = "boot-default-pinned"
	ReasonProfileNotSet    FailureReason = "profile-not-set"
	ReasonBootDefaultUnset FailureReason = "boot-default-not-set" // exit 0, but the host would not boot the target
	ReasonNoProgress       FailureReason = "no-progress"          // five starts of the agent found the same phase
	ReasonAnotherHand      FailureReason = "another-hand"
	ReasonBootedOther      FailureReason = "booted-other"        // something else was booted, by choice as far as can be told
	ReasonRebooted         FailureReason = "rebooted-mid-switch" // the host went down during the switch and booted something else
	ReasonCancelled        FailureReason = "cancelled"
	ReasonWorkLost         FailureReason = "work-lost"
)

// Reasons that accuse the closure: it is quarantined.
const (
	ReasonSwitchFailed      FailureReason = "switch-failed"
	ReasonSwitchInterrupted FailureReason = "switch-interrupted" // twice: killed, panicked or over its deadline
	ReasonLoaderFellBack    FailureReason = "loader-fell-back"
	ReasonUnhealthy         FailureReason = "sustained-failure"
)

// Accuses reports whether r says that the closure itself is bad.
func (r FailureReason) Accuses() bool {
	switch r {
	case ReasonSwitchFailed, ReasonSwitchInterrupted, ReasonLoaderFellBack, ReasonUnhealthy:
		return true
	default:
		return false
	}
}
