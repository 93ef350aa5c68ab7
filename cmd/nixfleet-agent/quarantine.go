package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/agent"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

func quarantineVerb(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "Show or clear the closures that failed on this host",
		Long: `A closure whose switch failed, or that did not stay healthy, is not tried again on this host by itself. It stays in
quarantine until it is cleared, or passes once with activate --force.`,
	}
	cmd.AddCommand(quarantineListVerb(g), quarantineClearVerb(g))
	return cmd
}

func quarantineListVerb(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the closures in quarantine, with how often and why they failed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			rows, fromFile, err := fromAgentOr(cmd.Context(), a.client.Quarantine,
				func() ([]localapi.QuarantineRow, error) { return agent.ReadQuarantine(a.cfg) })
			if err != nil {
				return err
			}
			if fromFile {
				cmd.PrintErr(saidFromFile)
			}
			out := newInk(cmd.OutOrStdout(), g.color)
			for _, r := range rows {
				if asJSON {
					if err := json.NewEncoder(out.w).Encode(r); err != nil {
						return err
					}
					continue
				}
				out.printf("%s  %-20s %d x  %s\n", when(r.At), plain(r.Reason), r.Attempts, plain(r.Closure))
			}
			return out.err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	return cmd
}

func quarantineClearVerb(g *globals) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "clear STORE-PATH | --all",
		Short: "Let a closure be activated again",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			req := localapi.QuarantineClearRequest{All: all}
			if len(args) > 0 {
				req.Closure = args[0]
			}
			reply, err := a.client.ClearQuarantine(cmd.Context(), req)
			if err != nil {
				return err
			}
			out := newInk(cmd.OutOrStdout(), g.color)
			for _, closure := range reply.Cleared {
				out.printf("%s\n", plain(closure))
			}
			return out.err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every closure in quarantine")
	return cmd
}
