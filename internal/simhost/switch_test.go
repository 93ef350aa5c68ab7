package simhost

import (
	"os"
	"strings"
	"testing"
)

func TestEachActionDoesItsPart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		action           string
		code             int
		runs, booted     bool // the new closure runs; it is the boot default
		leavesListsAlone bool
	}{
		{action: "switch", runs: true, booted: true},
		{action: "test", runs: true},
		{action: "boot", booted: true},
		{action: "dry-activate"},
		{action: "check"},
		{action: "rebuild", code: 1},
		{action: "", code: 1},
	} {
		t.Run(test.action, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{Hostname: "web"})
			first := h.Running()
			next := h.addStaged(NixOS("web", "2"))
			h.doSwitch(next, test.action).want(t, test.code)
			if test.runs {
				h.wantRunning(next)
			} else {
				h.wantRunning(first)
			}
			wantDefault := "default nixos-generation-1.conf"
			if test.booted {
				wantDefault = "default nixos-generation-2.conf"
			}
			if conf := h.read("/boot/loader/loader.conf"); !strings.Contains(conf, wantDefault+"\n") {
				t.Errorf("loader.conf lacks %q:\n%s", wantDefault, conf)
			}
			if h.exists("/run/nixos/start-list") || h.exists("/run/nixos/restart-list") {
				t.Error("list files are left")
			}
			if h.Booted() != first {
				t.Errorf("booted system is %s", h.Booted())
			}
			records := h.switches()
			if len(records) != 1 || records[0].Action != test.action || records[0].Toplevel != next || !records[0].Ended ||
				records[0].ExitCode != test.code {
				if test.action != "" {
					t.Errorf("switch log: %+v", records)
				}
			}
		})
	}
}

func TestSwitchSaysWhatItDoes(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	next := NixOS("web", "2")
	next.Systemd = "systemd-258.1"
	h.doSwitch(h.addStaged(next), "switch").want(t, 0,
		"Checking switch inhibitors... done",
		"stopping the following units: example-web.service",
		"activating the configuration...",
		"restarting systemd...",
		"restarting sysinit-reactivation.target",
		"restarting the following units: example-worker.service",
		"starting the following units: example-web.service",
	)
	if exe := h.linkText("/proc/1/exe"); !strings.HasSuffix(exe, "-systemd-258.1/lib/systemd/systemd") {
		t.Errorf("PID 1 is %s after the switch", exe)
	}
	// A switch to what runs has nothing to restart.
	again := h.doSwitch(h.Running(), "switch")
	again.want(t, 0)
	for _, words := range []string{"stopping the following", "restarting systemd", "restarting the following"} {
		if strings.Contains(again.stderr, words) {
			t.Errorf("a switch to the running system says %q:\n%s", words, again.stderr)
		}
	}
}

func TestForcedEndings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		knob, value string
		action      string
		code        int
		line        string
		runs        bool
		booted      bool
	}{
		"activation fails":       {KnobExitCode, "2", "switch", 2, "Failed to run activate script", true, true},
		"a unit fails":           {KnobExitCode, "4", "switch", 4, "warning: the following units failed: example-web.service", true, true},
		"named units fail":       {KnobFailedUnits, "b.service A.service", "switch", 4, "warning: the following units failed: A.service, b.service", true, true},
		"reload fails":           {KnobExitCode, "3", "switch", 3, "activating the configuration...", true, true},
		"panic after the link":   {KnobPanicAt, PointLinked, "switch", 101, "activating the configuration...", true, true},
		"panic before the link":  {KnobPanicAt, PointStopped, "switch", 101, "stopping the following units: example-web.service", false, true},
		"exit in the middle":     {KnobExitAt, PointUnits + " 1", "switch", 1, "activating the configuration...", true, true},
		"no bus":                 {KnobDBus, "down", "switch", 1, "Error: Failed to open dbus connection", false, true},
		"full boot partition":    {KnobBootLoader, "full", "switch", 1, "Failed to install bootloader", false, false},
		"half a boot partition":  {KnobBootLoader, "partial", "boot", 1, "Failed to install bootloader", false, false},
		"silent boot loader":     {KnobBootLoader, "silent", "switch", 0, "activating the configuration...", true, false},
		"check of the site":      {KnobPreSwitchCheck, "fail", "boot", 1, "Pre-switch checks failed", false, false},
		"killed before the lock": {KnobDieAt, PointStart, "switch", -1, "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{Hostname: "web"})
			first := h.Running()
			next := NixOS("web", "2")
			next.Behaviour = map[string]string{test.knob: test.value}
			toplevel := h.addStaged(next)
			h.doSwitch(toplevel, test.action).want(t, test.code, test.line)
			if test.runs {
				h.wantRunning(toplevel)
			} else {
				h.wantRunning(first)
			}
			if booted := strings.Contains(h.read("/boot/loader/loader.conf"), "default nixos-generation-2.conf"); booted != test.booted {
				t.Errorf("new closure is the boot default: %t, want %t", booted, test.booted)
			}
			if last := h.switches()[0]; last.Ended != (test.code >= 0) || last.Ended && last.ExitCode != test.code {
				t.Errorf("switch log: %+v", last)
			}
			// The closure that is switched to runs its own script: the way back is not disturbed.
			h.stage(first)
			h.doSwitch(first, "switch").want(t, 0)
			h.wantRunning(first)
		})
	}
}

func TestKnobsNearerToTheSwitchWin(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	next := NixOS("web", "2")
	next.Behaviour = map[string]string{KnobExitCode: "21"}
	toplevel := h.addStaged(next)
	want := func(code int) {
		t.Helper()
		h.doSwitch(toplevel, "test").want(t, code)
	}
	want(21)
	h.must(h.Knob(KnobExitCode, "22"))
	want(22)
	h.must(h.KnobFor(toplevel, KnobExitCode, "23"))
	want(23)
	h.must(h.KnobFor(h.Booted(), KnobExitCode, "24"))
	h.must(h.KnobUntilBoot(KnobExitCode, "25"))
	want(25)
	h.must(h.Boot())
	want(23)
	h.must(h.KnobFor(toplevel, KnobExitCode, ""))
	h.must(h.Knob(KnobExitCode, ""))
	want(21)
}

func TestInitInterfaceMismatchStagesOnly(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	next := NixOS("web", "2")
	next.InitInterface = "systemd 3"
	toplevel := h.addStaged(next)
	h.doSwitch(toplevel, "switch").want(t, 100)
	h.wantRunning(first)
	if !strings.Contains(h.read("/boot/loader/loader.conf"), "default nixos-generation-2.conf\n") {
		t.Error("the boot default was not updated before the init interface was looked at")
	}
	h.doSwitch(toplevel, "boot").want(t, 0)
}

func TestNotNixOS(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.must(os.Remove(h.Path("/etc/NIXOS")))
	h.doSwitch(h.Running(), "switch").want(t, 0)
	h.must(os.WriteFile(h.Path("/etc/os-release"), []byte("NAME=Debian\nID=debian\n"), 0o644))
	h.doSwitch(h.Running(), "switch").want(t, 2, "This is not a NixOS installation!")
}

func TestLockAbortsTheSecondSwitch(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	next := h.addStaged(NixOS("web", "2"))
	h.must(h.KnobUntilBoot(Once(KnobWaitAt), PointLocked))
	first := h.startSwitch(next, "switch")
	first.waitForFile(h.AtPoint(PointLocked))
	for _, action := range []string{"switch", "boot", "check", "dry-activate"} {
		h.doSwitch(next, action).want(t, 11, "Could not acquire lock")
	}
	h.must(h.Go(PointLocked))
	first.wait().want(t, 0)
	h.doSwitch(next, "check").want(t, 0)
}

func TestHangHoldsTheLockUntilKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	next := h.addStaged(NixOS("web", "2"))
	h.must(h.KnobUntilBoot(Once(KnobHangAt), PointLinked))
	hung := h.startSwitch(next, "switch")
	hung.waitForFile(h.AtPoint(PointLinked))
	h.doSwitch(next, "switch").want(t, 11)
	h.must(hung.cmd.Process.Kill())
	hung.wait().want(t, -1)
	h.doSwitch(next, "switch").want(t, 0)
}

func TestOrderOfASwitch(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	before := h.Running()
	next := h.addStaged(NixOS("web", "2"))
	points := []string{PointStart, PointLocked, PointChecked, PointBootLoader, PointStopped, PointUnlinked, PointLinked, PointUnits, PointEnd}
	h.must(h.KnobUntilBoot(KnobWaitAt, strings.Join(points, "\n")))
	p := h.startSwitch(next, "switch")
	for i, point := range points {
		p.waitForFile(h.AtPoint(point))
		reached := func(other string) bool {
			for _, earlier := range points[:i+1] {
				if earlier == other {
					return true
				}
			}
			return false
		}
		switch _, err := os.Readlink(h.Path("/run/current-system")); {
		case point == PointUnlinked:
			if !os.IsNotExist(err) {
				t.Errorf("at %s the running link exists (%v)", point, err)
			}
		case reached(PointLinked):
			h.wantRunning(next)
		default:
			h.wantRunning(before)
		}
		if lists := h.exists("/run/nixos/start-list") && h.exists("/run/nixos/restart-list"); lists != (reached(PointStopped) && !reached(PointUnits)) {
			t.Errorf("at %s the lists exist: %t", point, lists)
		}
		if staged := strings.Contains(h.read("/boot/loader/loader.conf"), "nixos-generation-2.conf"); staged != reached(PointBootLoader) {
			t.Errorf("at %s the boot default is the new closure: %t", point, staged)
		}
		h.must(h.Go(point))
	}
	p.wait().want(t, 0)
}

func TestKilledSwitchLeavesListsAndTheNextOneTakesThemUp(t *testing.T) {
	t.Parallel()
	for _, point := range []string{PointStopped, PointUnlinked, PointLinked} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{Hostname: "web"})
			before := h.Running()
			next := h.addStaged(NixOS("web", "2"))
			h.must(h.Knob(Once(KnobDieAt), point))
			h.doSwitch(next, "switch").want(t, -1)
			if got := h.read("/run/nixos/start-list"); got != "example-web.service\n" {
				t.Errorf("start-list is %q", got)
			}
			if got := h.read("/run/nixos/restart-list"); got != "example-worker.service\n" {
				t.Errorf("restart-list is %q", got)
			}
			switch point {
			case PointStopped:
				h.wantRunning(before)
			case PointUnlinked:
				h.wantRunning("")
			case PointLinked:
				h.wantRunning(next)
			}
			if point == PointUnlinked {
				// Without a running link there is no init interface to compare with, and the real program gives up as well.
				h.doSwitch(next, "switch").want(t, 100)
				h.must(os.Symlink(before, h.Path("/run/current-system")))
			}
			h.doSwitch(next, "switch").want(t, 0,
				"starting the following units: example-web.service", "restarting the following units: example-worker.service")
			h.wantRunning(next)
			if h.exists("/run/nixos/start-list") || h.exists("/run/nixos/restart-list") {
				t.Error("the lists are still there after the repair")
			}
			records := h.switches()
			if records[0].Ended || !records[len(records)-1].Ended {
				t.Errorf("switch log: %+v", records)
			}
		})
	}
}

func TestExecAtRunsACommandInTheMiddle(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	next := NixOS("web", "2")
	next.Behaviour = map[string]string{KnobExecAt: PointLinked + ` readlink "$root/run/current-system" >"$root/tmp/seen"; echo "$NIXOS_ACTION $toplevel" >>"$root/tmp/seen"`}
	toplevel := h.addStaged(next)
	h.doSwitch(toplevel, "test").want(t, 0)
	if got, want := h.read("/tmp/seen"), toplevel+"\ntest "+toplevel+"\n"; got != want {
		t.Errorf("the command saw %q, want %q", got, want)
	}
}

func TestLostOutputIsAPanic(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	next := h.addStaged(NixOS("web", "2"))
	h.must(h.KnobUntilBoot(KnobWaitAt, PointBootLoader))
	read, write, err := os.Pipe()
	h.must(err)
	p := h.startWithOutput(write, next, "switch")
	h.must(write.Close())
	p.waitForFile(h.AtPoint(PointBootLoader))
	h.must(read.Close())
	h.must(h.Go(PointBootLoader))
	p.wait().want(t, 101)
	h.wantRunning(first)
	if records := h.switches(); len(records) != 1 || records[0].ExitCode != 101 {
		t.Errorf("switch log: %+v", records)
	}
}

func TestUnitsAreInstalledAndTheChangedOnesListed(t *testing.T) {
	t.Parallel()
	unit := func(lines ...string) string {
		return "[Service]\nExecStart=/bin/true\n" + strings.Join(lines, "\n") + "\n"
	}
	first := NixOS("web", "1")
	first.Units = map[string]string{
		"same.service": unit(), "gone.service": unit(), "kept.service": unit("[Unit]\nX-StopOnRemoval=false"),
		"changed.service": unit(), "quick.service": unit(), "agent.service": unit(),
	}
	h := newHost(t, Options{First: first})
	if got := h.read("/etc/systemd/system/gone.service"); got != unit() {
		t.Errorf("after the boot gone.service is %q", got)
	}
	next := NixOS("web", "2")
	next.Units = map[string]string{
		"same.service": unit(), "changed.service": unit("# 2"), "quick.service": unit("X-StopIfChanged=false"),
		"agent.service": unit("X-RestartIfChanged=false"), "new.service": unit(),
	}
	toplevel := h.addStaged(next)
	h.doSwitch(toplevel, "dry-activate").want(t, 0,
		"would stop the following units: changed.service, gone.service",
		"would restart the following units: quick.service", "would start the following units: changed.service, new.service")
	if h.exists("/etc/systemd/system/new.service") {
		t.Error("dry-activate installed a unit")
	}
	h.doSwitch(toplevel, "switch").want(t, 0,
		"stopping the following units: changed.service, gone.service",
		"NOT restarting the following changed units: agent.service",
		"restarting the following units: quick.service",
		"starting the following units: changed.service, new.service")
	if h.exists("/etc/systemd/system/gone.service") || !h.exists("/etc/systemd/system/new.service") {
		t.Error("the units of the new closure are not those in /etc")
	}
}
