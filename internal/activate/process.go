package activate

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// processStart is the start time of a process in clock ticks since boot. With the process id it names a process for good.
func processStart(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read process %d: %w", pid, err)
	}
	start, ok := startInStat(string(stat))
	if !ok {
		return 0, fmt.Errorf("read process %d: its stat has no start time", pid)
	}
	return start, nil
}

// startInStat is the 22nd field of /proc/PID/stat (proc_pid_stat(5)). The second is a name that may hold anything, in
// parentheses.
func startInStat(stat string) (uint64, bool) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, false
	}
	const startField = 22 - 3 // counted from the field after the name
	fields := strings.Fields(stat[end+1:])
	if len(fields) <= startField {
		return 0, false
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	return start, err == nil
}

// processName is the name of a process, "" if it is gone.
func processName(pid int) string {
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(comm))
}

// signalNumber is the number of a signal by its name without SIG, as the journal has it; 0 if there is none.
func signalNumber(name string) int { return int(unix.SignalNum("SIG" + name)) }

func signalKnown(signal int) bool { return unix.SignalName(unix.Signal(signal)) != "" }
