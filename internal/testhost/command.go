package testhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// commandTimeout bounds one command. It is longer than any call to PID 1 takes to time out.
const commandTimeout = 2 * time.Minute

// environment is what commands find in a host.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LC_ALL=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0",
}

// Result is how a command ended.
type Result struct {
	Code   int // -1 if it was killed, or the host went down
	Stdout string
	Stderr string
}

func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.Code, strings.TrimSpace(r.Stdout), strings.TrimSpace(r.Stderr))
}

// Exec runs a command in the host, as root, and returns how it ended. On a host that is off it runs in its tree.
func (h *Host) Exec(argv ...string) Result {
	h.tb.Helper()
	// Not the test's own context: a test that has failed looks at its host when that has ended.
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := h.command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Start()
	if err == nil {
		done := make(chan struct{})
		go keepAwake(cmd.Process, done)
		err = cmd.Wait()
		close(done)
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		h.tb.Fatalf("%s: %q has not ended in %s\nstdout: %s\nstderr: %s", h.name, argv, commandTimeout, stdout.String(), stderr.String())
	case err != nil && !errors.As(err, &exit):
		h.tb.Fatalf("%s: run %q: %v", h.name, argv, err)
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// awakeInterval is how long a command may stay stopped.
const awakeInterval = 100 * time.Millisecond

// keepAwake wakes nsenter, which stops itself when the command that it waits for is stopped, as everything is for a moment in a
// soft reboot, and which nobody else would wake.
func keepAwake(p *os.Process, done <-chan struct{}) {
	tick := time.NewTicker(awakeInterval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			_ = p.Signal(syscall.SIGCONT) // it may have ended just now
		}
	}
}

func (h *Host) command(ctx context.Context, argv ...string) *exec.Cmd {
	var cmd *exec.Cmd
	if h.machine != nil {
		target := strconv.Itoa(h.machine.leader)
		// The programs of this machine are found on its own PATH, those of the host on the host's.
		enter := []string{"--target", target, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--", "/usr/bin/env"}
		cmd = exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
	} else {
		// Nix wants a /proc.
		enter := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc=" + h.root + "/proc", "chroot", h.root, "/usr/bin/env"}
		cmd = exec.CommandContext(ctx, "unshare", append(enter, argv...)...)
	}
	cmd.Env = environment
	cmd.WaitDelay = time.Second // what a killed command left behind may hold its output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Run runs a command that must succeed and returns its output.
func (h *Host) Run(argv ...string) string {
	h.tb.Helper()
	result := h.Exec(argv...)
	if result.Code != 0 {
		h.tb.Fatalf("%s: %q: %s", h.name, argv, result)
	}
	return result.Stdout
}

// Shell runs a script that must succeed and returns its output.
func (h *Host) Shell(script string) string {
	h.tb.Helper()
	return h.Run("/bin/sh", "-ec", script)
}

// Journal is what the host's journal holds, as `journalctl -o cat` of these arguments prints it.
func (h *Host) Journal(args ...string) string {
	h.tb.Helper()
	return h.Run(append([]string{"journalctl", "--quiet", "--no-pager", "--output=cat"}, args...)...)
}

// Property is a property of a unit, as systemd knows it.
func (h *Host) Property(unit, name string) string {
	h.tb.Helper()
	return strings.TrimSpace(h.Run("systemctl", "show", "--property="+name, "--value", unit))
}

// Eventually waits until a condition holds. What the condition says while it does not is in the failure.
func (h *Host) Eventually(what string, holds func() (said string, ok bool)) {
	h.tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		said, ok := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			h.tb.Fatalf("%s: not so in %s: %s\nlast seen: %s\n%s", h.name, patience, what, said, h.Console())
		}
		time.Sleep(lookAgain)
	}
}
