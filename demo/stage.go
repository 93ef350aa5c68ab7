package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// poll is how often a condition is looked at that the demo waits for.
const poll = 50 * time.Millisecond

// stage is the host-shaped directory with the agent on it.
type stage struct {
	ctx    context.Context //nolint:containedctx // the demo is one call; it is bounded and interrupted as a whole
	out    io.Writer
	dir    string
	binary string
	config string
	host   *simhost.Host
	daemon *exec.Cmd
	log    *os.File
}

// set builds the agent and lays out the host.
func set(ctx context.Context, out io.Writer, dir string) (*stage, error) {
	s := &stage{ctx: ctx, out: out, dir: dir, binary: filepath.Join(dir, "nixfleet-agent"), config: filepath.Join(dir, "nixfleet-agent.json")}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", s.binary, "./cmd/nixfleet-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the agent: %w\n%s", err, text)
	}
	config, err := json.MarshalIndent(map[string]any{"soak": soak.String(), "logLevel": "info"}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.config, config, 0o644); err != nil {
		return nil, err
	}
	s.host, err = simhost.Create(filepath.Join(dir, "host"), simhost.Options{Hostname: hostname, First: simhost.NixOS(hostname, "25.11.1")})
	if err != nil {
		return nil, err
	}
	s.log, err = os.Create(filepath.Join(dir, "agent.log"))
	return s, err
}

// startAgent starts the daemon and waits until it answers.
func (s *stage) startAgent() error {
	s.daemon = exec.CommandContext(s.ctx, s.binary, s.global("run")...)
	s.daemon.Stdout, s.daemon.Stderr = s.log, s.log
	s.daemon.Cancel = func() error { return s.daemon.Process.Signal(syscall.SIGTERM) }
	if err := s.daemon.Start(); err != nil {
		return err
	}
	return s.until("the agent to answer", func(st localapi.Status) bool { return st.Source == localapi.FromAgent && st.Agent.Ready })
}

// stopAgent ends the daemon as a shutdown does.
func (s *stage) stopAgent() error {
	if s.daemon == nil {
		return nil
	}
	daemon := s.daemon
	s.daemon = nil
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := daemon.Wait(); err != nil {
		return fmt.Errorf("the agent did not stop cleanly: %w", err)
	}
	return nil
}

// strike ends the agent whatever happened, and shows its log if something did.
func (s *stage) strike(failed error) {
	if s.daemon != nil {
		_ = s.daemon.Process.Kill()
		_ = s.daemon.Wait()
	}
	if failed != nil {
		if text, err := os.ReadFile(s.log.Name()); err == nil {
			fmt.Fprintf(s.out, "\nthe agent's log:\n%s", text)
		}
	}
	_ = s.log.Close()
}

func (s *stage) global(args ...string) []string {
	return append([]string{"--root", s.host.Root(), "--config", s.config}, args...)
}

// show runs a verb, prints what it prints, and checks its exit code.
func (s *stage) show(want int, args ...string) error {
	fmt.Fprintf(s.out, "\n  $ nixfleet-agent %s\n", strings.Join(args, " "))
	text, code, err := s.verb(args...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		fmt.Fprint(s.out, "    ", line)
	}
	if code != want {
		return fmt.Errorf("nixfleet-agent %s: exit code %d instead of %d", args[0], code, want)
	}
	if want != 0 {
		fmt.Fprintf(s.out, "    (exit code %d)\n", code)
	}
	return nil
}

// verb runs the command line and gives what it printed and its exit code.
func (s *stage) verb(args ...string) (string, int, error) {
	var text bytes.Buffer
	cmd := exec.CommandContext(s.ctx, s.binary, s.global(args...)...)
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return text.String(), exit.ExitCode(), nil
	}
	return text.String(), 0, err
}

// status asks for the status as a script would.
func (s *stage) status() (localapi.Status, error) {
	var st localapi.Status
	var text bytes.Buffer
	cmd := exec.CommandContext(s.ctx, s.binary, s.global("status", "--json")...)
	cmd.Stdout = &text
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return st, err
	}
	if text.Len() == 0 {
		return st, err
	}
	return st, json.Unmarshal(text.Bytes(), &st)
}

// until waits for the status to be as it should become.
func (s *stage) until(what string, met func(localapi.Status) bool) error {
	for {
		st, err := s.status()
		if err == nil && met(st) {
			return nil
		}
		select {
		case <-s.ctx.Done():
			return fmt.Errorf("wait for %s: %w (last status: %s)", what, s.ctx.Err(), st.Summary)
		case <-time.After(poll):
		}
	}
}

func (s *stage) untilState(state string) error {
	return s.until(state, func(st localapi.Status) bool { return st.Rollout != nil && st.Rollout.State == state })
}

// events gives the kinds of all events of a rollout, in their order.
func (s *stage) events(rollout string) ([]string, error) {
	var text bytes.Buffer
	cmd := exec.CommandContext(s.ctx, s.binary, s.global("events", "--json", "-n", "1000")...)
	cmd.Stdout = &text
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	var kinds []string
	decoder := json.NewDecoder(&text)
	for {
		var e localapi.Event
		switch err := decoder.Decode(&e); {
		case errors.Is(err, io.EOF):
			return kinds, nil
		case err != nil:
			return nil, fmt.Errorf("decode event: %w", err)
		case e.RolloutID == rollout:
			kinds = append(kinds, e.Kind)
		}
	}
}
