package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Exit codes. They are part of the command line's contract, and those of nixfleet-agent where both have one.
const (
	exitOK           = 0
	exitError        = 1
	exitInProgress   = 2
	exitRebootNeeded = 3
	exitUnsuccessful = 4
	exitUnreachable  = 5
)

// exitCode ends the program with a code when everything there is to say was said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func exitWith(code int) error {
	if code == exitOK {
		return nil
	}
	return exitCode(code)
}

// hint is an error with what to do about it.
type hint struct{ message, do string }

func hinted(message, do string) error { return &hint{message: message, do: do} }

func (h *hint) Error() string { return h.message }

// complain writes an error the way all of them are written: one line, and a hint where there is one.
func complain(w io.Writer, err error) {
	fmt.Fprintf(w, "nixfleet-control-plane: %s\n", plain(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")))
	if do := hintOf(err); do != "" {
		fmt.Fprintf(w, "hint: %s\n", plain(do))
	}
}

func hintOf(err error) string {
	var ours *hint
	var theirs *wire.Problem
	switch {
	case errors.As(err, &ours):
		return ours.do
	case errors.As(err, &theirs):
		return theirs.Hint
	case errors.Is(err, pki.ErrExists):
		return "pass --renew to issue it again; an authority is never replaced, since all that it issued would be void"
	case errors.Is(err, operator.ErrUnreachable):
		return "is `nixfleet-control-plane serve` running, and is --url right?"
	case errors.Is(err, fleetstore.ErrUnavailable):
		return "is NATS with JetStream running at --nats-url?"
	default:
		return ""
	}
}

func codeOf(err error) int {
	if errors.Is(err, operator.ErrUnreachable) {
		return exitUnreachable
	}
	return exitError
}
