package simhost

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// Knobs tell the scripts to misbehave. Those that end in -at hold lines of the form "POINT [ARGUMENT]", with the points below.
const (
	// KnobExecAt runs the argument as a shell command; $root and $toplevel are set.
	KnobExecAt = "exec-at"
	// KnobWaitAt makes ROOT/run/sim/at-POINT and waits for ROOT/run/sim/go-POINT; both are removed then.
	KnobWaitAt = "wait-at"
	// KnobExitAt ends the switch with the argument as its exit code.
	KnobExitAt = "exit-at"
	// KnobPanicAt ends the switch with 101, as a panic of the real program does.
	KnobPanicAt = "panic-at"
	// KnobDieAt ends the switch by SIGKILL.
	KnobDieAt = "die-at"
	// KnobHangAt makes ROOT/run/sim/at-POINT and waits for ever, with the lock held.
	KnobHangAt = "hang-at"

	// KnobExitCode forces the exit code of a switch that runs to its end. 2 and 4 come with their messages.
	KnobExitCode = "exit-code"
	// KnobFailedUnits names units that fail to start, which makes the exit code 4.
	KnobFailedUnits = "failed-units"
	// KnobPreSwitchCheck set to "fail" fails a check that is skipped for no action.
	KnobPreSwitchCheck = "pre-switch-check"
	// KnobDBus set to "down" ends the switch with 1 after the boot loader, as without a system bus.
	KnobDBus = "dbus"
	// KnobStartList and KnobRestartList name units that a switch to another closure puts into its lists.
	KnobStartList   = "start-list"
	KnobRestartList = "restart-list"

	// KnobBootLoader set to "silent" makes the installer do nothing and succeed; "full" makes it fail when it has removed
	// the entries of vanished generations and written nothing; "partial" after the entries and before the default.
	KnobBootLoader = "boot-loader"
	// KnobEntryFormat is "generation" (the default) or "hashed".
	KnobEntryFormat = "entry-format"
	// KnobBootTries is the boot counter of new entries in the hashed format.
	KnobBootTries = "boot-tries"
	// KnobConfigurationLimit bounds the generations that have entries.
	KnobConfigurationLimit = "configuration-limit"
	// KnobBootFails names closures that do not boot. Counted entries use up their tries, then the loader takes another.
	KnobBootFails = "boot-fails"
	// KnobNoBless keeps the counter of an entry that booted.
	KnobNoBless = "no-bless"

	// KnobCache set to "unreachable", "unsigned" or "full" makes every substitution fail with Nix's words for it.
	KnobCache = "cache"
	// KnobNixWording set to "2.8" gives the words of that version, otherwise those of 2.26.
	KnobNixWording = "nix-wording"
)

// Once turns the name of a knob that ends in -at into one that is gone when it has served.
func Once(name string) string { return name + ".once" }

// Points in the order of a switch at which knobs apply.
const (
	PointStart      = "start"      // before anything is checked
	PointLocked     = "locked"     // the lock is held
	PointChecked    = "checked"    // the pre-switch checks have passed
	PointBootLoader = "bootloader" // the entries are written
	PointStopped    = "stopped"    // the lists are written, old units are stopped
	PointUnlinked   = "unlinked"   // the moment in which the running link does not exist
	PointLinked     = "linked"     // the running link has flipped, no unit is up
	PointUnits      = "units"      // the units are up, the lists are gone
	PointEnd        = "end"        // all is said
)

// Knob sets a knob for every closure, over reboots. An empty value takes it away; a closure's own Behaviour counts again then.
func (h *Host) Knob(name, value string) error {
	return setKnob(h.Path("/etc/sim"), name, value)
}

// KnobFor sets a knob for the closure with that store path, over reboots.
func (h *Host) KnobFor(toplevel, name, value string) error {
	return setKnob(h.Path("/etc/sim/"+path.Base(toplevel)), name, value)
}

// KnobUntilBoot sets a knob for every closure until the next reboot.
func (h *Host) KnobUntilBoot(name, value string) error {
	return setKnob(h.Path("/run/sim"), name, value)
}

func setKnob(dir, name, value string) error {
	at := filepath.Join(dir, name)
	if value == "" {
		if err := os.Remove(at); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("clear knob: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("set knob: %w", err)
	}
	return replaceFile(at, value+"\n")
}

// AtPoint is the file that a switch makes when it waits or hangs at a point.
func (h *Host) AtPoint(point string) string { return h.Path("/run/sim/at-" + point) }

// Go lets a switch that waits at a point go on.
func (h *Host) Go(point string) error { return replaceFile(h.Path("/run/sim/go-"+point), "") }
