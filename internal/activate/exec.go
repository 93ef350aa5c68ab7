package activate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
)

// Exec is the Launcher for a root directory below which no service manager runs. An attempt is a process in a session of its
// own, which outlives the agent; its output is a file in its directory. It runs as long as its lock is held: the lock is
// taken before the process is made, and handed to it.
type Exec struct {
	attempts AttemptOptions

	mu       sync.Mutex
	children map[JobID]*exec.Cmd // started by this agent and not yet waited for
}

// NewExec returns a launcher of processes.
func NewExec(attempts AttemptOptions) *Exec {
	return &Exec{attempts: attempts, children: make(map[JobID]*exec.Cmd)}
}

// childLockFD is the first descriptor after standard error, where a child finds what is handed to it.
const childLockFD = 3

// Start starts an attempt.
func (e *Exec) Start(_ context.Context, job Job) error {
	dir := e.attempts.dir(job.ID)
	bootID, err := e.attempts.Host.BootID()
	if err != nil {
		return err
	}
	if err := dir.create(); err != nil {
		return err
	}
	lock, err := dir.hold()
	if lock == nil || err != nil {
		return err
	}
	defer lock.Close()
	if _, begun, err := dir.marker(); err != nil || begun {
		return errors.Join(err, fmt.Errorf("start %s: %w", job.ID.Name(), errAlreadyStarted))
	}
	output, err := os.OpenFile(dir.file(outputFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open output of attempt: %w", err)
	}
	defer output.Close()

	argv := e.attempts.argv(job, bootID, childLockFD)
	child := exec.Command(argv[0], argv[1:]...)
	child.Dir, child.Env = "/", job.Env
	if child.Env == nil {
		child.Env = []string{}
	}
	child.Stdout, child.Stderr = output, output
	child.ExtraFiles = []*os.File{lock}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start %s: %w", job.ID.Name(), err)
	}
	e.mu.Lock()
	e.children[job.ID] = child
	e.mu.Unlock()
	return nil
}

// Look finds out where an attempt is, from its files.
func (e *Exec) Look(_ context.Context, id JobID) (Observed, error) {
	seen, _, err := e.attempts.look(id)
	return seen, err
}

// Stop ends an attempt that runs.
func (e *Exec) Stop(ctx context.Context, id JobID) error {
	dir := e.attempts.dir(id)
	pause := pollFirst
	for {
		seen, m, err := e.attempts.look(id)
		if err != nil {
			return err
		}
		if seen.State != JobRunning {
			break
		}
		if m.PID > 0 { // before that it has not made its marker yet
			if err := stopBody(m); err != nil {
				return err
			}
			break
		}
		if err := rest(ctx, pause); err != nil {
			return err
		}
	}
	return dir.awaitFree(ctx)
}

// Tail is the end of an attempt's output.
func (e *Exec) Tail(_ context.Context, id JobID, lines int) string {
	f, err := os.Open(e.attempts.dir(id).file(outputFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, err = f.Seek(max(0, end-maxTail), io.SeekStart)
		if err != nil {
			return ""
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxTail))
	if err != nil {
		return ""
	}
	return lastLines(string(text), lines, maxTail)
}

// maxOutput bounds what one look at an output reads.
const maxOutput = 256 << 10

// Output is what an attempt wrote after a position, which is an offset in its file.
func (e *Exec) Output(_ context.Context, id JobID, after string) (text, next string) {
	offset, err := strconv.ParseInt(after, 10, 64)
	if err != nil || offset < 0 {
		offset = 0
	}
	f, err := os.Open(e.attempts.dir(id).file(outputFile))
	if err != nil {
		return "", after
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, offset, maxOutput))
	if err != nil {
		return "", after
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	if whole == 0 && len(data) == maxOutput {
		whole = len(data) // no line is that long; it is passed over
	}
	return string(data[:whole]), strconv.FormatInt(offset+int64(whole), 10)
}

// Retire waits for the process of an attempt that has ended.
func (e *Exec) Retire(ctx context.Context, id JobID) {
	if e.attempts.dir(id).awaitFree(ctx) != nil {
		return
	}
	e.mu.Lock()
	child := e.children[id]
	delete(e.children, id)
	e.mu.Unlock()
	if child != nil {
		_ = child.Wait() // its end is in the result
	}
}

// Forget removes an attempt's directory.
func (e *Exec) Forget(ctx context.Context, id JobID) error {
	dir := e.attempts.dir(id)
	if _, err := os.Stat(string(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	e.Retire(ctx, id)
	return dir.forget()
}
