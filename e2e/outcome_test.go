//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// once sets a knob that is gone when it has served.
func (h *host) once(target, knob, value string) {
	h.t.Helper()
	h.KnobFor(target, simhost.Once(knob), value)
}

// lastSwitches holds the newest runs of switch-to-configuration against lines as those of wantSwitches, and wants no more than
// were there before.
func (h *host) lastSwitches(before int, want ...string) {
	h.t.Helper()
	var got []string
	for _, s := range h.Switches()[before:] {
		code := "-"
		if s.Ended {
			code = fmt.Sprint(s.ExitCode)
		}
		got = append(got, s.Action+" "+s.Toplevel+" "+code)
	}
	if !slices.Equal(got, want) {
		h.t.Errorf("switches:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

const oneshotThat = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart="

func TestFailedUnitsAreNamed(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	const always, online, broken = "always-broken.service", "NetworkManager-wait-online.service", "broken.service"
	withUnits := func(label string, units map[string]string) string {
		closure := nixos(label)
		closure.Units = map[string]string{"good.service": oneshotThat + "/bin/true\n"}
		for name, text := range units {
			closure.Units[name] = text
		}
		return h.Add(closure)
	}
	completed := func(target string, exit float64, degraded, failed []string) {
		t.Helper()
		out := h.wantCode(0, "activate", "--soak", "10ms", target)
		st := h.awaitState("Converged")
		body := h.wantEvents(st.Rollout.ID, convergedLive...)[2].body(t)
		var units []string
		if named, ok := body["failed_units"].([]any); ok {
			for _, unit := range named {
				units = append(units, unit.(string))
			}
		}
		if body["exit_code"] != exit || !slices.Equal(units, failed) {
			t.Errorf("ActivationCompleted: %v", body)
		}
		if !slices.Equal(st.Rollout.Degraded, degraded) {
			t.Errorf("degraded: got %q, want %q", st.Rollout.Degraded, degraded)
		}
		for _, line := range degraded {
			if !slices.Contains(st.Notes, line) || !strings.Contains(out, line) {
				t.Errorf("%q is not said by status (%q) and activate (%s)", line, st.Notes, out)
			}
		}
		if st.Verdict != "at-target" {
			t.Errorf("status: %+v", st)
		}
		h.wantLinks(links{target, h.first, target, target})
	}

	// What fails for the first time is named.
	completed(withUnits("first", map[string]string{always: oneshotThat + "/bin/false\n"}), 4,
		[]string{always + " failed"}, []string{always})

	// What had failed before is not, though the switch starts it again and it fails again; nor what failed before and does so
	// no more. What only waits for the network is named as benign.
	h.Exec("systemd-run", "--unit=somebodys-job", "--wait", "--quiet", "/bin/false")
	if failed := h.failedUnits(); !strings.Contains(failed, "somebodys-job.service") || !strings.Contains(failed, always) {
		t.Fatalf("failed units: %s", failed)
	}
	completed(withUnits("second", map[string]string{
		always: "[Unit]\nWants=good.service\n" + oneshotThat + "/bin/false\n",
		broken: oneshotThat + "/bin/false\n",
		online: oneshotThat + "/bin/false\n",
	}), 4, []string{online + " failed, which is benign: it only waits for the network", broken + " failed"}, []string{online, broken})
	if failed := h.failedUnits(); !strings.Contains(failed, always) {
		t.Fatalf("failed units: %s", failed)
	}

	// Nothing is left to blame the switch for, and its exit code is said all the same.
	completed(withUnits("third", map[string]string{
		always: "[Unit]\nAfter=good.service\n" + oneshotThat + "/bin/false\n",
	}), 4, []string{"units failed (exit code 4), none that had not failed before the switch"}, nil)
	completed(withUnits("mended", nil), 0, nil, nil)

	// Part of it failed, and the target runs.
	for code, said := range map[string]string{
		"2": "part of the activation script failed (exit code 2)",
		"3": "systemd could not be reloaded (exit code 3)",
	} {
		closure := nixos("exit-code-" + code)
		closure.Behaviour = map[string]string{simhost.KnobExitCode: code}
		completed(h.Add(closure), float64(code[0]-'0'), []string{said}, nil)
	}
	h.wantNoNotices()
}

func TestRefusedSwitchIsStaged(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.configure(`"criticalComponents": {"init": "switch"}`)
	stagedAndBooted := func(target string, exit int, want component) {
		t.Helper()
		before, running, booted := len(h.Switches()), h.Running(), h.Booted()
		out := h.wantCode(3, "activate", target)
		if !strings.Contains(out, want.Name+": "+want.From+" -> "+want.To) {
			t.Errorf("activate: %s", out)
		}
		st := h.status()
		if st.state() != "Deferred" || st.Verdict != "reboot-needed" || !slices.Equal(st.Rollout.Components, []component{want}) {
			t.Errorf("status: %+v", st)
		}
		staged := []string{"DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationDeferred"}
		h.wantEvents(st.Rollout.ID, staged...)
		h.wantLinks(links{running, booted, target, target})
		h.Reboot()
		h.awaitAgent()
		h.awaitState("Converged")
		h.wantEvents(st.Rollout.ID, append(staged, "ActivationCompleted", "ProbeTopologyDeclared", "Converged")...)
		h.wantLinks(links{target, target, target, target})
		h.lastSwitches(before, fmt.Sprintf("switch %s %d", target, exit), "boot "+target+" 0")
	}

	// A check that compares what no file of the closures shows: the agent learns of it from the words of NixOS alone.
	refused := h.Add(nixos("refused"))
	h.once(refused, simhost.KnobExecAt, simhost.PointLocked+` printf '%s\n' >&2 'Checking switch inhibitors...' `+
		`'There are changes to critical components of the system:' 'fstab : old -> new' 'Switching into this system is not recommended.' `+
		`"Pre-switch check 'switchInhibitors' failed" 'Pre-switch checks failed'`)
	h.once(refused, simhost.KnobExitAt, simhost.PointLocked+" 1")
	stagedAndBooted(refused, 1, component{"inhibitor:fstab", "old", "new"})

	// Another init interface: the boot loader is written already when NixOS says so.
	other := nixos("other-init")
	other.InitInterface = "systemd 3"
	stagedAndBooted(h.Add(other), 100, component{"init", firstInit, "systemd 3"})
	h.wantNoNotices()
}

func TestInterruptedSwitchIsRepeated(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.configure(`"deadlines": {"switch": "3s"}`)
	repeated := []string{"DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}
	for _, tt := range []struct{ name, knob, value, ended string }{
		{"panicked before the boot loader", simhost.KnobPanicAt, simhost.PointChecked, "101"},
		{"panicked in the unit phase", simhost.KnobPanicAt, simhost.PointLinked, "101"},
		{"killed with its lists", simhost.KnobDieAt, simhost.PointStopped, "-"},
		{"killed between two links", simhost.KnobDieAt, simhost.PointUnlinked, "-"},
		{"over its deadline", simhost.KnobHangAt, simhost.PointLinked, "-"},
		{"lost its bus, lists left", simhost.KnobExitAt, simhost.PointStopped + " 1", "1"},
		{"lost its bus, running link moved", simhost.KnobExitAt, simhost.PointLinked + " 1", "1"},
	} {
		before := len(h.Switches())
		target := h.Add(nixos(strings.NewReplacer(" ", "-", ",", "").Replace(tt.name)))
		h.once(target, tt.knob, tt.value)
		h.wantCode(0, "activate", "--soak", "10ms", target)
		st := h.awaitState("Converged")
		h.wantEvents(st.Rollout.ID, repeated...)
		if len(st.Rollout.Degraded) > 0 {
			t.Errorf("%s: degraded: %q", tt.name, st.Rollout.Degraded)
		}
		h.wantLinks(links{target, h.first, target, target})
		h.lastSwitches(before, "switch "+target+" "+tt.ended, "switch "+target+" 0")
		if h.Exists("/run/nixos/start-list") || h.Exists("/run/nixos/restart-list") {
			t.Errorf("%s: the lists are still there", tt.name)
		}
	}

	// A second interruption is the closure's doing.
	prior, before := h.Running(), len(h.Switches())
	target := h.Add(nixos("panics"))
	h.KnobFor(target, simhost.KnobPanicAt, simhost.PointLinked)
	h.wantCode(4, "activate", target)
	st := h.status()
	if st.state() != "Reverted" || st.Rollout.FailureReason != "switch-interrupted" || !strings.Contains(st.Rollout.FailureDetail, "ended with exit code 101") {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(links{prior, h.first, prior, prior})
	h.lastSwitches(before, "switch "+target+" 101", "switch "+target+" 101", "boot "+prior+" 0", "test "+prior+" 0")
	h.wantComplaint(1, h.agent("activate", target), "failed on this host before")
	h.wantNoNotices()
}

// traces are everything that a switch of generation or boot entry would change, down to the times.
func (h *host) traces() string {
	h.t.Helper()
	return h.Shell("ls -lin --time-style=full-iso /nix/var/nix/profiles; find /boot -type f -exec ls -lin --time-style=full-iso {} +; ls -lin --time-style=full-iso /run/current-system")
}

// refused activates a closure that must be refused before anything is touched.
func (h *host) refused(target, reason, said string) {
	h.t.Helper()
	before, switches := h.traces(), len(h.Switches())
	out := h.wantCode(4, "activate", target)
	st := h.status()
	if st.state() != "Failed" || st.Verdict != "unsuccessful" || st.Rollout.FailureReason != reason ||
		!strings.Contains(st.Rollout.FailureDetail, said) || !strings.Contains(out, said) || !strings.Contains(strings.Join(st.Why, "\n"), "hint: ") {
		h.t.Errorf("activate: %s\nstatus: %+v", out, st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationFailed")
	if after := h.traces(); after != before {
		h.t.Errorf("something was touched:\n%s\nbefore:\n%s", after, before)
	}
	h.lastSwitches(switches)
}

// limit gives a directory of the host a file system of its own, of that size and with what is in it, until the host goes down.
func (h *host) limit(dir, size string) {
	h.t.Helper()
	h.Shell("mount -t tmpfs -o mode=0755,size=" + size + " tmpfs /mnt; cp -a " + dir + "/. /mnt/; mount --bind /mnt " + dir + "; umount /mnt")
}

// fill writes a file until no more than that many KiB are free.
const fillScript = `rm -f %[1]s/ballast; free=$(df --output=avail -k %[1]s | tail -n 1); dd if=/dev/zero of=%[1]s/ballast bs=1k count=$((free - %[2]d)) 2>/dev/null`

func (h *host) fill(dir string, leave int) {
	h.t.Helper()
	h.Shell(fmt.Sprintf(fillScript, dir, leave))
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	all := links{h.first, h.first, h.first, h.first}
	withKernel := func(label string) simhost.Closure {
		closure := nixos(label)
		closure.Kernel = "linux-6.12.2" // the images of which are not on the boot partition
		return closure
	}
	h.configure(`"criticalComponents": {"kernel": "switch"}`)
	h.limit("/boot", "4m")
	h.limit("/nix/store", "160m")

	// Seen beforehand, on either file system.
	target := h.Add(withKernel("no-room"))
	h.fill("/boot", 900)
	h.refused(target, "disk-full", "/boot has ")
	h.Remove("/boot/ballast")
	h.fill("/nix/store", 40<<10)
	h.refused(target, "disk-full", "the file system of /nix/store has ")
	h.Remove("/nix/store/ballast")

	// What is not in the store has no size before it is fetched.
	h.Write(nixConfig, "substituters = file://"+cacheDir+"\nrequire-sigs = false\nexperimental-features = nix-command\nbuild-users-group =\nsandbox = false\n", 0o644) //nolint:misspell // the name of a setting of Nix
	h.Run("nix", "copy", "--no-check-sigs", "--to", "file://"+cacheDir, target)
	h.Run("nix-store", "--delete", "--ignore-liveness", target)
	h.fill("/boot", 900)
	h.refused(target, "disk-full", "/boot has ")
	if !h.Exists(target) {
		t.Error("the target was not fetched")
	}
	h.wantLinks(all)
	h.wantSwitches()

	// Full, and nothing of the target was missing as far as could be told: the builder runs out of room. It accuses nobody.
	h.fill("/boot", 0)
	full := h.Add(nixos("full"))
	h.wantCode(4, "activate", full)
	st := h.status()
	if st.state() != "Reverted" || st.Rollout.FailureReason != "disk-full" || !strings.Contains(st.Rollout.FailureDetail, "No space left on device") {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationStarted", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(all)
	h.wantSwitches("switch "+full+" 1", "switch "+full+" 1")
	h.Remove("/boot/ballast")
	h.wantCode(0, "activate", full)
	h.awaitState("Converged")
	h.wantLinks(links{full, h.first, full, full})

	// There was room, and the builder wrote nothing and said nothing.
	before := len(h.Switches())
	silent := h.Add(withKernel("silent"))
	h.KnobFor(silent, simhost.KnobBootLoader, "silent")
	out := h.wantCode(4, "activate", silent)
	st = h.status()
	if st.state() != "Reverted" || st.Rollout.FailureReason != "boot-default-not-set" || !strings.Contains(out, "but the host would boot "+full) {
		t.Errorf("activate: %s\nstatus: %+v", out, st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(links{full, h.first, full, full})
	h.lastSwitches(before, "switch "+silent+" 0", "test "+full+" 0")

	// Staged, the same; and it was not the closure's fault.
	staged := nixos("silent-staged")
	staged.Systemd = "systemd-258.1"
	before = len(h.Switches())
	target = h.Add(staged)
	h.KnobFor(target, simhost.KnobBootLoader, "silent")
	h.wantCode(4, "activate", target)
	st = h.status()
	if st.state() != "Reverted" || st.Rollout.FailureReason != "boot-default-not-set" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantLinks(links{full, h.first, full, full})
	h.lastSwitches(before, "boot "+target+" 0")
	h.KnobFor(silent, simhost.KnobBootLoader, "")
	h.wantCode(0, "activate", silent)
	h.awaitState("Converged")
	h.wantLinks(links{silent, h.first, silent, silent})
	h.wantNoNotices()
}

// setVariable sets a string variable of the boot loader in the host's firmware; "" takes it away.
func (h *host) setVariable(name, value string) {
	h.t.Helper()
	file := "/sys/firmware/efi/efivars/" + name + "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	if value == "" {
		h.Remove(file)
		return
	}
	content := "\x07\x00\x00\x00"
	for _, b := range []byte(value + "\x00") {
		content += string([]byte{b, 0})
	}
	h.Write(file, content, 0o644)
}

func TestPinnedBootDefault(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	all := links{h.first, h.first, h.first, h.first}
	// A container has no firmware, and sysfs takes no directory: a tree over it that is the same with one.
	h.Shell(`mount -t tmpfs tmpfs /mnt; mkdir -p /mnt/firmware/efi/efivars
for dir in /sys/*; do [ "$dir" = /sys/firmware ] || { mkdir "/mnt/${dir##*/}"; mount --rbind "$dir" "/mnt/${dir##*/}"; }; done
mount --rbind /mnt /sys`)
	live := h.Add(nixos("live"))
	staged := nixos("staged")
	staged.Kernel = "linux-6.18.2"
	for _, variable := range []string{"LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntryPreferred"} {
		h.setVariable(variable, "nixos-generation-1.conf")
		for _, target := range []string{live, h.Add(staged)} {
			h.refused(target, "boot-default-pinned", "nixos-generation-1.conf")
		}
		h.setVariable(variable, "")
	}
	h.wantLinks(all)
	h.wantSwitches()

	// A choice that names no entry is none: the loader passes it over, and so does the agent.
	h.setVariable("LoaderEntryDefault", "windows.conf")
	h.wantCode(0, "activate", live)
	h.awaitState("Converged")
	h.wantLinks(links{live, h.first, live, live})
	h.wantNoNotices()
}

func TestUnknownBootLoader(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	// A loader whose configuration the agent cannot read, and a closure whose builder writes that.
	h.Shell("mv /boot/loader /root/loader; mkdir /boot/limine; echo timeout: 5 >/boot/limine/limine.conf")
	h.Knob(simhost.KnobBootLoader, "silent")
	const said = "the configuration of Limine cannot be read by this agent"
	wantSaid := func() {
		t.Helper()
		if text := h.agent("status").Stdout; !strings.Contains(text, said) {
			t.Errorf("status: %s", text)
		}
		if st := h.status(); st.NextBoot.Path != "" {
			t.Errorf("status: %+v", st)
		}
	}
	wantSaid()
	target := h.Add(nixos("live"))
	h.wantCode(0, "activate", target)
	st := h.awaitState("Converged")
	if want := "what the host would boot cannot be told: " + said; !slices.Contains(st.Rollout.Degraded, want) {
		t.Errorf("degraded: %q", st.Rollout.Degraded)
	}
	h.wantEvents(st.Rollout.ID, convergedLive...)
	wantSaid()

	// The way back has the loader written as well: that what it would boot cannot be told does not mean that it is right.
	failing := h.Add(nixos("failing"))
	h.KnobFor(failing, simhost.KnobExitAt, simhost.PointBootLoader+" 7")
	h.wantCode(4, "activate", failing)
	if st = h.status(); st.state() != "Reverted" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationStarted", "ActivationFailed", "RollbackComplete")
	h.wantSwitches("switch "+target+" 0", "switch "+failing+" 7", "boot "+target+" 0")
	if running, profile := h.Running(), h.Profile(); running != target || profile != target {
		t.Errorf("running %s, profile %s", running, profile)
	}
	h.wantNoNotices()
}
