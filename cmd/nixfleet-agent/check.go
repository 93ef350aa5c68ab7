package main

import (
	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/agent"
)

func checkVerb(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check that this version could work with the configuration and the store that are here",
		Long: `Check that this version of the agent could work with the configuration and the store that are here. Nothing is changed.

An agent asks the one in a target before it switches to it: a host must not end up with an agent that cannot start.`,
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := g.load(cmd)
			if err != nil {
				return err
			}
			return agent.Acceptable(cfg)
		},
	}
}
