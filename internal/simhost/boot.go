package simhost

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// busPID is the process that the live bus runs as below the root.
const busPID = "612"

// Boot reboots the host: a new boot id, an empty /run, the links of the closure that the boot loader picks, PID 1 and the
// bus of that closure. It ends no process; what the caller runs below the root it must end before.
//
// A boot that fails leaves the host without the links, as a machine that hangs in its loader would be.
func (h *Host) Boot() error {
	random, err := randomHex(16)
	if err != nil {
		return err
	}
	if err := emptyDirectory(h.Path("/run")); err != nil {
		return err
	}
	for _, dir := range []string{"/run/systemd/system", "/run/sim"} {
		if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
	}
	if err := replaceFile(h.Path(bootIDFile), asUUID(random)+"\n"); err != nil {
		return err
	}
	if err := h.setSoftReboots(0); err != nil {
		return err
	}
	if err := h.runStageTwo(); err != nil {
		return err
	}
	if err := h.startPIDOne(); err != nil {
		return err
	}
	return h.startBus()
}

const (
	bootIDFile      = "/proc/sys/kernel/random/boot_id"
	softRebootsFile = "/run/systemd/soft-reboots-count"
)

// SoftReboot restarts user space: the boot id, /run and the links in it stay, the count goes up.
func (h *Host) SoftReboot() error {
	count, err := h.SoftReboots()
	if err != nil {
		return err
	}
	return h.setSoftReboots(count + 1)
}

// SoftReboots is how often user space was restarted in this boot.
func (h *Host) SoftReboots() (int, error) {
	text, err := os.ReadFile(h.Path(softRebootsFile))
	if err != nil {
		return 0, fmt.Errorf("read soft reboots: %w", err)
	}
	count, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read soft reboots: %w", err)
	}
	return count, nil
}

// BootID is the id of this boot.
func (h *Host) BootID() (string, error) {
	text, err := os.ReadFile(h.Path(bootIDFile))
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// ChooseOnce is the operator's choice in the boot menu of the next boot: the name of an entry, or a closure that has one.
// Nothing on the host shows it before.
func (h *Host) ChooseOnce(entryOrClosure string) error {
	return replaceFile(h.Path("/etc/sim/boot-once"), entryOrClosure+"\n")
}

// BootedEntry is the file name of the boot entry that was booted.
func (h *Host) BootedEntry() (string, error) {
	text, err := os.ReadFile(h.Path("/run/sim/booted-entry"))
	if err != nil {
		return "", fmt.Errorf("read booted entry: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (h *Host) runStageTwo() error {
	dir, err := os.MkdirTemp(h.Path("/run/sim"), "stage-2-*")
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, StageTwoScript)
	if err := os.WriteFile(script, Scripts()[StageTwoScript], 0o600); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return run(script, h.root)
}

func (h *Host) setSoftReboots(count int) error {
	return replaceFile(h.Path(softRebootsFile), strconv.Itoa(count)+"\n")
}

func (h *Host) startPIDOne() error {
	at := h.Path("/proc/1/exe")
	systemd, err := h.Resolve("/run/current-system/systemd")
	if err != nil {
		return removeIfThere(at)
	}
	return replaceLink(at, systemd+"/lib/systemd/systemd")
}

// startBus makes what the processes of the bus's control group and their executables are read from.
func (h *Host) startBus() error {
	const slice = "/sys/fs/cgroup/system.slice/"
	for _, implementation := range busPackages {
		if err := os.RemoveAll(h.Path(slice + implementation.unit)); err != nil {
			return fmt.Errorf("stop bus: %w", err)
		}
	}
	executableLink := h.Path("/proc/" + busPID + "/exe")
	if err := removeIfThere(executableLink); err != nil {
		return err
	}
	executable, err := h.Resolve("/run/current-system/etc/dbus-1/executable")
	if err != nil {
		return nil //nolint:nilerr // a system without a bus
	}
	for _, implementation := range busPackages {
		if !strings.HasSuffix(executable, "/"+implementation.executable) {
			continue
		}
		group := h.Path(slice + implementation.unit)
		if err := os.MkdirAll(group, 0o755); err != nil {
			return fmt.Errorf("start bus: %w", err)
		}
		if err := replaceFile(filepath.Join(group, "cgroup.procs"), busPID+"\n"); err != nil {
			return err
		}
	}
	return replaceLink(executableLink, executable)
}

func removeIfThere(at string) error {
	if err := os.Remove(at); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove file: %w", err)
	}
	return nil
}

func emptyDirectory(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("empty directory: %w", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("empty directory: %w", err)
		}
	}
	return nil
}

// asUUID puts the dashes of a UUID into 32 hexadecimal digits.
func asUUID(digits string) string {
	return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]}, "-")
}
