package main

import (
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

type activateOptions struct {
	request      localapi.ActivateRequest
	soak         time.Duration
	detach, json bool
}

func activateVerb(g *globals) *cobra.Command {
	var opt activateOptions
	cmd := &cobra.Command{
		Use:   "activate STORE-PATH",
		Short: "Bring this host to a system closure",
		Long: `Hand a system closure to the agent, which brings this host to it, and follow the work.

It ends when the target runs (exit code 0), waits for a reboot (3), or could not be activated, with the way back taken (4).
The soak that follows is watched by the agent; see nixfleet-agent status. An interrupt ends the following, not the work.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeClosures,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			opt.request.Target = args[0]
			if cmd.Flags().Changed("soak") {
				opt.request.Soak = opt.soak.String()
			}
			reply, err := a.client.Activate(cmd.Context(), opt.request)
			if err != nil {
				return err
			}
			if opt.detach {
				return opt.accepted(newInk(cmd.OutOrStdout(), g.color), newInk(cmd.ErrOrStderr(), g.color), reply)
			}
			f := &follower{ask: a, rollout: reply.RolloutID, out: newInk(cmd.OutOrStdout(), g.color), progress: newInk(cmd.ErrOrStderr(), g.color), json: opt.json}
			return f.follow(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opt.detach, "detach", "d", false, "return as soon as the agent has stored the request; prints the rollout's id")
	flags.BoolVar(&opt.json, "json", false, "print the outcome as JSON: the status, or with --detach the reply")
	flags.BoolVar(&opt.request.Force, "force", false, "pass the quarantine and the checks of host name and machine type, once")
	flags.StringVar(&opt.request.Specialisation, "specialisation", "", "`name` of a specialisation of the closure")
	flags.DurationVar(&opt.soak, "soak", 0, "how long the target is watched before the host counts as converged; as configured if not given")
	flags.StringVar(&opt.request.Policy, "policy", "", "what a failure leads to: rollback-and-halt or halt; as configured if not given")
	return cmd
}

// accepted prints what became of a request that is not followed.
func (o activateOptions) accepted(out, rest *ink, reply localapi.ActivateReply) error {
	if o.json {
		return json.NewEncoder(out.w).Encode(reply)
	}
	if reply.Waiting != "" {
		rest.printf("it waits: %s\n", plain(reply.Waiting))
	}
	out.printf("%s\n", plain(reply.RolloutID))
	return out.err
}
