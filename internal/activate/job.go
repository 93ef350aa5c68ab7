package activate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// jobPrefix begins the name of every job, and of its unit.
	jobPrefix = "nixfleet-"
	// rolloutHashBytes of the rollout's hash are in a job's name: 48 bits, for the handful of rollouts that a host keeps.
	rolloutHashBytes = 6

	// pollFirst and pollMost bound the pause between two looks at a job. A look reads two files; a profile is set in some
	// milliseconds, a switch takes seconds at least.
	pollFirst = 20 * time.Millisecond
	pollMost  = time.Second

	// watchPause is how often the output of a job is looked at while it runs, watchFirst when first. Where there is a journal,
	// a look is a run of journalctl.
	watchPause = 2 * time.Second
	watchFirst = 500 * time.Millisecond

	// tailLines are kept of a job's output: enough for the list of failed units and their status that
	// switch-to-configuration ends with.
	tailLines = 100
	// maxTail bounds the bytes of a tail. It is stored with the rollout and sent in an event.
	maxTail = 16 << 10
)

// JobID names one attempt at one step of a rollout. It is never used twice.
type JobID struct {
	Rollout string
	Attempt int
	Step    string // such as "switch"; letters, digits and dashes
}

// Name is the name of the attempt's directory and, with ".service", of its unit: "nixfleet-STEP-HASH-ATTEMPT".
func (id JobID) Name() string {
	return jobPrefix + id.Step + "-" + rolloutHash(id.Rollout) + "-" + strconv.Itoa(id.Attempt)
}

// rolloutHash stands for a rollout in names. Rollout ids hold characters that unit and file names may not.
func rolloutHash(rollout string) string {
	sum := sha256.Sum256([]byte(rollout))
	return hex.EncodeToString(sum[:rolloutHashBytes])
}

func (id JobID) validate() error {
	if id.Rollout == "" || id.Step == "" || id.Attempt <= 0 {
		return fmt.Errorf("name job %+v: rollout, step and attempt are needed", id)
	}
	if strings.ContainsFunc(id.Step, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		return fmt.Errorf("name job %+v: the step does not fit into a unit name", id)
	}
	return nil
}

// Job is a program to run outside of the agent.
type Job struct {
	ID          JobID
	Description string   // one line, for the unit
	Argv        []string // the program, as an absolute path of this process's file system, and its arguments
	Env         []string // the whole environment, as NAME=VALUE
	// Deadline is how long it may run. Then its processes are told to end, and killed when they do not. 0 is no limit.
	Deadline time.Duration
}

// ResultKind says how a program ended.
type ResultKind string

// The kinds of end.
const (
	KindExited   ResultKind = "exited"
	KindSignaled ResultKind = "signaled" // by a signal that was not its deadline's
	KindTimeout  ResultKind = "timeout"  // it was ended at its deadline
	// KindLost: it began, and how it ended is not known. The host went down, or everything of it was killed at once.
	KindLost ResultKind = "lost"
)

// Result is how an attempt ended. Tail is not stored with it.
type Result struct {
	Kind ResultKind `json:"kind"`
	// ExitCode is what the program exited with, -1 if it did not exit.
	ExitCode int `json:"exit_code"`
	// Signal ended the program, or told it to end; 0 if none did.
	Signal int `json:"signal,omitempty"`
	// InvocationID is systemd's id of the run, "" where systemd did not run it.
	InvocationID string    `json:"invocation_id,omitempty"`
	BootID       string    `json:"boot_id,omitempty"`
	StartedAt    time.Time `json:"started_at,omitzero"`
	// EndedAt is, with KindLost, when it was found so.
	EndedAt time.Time `json:"ended_at,omitzero"`
	// Note says in words what the fields do not, such as why the program could not be started.
	Note string `json:"note,omitempty"`

	// Tail is the end of the output.
	Tail string `json:"-"`
}

// Succeeded reports whether the program ran to its end and exited with 0.
func (r Result) Succeeded() bool { return r.Kind == KindExited && r.ExitCode == 0 }

// exitCode is the code of a program that exited by itself, else -1.
func (r Result) exitCode() int {
	if r.Kind != KindExited {
		return -1
	}
	return r.ExitCode
}

// words say how the program ended, as the end of a sentence.
func (r Result) words() string {
	var said string
	switch r.Kind {
	case KindExited:
		said = "ended with exit code " + strconv.Itoa(r.ExitCode)
	case KindSignaled:
		said = "was ended by " + signalName(r.Signal)
	case KindTimeout:
		said = "was ended at its deadline"
	case KindLost:
		said = "was cut off, and left no result"
	default:
		said = fmt.Sprintf("ended in an unknown way (%q)", r.Kind)
	}
	if r.Note != "" {
		said += " (" + r.Note + ")"
	}
	return said
}

func signalName(signal int) string {
	if name := unix.SignalName(unix.Signal(signal)); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(signal)
}

// JobState says where an attempt is.
type JobState string

// The states of an attempt.
const (
	JobAbsent  JobState = "absent"  // it has not begun: nothing was run
	JobRunning JobState = "running" // it runs, or is just being started
	JobEnded   JobState = "ended"   // its result is known
	JobLost    JobState = "lost"    // it began and does not run any more, and no result is there
)

// Observed is an attempt as it was found. Result is that of JobEnded and JobLost, without a tail.
type Observed struct {
	State  JobState
	Result Result
}

// Launcher runs jobs outside of the agent. Each of its methods may be called for an attempt that does not exist.
type Launcher interface {
	// Start starts an attempt. It succeeds without a second start if the attempt runs already.
	Start(ctx context.Context, job Job) error
	// Look finds out where an attempt is. An error means that this cannot be told now.
	Look(ctx context.Context, id JobID) (Observed, error)
	// Stop ends an attempt that runs, and returns when none of it runs any more.
	Stop(ctx context.Context, id JobID) error
	// Tail is the end of an attempt's output, "" if there is none.
	Tail(ctx context.Context, id JobID, lines int) string
	// Output is what an attempt wrote after a position, in whole lines and up to some bound, and the position after that. "" is
	// the beginning. Positions mean nothing to anybody else.
	Output(ctx context.Context, id JobID, after string) (text, next string)
	// Retire drops what a launcher holds of an attempt that has ended beside its result and its output.
	Retire(ctx context.Context, id JobID)
	// Forget drops everything of an attempt that does not run.
	Forget(ctx context.Context, id JobID) error
}

// errNeverBegan: an attempt that was started has neither begun nor runs.
var errNeverBegan = errors.New("the attempt ended before it began")

// Do brings a job to its end and returns how it ended: it starts an attempt that has not begun, attaches to one that runs,
// takes the result of one that has ended, and calls one lost that began and has no result.
//
// When ctx ends, Do returns its error and the job goes on.
func Do(ctx context.Context, l Launcher, job Job) (Result, error) {
	return do(ctx, l, job, nil)
}

// do is Do, and calls watch, if it is not nil, every watchPause or so while the job runs.
func do(ctx context.Context, l Launcher, job Job, watch func(context.Context)) (Result, error) {
	if err := job.ID.validate(); err != nil {
		return Result{}, err
	}
	started := false
	pause := pollFirst
	unwatched := watchPause - watchFirst
	for {
		seen, err := l.Look(ctx, job.ID)
		if err != nil {
			return Result{}, firstError(ctx.Err(), err)
		}
		switch seen.State {
		case JobEnded, JobLost:
			result := seen.Result
			if result.Tail == "" {
				result.Tail = l.Tail(ctx, job.ID, tailLines)
			}
			l.Retire(ctx, job.ID)
			return result, nil
		case JobAbsent:
			if started {
				return Result{}, fmt.Errorf("run %s: %w: %s", job.ID.Name(), errNeverBegan, l.Tail(ctx, job.ID, tailLines))
			}
			if err := ctx.Err(); err != nil {
				return Result{}, err
			}
			// Somebody else may have started it since; then it is found begun.
			if err := l.Start(ctx, job); err != nil && !errors.Is(err, errAlreadyStarted) {
				return Result{}, firstError(ctx.Err(), err)
			}
			started = true
			continue
		case JobRunning:
		default:
			return Result{}, fmt.Errorf("run %s: state %q is not known", job.ID.Name(), seen.State)
		}
		if unwatched += pause; watch != nil && unwatched >= watchPause {
			watch(ctx)
			unwatched = 0
		}
		if err := rest(ctx, pause); err != nil {
			return Result{}, err
		}
		pause = min(pause*3/2, pollMost)
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// rest lets d pass, or ends with ctx.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// lastLines is the end of a text: at most so many lines and so many bytes, cut at a line where there is one.
func lastLines(text string, lines, bytes int) string {
	text = strings.TrimRight(text, "\n")
	if len(text) > bytes {
		text = text[len(text)-bytes:]
		if _, rest, ok := strings.Cut(text, "\n"); ok {
			text = rest
		}
	}
	at := len(text)
	for range lines {
		if at = strings.LastIndexByte(text[:at], '\n'); at < 0 {
			return strings.ToValidUTF8(text, "\uFFFD")
		}
	}
	return strings.ToValidUTF8(text[at+1:], "\uFFFD")
}
