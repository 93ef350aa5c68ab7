package activate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of the verb "attempt" that are not its program's. They only help who reads a unit; the result is what counts.
const (
	// ExitNotRun: nothing was run, since the attempt was started before or could not be marked.
	ExitNotRun = 250
	// exitTimeout is what coreutils' timeout exits with, too.
	exitTimeout = 124
	// exitCannotRun is what a shell exits with for a program that cannot be started.
	exitCannotRun = 127
	// exitSignaled is what a shell adds to the number of a signal.
	exitSignaled = 128
)

const (
	// stopGrace is how long processes that were told to end may take, before they are killed. It is shorter than the
	// unit's TimeoutStopSec, so that the result is written before PID 1 kills all there is.
	stopGrace = 20 * time.Second
	// groupPoll is how often the rest of a process group that was told to end is looked for.
	groupPoll = 50 * time.Millisecond
	// resultPatience bounds how long a full disk is waited for with a result in hand, resultPause how often it is tried.
	resultPatience = 30 * time.Second
	resultPause    = 500 * time.Millisecond
)

// Attempt is what the verb "attempt" is run with.
type Attempt struct {
	Dir    string // --dir: the attempt's directory
	BootID string // --boot-id: the host's boot id
	// Deadline is --deadline, 0 for none.
	Deadline time.Duration
	// LockFD is --lock-fd: a descriptor of the attempt's lock that is held already, 0 if there is none.
	LockFD int
	Now    func() time.Time
}

// RunAttempt is the body of an attempt. It marks the attempt as started, which it does only once ever, runs the program with
// its own environment, standard output and standard error, and stores the result. It returns the exit code for the process:
// the program's own, 128+n if signal n ended it, 124 after its deadline, and ExitNotRun, with an error, if nothing was run.
//
// A SIGTERM, SIGINT or SIGHUP to this process, or the end of ctx, is passed on to everything in the program's process group
// as a SIGTERM, as is the deadline; what is left of it after a grace is killed. The program does not outlive this process.
func RunAttempt(ctx context.Context, a Attempt, argv []string) (int, error) {
	if len(argv) == 0 {
		return ExitNotRun, errors.New("run attempt: no program was given")
	}
	// The kernel ends the program with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	told := make(chan os.Signal, 1)
	signal.Notify(told, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(told)

	dir := attemptDir(a.Dir)
	lock, err := a.lock(dir)
	if err != nil {
		return ExitNotRun, fmt.Errorf("run attempt: %w", err)
	}
	defer lock.Close()
	result := Result{ExitCode: -1, InvocationID: os.Getenv("INVOCATION_ID"), BootID: a.BootID, StartedAt: a.Now()}
	if err := a.mark(dir, result); err != nil {
		return ExitNotRun, fmt.Errorf("run attempt: %w", err)
	}
	a.run(ctx, argv, told, &result)
	result.EndedAt = a.Now()
	return mirrored(result), storeResult(ctx, dir, result)
}

func (a Attempt) lock(dir attemptDir) (*os.File, error) {
	if a.LockFD > 0 {
		// The program must not hold it: what it leaves behind would look like the attempt.
		unix.CloseOnExec(a.LockFD)
		return os.NewFile(uintptr(a.LockFD), lockFile), nil
	}
	lock, err := dir.hold()
	if err == nil && lock == nil {
		err = errAlreadyStarted
	}
	return lock, err
}

func (a Attempt) mark(dir attemptDir, r Result) error {
	m := marker{PID: os.Getpid(), BootID: r.BootID, InvocationID: r.InvocationID, StartedAt: r.StartedAt}
	var err error
	if m.PIDStart, err = processStart(m.PID); err != nil {
		return err
	}
	return dir.mark(m)
}

// run runs the program to its end and notes how it ended.
func (a Attempt) run(ctx context.Context, argv []string, told <-chan os.Signal, result *Result) {
	program := exec.Command(argv[0], argv[1:]...)
	program.Stdout, program.Stderr = os.Stdout, os.Stderr
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := program.Start(); err != nil {
		result.Kind, result.ExitCode, result.Note = KindExited, exitCannotRun, err.Error()
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = program.Wait() // how it ended is in its ProcessState
	}()

	var deadline <-chan time.Time
	if a.Deadline > 0 {
		timer := time.NewTimer(a.Deadline)
		defer timer.Stop()
		deadline = timer.C
	}
	var stopped ResultKind
	var by unix.Signal
	select {
	case <-ended:
	case <-deadline:
		stopped, by = KindTimeout, unix.SIGTERM
	case sig := <-told:
		stopped, by = KindSignaled, asUnix(sig)
	case <-ctx.Done():
		stopped, by = KindSignaled, unix.SIGTERM
	}
	if stopped != "" {
		endGroup(program.Process.Pid, ended)
	}
	result.note(program.ProcessState)
	if stopped != "" {
		result.Kind = stopped
		result.Signal = int(by)
	}
}

func asUnix(sig os.Signal) unix.Signal {
	if s, ok := sig.(syscall.Signal); ok {
		return s
	}
	return unix.SIGTERM
}

// endGroup ends a process group, whose leader has ended when ended is closed: politely, and after a grace without.
func endGroup(group int, ended <-chan struct{}) {
	_ = unix.Kill(-group, unix.SIGTERM) // it may be gone
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	look := time.NewTicker(groupPoll)
	defer look.Stop()
	leader := ended
	for leader != nil || unix.Kill(-group, 0) == nil {
		select {
		case <-leader:
			leader = nil
		case <-look.C:
		case <-grace.C:
			_ = unix.Kill(-group, unix.SIGKILL)
			if leader != nil {
				<-leader
			}
			return
		}
	}
}

func (r *Result) note(state *os.ProcessState) {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		r.Kind, r.Signal = KindSignaled, int(status.Signal())
	default:
		r.Kind, r.ExitCode = KindExited, state.ExitCode()
	}
}

// mirrored is the exit code that shows a result.
func mirrored(r Result) int {
	switch r.Kind {
	case KindTimeout:
		return exitTimeout
	case KindSignaled:
		return exitSignaled + r.Signal
	default:
		return r.ExitCode
	}
}

// storeResult writes the result, for a while also against a full disk: without it the attempt counts as lost. The end of ctx
// does not end that wait, since it may be what ended the program.
func storeResult(ctx context.Context, dir attemptDir, r Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultPatience)
	defer cancel()
	for {
		err := dir.finish(r)
		if err == nil || !(errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
			return err
		}
		if rest(ctx, resultPause) != nil {
			return err
		}
	}
}
