package simhost

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"
)

func TestBootIsANewBoot(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	next := newerKernel(NixOS("web", "2"))
	next.DBus, next.Systemd = DBusDaemon, "systemd-258.1"
	toplevel := h.addStaged(next)
	h.doSwitch(toplevel, "boot").want(t, 0)
	before, err := h.BootID()
	h.must(err)
	h.must(h.SoftReboot())
	h.must(os.MkdirAll(h.Path("/run/nixfleet-agent/exec"), 0o755))
	h.must(h.Boot())
	after, err := h.BootID()
	h.must(err)
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(after) || after == before {
		t.Errorf("boot id %s after %s", after, before)
	}
	if h.exists("/run/nixfleet-agent") || h.exists("/run/nixos") {
		t.Error("/run survived the boot")
	}
	if count, err := h.SoftReboots(); err != nil || count != 0 {
		t.Errorf("%d soft reboots after a boot (%v)", count, err)
	}
	h.wantRunning(toplevel)
	if exe := h.linkText("/proc/1/exe"); !strings.Contains(exe, "-systemd-258.1/") {
		t.Errorf("PID 1 is %s", exe)
	}
	if h.exists("/sys/fs/cgroup/system.slice/dbus-broker.service") {
		t.Error("the broker still runs")
	}
	pid := strings.TrimSpace(h.read("/sys/fs/cgroup/system.slice/dbus.service/cgroup.procs"))
	if exe := h.linkText("/proc/" + pid + "/exe"); !strings.HasSuffix(exe, "/bin/dbus-daemon") {
		t.Errorf("the bus is %s", exe)
	}
	if _, err := h.Resolve("/proc/" + pid + "/exe"); err != nil {
		t.Error(err)
	}
}

func TestSoftRebootKeepsTheBootAndWhatRuns(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	h.doSwitch(h.addStaged(NixOS("web", "2")), "boot").want(t, 0)
	before, err := h.BootID()
	h.must(err)
	h.must(os.WriteFile(h.Path("/run/kept"), nil, 0o644))
	for want := 1; want <= 2; want++ {
		h.must(h.SoftReboot())
		if count, err := h.SoftReboots(); err != nil || count != want {
			t.Errorf("%d soft reboots, want %d (%v)", count, want, err)
		}
	}
	if after, err := h.BootID(); err != nil || after != before {
		t.Errorf("boot id %s after %s (%v)", after, before, err)
	}
	if !h.exists("/run/kept") || h.Running() != first || h.Booted() != first {
		t.Error("a soft reboot changed /run")
	}
}

func TestChoiceInTheMenuIsForOneBoot(t *testing.T) {
	t.Parallel()
	entryFormats(t, func(t *testing.T, format string) {
		h := newHost(t, Options{Hostname: "web", EntryFormat: format})
		first := h.Running()
		next := h.addStaged(NixOS("web", "2"))
		h.doSwitch(next, "switch").want(t, 0)
		for _, choice := range []string{first, h.entryOf(first)} {
			h.must(h.ChooseOnce(choice))
			h.must(h.Boot())
			h.wantRunning(first)
			if entry, err := h.BootedEntry(); err != nil || entry != h.entryOf(first) {
				t.Errorf("booted the entry %s (%v)", entry, err)
			}
			h.must(h.Boot())
			h.wantRunning(next)
		}
		if h.Profile() != next {
			t.Errorf("the profile is %s", h.Profile())
		}
	})
}

func TestCountedEntryThatDoesNotBootFallsBack(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web", EntryFormat: EntryFormatHashed})
	first := h.Running()
	h.must(h.Knob(KnobBootTries, "3"))
	next := h.addStaged(NixOS("web", "2"))
	h.doSwitch(next, "boot").want(t, 0)
	counted := h.entryOf(next)
	if !strings.HasSuffix(counted, "+3.conf") {
		t.Fatalf("the new entry is %s", counted)
	}
	id := strings.TrimSuffix(counted, "+3.conf")
	if conf := h.read("/boot/loader/loader.conf"); !strings.Contains(conf, "preferred "+id+".conf\n") {
		t.Errorf("loader.conf:\n%s", conf)
	}
	h.must(h.Knob(KnobBootFails, next))
	h.must(h.Boot())
	h.wantRunning(first)
	if entry := h.entryOf(next); entry != id+"+0-3.conf" {
		t.Errorf("the entry that does not boot is %s", entry)
	}
	// It works again, but its tries are used up: the loader passes it over until the counter is gone.
	h.must(h.Knob(KnobBootFails, ""))
	h.must(h.Boot())
	h.wantRunning(first)
}

func TestCountedEntryThatBootsIsBlessed(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web", EntryFormat: EntryFormatHashed})
	h.must(h.Knob(KnobBootTries, "3"))
	next := h.addStaged(NixOS("web", "2"))
	h.doSwitch(next, "boot").want(t, 0)
	h.must(h.Knob(KnobNoBless, "1"))
	h.must(h.Boot())
	h.wantRunning(next)
	if entry := h.entryOf(next); !strings.HasSuffix(entry, "+2-1.conf") {
		t.Errorf("the entry is %s", entry)
	}
	h.must(h.Knob(KnobNoBless, ""))
	h.must(h.Boot())
	if entry := h.entryOf(next); strings.Contains(entry, "+") {
		t.Errorf("the entry is %s", entry)
	}
	// The builder keeps what is blessed.
	h.doSwitch(next, "boot").want(t, 0)
	if entry := h.entryOf(next); strings.Contains(entry, "+") {
		t.Errorf("the entry is %s", entry)
	}
}

func TestLoaderVariablesOutrankLoaderConf(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	next := h.addStaged(NixOS("web", "2"))
	h.doSwitch(next, "boot").want(t, 0)
	h.setVariable("LoaderEntryOneShot", "nixos-generation-1.conf")
	h.must(h.Boot())
	h.wantRunning(first)
	h.must(h.Boot())
	h.wantRunning(next)
	h.setVariable("LoaderEntryDefault", "nixos-generation-1.conf")
	h.must(h.Boot())
	h.wantRunning(first)
}

func (h host) setVariable(name, value string) {
	h.t.Helper()
	const variables = "/sys/firmware/efi/efivars"
	h.must(os.MkdirAll(h.Path(variables), 0o755))
	content := []byte{7, 0, 0, 0}
	for _, unit := range utf16.Encode([]rune(value + "\x00")) {
		content = append(content, byte(unit), byte(unit>>8))
	}
	h.must(os.WriteFile(h.Path(variables+"/"+name+"-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), content, 0o644))
}

func TestNewestGenerationIsFirstInTheMenu(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web", EntryFormat: EntryFormatHashed})
	var newest string
	for _, label := range []string{"2", "3", "4", "5", "6", "7", "8", "9", "10", "11"} {
		newest = h.addStaged(NixOS("web", label))
	}
	h.doSwitch(newest, "boot").want(t, 0)
	h.must(os.Remove(h.Path("/boot/loader/loader.conf")))
	h.must(h.Boot())
	h.wantRunning(newest)
}

func TestHostWithoutABootableEntryDoesNotBoot(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	h.must(os.RemoveAll(h.Path(h.Running())))
	if err := h.Boot(); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("boot of a closure that is gone: %v", err)
	}
	h.must(os.Remove(h.Path("/boot/loader/entries/nixos-generation-1.conf")))
	if err := h.Boot(); err == nil || !strings.Contains(err.Error(), "no boot entry") {
		t.Errorf("boot without entries: %v", err)
	}
	if h.Running() != "" || h.Booted() != "" {
		t.Error("links are left after a boot that failed")
	}
}

func TestClosureThatNeverBootsIsSaidSo(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	h.must(h.Knob(KnobBootFails, h.Running()))
	if err := h.Boot(); err == nil || !strings.Contains(err.Error(), "does not boot") {
		t.Errorf("boot: %v", err)
	}
}
