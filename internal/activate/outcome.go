package activate

import (
	"fmt"
	"slices"
	"strings"
)

// Action is an action of switch-to-configuration.
type Action string

// The actions that are used here.
const (
	ActionSwitch Action = "switch" // boot default and running system
	ActionBoot   Action = "boot"   // boot default only
	ActionTest   Action = "test"   // running system only
)

// Exit codes of switch-to-configuration.
const (
	exitSuccess        = 0
	exitError          = 1 // anything, at any point
	exitActivateFailed = 2 // a snippet of the activation script failed; everything else was done
	exitReloadFailed   = 3 // the older, Perl one: daemon-reload failed; everything else was done
	exitUnitsFailed    = 4 // some unit failed; everything else was done
	exitLocked         = 11
	exitInitDiffers    = 100 // the init interface differs; the boot loader is already updated
	exitPanicked       = 101
)

// Observation is the host after a run of switch-to-configuration.
type Observation struct {
	Action Action
	Result Result

	Target         string
	Specialisation string // the specialisation of Target that was asked for, "" if none was
	Prior          string // what ran before

	// Running is "" if it cannot be told. RunningIsTarget: it is the target or, unless a specialisation was asked for, one of
	// its specialisations, which RunningSpecialisation then names.
	Running               string
	RunningIsTarget       bool
	RunningSpecialisation string

	// BootDefault is "" if it cannot be told; BootDefaultNote then says why.
	BootDefault         string
	BootDefaultIsTarget bool
	BootDefaultNote     string
	Profile             string

	// ListsLeft are the list files that an interrupted switch leaves in /run/nixos.
	ListsLeft []string
	// LockHolder is who holds the lock of switch-to-configuration now, "" if nobody does.
	LockHolder string

	FailedBefore []string
	FailedAfter  []string

	// Inhibitors and Init are what NixOS itself does not switch across: keys of switch-inhibitors, or the init interface.
	Inhibitors []Change
	Init       *Change
}

// OutcomeKind says what a run of switch-to-configuration came to.
type OutcomeKind string

// The outcomes.
const (
	// Completed: the action has done all that it does.
	Completed OutcomeKind = "completed"
	// Stage: NixOS refused to switch live and left the running system; the target is for the next boot.
	Stage OutcomeKind = "stage"
	// WaitForLock: another switch was under way, and nothing was done; Reason names it.
	WaitForLock OutcomeKind = "wait-for-lock"
	// Interrupted: it ended before its end. Running it again is the repair that NixOS is made for, once.
	Interrupted OutcomeKind = "interrupted"
	// Failed: it did not bring the target.
	Failed OutcomeKind = "failed"
	// AnotherHand: something runs that is neither the target nor what ran before.
	AnotherHand OutcomeKind = "another-hand"
)

// Outcome is the judgement on a run of switch-to-configuration.
type Outcome struct {
	Kind OutcomeKind
	// Reason is one sentence.
	Reason string
	// FailureReason is a Reason word: of Failed and AnotherHand, and of Interrupted if it was the last attempt.
	FailureReason string
	// Degraded says of Completed, in words, what was not clean.
	Degraded []string
	// FailedUnits failed now and not before. Benign are those of them that say nothing about the target.
	FailedUnits []string
	Benign      []string
	// Components are, with Stage, what NixOS did not switch across.
	Components []Change
	// ExitCode is the program's, -1 if it did not exit.
	ExitCode int
}

// Text is the outcome for people: the reason, what can be done, and the end of the output.
func (o Outcome) Text(seen Observation) string {
	return joinLines(o.Reason, hintLine(o.hint(seen)), seen.Result.Tail)
}

func (o Outcome) hint(seen Observation) string {
	switch {
	case o.FailureReason == ReasonDiskFull:
		return "make room on the boot partition or in the store, then activate it again"
	case o.FailureReason == ReasonBootDefaultUnset:
		return "look at the boot partition: it may be full, or its default may be pinned"
	case strings.Contains(seen.Result.Tail, preSwitchFailed):
		return "a pre-switch check of the target's configuration refused; it is named in the output"
	default:
		return ""
	}
}

// Judge says how a run of switch-to-configuration went. The facts of the host decide; the exit code tells apart what they
// leave open.
func Judge(seen Observation) Outcome {
	o := Outcome{ExitCode: seen.Result.exitCode()}
	switch {
	case seen.Action == ActionBoot:
		o.judgeBoot(seen)
	case o.ExitCode == exitLocked && seen.mayBeOurs():
		o.waitForLock(seen)
	case !seen.mayBeOurs():
		o.anotherHand(seen)
	case seen.Running == "":
		o.interrupted(seen, "the running system cannot be told")
	case seen.RunningIsTarget:
		o.judgeSwitched(seen)
	default:
		o.judgeNotSwitched(seen)
	}
	if o.Kind == Completed && seen.Action != ActionBoot {
		o.unitsFailed(seen)
	}
	return o
}

// Locked reports whether the program did nothing because another switch was under way.
func (r Result) Locked() bool { return r.exitCode() == exitLocked }

// CutOff reports whether the program ended before its end.
func (r Result) CutOff() bool { return r.Kind != KindExited || r.ExitCode == exitPanicked }

// mayBeOurs reports whether what runs is explained by this switch alone. An unreadable link is: the switch replaces it in two
// steps, and may have been cut off between them.
func (seen Observation) mayBeOurs() bool {
	return seen.Running == "" || seen.RunningIsTarget || seen.Running == seen.Prior
}

// judgeBoot judges an action that leaves the running system alone.
func (o *Outcome) judgeBoot(seen Observation) {
	switch {
	case o.ExitCode == exitLocked:
		o.waitForLock(seen)
	case o.ExitCode == exitSuccess:
		o.judgeBootDefault(seen)
	case seen.cutOff():
		o.interrupted(seen, "")
	default:
		o.failed(ReasonSwitchFailed, "%s", seen.ended())
	}
}

func (o *Outcome) judgeSwitched(seen Observation) {
	switch o.ExitCode {
	case exitSuccess, exitActivateFailed, exitReloadFailed, exitUnitsFailed:
	default:
		o.interrupted(seen, "")
		return
	}
	if seen.Action != ActionTest {
		if o.judgeBootDefault(seen); o.Kind != Completed {
			return
		}
		if seen.Profile != seen.Target {
			o.degraded("the system profile is %s", orNothing(seen.Profile))
		}
	}
	o.Kind = Completed
	o.Reason = seen.ended()
	switch o.ExitCode {
	case exitActivateFailed:
		o.degraded("part of the activation script failed (exit code 2)")
	case exitReloadFailed:
		o.degraded("systemd could not be reloaded (exit code 3)")
	case exitUnitsFailed:
		if len(newlyFailed(seen)) == 0 {
			o.degraded("units failed (exit code 4), none that had not failed before the switch")
		}
	}
	if len(seen.ListsLeft) > 0 {
		o.degraded("the switch left %s behind", strings.Join(seen.ListsLeft, ", "))
	}
}

// judgeBootDefault holds a success against what the host would boot. Where no loader can be read, the profile is what the
// builders of boot entries go by.
func (o *Outcome) judgeBootDefault(seen Observation) {
	switch {
	case seen.BootDefaultIsTarget:
		o.Kind, o.Reason = Completed, seen.ended()
	case seen.BootDefault != "":
		o.failed(ReasonBootDefaultUnset, "%s, but the host would boot %s", seen.ended(), seen.BootDefault)
	case seen.Action == ActionBoot && seen.Profile != seen.Target:
		o.failed(ReasonBootDefaultUnset, "%s, but the profile is %s and the boot default cannot be told (%s)", seen.ended(), orNothing(seen.Profile), seen.BootDefaultNote)
	default:
		o.Kind, o.Reason = Completed, seen.ended()
		o.degraded("what the host would boot cannot be told: %s", orUnknown(seen.BootDefaultNote))
	}
}

// judgeNotSwitched judges a switch after which the prior system still runs.
func (o *Outcome) judgeNotSwitched(seen Observation) {
	switch refusing := seen.refusing(); {
	case o.ExitCode == exitInitDiffers:
		o.Kind, o.Reason = Stage, "NixOS does not switch across another init interface"
		if seen.Init != nil {
			o.Components = []Change{*seen.Init}
		} else {
			o.Components = []Change{{Component: ComponentInit, Treatment: Defer}}
		}
	case len(refusing) > 0:
		o.Kind, o.Reason, o.Components = Stage, "NixOS refused to switch live: a switch inhibitor differs", refusing
	case seen.cutOff():
		o.interrupted(seen, "")
	default:
		o.failed(ReasonSwitchFailed, "%s, and the running system is still %s", seen.ended(), seen.Running)
	}
}

// refusing are the inhibitors that made NixOS refuse: those that differ, or that its check named in the output. The check comes
// before anything is touched, so that lists which are left are those of an earlier switch.
func (seen Observation) refusing() []Change {
	if len(seen.Inhibitors) > 0 || seen.Result.exitCode() != exitError {
		return seen.Inhibitors
	}
	return refusedInhibitors(seen.Result.Tail)
}

// cutOff reports whether the run ended before its end: nothing then says how far it came.
func (seen Observation) cutOff() bool {
	return seen.Result.CutOff() || len(seen.ListsLeft) > 0 || seen.Result.ExitCode == exitError
}

// ended says how the program ended.
func (seen Observation) ended() string {
	return fmt.Sprintf("switch-to-configuration %s %s", seen.Action, seen.Result.words())
}

func (o *Outcome) interrupted(seen Observation, why string) {
	o.Kind, o.FailureReason = Interrupted, ReasonSwitchInterrupted
	o.Reason = seen.ended()
	if why != "" {
		o.Reason += "; " + why
	}
	if len(seen.ListsLeft) > 0 {
		o.Reason += "; it left " + strings.Join(seen.ListsLeft, ", ") + " behind"
	}
	if diskFull(seen.Result.Tail) {
		o.FailureReason = ReasonDiskFull
	}
}

func (o *Outcome) waitForLock(seen Observation) {
	o.Kind = WaitForLock
	o.Reason = seen.LockHolder
	if o.Reason == "" {
		o.Reason = "another switch, which has ended since"
	}
}

func (o *Outcome) anotherHand(seen Observation) {
	o.Kind, o.FailureReason = AnotherHand, ReasonAnotherHand
	o.Reason = fmt.Sprintf("%s, and the running system is %s, which is neither the target nor what ran before", seen.ended(), seen.Running)
}

func (o *Outcome) failed(reason, format string, args ...any) {
	o.Kind, o.FailureReason, o.Reason = Failed, reason, fmt.Sprintf(format, args...)
}

func (o *Outcome) degraded(format string, args ...any) {
	o.Degraded = append(o.Degraded, fmt.Sprintf(format, args...))
}

func (o *Outcome) unitsFailed(seen Observation) {
	o.FailedUnits = newlyFailed(seen)
	for _, unit := range o.FailedUnits {
		if benign(unit) {
			o.Benign = append(o.Benign, unit)
			o.degraded("%s failed, which is benign: it only waits for the network", unit)
			continue
		}
		o.degraded("%s failed", unit)
	}
}

func newlyFailed(seen Observation) []string {
	var units []string
	for _, unit := range seen.FailedAfter {
		if !slices.Contains(seen.FailedBefore, unit) && !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	slices.Sort(units)
	return units
}

// benign reports whether a failed unit says nothing about the target: systemd-networkd-wait-online and its like run into
// their timeout in many switches, since the network is just being restarted.
func benign(unit string) bool {
	name, _, _ := strings.Cut(strings.TrimSuffix(unit, ".service"), "@")
	return strings.HasSuffix(name, "-wait-online")
}

func orNothing(path string) string {
	if path == "" {
		return "not set"
	}
	return path
}

func orUnknown(why string) string {
	if why == "" {
		return "no reason is known"
	}
	return why
}
