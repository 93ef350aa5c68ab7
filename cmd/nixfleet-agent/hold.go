package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

func holdVerb(g *globals) *cobra.Command {
	var reason, until string
	cmd := &cobra.Command{
		Use:   "hold --reason REASON [--until WHEN]",
		Short: "Keep this host as it is: new rollouts wait",
		Long: `Keep this host as it is. Rollouts are accepted and wait until nixfleet-agent resume, or until a moment; what is at work
goes on to its end. The hold is kept over restarts and reboots.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			req := localapi.HoldRequest{Reason: reason}
			if until != "" {
				if req.Until, err = momentOf(until, time.Now()); err != nil {
					return err
				}
			}
			hold, err := a.client.Hold(cmd.Context(), req)
			if err != nil {
				return err
			}
			out := newInk(cmd.OutOrStdout(), g.color)
			out.printf("held: %s\n", holdWords(hold))
			return out.err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is shown with everything that waits")
	cmd.Flags().StringVar(&until, "until", "", "`when` it ends by itself: a duration such as 2h, or a moment such as 2026-12-24T18:00:00Z")
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

func resumeVerb(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "Take a hold away: what waits is started",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			was, err := a.client.Resume(cmd.Context())
			if err != nil {
				return err
			}
			out := newInk(cmd.OutOrStdout(), g.color)
			if was.Reason == "" {
				out.printf("this host was not held\n")
			} else {
				out.printf("resumed; it was held: %s\n", holdWords(was))
			}
			return out.err
		},
	}
}

// momentOf reads a moment, or a duration from now.
func momentOf(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, hinted(fmt.Sprintf("%q is neither a duration nor a moment", text), "write 2h, or a moment with its zone as 2026-12-24T18:00:00Z")
	}
	return at, nil
}

func holdWords(h localapi.Hold) string {
	words := plain(h.Reason)
	if !h.Until.IsZero() {
		words += " (until " + when(h.Until) + ")"
	}
	return words
}
