package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/agent"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

func explainVerb(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain STORE-PATH",
		Short: "Say whether a closure would go live or wait for a reboot, and why",
		Long: `Say whether a closure that is in the store would be switched to live on this host, or be made the boot default and wait for
a reboot, and why. Nothing is touched, and no agent is needed.

The exit code is 0 for a closure that can be activated, either way, and 1 for one that cannot.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeClosures,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := g.load(cmd)
			if err != nil {
				return err
			}
			ex, err := agent.Explain(cmd.Context(), cfg, g.root, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), ex); err != nil {
					return err
				}
				if ex.Verdict == localapi.NotSwitchable {
					return exitCode(exitError)
				}
				return nil
			}
			if ex.Verdict == localapi.NotSwitchable {
				return hinted(ex.Reason, ex.Hint)
			}
			return showExplanation(newInk(cmd.OutOrStdout(), g.color), ex)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showExplanation(out *ink, ex localapi.Explanation) error {
	switch ex.Verdict {
	case localapi.GoesLive:
		out.printf("%s: %s would be switched to live\n", out.good("live"), named(ex.Target, ex.Label))
	default:
		out.printf("%s: %s would wait for a reboot\n", out.warn("deferred"), named(ex.Target, ex.Label))
	}
	for _, group := range []struct {
		title string
		list  []localapi.Component
	}{{"because of", ex.Components}, {"live, in effect after a reboot", ex.Switched}, {"ignored", ex.Ignored}} {
		if len(group.list) == 0 {
			continue
		}
		out.printf("  %s:\n", group.title)
		for _, c := range group.list {
			out.printf("    %s: %s -> %s\n", c.Name, orAbsent(c.From), orAbsent(c.To))
		}
	}
	for _, note := range ex.Notes {
		out.printf("  note: %s\n", note)
	}
	return out.err
}

func orAbsent(v string) string {
	if v == "" {
		return "(absent)"
	}
	return v
}

func printJSON(w io.Writer, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}
