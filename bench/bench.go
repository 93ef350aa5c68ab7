package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// emptyProgram is the gauge for everything that a process costs: a Go program with nothing of ours in it. With an argument it
// stays idle.
const emptyProgram = `package main

import (
	"os"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		time.Sleep(time.Hour)
	}
}
`

// emptyIdle is what one run of the empty program takes on an idle machine, twice over: a small virtual one needs 1 to 3 ms.
const emptyIdle = 5 * time.Millisecond

// bench is the directory in which everything is measured.
type bench struct {
	dir    string
	binary string // the agent, as make build makes it
	empty  string // emptyProgram
}

// setUp makes the directory and builds both programs with the flags of the product.
func setUp(ctx context.Context, below string) (*bench, error) {
	below, err := onDisk(below)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(below, "nixfleet-bench-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	b := &bench{dir: dir, binary: filepath.Join(dir, "nixfleet-agent"), empty: filepath.Join(dir, "empty")}
	if err := b.build(ctx); err != nil {
		b.cleanUp()
		return nil, err
	}
	return b, nil
}

func (b *bench) cleanUp() { _ = os.RemoveAll(b.dir) }

// build asks the Makefile for the agent, so that what is measured is what is shipped, and takes a copy: nobody who builds
// meanwhile changes it.
func (b *bench) build(ctx context.Context) error {
	if err := command(ctx, "make", "--no-print-directory", "build"); err != nil {
		return err
	}
	if err := copyFile(filepath.Join("bin", "nixfleet-agent"), b.binary); err != nil {
		return fmt.Errorf("take the binary: %w", err)
	}
	source := filepath.Join(b.dir, "empty.go")
	if err := os.WriteFile(source, []byte(emptyProgram), 0o644); err != nil {
		return fmt.Errorf("write empty program: %w", err)
	}
	return command(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.empty, source)
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", name, err, bytes.TrimSpace(text))
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		_ = target.Close()
		return err
	}
	return target.Close()
}

// tmpfsMagic is f_type of a file system in memory, as statfs(2) gives it.
const tmpfsMagic = 0x01021994

// onDisk gives the directory that was asked for, or the first usual one whose files are not in memory: there, nothing that
// promises durability costs anything.
func onDisk(asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	for _, dir := range []string{os.TempDir(), "/var/tmp", "."} {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err == nil && st.Type != tmpfsMagic {
			return dir, nil
		}
	}
	return "", errors.New("no directory is on a disk; name one with -dir")
}

// timed gives how long a program takes from its start to its end. Its exit code must be one of those given.
func timed(ctx context.Context, codes []int, program string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var text bytes.Buffer
	cmd.Stderr = &text
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	for _, code := range codes {
		if cmd.ProcessState.ExitCode() == code {
			return took, nil
		}
	}
	return 0, fmt.Errorf("%s %v: %s: %s", filepath.Base(program), args, cmd.ProcessState, bytes.TrimSpace(text.Bytes()))
}

// startVersion runs the agent's cheapest verb: what its binary costs before it does anything.
func (b *bench) startVersion(ctx context.Context) func(int) (time.Duration, error) {
	return func(int) (time.Duration, error) { return timed(ctx, []int{0}, b.binary, "version") }
}

// startEmpty runs the gauge.
func (b *bench) startEmpty(ctx context.Context) func(int) (time.Duration, error) {
	return func(int) (time.Duration, error) { return timed(ctx, []int{0}, b.empty) }
}

const versionAnchor = "a run of its version verb"

const (
	mebibyte = 1 << 20
	megabyte = 1000 * 1000
)

// maxBinary is promised of the stripped binary: a host downloads it with every update.
const maxBinary = 10 // MB

func binarySize(_ context.Context, b *bench) ([]figure, error) {
	size := func(file string) (float64, error) {
		info, err := os.Stat(file)
		if err != nil {
			return 0, err
		}
		return float64(info.Size()) / megabyte, nil
	}
	agent, err := size(b.binary)
	if err != nil {
		return nil, err
	}
	empty, err := size(b.empty)
	if err != nil {
		return nil, err
	}
	f := figure{Name: "size", What: "the stripped binary", Value: agent, Unit: "MB", Bound: maxBinary, Samples: 1}
	return []figure{f.against("an empty Go program", empty, "MB").judge(1)}, nil
}
