package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/agent"
	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

const (
	// startPatience bounds the wait for an agent that holds its store and does not answer yet. It is READY within milliseconds.
	startPatience = 3 * time.Second
	// answerPatience bounds the wait for the answer of an agent that took the question. It reads a file and some links for it.
	answerPatience = 5 * time.Second
	// askAgain is the pause before an agent that did not answer is asked again.
	askAgain = 100 * time.Millisecond
)

// ask is what the verbs that question an agent need.
type ask struct {
	cfg    config.Config
	root   string
	client *localapi.Client
}

func (g *globals) ask(cmd *cobra.Command) (*ask, error) {
	cfg, err := g.load(cmd)
	if err != nil {
		return nil, err
	}
	return &ask{cfg: cfg, root: g.root, client: localapi.NewClient(cfg.SocketPath)}, nil
}

// status asks the agent, and reads its file where no agent answers. An agent that is just starting is waited for. It fails only
// where the agent itself refuses.
func (a *ask) status(ctx context.Context) (localapi.Status, error) {
	deadline := time.Now().Add(startPatience)
	for {
		st, err := answered(ctx, a.client.Status)
		if !errors.Is(err, localapi.ErrNoAgent) {
			return st, err
		}
		st, err = agent.ReadStatus(ctx, a.cfg, a.root, time.Now())
		if !errors.Is(err, store.ErrLocked) || time.Now().After(deadline) {
			return st, nil
		}
		if err := pause(ctx, askAgain); err != nil {
			return st, err
		}
	}
}

// answered asks the agent. One that is stuck is none.
func answered[T any](ctx context.Context, asked func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	answer, err := asked(bounded)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = localapi.ErrNoAgent
	}
	return answer, err
}

// fromAgentOr asks the agent and, where none answers, reads the file. It reports which of the two answered.
func fromAgentOr[T any](ctx context.Context, asked func(context.Context) (T, error), read func() (T, error)) (answer T, fromFile bool, err error) {
	answer, err = answered(ctx, asked)
	if !errors.Is(err, localapi.ErrNoAgent) {
		return answer, false, err
	}
	answer, readErr := read()
	if errors.Is(readErr, store.ErrNotExist) {
		return answer, false, err
	}
	return answer, true, readErr
}

// saidFromFile is written to stderr with an answer that no agent gave.
const saidFromFile = "nixfleet-agent: no agent answers; this was read from its file\n"

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// completeClosures offers the system closures of the store.
func (g *globals) completeClosures(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found, err := filepath.Glob(filepath.Join(g.root, "nix/store/*-nixos-system-*"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var closures []string
	for _, at := range found {
		if info, err := os.Stat(at); err == nil && info.IsDir() {
			closures = append(closures, "/nix/store/"+filepath.Base(at))
		}
	}
	return closures, cobra.ShellCompDirectiveNoFileComp
}
