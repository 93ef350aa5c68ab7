package activate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// now is the clock of what is made here.
var now = time.Now

// patience is how long a test waits for something that takes no time on a machine that is not busy.
const patience = time.Minute

func execLauncher(stateDir, root string) *activate.Exec {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return activate.NewExec(activate.AttemptOptions{StateDir: stateDir, Executable: self, Host: system.New(root), Now: time.Now})
}

// bench is a place where attempts are run: a state directory and a root that has a boot id and nothing else.
type bench struct {
	t        *testing.T
	state    string
	root     string
	launcher *activate.Exec
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, state: t.TempDir(), root: t.TempDir()}
	b.write(filepath.Join(b.root, "proc/sys/kernel/random/boot_id"), "11111111-2222-3333-4444-555555555555\n")
	b.launcher = execLauncher(b.state, b.root)
	return b
}

func (b *bench) write(file, content string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func jobOf(argv ...string) activate.Job {
	return activate.Job{
		ID:   activate.JobID{Rollout: "stable@abc", Attempt: 1, Step: "switch"},
		Argv: argv, Env: []string{"PATH=" + os.Getenv("PATH")},
	}
}

func shell(script string, args ...string) activate.Job {
	return jobOf(append([]string{"/bin/sh", "-c", script, "sh"}, args...)...)
}

func (b *bench) attemptDir(job activate.Job) string {
	return filepath.Join(b.state, "attempts", job.ID.Name())
}

func (b *bench) do(job activate.Job) activate.Result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := activate.Do(ctx, b.launcher, job)
	if err != nil {
		b.t.Fatalf("Do: %v", err)
	}
	return result
}

func (b *bench) start(job activate.Job) {
	b.t.Helper()
	if err := b.launcher.Start(context.Background(), job); err != nil {
		b.t.Fatalf("Start: %v", err)
	}
}

func (b *bench) look(job activate.Job) activate.Observed {
	b.t.Helper()
	seen, err := b.launcher.Look(context.Background(), job.ID)
	if err != nil {
		b.t.Fatalf("Look: %v", err)
	}
	return seen
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	var pid int
	eventually(t, file+" holds a process id", func() bool {
		data, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(data), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	return pid
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

func TestAttemptEndsAsItsProgramDoes(t *testing.T) {
	tests := []struct {
		name   string
		job    activate.Job
		kind   activate.ResultKind
		exit   int
		signal int
		tail   string
	}{
		{"success", shell("echo done"), activate.KindExited, 0, 0, "done"},
		{"exit code", shell("echo bad >&2; exit 4"), activate.KindExited, 4, 0, "bad"},
		{"signal", shell("kill -KILL $$"), activate.KindSignaled, -1, 9, ""},
		{"no such program", jobOf("/nonexistent/program"), activate.KindExited, 127, 0, ""},
		{"only the end of the output", shell("seq 1 100000; exit 1"), activate.KindExited, 1, 0, "100000"},
		{"standard input is empty", shell("cat; echo $?"), activate.KindExited, 0, 0, "0"},
		{"only the given environment", shell("env | grep -c SECRET; echo end"), activate.KindExited, 0, 0, "0\nend"},
	}
	t.Setenv("SECRET", "1")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			got := b.do(test.job)
			if got.Kind != test.kind || got.ExitCode != test.exit || got.Signal != test.signal {
				t.Errorf("got %s %d signal %d, want %s %d signal %d", got.Kind, got.ExitCode, got.Signal, test.kind, test.exit, test.signal)
			}
			if !strings.HasSuffix(got.Tail, test.tail) {
				t.Errorf("tail is %q, want an end of %q", got.Tail, test.tail)
			}
			if lines := strings.Count(got.Tail, "\n") + 1; lines > 100 || len(got.Tail) > 16<<10 {
				t.Errorf("tail has %d lines and %d bytes", lines, len(got.Tail))
			}
			if got.BootID != "11111111-2222-3333-4444-555555555555" || got.StartedAt.IsZero() || got.EndedAt.Before(got.StartedAt) {
				t.Errorf("stamps are wrong: %+v", got)
			}
		})
	}
}

func TestAttemptRunsOnce(t *testing.T) {
	b := newBench(t)
	ran := filepath.Join(b.root, "ran")
	job := shell("echo ran >>"+ran+"; exit 3", "")
	for range 3 {
		if got := b.do(job); got.ExitCode != 3 {
			t.Fatalf("got %+v", got)
		}
	}
	b.launcher = execLauncher(b.state, b.root) // an agent that was started anew
	if got := b.do(job); got.ExitCode != 3 {
		t.Fatalf("got %+v", got)
	}
	if err := b.launcher.Start(context.Background(), job); err == nil {
		t.Error("a second start of the attempt succeeded")
	}
	if got := content(t, ran); got != "ran\n" {
		t.Errorf("the program ran more than once: %q", got)
	}
	job.ID.Attempt++
	b.do(job)
	if got := content(t, ran); got != "ran\nran\n" {
		t.Errorf("another attempt did not run once: %q", got)
	}
}

func TestBodyRefusesMarkedAttempt(t *testing.T) {
	b := newBench(t)
	job := shell("touch " + filepath.Join(b.root, "ran"))
	dir := b.attemptDir(job)
	b.write(filepath.Join(dir, "started"), "{}")
	code, err := activate.RunAttempt(context.Background(), activate.Attempt{Dir: dir, Now: time.Now}, job.Argv)
	if code != activate.ExitNotRun || err == nil {
		t.Errorf("got %d, %v", code, err)
	}
	if exists(filepath.Join(b.root, "ran")) || exists(filepath.Join(dir, "result")) {
		t.Error("the program was run, or a result was made up")
	}
}

func TestMarkerWithoutResultIsLost(t *testing.T) {
	for _, marker := range []string{`{"pid":1,"pid_start":1,"boot_id":"x","started_at":"2026-01-01T00:00:00Z"}`, "", "{torn"} {
		b := newBench(t)
		job := shell("touch " + filepath.Join(b.root, "ran"))
		b.write(filepath.Join(b.attemptDir(job), "started"), marker)
		if seen := b.look(job); seen.State != activate.JobLost {
			t.Errorf("marker %q: state is %s", marker, seen.State)
		}
		if got := b.do(job); got.Kind != activate.KindLost || got.Succeeded() {
			t.Errorf("marker %q: got %+v", marker, got)
		}
		if exists(filepath.Join(b.root, "ran")) {
			t.Errorf("marker %q: the attempt was run again", marker)
		}
	}
}

func TestDamagedResultIsLost(t *testing.T) {
	b := newBench(t)
	job := shell("exit 0")
	b.do(job)
	b.write(filepath.Join(b.attemptDir(job), "result"), `{"kind":"suc`)
	if seen := b.look(job); seen.State != activate.JobLost {
		t.Errorf("state is %s", seen.State)
	}
}

func TestDirectoryWithoutMarkerIsAbsent(t *testing.T) {
	b := newBench(t)
	job := shell("exit 0")
	if seen := b.look(job); seen.State != activate.JobAbsent {
		t.Errorf("nothing there: state is %s", seen.State)
	}
	b.write(filepath.Join(b.attemptDir(job), "lock"), "")
	if seen := b.look(job); seen.State != activate.JobAbsent {
		t.Errorf("only a lock file there: state is %s", seen.State)
	}
	if got := b.do(job); !got.Succeeded() {
		t.Errorf("got %+v", got)
	}
}

func TestJobOutlivesItsStarter(t *testing.T) {
	b := newBench(t)
	goOn, pidFile := filepath.Join(b.root, "go"), filepath.Join(b.root, "pid")
	job := shell(`echo $$ >`+pidFile+`; while [ ! -e `+goOn+` ]; do sleep 0.02; done; echo the end; exit 7`, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	starter := exec.Command(self, append([]string{"starter", b.state, b.root}, job.Argv...)...)
	starter.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, pidFile)
	// What kills an agent kills what is in its process group, too.
	if err := unix.Kill(-starter.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait()
	if !alive(pid) {
		t.Fatal("the job died with its starter")
	}
	if seen := b.look(job); seen.State != activate.JobRunning {
		t.Fatalf("state is %s", seen.State)
	}
	b.start(job) // attaches
	b.write(goOn, "")
	got := b.do(job)
	if got.Kind != activate.KindExited || got.ExitCode != 7 || got.Tail != "the end" {
		t.Errorf("got %+v", got)
	}
}

func TestDoneContextLeavesTheJob(t *testing.T) {
	b := newBench(t)
	goOn, pidFile := filepath.Join(b.root, "go"), filepath.Join(b.root, "pid")
	job := shell(`echo $$ >` + pidFile + `; while [ ! -e ` + goOn + ` ]; do sleep 0.02; done`)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := activate.Do(ctx, b.launcher, job)
		ended <- err
	}()
	pid := pidIn(t, pidFile)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !alive(pid) {
		t.Error("the job ended with the context")
	}
	b.write(goOn, "")
	if got := b.do(job); !got.Succeeded() {
		t.Errorf("got %+v", got)
	}
}

// A program that does not heed SIGTERM would take the whole grace; this one has a child that does not belong to its shell.
func TestDeadlineEndsTheProcessGroup(t *testing.T) {
	b := newBench(t)
	childFile := filepath.Join(b.root, "child")
	job := shell(`sleep 1000 & echo $! >` + childFile + `; wait`)
	job.Deadline = 300 * time.Millisecond
	got := b.do(job)
	if got.Kind != activate.KindTimeout || got.Succeeded() {
		t.Errorf("got %+v", got)
	}
	child := pidIn(t, childFile)
	eventually(t, "the child ends", func() bool { return !alive(child) })
}

func TestDeadlineIsNotASuccess(t *testing.T) {
	b := newBench(t)
	job := shell(`trap 'exit 0' TERM; sleep 1000 & wait`)
	job.Deadline = 300 * time.Millisecond
	if got := b.do(job); got.Kind != activate.KindTimeout || got.Succeeded() {
		t.Errorf("a program that was told to end and exited with 0: got %+v", got)
	}
}

func TestStopEndsTheJob(t *testing.T) {
	b := newBench(t)
	pidFile := filepath.Join(b.root, "pid")
	job := shell(`echo $$ >` + pidFile + `; sleep 1000`)
	b.start(job)
	pid := pidIn(t, pidFile)
	if err := b.launcher.Stop(context.Background(), job.ID); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Error("the program still runs after Stop")
	}
	got := b.do(job)
	if got.Kind != activate.KindSignaled || got.Signal != int(unix.SIGTERM) {
		t.Errorf("got %+v", got)
	}
	if err := b.launcher.Stop(context.Background(), job.ID); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}

func TestKilledBodyTakesTheProgramAlongAndIsLost(t *testing.T) {
	b := newBench(t)
	pidFile, bodyFile := filepath.Join(b.root, "pid"), filepath.Join(b.root, "body")
	job := shell(`echo $PPID >` + bodyFile + `; echo $$ >` + pidFile + `; exec sleep 1000`)
	b.start(job)
	pid, body := pidIn(t, pidFile), pidIn(t, bodyFile)
	if err := unix.Kill(body, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := b.do(job); got.Kind != activate.KindLost {
		t.Errorf("got %+v", got)
	}
	eventually(t, "the program ends with the body", func() bool { return !alive(pid) })
}

// What a program leaves running must not look like the attempt.
func TestProgramDoesNotHoldTheLock(t *testing.T) {
	b := newBench(t)
	pidFile := filepath.Join(b.root, "pid")
	job := shell(`sleep 1000 >/dev/null 2>&1 & echo $! >` + pidFile)
	t.Cleanup(func() { _ = unix.Kill(pidIn(t, pidFile), unix.SIGKILL) })
	if got := b.do(job); !got.Succeeded() {
		t.Fatalf("got %+v", got)
	}
	if err := os.Remove(filepath.Join(b.attemptDir(job), "result")); err != nil {
		t.Fatal(err)
	}
	if seen := b.look(job); seen.State != activate.JobLost {
		t.Errorf("state is %s although only a child is left", seen.State)
	}
}

func TestForget(t *testing.T) {
	b := newBench(t)
	job := shell("exit 0")
	b.do(job)
	if err := b.launcher.Forget(context.Background(), job.ID); err != nil {
		t.Fatal(err)
	}
	if exists(b.attemptDir(job)) {
		t.Error("the directory is still there")
	}
	if err := b.launcher.Forget(context.Background(), job.ID); err != nil {
		t.Errorf("forgetting twice: %v", err)
	}
}

func TestStartFailsWithoutItsBinary(t *testing.T) {
	b := newBench(t)
	b.launcher = activate.NewExec(activate.AttemptOptions{StateDir: b.state, Executable: "/nonexistent/agent", Host: system.New(b.root), Now: time.Now})
	job := shell("exit 0")
	if _, err := activate.Do(context.Background(), b.launcher, job); err == nil {
		t.Error("no error")
	}
	if seen := b.look(job); seen.State != activate.JobAbsent {
		t.Errorf("state is %s although nothing ran", seen.State)
	}
}

func TestAttemptThatNeverBeginsIsAnError(t *testing.T) {
	b := newBench(t)
	b.launcher = activate.NewExec(activate.AttemptOptions{StateDir: b.state, Executable: "/bin/false", Host: system.New(b.root), Now: time.Now})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := activate.Do(ctx, b.launcher, shell("exit 0")); err == nil || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

func TestJobNames(t *testing.T) {
	id := activate.JobID{Rollout: "stable@abc", Attempt: 2, Step: "undo-boot"}
	if got, want := id.Name(), "nixfleet-undo-boot-"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "-2") || len(got) != len(want)+12+2 {
		t.Errorf("name is %q", got)
	}
	if id.Name() == (activate.JobID{Rollout: "stable@abd", Attempt: 2, Step: "undo-boot"}).Name() {
		t.Error("two rollouts share a name")
	}
	for _, bad := range []activate.JobID{{}, {Rollout: "r", Step: "s"}, {Rollout: "r", Attempt: 1}, {Rollout: "r", Attempt: 1, Step: "../x"}} {
		if _, err := activate.Do(context.Background(), newBench(t).launcher, activate.Job{ID: bad, Argv: []string{"/bin/true"}}); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
