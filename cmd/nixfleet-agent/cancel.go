package main

import (
	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

func cancelVerb(g *globals) *cobra.Command {
	var detach, asJSON bool
	cmd := &cobra.Command{
		Use:   "cancel [ROLLOUT]",
		Short: "Take back a rollout that does not run yet",
		Long: `Take back a rollout that does not run yet: one that waits, one that is being prepared, or one that waits for a reboot. Of
the last, profile and boot default are returned to what they were, and read back. Without a name it is the newest one.

A rollout whose switch has begun cannot be cancelled; a failure of it is taken back by itself.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			var req localapi.CancelRequest
			if len(args) > 0 {
				req.Rollout = args[0]
			}
			reply, err := a.client.Cancel(cmd.Context(), req)
			if err != nil {
				return err
			}
			out := newInk(cmd.OutOrStdout(), g.color)
			if detach || reply.State != "Deferred" {
				if asJSON {
					return printJSON(out.w, reply)
				}
				out.printf("%s: cancelled, %s\n", plain(reply.RolloutID), plain(reply.State))
				return out.err
			}
			f := &follower{ask: a, rollout: reply.RolloutID, out: out, progress: newInk(cmd.ErrOrStderr(), g.color), json: asJSON, cancelled: true}
			return f.follow(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&detach, "detach", "d", false, "return as soon as the agent has stored the request")
	flags.BoolVar(&asJSON, "json", false, "print JSON: the status at the end, or the reply")
	return cmd
}
