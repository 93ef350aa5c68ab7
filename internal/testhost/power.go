package testhost

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Boot switches the host on and returns when its boot has finished.
func (h *Host) Boot() {
	h.tb.Helper()
	h.BootEarly()
	h.Eventually("the boot has finished", func() (string, bool) {
		state := strings.TrimSpace(h.Exec("systemctl", "is-system-running").Stdout)
		return state, state == "running" || state == "degraded"
	})
}

// BootEarly switches the host on and returns when commands can be run, before its boot has finished.
func (h *Host) BootEarly() {
	h.tb.Helper()
	if h.machine != nil {
		h.tb.Fatalf("%s: is on already", h.name)
	}
	m, err := power(h.name, h.root, h.console())
	if err != nil {
		h.tb.Fatalf("%s: boot: %v\n%s", h.name, err, h.Console())
	}
	h.machine = m
	if h.cable != nil {
		h.cable.plug(m.leader)
	}
}

// Reboot reboots the host in order and returns when it is up again.
func (h *Host) Reboot() {
	h.tb.Helper()
	h.end("reboot.target", exitReboot)
	h.Boot()
}

// PowerOff switches the host off in order.
func (h *Host) PowerOff() {
	h.tb.Helper()
	h.end("poweroff.target", 0)
}

// end asks PID 1 itself: logind is lost after a restart of D-Bus.
func (h *Host) end(target string, exit int) {
	h.tb.Helper()
	h.Run("systemctl", "start", "--no-block", "--job-mode=replace-irreversibly", target)
	h.awaitDown(exit)
}

// awaitDown waits until the host has gone down, in the way that systemd-nspawn's exit code tells.
func (h *Host) awaitDown(exit int) {
	h.tb.Helper()
	m := h.machine
	h.Eventually("the host has gone down", func() (string, bool) {
		select {
		case <-m.ended:
			return "", true
		default:
			return "it is still on", false
		}
	})
	h.machine = nil
	m.clear()
	if m.exit != exit {
		h.tb.Fatalf("%s: systemd-nspawn exited with %d, want %d\n%s", h.name, m.exit, exit, h.Console())
	}
}

// SoftReboot restarts the user space of the host and returns when it is up again.
func (h *Host) SoftReboot() {
	h.tb.Helper()
	before := h.SoftReboots()
	h.Run("systemctl", "start", "--no-block", "--job-mode=replace-irreversibly", "soft-reboot.target")
	h.Eventually("the soft reboot has finished", func() (string, bool) {
		state := strings.TrimSpace(h.Exec("systemctl", "is-system-running").Stdout)
		result := h.Exec("systemctl", "show", "--property=SoftRebootsCount", "--value")
		count, err := strconv.Atoi(strings.TrimSpace(result.Stdout))
		return state + " after " + strings.TrimSpace(result.Stdout), err == nil && count == before+1 && (state == "running" || state == "degraded")
	})
}

// SoftReboots is how often the user space was restarted in this boot.
func (h *Host) SoftReboots() int {
	h.tb.Helper()
	count, err := strconv.Atoi(strings.TrimSpace(h.Run("systemctl", "show", "--property=SoftRebootsCount", "--value")))
	h.must(err)
	return count
}

// PowerCut takes the power from the host: every process of it is gone, and /run with them.
func (h *Host) PowerCut() {
	h.tb.Helper()
	if h.machine == nil {
		h.tb.Fatalf("%s: is off already", h.name)
	}
	h.stop()
}

func (h *Host) stop() {
	if h.machine != nil {
		h.machine.kill()
		h.machine = nil
	}
}

// BootID is the id of the running boot.
func (h *Host) BootID() string {
	h.tb.Helper()
	return strings.TrimSpace(h.Run("cat", "/proc/sys/kernel/random/boot_id"))
}

func (h *Host) console() string { return filepath.Join(h.dir, "console.log") }

// Console is the end of what the host's boots wrote to the console.
func (h *Host) Console() string {
	text, err := os.ReadFile(h.console())
	if err != nil {
		return "there is no console"
	}
	return "console:\n" + lastPart(text)
}
