package activate_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

const switchLock = "/run/nixos/switch-to-configuration.lock"

// flockVerb is another tool that switches: it takes the lock, says so, and holds it until its input ends.
func flockVerb(file string) int {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// flockFDVerb takes the lock through a descriptor that it was handed.
func flockFDVerb(number string) int {
	fd, err := strconv.Atoi(number)
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// holdLock has a child process hold the lock, and returns it and what ends it.
func holdLock(t *testing.T, r *root) (pid int, release func()) {
	t.Helper()
	r.file(switchLock, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self, "flock", r.at(switchLock))
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	release = func() {
		_ = in.Close()
		_ = child.Wait()
	}
	t.Cleanup(release)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return child.Process.Pid, release
}

// nameOf is the name of a process, as the kernel has it.
func nameOf(t *testing.T, pid int) string {
	t.Helper()
	return strings.TrimSpace(content(t, fmt.Sprintf("/proc/%d/comm", pid)))
}

func TestLockHolder(t *testing.T) {
	r := newRoot(t, nixos())
	runner := r.runner()
	if got := runner.LockHolder(); got != "" {
		t.Errorf("without a lock file: %q", got)
	}
	r.file(switchLock, "")
	if got := runner.LockHolder(); got != "" {
		t.Errorf("nobody holds it: %q", got)
	}
	pid, release := holdLock(t, r)
	want := fmt.Sprintf("%s (pid %d)", nameOf(t, pid), pid)
	for range 2 { // asking does not take it
		if got := runner.LockHolder(); got != want {
			t.Errorf("held: got %q, want %q", got, want)
		}
	}
	release()
	if got := runner.LockHolder(); got != "" {
		t.Errorf("released: %q", got)
	}
}

// A lock stays with a descriptor: who took it may be gone, and what he started still hold it.
func TestLockIsHeldByAnHeir(t *testing.T) {
	r := newRoot(t, nixos())
	r.file(switchLock, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(r.at(switchLock), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidFile := r.at("/heir")
	// The shell that is told to lock does so through a descriptor that it has been handed, and ends; its child keeps that.
	child := exec.Command("/bin/sh", "-c", quoted(self)+" flock-fd 3 && { sleep 1000 >/dev/null 2>&1 & echo $! >"+quoted(pidFile)+"; }")
	child.ExtraFiles = []*os.File{f}
	out, err := child.CombinedOutput()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	heir := pidIn(t, pidFile)
	kill := func() { _ = unix.Kill(heir, unix.SIGKILL) }
	t.Cleanup(kill)
	runner := r.runner()
	if got, want := runner.LockHolder(), fmt.Sprintf("sleep (pid %d)", heir); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	kill()
	eventually(t, "the lock is free", func() bool { return runner.LockHolder() == "" })
}

// What a switch leaves behind counts only when no switch is there that would take it up.
func TestSwitchUnfinished(t *testing.T) {
	r := newRoot(t, nixos())
	runner := r.runner()
	if runner.SwitchUnfinished() {
		t.Error("on a quiet host")
	}
	r.file("/run/nixos/start-list", "")
	if runner.SwitchUnfinished() {
		t.Error("an empty list counts")
	}
	r.file("/run/nixos/restart-list", "sshd.service\n")
	if !runner.SwitchUnfinished() {
		t.Error("a list does not count")
	}
	_, release := holdLock(t, r)
	if runner.SwitchUnfinished() {
		t.Error("a list counts while a switch is under way")
	}
	release()
	if !runner.SwitchUnfinished() {
		t.Error("a list does not count after the switch")
	}
}

func TestCheckWaitsForTheLock(t *testing.T) {
	r := newRoot(t, nixos())
	other := nixos()
	other.label = "26.11"
	target := r.add(other)
	runner := r.runner()
	pid, release := holdLock(t, r)
	f := failureOf(t, runner.Check(within(t), target, activate.CheckOptions{}))
	if f.Reason != activate.ReasonBusy || !f.Retryable || !strings.Contains(f.Detail, fmt.Sprintf("(pid %d)", pid)) {
		t.Errorf("got %+v", f)
	}
	release()
	if err := runner.Check(within(t), target, activate.CheckOptions{}); err != nil {
		t.Errorf("got %v", err)
	}
}
