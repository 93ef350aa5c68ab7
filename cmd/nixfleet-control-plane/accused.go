package main

import (
	"encoding/json"
	"path"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
)

func accusedVerb(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accused",
		Short: "Show or clear what speaks against closures",
		Long: `A closure that a host went back from is accused on the channel of that rollout: it is dispatched there only with --force, until
the accusation is cleared.

That host itself keeps away from the closure as well: nixfleet-agent there has a quarantine of its own.`,
	}
	cmd.AddCommand(accusedListVerb(g), accusedClearVerb(g))
	return cmd
}

func accusedListVerb(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the closures that are accused",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.ask()
			if err != nil {
				return err
			}
			defer client.Close()
			accused, err := client.Accused(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(accused)
			}
			return listAccused(newInk(cmd.OutOrStdout(), g.color), accused)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listAccused(out *ink, accused operator.Accused) error {
	if len(accused.Accused) == 0 {
		out.printf("no closure is accused\n")
		return out.err
	}
	rows := [][]string{{"CHANNEL", "HOST", "SINCE", "ROLLOUT", "REASON", "CLOSURE"}}
	for _, a := range accused.Accused { // whole, to be copied from here
		rows = append(rows, []string{plain(a.Channel), plain(a.Host), when(a.At), plain(a.RolloutID), plain(a.Reason), plain(a.Target)})
	}
	out.table(rows, nil)
	return out.err
}

func accusedClearVerb(g *globals) *cobra.Command {
	var (
		asJSON bool
		req    operator.Clear
	)
	cmd := &cobra.Command{
		Use:   "clear --channel CHANNEL CLOSURE",
		Short: "Let a closure be dispatched again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Channel == "" {
				return hinted("no channel is named", "--channel says where it is accused; `nixfleet-control-plane accused list` tells")
			}
			client, err := g.ask()
			if err != nil {
				return err
			}
			defer client.Close()
			req.Target = path.Clean(args[0])
			if err := client.Clear(cmd.Context(), req); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(req)
			}
			out := newInk(cmd.OutOrStdout(), g.color)
			out.printf("%s may be dispatched on channel %s again\n", plain(req.Target), plain(req.Channel))
			return out.err
		},
	}
	cmd.Flags().StringVar(&req.Channel, "channel", "", "`channel` on which it is accused")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
