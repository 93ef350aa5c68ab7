package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// Exit codes. They are part of the command line's contract.
const (
	exitOK           = 0
	exitError        = 1
	exitInProgress   = 2
	exitRebootNeeded = 3
	exitUnsuccessful = 4
	exitNoAgent      = 5
)

// exitCode ends the program with a code when everything there is to say was said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// verdictCode is the exit code of a verdict.
func verdictCode(v localapi.Verdict) int {
	switch v {
	case localapi.AtTarget:
		return exitOK
	case localapi.InProgress:
		return exitInProgress
	case localapi.RebootNeeded:
		return exitRebootNeeded
	case localapi.Unsuccessful:
		return exitUnsuccessful
	case localapi.NoAgent:
		return exitNoAgent
	default:
		return exitUnsuccessful // a newer agent's verdict is not taken for success
	}
}

// exitWith gives the error that ends with code, nil for success.
func exitWith(code int) error {
	if code == exitOK {
		return nil
	}
	return exitCode(code)
}

// hint is an error with what to do about it.
type hint struct {
	message string
	do      string
	err     error
}

func hinted(message, do string) error { return &hint{message: message, do: do} }

func (h *hint) Error() string { return h.message }
func (h *hint) Hints() string { return h.do }
func (h *hint) Unwrap() error { return h.err }

// complain writes an error the way all of them are written: one line, and a hint where there is one.
func complain(w io.Writer, err error) {
	fmt.Fprintf(w, "nixfleet-agent: %s\n", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	if do := hintOf(err); do != "" {
		fmt.Fprintf(w, "hint: %s\n", do)
	}
}

func hintOf(err error) string {
	var known interface{ Hints() string }
	switch {
	case errors.As(err, &known):
		return known.Hints()
	case errors.Is(err, localapi.ErrNoAgent):
		return "start it: systemctl start nixfleet-agent"
	case errors.Is(err, store.ErrLocked):
		return "another agent works on this state directory; stop it, or set another stateDir"
	default:
		return ""
	}
}

func codeOf(err error) int {
	if errors.Is(err, localapi.ErrNoAgent) {
		return exitNoAgent
	}
	return exitError
}
