package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

// watchAgain is the pause before an agent that went away is asked again by --watch.
const watchAgain = time.Second

type statusOptions struct {
	json, oneline, watch, schema bool
}

func statusVerb(g *globals) *cobra.Command {
	var opt statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what this host runs, why, and what happens next",
		Long: `Say what this host runs, what it would boot and what it is told to run; why; and what happens next.

With the agent down its file is read, and the answer says so. The exit code tells the state (see nixfleet-agent --help).
--json prints the whole answer; its fields are only ever added to, and --json-schema prints what they mean.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opt.schema {
				_, err := io.WriteString(cmd.OutOrStdout(), localapi.StatusSchema)
				return err
			}
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			out := newInk(cmd.OutOrStdout(), g.color)
			if opt.watch {
				return watchStatus(cmd.Context(), a, out, opt)
			}
			st, err := a.status(cmd.Context())
			if err != nil {
				return err
			}
			if err := opt.show(out, st); err != nil {
				return err
			}
			return exitWith(verdictCode(st.Verdict))
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opt.json, "json", false, "print JSON")
	flags.BoolVar(&opt.oneline, "oneline", false, "print one line")
	flags.BoolVarP(&opt.watch, "watch", "w", false, "print it again at every change")
	flags.BoolVar(&opt.schema, "json-schema", false, "print the JSON Schema of --json")
	cmd.MarkFlagsMutuallyExclusive("json", "oneline", "json-schema")
	cmd.MarkFlagsMutuallyExclusive("watch", "json-schema")
	return cmd
}

func (o statusOptions) show(out *ink, st localapi.Status) error {
	switch {
	case o.json && o.watch:
		return json.NewEncoder(out.w).Encode(st)
	case o.json:
		return printJSON(out.w, st)
	case o.oneline:
		out.printf("%s\n", onelineStatus(st))
		return out.err
	default:
		return showStatus(out, st)
	}
}

// watchStatus shows every change until it is interrupted, over restarts of the agent.
func watchStatus(ctx context.Context, a *ask, out *ink, opt statusOptions) error {
	shown := 0
	show := func(st localapi.Status) error {
		if !opt.json && !opt.oneline {
			separate(out.w, shown)
		}
		shown++
		return opt.show(out, st)
	}
	for {
		err := a.client.Watch(ctx, show)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted, which is how a watch ends
		}
		if !errors.Is(err, localapi.ErrNoAgent) {
			return err
		}
		st, err := a.status(ctx)
		if err == nil && st.Source == localapi.FromFile {
			err = show(st)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		if pause(ctx, watchAgain) != nil {
			return nil //nolint:nilerr // interrupted, which is how a watch ends
		}
	}
}

// separate begins a screen anew on a terminal, and draws a line elsewhere.
func separate(w io.Writer, shown int) {
	switch {
	case isTerminal(w):
		fmt.Fprint(w, "\x1b[H\x1b[2J")
	case shown > 0:
		fmt.Fprintln(w, "--")
	}
}
