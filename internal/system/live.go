package system

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxBusProcesses bounds how many processes of the bus's unit are looked at; it
// has one or two.
const maxBusProcesses = 16

// Live is what really runs, as opposed to what the links say: after a switch
// that did not restart PID 1 or the bus they differ.
type Live struct {
	// PID1 is the executable of PID 1, "" if it cannot be read; then PID1Note
	// says why.
	PID1     string
	PID1Note string
	// Bus is the executable of the system bus and DBus its implementation, as in
	// Components. BusNote says why either is "".
	Bus     string
	DBus    string
	BusNote string
}

// Live reads the executables of PID 1 and of the system bus. It asks neither of
// them: the bus is found by the control group of its unit.
func (h *Host) Live() Live {
	w := newWalk(h)
	var l Live
	exe, err := w.exeOf(1)
	if err != nil {
		l.PID1Note = fmt.Sprintf("the executable of PID 1 cannot be read: %v", err)
	}
	l.PID1 = exe
	l.Bus, l.DBus, l.BusNote = w.liveBus()
	return l
}

// exeOf is the executable of a process as the host names it. The kernel marks
// one that was unlinked while in use.
func (w *walk) exeOf(pid int) (string, error) {
	exe, err := w.readlink(path.Join("/proc", strconv.Itoa(pid), "exe"))
	return strings.TrimSuffix(exe, " (deleted)"), err
}

// liveBus finds the processes of the bus's unit in the control group tree, which
// is mounted in one of three ways (unified, hybrid, legacy).
func (w *walk) liveBus() (exe, implementation, note string) {
	note = "no process of dbus-broker.service or dbus.service was found"
	for _, tree := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		for _, unit := range []string{"dbus-broker.service", "dbus.service"} {
			for _, pid := range w.processesOf(path.Join(tree, "system.slice", unit)) {
				exe, err := w.exeOf(pid)
				if err == nil {
					if implementation := busImplementation(path.Base(exe)); implementation != "" {
						return exe, implementation, ""
					}
					note = fmt.Sprintf("process %d of %s is %s, which is no known bus", pid, unit, exe)
					continue
				}
				// The name of a process is readable by everybody, its executable is not.
				note = fmt.Sprintf("the executable of process %d of %s cannot be read: %v", pid, unit, err)
				comm, commErr := w.readText(path.Join("/proc", strconv.Itoa(pid), "comm"))
				if implementation := busImplementation(comm); commErr == nil && implementation != "" {
					return "", implementation, note
				}
			}
		}
	}
	return "", "", note
}

// processesOf lists the processes of a control group, the oldest number first.
func (w *walk) processesOf(group string) []int {
	text, err := w.readText(path.Join(group, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(text) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids[:min(len(pids), maxBusProcesses)]
}

// busImplementation tells by the name of a program, also of one in a Nix wrapper
// (".dbus-daemon-wrapped") and of one that the kernel cut to 15 characters.
func busImplementation(program string) string {
	switch program = strings.TrimPrefix(program, "."); {
	case strings.HasPrefix(program, "dbus-broker"):
		return DBusBroker
	case strings.HasPrefix(program, "dbus-daemon"):
		return DBusDaemon
	}
	return ""
}
