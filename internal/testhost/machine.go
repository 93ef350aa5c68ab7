package testhost

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// patience bounds waiting for a machine that shares two cores with other work. Nothing waits as long when all is well.
	patience = 2 * time.Minute
	// lookAgain is the pause between two looks at a condition.
	lookAgain = 20 * time.Millisecond

	// exitReboot is what systemd-nspawn exits with when the machine asked for a reboot.
	exitReboot = 133
	// spawnRuntime is where systemd-nspawn keeps what it passes into machines.
	spawnRuntime = "/run/systemd/nspawn"
)

// machine is one boot of a host: a PID namespace with systemd-nspawn and, in one of its own, the PID 1 that it started.
type machine struct {
	outer  int // unshare
	leader int
	group  []string // its control groups
	ended  chan struct{}
	exit   int // once ended is closed
}

// power starts a machine on the tree at root. Everything of it dies with this process.
func power(name, root, console string) (*machine, error) {
	if err := os.MkdirAll(spawnRuntime, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of systemd-nspawn: %w", err)
	}
	log, err := os.OpenFile(console, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	defer log.Close()
	m := &machine{ended: make(chan struct{})}
	if m.group, err = controlGroups(filepath.Dir(root)); err != nil {
		return nil, err
	}
	for _, group := range m.group {
		if err := os.MkdirAll(group, 0o755); err != nil {
			return nil, fmt.Errorf("make control group: %w", err)
		}
	}
	// The shell enters the control groups before there is anything to move. Two machines in one group would take each
	// other's for their own.
	enter := `for group do shift; [ "$group" != -- ] || break; echo $$ >"$group/cgroup.procs" || exit 1; done; exec "$@"`
	args := append([]string{"-c", enter, "sh"}, m.group...)
	// A machine outlives systemd-nspawn, but not the PID namespace that both are in, and unshare takes that with it.
	args = append(args, "--", "unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child", "systemd-nspawn", "--quiet", "--directory="+root, "--machine="+name, "--boot", "--register=no", "--keep-unit",
		"--private-network", "--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=read-only")
	cmd := exec.Command("/bin/sh", args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}

	started := make(chan error)
	go func() {
		// The kernel kills the child with the thread that started it, so the thread stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is in ProcessState
		m.exit = cmd.ProcessState.ExitCode()
		close(m.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start systemd-nspawn: %w", err)
	}
	m.outer = cmd.Process.Pid
	return m, m.findLeader()
}

// findLeader waits until the machine's PID 1 is systemd.
func (m *machine) findLeader() error {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		for _, nspawn := range childrenOf(m.outer) {
			for _, child := range childrenOf(nspawn) {
				if isInit(child) {
					m.leader = child
					return nil
				}
			}
		}
		select {
		case <-m.ended:
			return fmt.Errorf("systemd-nspawn ended with %d before the machine was up", m.exit)
		case <-time.After(lookAgain):
		}
	}
	m.kill()
	return errors.New("the machine has no PID 1")
}

// isInit reports whether a process is the first of a PID namespace, and systemd already.
func isInit(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	systemd, first := false, false
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "Name:":
			systemd = fields[1] == "systemd"
		case len(fields) > 2 && fields[0] == "NSpid:":
			first = fields[len(fields)-1] == "1"
		}
	}
	return systemd && first
}

// kill takes the power from the machine: every process of it is killed, and gone when it returns.
func (m *machine) kill() {
	_ = syscall.Kill(m.outer, syscall.SIGKILL)
	<-m.ended
	for _, group := range m.group {
		killControlGroup(group)
	}
	m.clear()
}

// isRunning reports whether a process has not ended. The first of a PID namespace ends when all the others are gone; when it is
// waited for is its new parent's business.
func isRunning(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// clear removes the control groups of a machine that has ended.
func (m *machine) clear() {
	for _, group := range m.group {
		removeControlGroup(group)
	}
}

// controlGroups are the groups of the machine with that work directory, one in each hierarchy that systemd-nspawn looks at.
func controlGroups(dir string) ([]string, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer mounts.Close()
	var groups []string
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mounted, kind := strings.Fields(before), strings.Fields(after)
		if len(mounted) < 5 || len(kind) < 3 || (kind[0] != "cgroup2" && !strings.Contains(kind[2], "name=systemd")) {
			continue
		}
		groups = append(groups, filepath.Join(mounted[4], "nixfleet-testhost-"+filepath.Base(dir)))
	}
	if len(groups) == 0 {
		return nil, errors.New("find control groups: no hierarchy is mounted")
	}
	return groups, nil
}

// killControlGroup kills what is in a group and in those below it, and returns when it is gone.
func killControlGroup(group string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		alive := false
		_ = filepath.WalkDir(group, func(at string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return nil //nolint:nilerr // a group that is gone has no processes
			}
			processes, err := os.ReadFile(at)
			if err != nil {
				return nil //nolint:nilerr // as above
			}
			for word := range strings.FieldsSeq(string(processes)) {
				if pid, err := strconv.Atoi(word); err == nil && isRunning(pid) {
					alive = true
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			return nil
		})
		if !alive {
			return
		}
	}
}

func removeControlGroup(group string) {
	children, err := os.ReadDir(group)
	if err != nil {
		return
	}
	for _, child := range children {
		if child.IsDir() {
			removeControlGroup(filepath.Join(group, child.Name()))
		}
	}
	_ = syscall.Rmdir(group) // what is left is an empty directory of the kernel's
}

func childrenOf(pid int) []int {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	var children []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
