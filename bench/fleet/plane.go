package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
)

const (
	// startPatience and stopPatience bound start and stop of the control plane, which opens and closes its log.
	startPatience = 60 * time.Second
	stopPatience  = 60 * time.Second
	// keptLines are the lines of its log that are shown when it did something wrong.
	keptLines = 20
)

// build asks the Makefile for the control plane, so that what is measured is what is shipped, and takes a copy.
func build(ctx context.Context, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "build")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, bytes.TrimSpace(text))
	}
	data, err := os.ReadFile(filepath.Join("bin", "nixfleet-control-plane"))
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "nixfleet-control-plane")
	return binary, os.WriteFile(binary, data, 0o755) //nolint:gosec // a program
}

// plane is a running control plane.
type plane struct {
	cmd      *exec.Cmd
	url      string
	operator *operator.Client
	ended    chan error
	log      *tail
}

// tail keeps the last lines of a log that matter, and counts its warnings.
type tail struct {
	mu       sync.Mutex
	lines    []string
	warnings int
}

func (t *tail) add(line string) {
	if strings.Contains(line, "level=INFO") {
		return // it says every dispatch
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
		t.warnings++
	}
	if len(t.lines) == keptLines {
		t.lines = t.lines[1:]
	}
	t.lines = append(t.lines, line)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("its log, with %d warnings, ends so:\n%s", t.warnings, strings.Join(t.lines, "\n"))
}

var servingAt = regexp.MustCompile(`msg=serving address=(\S+)`)

// startPlane starts a control plane with an empty log.
func (b *bench) startPlane(ctx context.Context, name string) (*plane, error) {
	p := &plane{ended: make(chan error, 1), log: &tail{}}
	p.cmd = exec.Command(b.binary, "--cert", b.certs.path("server-localhost.crt"), "--key", b.certs.path("server-localhost.key"), "--ca", b.certs.path("ca.crt"),
		"serve", "--dir", filepath.Join(b.dir, name), "--listen", "127.0.0.1:0")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the keyboard is for us alone
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	serving := make(chan string, 1)
	go func() { p.ended <- p.attend(stderr, serving) }()
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	select {
	case address := <-serving:
		p.url = "https://" + address
	case err := <-p.ended:
		p.ended <- err
		return nil, fmt.Errorf("the control plane ended at once: %w\n%s", err, p.log)
	case <-timer.C:
		return nil, errors.Join(fmt.Errorf("the control plane does not come up\n%s", p.log), p.kill())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), p.kill())
	}
	id, err := pki.Load(pki.Files{Cert: b.certs.path("operator-bench.crt"), Key: b.certs.path("operator-bench.key"), CA: b.certs.path("ca.crt")}, func(error) {})
	if err == nil {
		p.operator, err = operator.NewClient(p.url, id.ClientConfig())
	}
	if err != nil {
		return nil, errors.Join(err, p.kill())
	}
	return p, nil
}

// attend reads the log to its end, says where it serves, and waits for the process.
func (p *plane) attend(stderr io.Reader, serving chan<- string) error {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		p.log.add(lines.Text())
		if at := servingAt.FindStringSubmatch(lines.Text()); at != nil {
			select {
			case serving <- at[1]:
			default:
			}
		}
	}
	return errors.Join(lines.Err(), p.cmd.Wait())
}

func (p *plane) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := <-p.ended; p.cmd.ProcessState == nil { // otherwise it only says that it was killed
		return err
	}
	return nil
}

// stop ends it as an operator would. It must end by itself, and cleanly.
func (p *plane) stop() error {
	p.operator.Close()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(broken("the control plane is gone: %v\n%s", err, p.log), p.kill())
	}
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case err := <-p.ended:
		if err != nil {
			return broken("the control plane did not stop cleanly: %v\n%s", err, p.log)
		}
		return nil
	case <-timer.C:
		return errors.Join(broken("the control plane does not stop\n%s", p.log), p.kill())
	}
}

// usage is what the process has used: memory in bytes, now and at most, and processor time.
type usage struct {
	resident, peak int64
	cpu            time.Duration
	files          int
}

func (p *plane) usage() (usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return usage{}, fmt.Errorf("read memory of the control plane: %w", err)
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return usage{}, fmt.Errorf("read processor time of the control plane: %w", err)
	}
	open, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return usage{}, fmt.Errorf("read files of the control plane: %w", err)
	}
	u := usage{files: len(open)}
	if u.resident, err = statusField(string(status), "VmRSS"); err != nil {
		return u, err
	}
	if u.peak, err = statusField(string(status), "VmHWM"); err != nil {
		return u, err
	}
	u.cpu, err = cpuTime(string(stat))
	return u, err
}

// statusField reads a size of /proc/PID/status, in bytes.
func statusField(status, name string) (int64, error) {
	for line := range strings.Lines(status) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", name, err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("there is no %s", name)
}

// tick is the unit of processor time in /proc: USER_HZ is 100 on every architecture that Linux has with Go (proc(5)).
const tick = 10 * time.Millisecond

// cpuTime reads user and system time from /proc/PID/stat, fields 14 and 15. The second field, in parentheses, may hold anything.
func cpuTime(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read processor time: %d fields", len(fields))
	}
	var total time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		total += time.Duration(ticks) * tick
	}
	return total, nil
}
