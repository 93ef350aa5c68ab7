package activate_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

// Several agents, and several calls in each, are after the same attempt.
func TestAttemptRunsOnceForManyStarters(t *testing.T) {
	b := newBench(t)
	ran, goOn := filepath.Join(b.root, "ran"), filepath.Join(b.root, "go")
	job := shell("echo ran >>"+ran+"; while [ ! -e "+goOn+" ]; do sleep 0.02; done; exit 3", "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var starters []*exec.Cmd
	for range 4 {
		starter := exec.Command(self, append([]string{"starter", b.state, b.root}, job.Argv...)...)
		if err := starter.Start(); err != nil {
			t.Fatal(err)
		}
		starters = append(starters, starter)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	results := make(chan activate.Result, 4)
	var calls sync.WaitGroup
	for range cap(results) {
		calls.Go(func() {
			result, err := activate.Do(ctx, b.launcher, job)
			if err != nil {
				t.Error(err)
			}
			results <- result
		})
	}
	eventually(t, "the program runs", func() bool { return exists(ran) })
	b.write(goOn, "")
	calls.Wait()
	close(results)
	for result := range results {
		if result.Kind != activate.KindExited || result.ExitCode != 3 {
			t.Errorf("got %+v", result)
		}
	}
	for _, starter := range starters {
		if err := starter.Wait(); err != nil {
			t.Errorf("a starter: %v", err)
		}
	}
	if got := content(t, ran); got != "ran\n" {
		t.Errorf("it ran more than once: %q", got)
	}
}

// The marker is there, and names the process that holds the lock, before the program begins.
func TestMarkerComesBeforeTheProgram(t *testing.T) {
	b := newBench(t)
	job := shell("")
	job.Argv[2] = "cat " + filepath.Join(b.attemptDir(job), "started") + "; echo $PPID"
	got := b.do(job)
	line, parent, _ := strings.Cut(got.Tail, "\n")
	var m struct {
		PID       int       `json:"pid"`
		PIDStart  uint64    `json:"pid_start"`
		BootID    string    `json:"boot_id"`
		StartedAt time.Time `json:"started_at"`
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatalf("%v in %q", err, got.Tail)
	}
	var pid int
	if err := json.Unmarshal([]byte(parent), &pid); err != nil || m.PID != pid || m.PIDStart == 0 || m.BootID != got.BootID || !m.StartedAt.Equal(got.StartedAt) {
		t.Errorf("marker %+v, parent %q", m, parent)
	}
}

// A result counts only if it is whole and its own attempt's.
func TestResultIsVerified(t *testing.T) {
	spoil := func(change func(map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(content(t, file)), &fields); err != nil {
				t.Fatal(err)
			}
			change(fields)
			data, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put := func(text string) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct {
		spoil func(t *testing.T, file string)
		good  bool
	}{
		"untouched":             {spoil(func(map[string]any) {}), true},
		"with a field of later": {spoil(func(f map[string]any) { f["later"] = true }), true},
		"empty":                 {put(""), false},
		"zeros":                 {put(strings.Repeat("\x00", 100)), false},
		"an empty object":       {put("{}"), false},
		"cut off":               {put(`{"kind":"exited","exit_code":0`), false},
		"without an exit code":  {spoil(func(f map[string]any) { delete(f, "exit_code") }), false},
		"without an end":        {spoil(func(f map[string]any) { delete(f, "ended_at") }), false},
		"no such end":           {spoil(func(f map[string]any) { f["kind"] = "vanished" }), false},
		"a lost one":            {spoil(func(f map[string]any) { f["kind"] = "lost" }), false},
		"exited without a code": {spoil(func(f map[string]any) { f["exit_code"] = -1 }), false},
		"no signal":             {spoil(func(f map[string]any) { f["kind"], f["exit_code"] = "signaled", -1 }), false},
		"of another boot":       {spoil(func(f map[string]any) { f["boot_id"] = "another" }), false},
		"of another invocation": {spoil(func(f map[string]any) { f["invocation_id"] = "another" }), false},
		"of another start":      {spoil(func(f map[string]any) { f["started_at"] = "2026-01-01T00:00:00Z" }), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			job := shell("exit 0")
			b.do(job)
			test.spoil(t, filepath.Join(b.attemptDir(job), "result"))
			seen := b.look(job)
			if want := activate.JobEnded; test.good && (seen.State != want || !seen.Result.Succeeded()) {
				t.Errorf("got %+v", seen)
			}
			if want := activate.JobLost; !test.good && (seen.State != want || seen.Result.Succeeded()) {
				t.Errorf("got %+v", seen)
			}
		})
	}
}

func TestResultWithoutMarkerIsNone(t *testing.T) {
	b := newBench(t)
	job := shell("exit 0")
	b.do(job)
	if err := os.Remove(filepath.Join(b.attemptDir(job), "started")); err != nil {
		t.Fatal(err)
	}
	if seen := b.look(job); seen.State != activate.JobLost || seen.Result.Succeeded() {
		t.Errorf("got %+v", seen)
	}
}

// What is no file of an attempt is told, and neither believed nor run over.
func TestForeignFilesAreErrors(t *testing.T) {
	for _, file := range []string{"result", "started"} {
		b := newBench(t)
		job := shell("touch " + filepath.Join(b.root, "ran"))
		b.write(filepath.Join(b.attemptDir(job), file), strings.Repeat("x", 1<<20))
		if _, err := activate.Do(context.Background(), b.launcher, job); err == nil {
			t.Errorf("a huge %s: no error", file)
		}
		if exists(filepath.Join(b.root, "ran")) {
			t.Errorf("a huge %s: it ran", file)
		}
	}
}

// A full disk at the end of the program: the body holds on to the result until there is room.
func TestResultWaitsForRoom(t *testing.T) {
	b := newBench(t)
	job := shell("exit 4")
	full := filepath.Join(b.attemptDir(job), "result.new")
	if err := os.MkdirAll(b.attemptDir(job), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", full); err != nil {
		t.Fatal(err)
	}
	ran := filepath.Join(b.root, "ran")
	job.Argv[2] = "echo $$ >" + ran + "; exit 4"
	b.start(job)
	pid := pidIn(t, ran)
	eventually(t, "the program has ended", func() bool { return !alive(pid) })
	if seen := b.look(job); seen.State != activate.JobRunning {
		t.Fatalf("while the disk is full: got %+v", seen)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if got := b.do(job); got.Kind != activate.KindExited || got.ExitCode != 4 {
		t.Errorf("got %+v", got)
	}
}

// The end of the context ends the program; its result is stored all the same.
func TestContextOfTheBodyEndsTheProgram(t *testing.T) {
	b := newBench(t)
	job := shell("")
	dir, pidFile := b.attemptDir(job), filepath.Join(b.root, "pid")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := activate.RunAttempt(ctx, activate.Attempt{Dir: dir, BootID: "b", Now: time.Now}, []string{"/bin/sh", "-c", "echo $$ >" + pidFile + "; exec sleep 1000"})
		ended <- end{code, err}
	}()
	pidIn(t, pidFile)
	cancel()
	if got := <-ended; got.code != 128+int(unix.SIGTERM) || got.err != nil {
		t.Errorf("got %+v", got)
	}
	if seen := b.look(job); seen.State != activate.JobEnded || seen.Result.Kind != activate.KindSignaled || seen.Result.Signal != int(unix.SIGTERM) {
		t.Errorf("got %+v", seen)
	}
}

func TestBodyRefusesAHeldAttempt(t *testing.T) {
	b := newBench(t)
	goOn, ran := filepath.Join(b.root, "go"), filepath.Join(b.root, "ran")
	job := shell("echo ran >>" + ran + "; while [ ! -e " + goOn + " ]; do sleep 0.02; done")
	b.start(job)
	eventually(t, "the program runs", func() bool { return exists(ran) })
	code, err := activate.RunAttempt(context.Background(), activate.Attempt{Dir: b.attemptDir(job), Now: time.Now}, job.Argv)
	if code != activate.ExitNotRun || err == nil {
		t.Errorf("got %d, %v", code, err)
	}
	b.write(goOn, "")
	b.do(job)
	if got := content(t, ran); got != "ran\n" {
		t.Errorf("it ran more than once: %q", got)
	}
}

func TestBodyWithoutProgram(t *testing.T) {
	if code, err := activate.RunAttempt(context.Background(), activate.Attempt{Dir: t.TempDir(), Now: time.Now}, nil); code != activate.ExitNotRun || err == nil {
		t.Errorf("got %d, %v", code, err)
	}
}

func TestForgetTakesTheAttemptsOfARollout(t *testing.T) {
	r := newRoot(t, nixos())
	target := nixos()
	target.label = "26.11"
	top := r.add(target)
	goOn, ran := r.at("/go"), r.at("/ran")
	r.file(top+"/bin/switch-to-configuration", "#!/bin/sh\necho ran >>"+ran+"\nwhile [ ! -e "+goOn+" ]; do sleep 0.02; done\nexit 4\n")
	runner := r.runner()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := runner.Switch(ctx, jobAt("switch", 1), top, "", activate.ActionSwitch)
		ended <- err
	}()
	eventually(t, "the switch runs", func() bool { return exists(ran) })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	attempt := filepath.Join(r.at("/var/lib/nixfleet-agent/attempts"), jobAt("switch", 1).Name())
	if err := runner.Forget("another@rollout", 9); err != nil {
		t.Error(err)
	}
	if err := runner.Forget(jobAt("", 0).Rollout, 0); err != nil || !exists(attempt) {
		t.Errorf("of an earlier attempt: %v", err)
	}
	r.file("/go", "")
	result, err := r.runner().Switch(within(t), jobAt("switch", 1), top, "", activate.ActionSwitch)
	if err != nil || result.ExitCode != 4 {
		t.Fatalf("got %+v, %v", result, err)
	}
	if got := content(t, ran); got != "ran\n" {
		t.Errorf("it ran more than once: %q", got)
	}
	if err := runner.Forget(jobAt("", 0).Rollout, 1); err != nil || exists(attempt) {
		t.Errorf("forget: %v", err)
	}
}
