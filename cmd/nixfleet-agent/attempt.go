package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

func attemptVerb() *cobra.Command {
	a := activate.Attempt{Now: time.Now}
	cmd := &cobra.Command{
		Use:    "attempt --dir DIRECTORY -- PROGRAM [ARGUMENT...]",
		Short:  "Run a program as an attempt: at most once, with its result kept",
		Args:   cobra.MinimumNArgs(1),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			// The signals that end this process are the attempt's own to pass on.
			code, err := activate.RunAttempt(context.Background(), a, args)
			if err != nil {
				return err
			}
			return exitWith(code)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&a.Dir, "dir", "", "`directory` of the attempt")
	flags.StringVar(&a.BootID, "boot-id", "", "boot `id` of the host")
	flags.DurationVar(&a.Deadline, "deadline", 0, "when to end the program; 0: never")
	flags.IntVar(&a.LockFD, "lock-fd", 0, "`descriptor` of the attempt's lock, held already")
	_ = cmd.MarkFlagRequired("dir")
	return cmd
}
