package activate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// The files of an attempt's directory.
const (
	lockFile   = "lock"    // locked as long as the attempt's body runs
	markerFile = "started" // exists from before the program runs
	resultFile = "result"  // exists from when it has ended
	outputFile = "output"  // what it wrote, where there is no journal

	// attemptsDir is where the attempts are, below the state directory.
	attemptsDir = "attempts"

	// maxAttemptFile bounds what is read of a marker or a result; they are some hundred bytes.
	maxAttemptFile = 64 << 10
)

// AttemptOptions is what a launcher makes attempts with.
type AttemptOptions struct {
	StateDir   string           // the agent's state directory on this machine's file system
	Executable string           // the agent's own binary, whose verb "attempt" is the body of every attempt
	Host       *system.Host     // the host whose boot id attempts are stamped with
	Now        func() time.Time // says when an attempt was found lost
}

// attemptDir is the directory of one attempt.
type attemptDir string

func (o AttemptOptions) dir(id JobID) attemptDir {
	return attemptDir(filepath.Join(o.StateDir, attemptsDir, id.Name()))
}

func (d attemptDir) file(name string) string { return filepath.Join(string(d), name) }

// marker is what an attempt leaves before it runs its program. That it exists is what counts: it may be empty if the host
// went down just then.
type marker struct {
	PID          int       `json:"pid"`
	PIDStart     uint64    `json:"pid_start"` // start time of that process, in clock ticks since boot
	BootID       string    `json:"boot_id"`
	InvocationID string    `json:"invocation_id,omitempty"`
	StartedAt    time.Time `json:"started_at"`
}

// create makes the directory, durably.
func (d attemptDir) create() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make directory of attempt: %w", err)
	}
	parent := filepath.Dir(string(d))
	for _, dir := range []string{parent, filepath.Dir(parent)} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// errAlreadyStarted: the marker was there already.
var errAlreadyStarted = errors.New("this attempt was started before")

// mark makes the marker. It fails with errAlreadyStarted if there is one.
func (d attemptDir) mark(m marker) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode marker: %w", err)
	}
	err = writeSynced(d.file(markerFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, append(data, '\n'))
	if errors.Is(err, fs.ErrExist) {
		return errAlreadyStarted
	}
	if err == nil {
		err = syncDir(string(d))
	}
	if err != nil {
		// It is this process's own, and nothing has run under it.
		return errors.Join(fmt.Errorf("write marker: %w", err), os.Remove(d.file(markerFile)))
	}
	return nil
}

// finish stores the result.
func (d attemptDir) finish(r Result) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	temporary := d.file(resultFile + ".new")
	if err := writeSynced(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, append(data, '\n')); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if err := os.Rename(temporary, d.file(resultFile)); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return syncDir(string(d))
}

// marker reads the marker; found is that it exists, whatever is in it.
func (d attemptDir) marker() (m marker, found bool, err error) {
	data, err := readBounded(d.file(markerFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return marker{}, false, nil
	case err != nil:
		return marker{}, false, fmt.Errorf("read marker: %w", err)
	}
	if json.Unmarshal(data, &m) != nil {
		m = marker{}
	}
	return m, true, nil
}

// trace is what the files of an attempt say of it.
type trace struct {
	marker marker
	begun  bool // there is a marker, or something in the place of a result
	result Result
	ended  bool // the result is whole and this attempt's
}

// trace reads the files. The marker is read last: it is there before any result.
func (d attemptDir) trace() (trace, error) {
	data, err := readBounded(d.file(resultFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return trace{}, fmt.Errorf("read result: %w", err)
	}
	m, begun, markerErr := d.marker()
	if markerErr != nil {
		return trace{}, markerErr
	}
	t := trace{marker: m, begun: begun || err == nil}
	t.result, t.ended = verified(data, m)
	return t, nil
}

// verified reads a result, and takes none that is not whole or that the attempt of this marker did not leave: zeros would
// read as a success. It is synced before it gets its name, so a result that makes no sense has been damaged since.
func verified(data []byte, m marker) (Result, bool) {
	var stored struct {
		Result
		ExitCode *int `json:"exit_code"`
	}
	if json.Unmarshal(data, &stored) != nil || stored.ExitCode == nil {
		return Result{}, false
	}
	r := stored.Result
	r.ExitCode = *stored.ExitCode
	if m.StartedAt.IsZero() || !r.StartedAt.Equal(m.StartedAt) || r.EndedAt.IsZero() || r.BootID != m.BootID || r.InvocationID != m.InvocationID {
		return Result{}, false
	}
	switch r.Kind {
	case KindExited:
		return r, r.ExitCode >= 0
	case KindSignaled, KindTimeout:
		return r, r.Signal > 0
	default:
		return Result{}, false
	}
}

// look finds out from the files alone where an attempt is. JobAbsent may mean that its body has not come as far as its lock.
//
// An attempt holds its lock from before it makes its marker until after it has written its result. So one that had begun
// before its lock was found free has ended; one that had not may have begun since, and is not to be called lost.
func (o AttemptOptions) look(id JobID) (Observed, marker, error) {
	d := o.dir(id)
	before, err := d.trace()
	switch {
	case err != nil:
		return Observed{}, marker{}, err
	case before.ended:
		return Observed{State: JobEnded, Result: before.result}, before.marker, nil
	}
	held, err := d.held()
	switch {
	case err != nil:
		return Observed{}, marker{}, err
	case held:
		return Observed{State: JobRunning}, before.marker, nil
	case !before.begun:
		return Observed{State: JobAbsent}, marker{}, nil
	}
	after, err := d.trace()
	switch {
	case err != nil:
		return Observed{}, marker{}, err
	case after.ended:
		return Observed{State: JobEnded, Result: after.result}, after.marker, nil
	default:
		return Observed{State: JobLost, Result: o.lost(after.marker)}, after.marker, nil
	}
}

func (o AttemptOptions) lost(m marker) Result {
	return Result{Kind: KindLost, ExitCode: -1, InvocationID: m.InvocationID, BootID: m.BootID, StartedAt: m.StartedAt, EndedAt: o.Now()}
}

// hold opens the lock file and locks it for as long as the file, or a copy of it in a child process, is open. It returns nil
// without an error if somebody else holds it.
func (d attemptDir) hold() (*os.File, error) {
	f, err := os.OpenFile(d.file(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of attempt: %w", err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	switch err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return nil, f.Close()
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock attempt: %w", err), f.Close())
	}
	return f, nil
}

// held reports whether the attempt's lock is held. It asks and does not lock: a look must not be in the way of a start.
func (d attemptDir) held() (bool, error) {
	f, err := os.OpenFile(d.file(lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock of attempt: %w", err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("query lock of attempt: %w", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// forget removes the directory of an attempt that does not run.
func (d attemptDir) forget() error {
	held, err := d.held()
	switch {
	case err != nil:
		return err
	case held:
		return fmt.Errorf("forget attempt %s: it runs", filepath.Base(string(d)))
	}
	if err := os.RemoveAll(string(d)); err != nil {
		return fmt.Errorf("forget attempt: %w", err)
	}
	return nil
}

// argv is the command line of an attempt's body.
func (o AttemptOptions) argv(job Job, bootID string, lockFD int) []string {
	argv := []string{o.Executable, "attempt", "--dir", string(o.dir(job.ID)), "--boot-id", bootID}
	if job.Deadline > 0 {
		argv = append(argv, "--deadline", job.Deadline.String())
	}
	if lockFD > 0 {
		argv = append(argv, "--lock-fd", strconv.Itoa(lockFD))
	}
	return append(append(argv, "--"), job.Argv...)
}

// stopBody tells the body of an attempt to end, by the process that its marker names if that is still the same one.
func stopBody(m marker) error {
	if m.PID <= 0 {
		return nil
	}
	start, err := processStart(m.PID)
	if err != nil || start != m.PIDStart {
		return nil //nolint:nilerr // a process that is gone needs no telling
	}
	if err := unix.Kill(m.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop attempt: %w", err)
	}
	return nil
}

// awaitFree waits until an attempt's lock is free.
func (d attemptDir) awaitFree(ctx context.Context) error {
	pause := pollFirst
	for {
		held, err := d.held()
		if err != nil || !held {
			return err
		}
		if err := rest(ctx, pause); err != nil {
			return err
		}
		pause = min(pause*3/2, pollMost)
	}
}

func writeSynced(file string, flags int, data []byte) error {
	f, err := os.OpenFile(file, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxAttemptFile || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not what an attempt leaves", file)
	}
	return os.ReadFile(file)
}

// attemptsOf lists the attempts of a rollout that have a directory.
func attemptsOf(stateDir, rollout string) ([]JobID, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, attemptsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	var ids []JobID
	for _, entry := range entries {
		step, number, ok := strings.Cut(strings.TrimPrefix(entry.Name(), jobPrefix), "-"+rolloutHash(rollout)+"-")
		attempt, err := strconv.Atoi(number)
		id := JobID{Rollout: rollout, Step: step, Attempt: attempt}
		if ok && err == nil && id.Name() == entry.Name() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
