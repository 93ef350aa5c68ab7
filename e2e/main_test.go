//go:build e2e

// Package e2e runs the agent as a service on booted hosts and takes it through everything that docs/what-happens-when.md
// promises. Each scenario is one row of that page and ends with what the host runs and boots, which events were reported, in
// which order, and what the exit codes were.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/testhost"
)

var (
	base   string // the tree that every host is an overlay of
	binary string // the agent
)

// machines bounds the hosts that are on at the same time: the suite is made for two cores.
var machines = make(chan struct{}, 2)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	// Asked first: who may not run the suite need not wait for a build to learn it.
	if err := testhost.Require(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "nixfleet-e2e-*")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "nixfleet-agent")
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-X main.version=e2e", "-o", binary, "../cmd/nixfleet-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the agent: %w\n%s", err, output)
	}
	if base, err = testhost.Base(context.Background(), os.Stderr); err != nil {
		return 1, err
	}
	return m.Run(), nil
}
