package simhost

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pollDeadline bounds waiting for another process on a machine that is busy with something else.
const pollDeadline = time.Minute

// pollInterval is short because what is waited for takes milliseconds.
const pollInterval = 2 * time.Millisecond

// The scripts may use these programs and no others: coreutils, flock and the shell.
var allowedPrograms = []string{
	"cat", "chmod", "cp", "cut", "date", "flock", "id", "ln", "ls", "mkdir", "mv", "readlink", "realpath", "rm", "sh",
	"sha256sum", "sleep", "sort", "stat", "sync", "tail", "tr",
}

func TestMain(m *testing.M) {
	os.Exit(runWithAllowedPrograms(m))
}

func runWithAllowedPrograms(m *testing.M) int {
	dir, err := os.MkdirTemp("", "simhost-path-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, name := range allowedPrograms {
		program, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(program, filepath.Join(dir, name))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	os.Setenv("PATH", dir)
	return m.Run()
}

type host struct {
	*Host
	t *testing.T
}

func newHost(t *testing.T, opts Options) host {
	t.Helper()
	// A blank in the path is allowed on any machine.
	h, err := Create(filepath.Join(t.TempDir(), "a host"), opts)
	if err != nil {
		t.Fatal(err)
	}
	return host{h, t}
}

func (h host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h host) add(c Closure) string {
	h.t.Helper()
	storePath, err := h.AddClosure(c)
	h.must(err)
	return storePath
}

// stage makes the closure a generation of the system profile.
func (h host) stage(toplevel string) {
	h.t.Helper()
	h.must(h.SetProfile(toplevel))
}

// addStaged adds a closure and makes it a generation of the system profile.
func (h host) addStaged(c Closure) string {
	h.t.Helper()
	toplevel := h.add(c)
	h.stage(toplevel)
	return toplevel
}

func (h host) exists(logical string) bool {
	_, err := os.Lstat(h.Path(logical))
	return err == nil
}

func (h host) read(logical string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.Path(logical))
	h.must(err)
	return string(text)
}

func (h host) linkText(logical string) string {
	h.t.Helper()
	text, err := os.Readlink(h.Path(logical))
	h.must(err)
	return text
}

func (h host) entries() []string {
	h.t.Helper()
	files, err := os.ReadDir(h.Path("/boot/loader/entries"))
	h.must(err)
	var names []string
	for _, file := range files {
		names = append(names, file.Name())
	}
	return names
}

func (h host) switches() []SwitchRecord {
	h.t.Helper()
	records, err := h.Switches()
	h.must(err)
	return records
}

func (h host) wantRunning(toplevel string) {
	h.t.Helper()
	if got := h.Running(); got != toplevel {
		h.t.Errorf("running system is %s, want %s", got, toplevel)
	}
}

// run is one run of a program of the host.
type outcome struct {
	code   int // -1 for one that was killed
	stdout string
	stderr string
}

func (o outcome) want(t *testing.T, code int, lines ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d; output:\n%s", o.code, code, o.stderr)
	}
	for _, line := range lines {
		if !slices.Contains(strings.Split(o.stderr, "\n"), line) {
			t.Errorf("output lacks the line %q:\n%s", line, o.stderr)
		}
	}
}

type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan error
}

func (h host) start(env []string, program string, args ...string) *process {
	h.t.Helper()
	p := &process{t: h.t, cmd: exec.Command(program, args...), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	h.must(p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	h.t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

func (p *process) wait() outcome {
	p.t.Helper()
	select {
	case err := <-p.ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			p.t.Fatal(err)
		}
		return outcome{p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()}
	case <-time.After(pollDeadline):
		p.t.Fatalf("%s is still running", p.cmd)
		panic("unreachable")
	}
}

// waitForFile waits until the file exists and fails if the process ends before.
func (p *process) waitForFile(at string) {
	p.t.Helper()
	deadline := time.After(pollDeadline)
	for {
		if _, err := os.Lstat(at); err == nil {
			return
		}
		select {
		case <-p.ended: //nolint:errcheck // how it ended does not matter here
			p.t.Fatalf("ended without making %s:\n%s", at, p.stderr.String())
		case <-deadline:
			p.t.Fatalf("did not make %s", at)
		case <-time.After(pollInterval):
		}
	}
}

func (h host) startSwitch(toplevel, action string, env ...string) *process {
	h.t.Helper()
	return h.start(env, h.Path(toplevel+"/bin/switch-to-configuration"), action)
}

func (h host) doSwitch(toplevel, action string, env ...string) outcome {
	h.t.Helper()
	return h.startSwitch(toplevel, action, env...).wait()
}

func (h host) nix(tool string, args ...string) outcome {
	h.t.Helper()
	program, err := h.Tool(h.Running(), tool)
	h.must(err)
	return h.start(nil, program, args...).wait()
}

// startWithOutput starts a switch whose standard error is the caller's file.
func (h host) startWithOutput(output *os.File, toplevel, action string) *process {
	h.t.Helper()
	p := &process{t: h.t, cmd: exec.Command(h.Path(toplevel+"/bin/switch-to-configuration"), action), ended: make(chan error, 1)}
	p.cmd.Stderr = output
	h.must(p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	h.t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}
