package activate

import "strings"

// Words of Failure.Reason and Outcome.FailureReason. They are those of the failures that a rollout reports.
const (
	ReasonBadPath           = "bad-path"
	ReasonNotNixOS          = "not-nixos"
	ReasonNotSwitchable     = "not-switchable"
	ReasonWrongMachine      = "wrong-machine"
	ReasonWrongHost         = "wrong-host"
	ReasonNotFound          = "not-found"
	ReasonUnreachable       = "cache-unreachable"
	ReasonUntrusted         = "no-trusted-signature"
	ReasonDiskFull          = "disk-full"
	ReasonRealiseKilled     = "realise-killed"
	ReasonRealiseFailed     = "realise-failed"
	ReasonBusy              = "busy"
	ReasonBootNotFinished   = "boot-not-finished"
	ReasonAgentRefuses      = "agent-refuses"
	ReasonBootPinned        = "boot-default-pinned"
	ReasonProfileNotSet     = "profile-not-set"
	ReasonBootDefaultUnset  = "boot-default-not-set"
	ReasonAnotherHand       = "another-hand"
	ReasonSwitchFailed      = "switch-failed"
	ReasonSwitchInterrupted = "switch-interrupted"
)

// Failure is what kept a target from the host, in a form that can be reported: a word for programs, a sentence for people, and
// what they can do. Errors of the runner that are no Failure are the agent's own trouble and say nothing about the target.
type Failure struct {
	Reason string // one of the Reason words
	Detail string // one sentence
	Hint   string // what can be done; may be ""

	ExitCode int    // of the program that failed; -1 if none ran or it did not exit
	Tail     string // the end of its output

	// Retryable says that the same call may succeed later without anything being changed about the target.
	Retryable bool
}

func (f *Failure) Error() string { return f.Detail }

// Hints is the hint.
func (f *Failure) Hints() string { return f.Hint }

// Text is everything there is to say, over several lines: detail, hint and the end of the output.
func (f *Failure) Text() string {
	return joinLines(f.Detail, hintLine(f.Hint), f.Tail)
}

func hintLine(hint string) string {
	if hint == "" {
		return ""
	}
	return "hint: " + hint
}

func joinLines(parts ...string) string {
	var said []string
	for _, part := range parts {
		if part = strings.Trim(part, "\n"); part != "" {
			said = append(said, part)
		}
	}
	return strings.Join(said, "\n")
}
