package activate_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

// TestMain lets the test binary stand for the agent's own: as the body of an attempt, as an agent that starts one, and as
// another tool that switches.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "attempt":
			// Unlike os.Exit, this says nothing about coverage where the program's output goes.
			unix.Exit(attemptVerb(os.Args[2:]))
		case "starter":
			os.Exit(starterVerb(os.Args[2:]))
		case "flock":
			os.Exit(flockVerb(os.Args[2]))
		case "flock-fd":
			os.Exit(flockFDVerb(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// attemptVerb is the hidden verb of the agent, with the flags that launchers give it.
func attemptVerb(args []string) int {
	var a activate.Attempt
	flags := flag.NewFlagSet("attempt", flag.ContinueOnError)
	flags.StringVar(&a.Dir, "dir", "", "")
	flags.StringVar(&a.BootID, "boot-id", "", "")
	flags.DurationVar(&a.Deadline, "deadline", 0, "")
	flags.IntVar(&a.LockFD, "lock-fd", 0, "")
	if err := flags.Parse(args); err != nil {
		return activate.ExitNotRun
	}
	a.Now = time.Now
	code, err := activate.RunAttempt(context.Background(), a, flags.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// starterVerb is an agent that brings one job to its end: starter STATE-DIR ROOT PROGRAM….
func starterVerb(args []string) int {
	launcher := execLauncher(args[0], args[1])
	result, err := activate.Do(context.Background(), launcher, jobOf(args[2:]...))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, result.Kind, result.ExitCode)
	return 0
}
