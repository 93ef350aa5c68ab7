package main

import (
	"context"
	"encoding/json"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/agent"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

type historyOptions struct {
	json    bool
	number  int
	rollout string
}

func historyVerb(g *globals) *cobra.Command {
	var opt historyOptions
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show every change of state on this host, the newest last",
		Long: `Show the changes of state of this host's rollouts, the newest last: when, which rollout, from which state to which, by
which event and why.

--json prints one object a line. With the agent down its file is read.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkRows(opt.number); err != nil {
				return err
			}
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			return opt.run(cmd.Context(), a, newInk(cmd.OutOrStdout(), g.color), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opt.json, "json", false, "print JSON, one object a line")
	flags.IntVarP(&opt.number, "number", "n", 50, "how `many`, of the newest")
	flags.StringVar(&opt.rollout, "rollout", "", "only the rollout of this `id`")
	return cmd
}

func (o *historyOptions) run(ctx context.Context, a *ask, out *ink, rest io.Writer) error {
	rows, fromFile, err := fromAgentOr(ctx,
		func(ctx context.Context) ([]localapi.HistoryRow, error) {
			return a.client.History(ctx, o.rollout, o.number)
		},
		func() ([]localapi.HistoryRow, error) { return agent.ReadHistory(a.cfg, o.rollout, o.number) })
	if err != nil {
		return err
	}
	if fromFile {
		if _, err := io.WriteString(rest, saidFromFile); err != nil {
			return err
		}
	}
	slices.Reverse(rows)
	for _, r := range rows {
		if o.json {
			if err := json.NewEncoder(out.w).Encode(r); err != nil {
				return err
			}
			continue
		}
		out.printf("%s  %-24s %-10s -> %-10s %s", when(r.At), plain(r.RolloutID), plain(r.From), plain(r.To), plain(r.Kind))
		if r.Reason != "" {
			out.printf("  %s", plain(r.Reason))
		}
		out.printf("\n")
	}
	return out.err
}
