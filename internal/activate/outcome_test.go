package activate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

var (
	theTarget = storePathOf("nixos-system-web1-target")
	thePrior  = storePathOf("nixos-system-web1-prior")
	theOther  = storePathOf("nixos-system-web1-other")
)

// The ends of a program.
func exited(code int) activate.Result {
	return activate.Result{Kind: activate.KindExited, ExitCode: code}
}

var (
	killed   = activate.Result{Kind: activate.KindSignaled, ExitCode: -1, Signal: 9}
	deadline = activate.Result{Kind: activate.KindTimeout, ExitCode: -1, Signal: 15}
	// A program that was told to end, and exited with 0 thereupon, has not succeeded.
	obeyedDeadline = activate.Result{Kind: activate.KindTimeout, ExitCode: 0, Signal: 15}
	lost           = activate.Result{Kind: activate.KindLost, ExitCode: -1}
)

// seen is what a host shows after an action: which system runs and which would be booted, "" for what cannot be told.
func seen(action activate.Action, result activate.Result, running, boots string, lists ...string) activate.Observation {
	o := activate.Observation{
		Action: action, Result: result, Target: theTarget, Prior: thePrior, Profile: theTarget,
		Running: running, RunningIsTarget: running == theTarget,
		BootDefault: boots, BootDefaultIsTarget: boots == theTarget, ListsLeft: lists,
	}
	if boots == "" {
		o.BootDefaultNote = "no boot loader was found"
	}
	return o
}

// ends are the ends of switch-to-configuration that the table of outcomes tells apart.
var ends = []struct {
	name   string
	result activate.Result
}{
	{"0", exited(0)}, {"1", exited(1)}, {"2", exited(2)}, {"3", exited(3)}, {"4", exited(4)}, {"11", exited(11)}, {"100", exited(100)},
	{"101", exited(101)}, {"signal", killed}, {"deadline", deadline}, {"obeyed deadline", obeyedDeadline}, {"lost", lost}, {"other", exited(5)},
}

// TestOutcomes holds the judgement of every end of a switch or boot against every state of the host. A row is read as the table
// in the design: running × boot default × list files; a word for each end, in the order of ends.
func TestOutcomes(t *testing.T) {
	const (
		done, fail, cut, stage, lock, hand = "completed", "failed", "interrupted", "stage", "wait-for-lock", "another-hand"
	)
	T, prior, other, unknown := theTarget, thePrior, theOther, ""
	left := []string{"restart-list"}
	rows := []struct {
		action         activate.Action
		running, boots string
		lists          []string
		//                0     1    2     3     4     11    100    101  signal deadline obeyed lost other
		want [13]string
	}{
		{activate.ActionSwitch, T, T, nil, [13]string{done, cut, done, done, done, lock, cut, cut, cut, cut, cut, cut, cut}},
		{activate.ActionSwitch, T, prior, nil, [13]string{fail, cut, fail, fail, fail, lock, cut, cut, cut, cut, cut, cut, cut}},
		{activate.ActionSwitch, T, unknown, nil, [13]string{done, cut, done, done, done, lock, cut, cut, cut, cut, cut, cut, cut}},
		{activate.ActionSwitch, T, T, left, [13]string{done, cut, done, done, done, lock, cut, cut, cut, cut, cut, cut, cut}},
		{activate.ActionSwitch, T, prior, left, [13]string{fail, cut, fail, fail, fail, lock, cut, cut, cut, cut, cut, cut, cut}},

		{activate.ActionSwitch, prior, T, nil, [13]string{fail, cut, fail, fail, fail, lock, stage, cut, cut, cut, cut, cut, fail}},
		{activate.ActionSwitch, prior, prior, nil, [13]string{fail, cut, fail, fail, fail, lock, stage, cut, cut, cut, cut, cut, fail}},
		{activate.ActionSwitch, prior, unknown, nil, [13]string{fail, cut, fail, fail, fail, lock, stage, cut, cut, cut, cut, cut, fail}},
		{activate.ActionSwitch, prior, T, left, [13]string{cut, cut, cut, cut, cut, lock, stage, cut, cut, cut, cut, cut, cut}},

		{activate.ActionSwitch, other, T, nil, [13]string{hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand}},
		{activate.ActionSwitch, other, other, left, [13]string{hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand}},

		// "ln -sfn" was cut off between its two steps: it is not another hand's doing.
		{activate.ActionSwitch, unknown, T, nil, [13]string{cut, cut, cut, cut, cut, lock, cut, cut, cut, cut, cut, cut, cut}},

		// An action that only stages: the running system does not count, whoever changed it.
		{activate.ActionBoot, prior, T, nil, [13]string{done, cut, fail, fail, fail, lock, fail, cut, cut, cut, cut, cut, fail}},
		{activate.ActionBoot, T, T, nil, [13]string{done, cut, fail, fail, fail, lock, fail, cut, cut, cut, cut, cut, fail}},
		{activate.ActionBoot, prior, prior, nil, [13]string{fail, cut, fail, fail, fail, lock, fail, cut, cut, cut, cut, cut, fail}},
		{activate.ActionBoot, prior, unknown, nil, [13]string{done, cut, fail, fail, fail, lock, fail, cut, cut, cut, cut, cut, fail}},
		{activate.ActionBoot, other, T, nil, [13]string{done, cut, fail, fail, fail, lock, fail, cut, cut, cut, cut, cut, fail}},
		{activate.ActionBoot, other, other, nil, [13]string{fail, cut, fail, fail, fail, lock, fail, cut, cut, cut, cut, cut, fail}},

		// An action that is not to change what is booted.
		{activate.ActionTest, T, prior, nil, [13]string{done, cut, done, done, done, lock, cut, cut, cut, cut, cut, cut, cut}},
		{activate.ActionTest, prior, prior, nil, [13]string{fail, cut, fail, fail, fail, lock, stage, cut, cut, cut, cut, cut, fail}},
		{activate.ActionTest, other, prior, nil, [13]string{hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand, hand}},
	}
	word := map[string]string{T: "T", prior: "prior", other: "neither", unknown: "unknown"}
	for _, row := range rows {
		for i, end := range ends {
			t.Run(fmt.Sprintf("%s ends with %s, runs %s, boots %s, left %s", row.action, end.name, word[row.running], word[row.boots], row.lists), func(t *testing.T) {
				o := activate.Judge(seen(row.action, end.result, row.running, row.boots, row.lists...))
				if string(o.Kind) != row.want[i] {
					t.Fatalf("got %s (%s), want %s", o.Kind, o.Reason, row.want[i])
				}
				checkOutcome(t, end.result, row.lists, o)
			})
		}
	}
}

// checkOutcome checks what holds of every outcome of a kind.
func checkOutcome(t *testing.T, result activate.Result, lists []string, o activate.Outcome) {
	t.Helper()
	code := -1
	if result.Kind == activate.KindExited {
		code = result.ExitCode
	}
	if o.ExitCode != code {
		t.Errorf("exit code is %d, want %d", o.ExitCode, code)
	}
	if o.Reason == "" {
		t.Error("no reason is given")
	}
	if failed := o.Kind == activate.Failed || o.Kind == activate.AnotherHand || o.Kind == activate.Interrupted; failed != (o.FailureReason != "") {
		t.Errorf("%s with failure reason %q", o.Kind, o.FailureReason)
	}
	if (o.Kind == activate.Stage) != (len(o.Components) > 0) {
		t.Errorf("%s with components %+v", o.Kind, o.Components)
	}
	if o.Kind != activate.Completed {
		if len(o.Degraded) > 0 {
			t.Errorf("%s, degraded by %q", o.Kind, o.Degraded)
		}
		return
	}
	if degraded := code != 0 || len(lists) > 0; degraded && len(o.Degraded) == 0 {
		t.Error("completed, and what was not clean is not said")
	}
}

func TestFailureReasons(t *testing.T) {
	full := exited(1)
	full.Tail = "cp: error writing '/boot/EFI/nixos/x.efi': No space left on device\nFailed to install bootloader"
	refused := exited(1)
	refused.Tail = "Pre-switch check 'site' failed\nPre-switch checks failed"
	tests := []struct {
		name   string
		seen   activate.Observation
		reason string
		says   []string
	}{
		{"a full /boot that ended with 0", seen(activate.ActionSwitch, exited(0), theTarget, thePrior), activate.ReasonBootDefaultUnset, []string{"would boot " + thePrior, "boot partition"}},
		{"a stage that changed nothing", seen(activate.ActionBoot, exited(0), thePrior, thePrior), activate.ReasonBootDefaultUnset, []string{"would boot " + thePrior}},
		{"a full /boot", seen(activate.ActionBoot, full, thePrior, thePrior), activate.ReasonDiskFull, []string{"exit code 1", "make room", "No space left"}},
		{"a check of the site", seen(activate.ActionSwitch, refused, thePrior, thePrior), activate.ReasonSwitchInterrupted, []string{"pre-switch check", "'site'"}},
		{"not NixOS", seen(activate.ActionSwitch, exited(5), thePrior, thePrior), activate.ReasonSwitchFailed, []string{"exit code 5", "still " + thePrior}},
		{"nothing was done", seen(activate.ActionSwitch, exited(0), thePrior, theTarget), activate.ReasonSwitchFailed, []string{"exit code 0", "still " + thePrior}},
		{"a deadline", seen(activate.ActionSwitch, deadline, theTarget, theTarget, "start-list"), activate.ReasonSwitchInterrupted, []string{"deadline", "start-list"}},
		{"killed", seen(activate.ActionSwitch, killed, thePrior, thePrior), activate.ReasonSwitchInterrupted, []string{"SIGKILL"}},
		{"lost", seen(activate.ActionSwitch, lost, thePrior, thePrior), activate.ReasonSwitchInterrupted, []string{"no result"}},
		{"another hand", seen(activate.ActionSwitch, exited(0), theOther, theTarget), activate.ReasonAnotherHand, []string{theOther, "neither"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := activate.Judge(test.seen)
			if o.FailureReason != test.reason {
				t.Errorf("reason is %q, want %q: %s", o.FailureReason, test.reason, o.Reason)
			}
			for _, part := range test.says {
				if text := o.Text(test.seen); !strings.Contains(text, part) {
					t.Errorf("%q does not say %q", text, part)
				}
			}
		})
	}
}

// Without a boot loader that can be read, the profile is what a stage is held against: builders go by it.
func TestStageWithoutReadableLoader(t *testing.T) {
	o := seen(activate.ActionBoot, exited(0), thePrior, "")
	if got := activate.Judge(o); got.Kind != activate.Completed || !strings.Contains(strings.Join(got.Degraded, "\n"), "no boot loader was found") {
		t.Errorf("got %+v", got)
	}
	o.Profile = thePrior
	if got := activate.Judge(o); got.Kind != activate.Failed || got.FailureReason != activate.ReasonBootDefaultUnset {
		t.Errorf("with another profile: got %+v", got)
	}
}

func TestProfileOfAnotherHandDegrades(t *testing.T) {
	o := seen(activate.ActionSwitch, exited(0), theTarget, theTarget)
	o.Profile = theOther
	if got := activate.Judge(o); got.Kind != activate.Completed || !strings.Contains(strings.Join(got.Degraded, "\n"), theOther) {
		t.Errorf("got %+v", got)
	}
}

func TestRefusedByInhibitors(t *testing.T) {
	differing := []activate.Change{{Component: "inhibitor:fstab", From: "/a", To: "/b", Treatment: activate.Defer}}
	said := exited(1)
	said.Tail = strings.Join([]string{
		"There are changes to critical components of the system:", "", "dbus-implementation : dbus -> broker", "fstab : /a -> /b", "",
		"Switching into this system is not recommended.", "Pre-switch check 'switchInhibitors' failed", "Pre-switch checks failed",
	}, "\n")
	unnamed := exited(1)
	unnamed.Tail = "Pre-switch check 'switchInhibitors' failed\nPre-switch checks failed"
	tests := []struct {
		name   string
		result activate.Result
		facts  []activate.Change
		lists  []string
		want   []string // components; none: it is not staged
	}{
		{"by the facts", exited(1), differing, nil, []string{"inhibitor:fstab"}},
		{"by its words, where the file is not JSON", said, nil, nil, []string{"inhibitor:dbus-implementation", "inhibitor:fstab"}},
		{"by its words, without a list", unnamed, nil, nil, []string{"inhibitor:unnamed"}},
		{"no inhibitor", exited(1), nil, nil, nil},
		// The check comes before anything is touched: the lists are those of an earlier switch, and a reboot ends that one, too.
		{"after a switch of somebody that was cut off", said, differing, []string{"start-list"}, []string{"inhibitor:fstab"}},
		{"killed in the check", killed, differing, nil, []string{"inhibitor:fstab"}},
		{"the lock was held", exited(11), differing, nil, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := seen(activate.ActionSwitch, test.result, thePrior, thePrior, test.lists...)
			o.Inhibitors = test.facts
			got := activate.Judge(o)
			if (got.Kind == activate.Stage) != (len(test.want) > 0) || !slices.Equal(names(got.Components), append([]string{}, test.want...)) {
				t.Errorf("got %s %+v", got.Kind, got.Components)
			}
		})
	}
	// What has been switched to has not been refused.
	o := seen(activate.ActionSwitch, exited(0), theTarget, theTarget)
	o.Inhibitors = differing
	if got := activate.Judge(o); got.Kind != activate.Completed {
		t.Errorf("got %+v", got)
	}
}

func TestInitInterfaceIsNamed(t *testing.T) {
	o := seen(activate.ActionSwitch, exited(100), thePrior, theTarget)
	o.Init = &activate.Change{Component: "init", From: "systemd 2", To: "systemd 3", Treatment: activate.Defer}
	if got := activate.Judge(o); got.Kind != activate.Stage || !slices.Equal(got.Components, []activate.Change{*o.Init}) {
		t.Errorf("got %+v", got)
	}
}

func TestLockHolderIsNamed(t *testing.T) {
	o := seen(activate.ActionSwitch, exited(11), thePrior, thePrior)
	o.LockHolder = "switch-to-conf (pid 4711)"
	if got := activate.Judge(o); got.Kind != activate.WaitForLock || got.Reason != o.LockHolder {
		t.Errorf("got %+v", got)
	}
}

func TestOnlyUnitsThatFailedSinceAreNamed(t *testing.T) {
	before := []string{"broken.service", "old.service"}
	after := []string{"web.service", "NetworkManager-wait-online.service", "broken.service", "systemd-networkd-wait-online@eth0.service", "web.service", "x-wait-online-not.service"}
	for _, code := range []int{0, 2, 4} {
		o := seen(activate.ActionSwitch, exited(code), theTarget, theTarget)
		o.FailedBefore, o.FailedAfter = before, after
		got := activate.Judge(o)
		if got.Kind != activate.Completed {
			t.Fatalf("exit code %d: got %+v", code, got)
		}
		if want := []string{"NetworkManager-wait-online.service", "systemd-networkd-wait-online@eth0.service", "web.service", "x-wait-online-not.service"}; !slices.Equal(got.FailedUnits, want) {
			t.Errorf("exit code %d: failed units are %q", code, got.FailedUnits)
		}
		if want := []string{"NetworkManager-wait-online.service", "systemd-networkd-wait-online@eth0.service"}; !slices.Equal(got.Benign, want) {
			t.Errorf("exit code %d: benign are %q", code, got.Benign)
		}
		said := strings.Join(got.Degraded, "\n")
		if !strings.Contains(said, "web.service failed") || strings.Contains(said, "broken.service") {
			t.Errorf("exit code %d: it says %q", code, said)
		}
	}
	// A unit that was broken before is started again by every switch, which then ends with 4.
	o := seen(activate.ActionSwitch, exited(4), theTarget, theTarget)
	o.FailedBefore, o.FailedAfter = before, before
	if got := activate.Judge(o); len(got.FailedUnits) != 0 || len(got.Degraded) != 1 || !strings.Contains(got.Degraded[0], "exit code 4") {
		t.Errorf("got %+v", got)
	}
	// A failure says nothing where the switch did not bring the target.
	o = seen(activate.ActionSwitch, exited(5), thePrior, thePrior)
	o.FailedAfter = after
	if got := activate.Judge(o); len(got.FailedUnits) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestCleanSwitchIsNotDegraded(t *testing.T) {
	for _, o := range []activate.Observation{
		seen(activate.ActionSwitch, exited(0), theTarget, theTarget), seen(activate.ActionBoot, exited(0), thePrior, theTarget),
	} {
		if got := activate.Judge(o); got.Kind != activate.Completed || len(got.Degraded) != 0 || len(got.FailedUnits) != 0 {
			t.Errorf("%s: got %+v", o.Action, got)
		}
	}
}
