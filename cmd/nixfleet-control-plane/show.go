package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/operator"
)

func showVerb(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show HOST",
		Short: "Show all that is known of a host",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := g.ask()
			if err != nil {
				return err
			}
			defer client.Close()
			detail, err := client.Show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(detail)
			}
			return showHost(newInk(cmd.OutOrStdout(), g.color), detail, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showHost(out *ink, d operator.Detail, now time.Time) error {
	state, err := mirror.Decode(d.Mirror)
	if err != nil {
		return err
	}
	rows := [][]string{{"host", plain(d.Summary.Host)}}
	if hb := d.Heartbeat; hb == nil {
		rows = append(rows, []string{"heard", "not since the control plane was started"})
	} else {
		rows = append(rows, []string{"heard", ago(d.Summary.SeenAt, now) + ", agent " + orDash(hb.AgentVersion)},
			[]string{"running", orDash(hb.Facts.Running)}, []string{"booted", orDash(hb.Facts.Booted)},
			[]string{"profile", orDash(hb.Facts.Profile)}, []string{"next boot", orDash(hb.Facts.NextBoot)},
			[]string{"to come", fmt.Sprintf("%d events, %d set aside", hb.Outbox.Depth, hb.Outbox.DeadLetters)})
		if hb.Hold != "" {
			rows = append(rows, []string{"held", plain(hb.Hold)})
		}
		for _, what := range hb.Degraded {
			rows = append(rows, []string{"degraded", plain(what)})
		}
	}
	if t := d.Dispatch; t != nil {
		rows = append(rows, []string{"asked for", fmt.Sprintf("%s (rollout %s, generation %d)", plain(t.Target), plain(t.RolloutID), t.Generation)})
	}
	if c := state.Cursor(); c != nil {
		rows = append(rows, []string{"events", fmt.Sprintf("up to %d of epoch %s", c.Acked, plain(c.Epoch))})
	}
	out.table(rows, nil)
	showRollouts(out, state)
	showOddities(out, state)
	return out.err
}

func showRollouts(out *ink, mirrored mirror.State) {
	if len(mirrored.Rollouts) == 0 {
		return
	}
	rows := [][]string{{"ROLLOUT", "STATE", "SINCE", "TARGET", "WHY"}}
	for i := len(mirrored.Rollouts) - 1; i >= 0; i-- {
		r := mirrored.Rollouts[i]
		state, why := string(r.Record.State), orElse(string(r.Record.RollbackFailureReason), string(r.Record.FailureReason))
		switch {
		case !r.GoneAt.IsZero():
			state, why = gone, saysGone(state)
		case r.Inferred:
			why = "inferred: the host runs it and has lost its state"
		case r.ResyncedSeq > 0 && why == "":
			why = "taken from a heartbeat"
		case len(r.Record.Components) > 0 && why == "":
			why = "waits for a reboot: "
			for j, c := range r.Record.Components {
				if j > 0 {
					why += ", "
				}
				why += c.Component
			}
		}
		rows = append(rows, []string{plain(r.Record.RolloutID), state, when(latest(r)), closure(r.Record.TargetClosure), plain(why)})
	}
	out.printf("\n")
	out.table(rows, nil)
}

// latest is the last moment that a record knows of.
func latest(r mirror.Rollout) time.Time {
	rec := r.Record
	last := rec.CreatedAt
	for _, t := range []time.Time{rec.ReceivedAt, rec.ActivationStartedAt, rec.ActivationCompletedAt, rec.DeferredAt, rec.FailedAt, rec.ConvergedAt, rec.EndedAt} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func showOddities(out *ink, state mirror.State) {
	if len(state.Refusals) > 0 {
		out.printf("\nevents that the rules refused:\n")
		for _, r := range state.Refusals {
			out.printf("  #%d  %s  %s  %s\n", r.Pos, when(r.At), plain(r.Kind), plain(r.Reason))
		}
	}
	if len(state.Notices) > 0 {
		out.printf("\nnotices:\n")
		for _, n := range state.Notices {
			out.printf("  #%d  %s  %s  %s\n", n.Pos, when(n.At), kindOf(n.Type), plain(gist(n.Data)))
		}
	}
}
