package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
)

func hostsVerb(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "hosts",
		Short: "List the hosts of the fleet",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.ask()
			if err != nil {
				return err
			}
			defer client.Close()
			fleet, err := client.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(fleet)
			}
			return listHosts(newInk(cmd.OutOrStdout(), g.color), fleet, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listHosts(out *ink, fleet operator.Hosts, now time.Time) error {
	if len(fleet.Hosts) == 0 {
		out.printf("no host has been heard of\n")
		return out.err
	}
	rows := [][]string{{"HOST", "HEARD", "STATE", "ROLLOUT", "RUNNING", "NOTES"}}
	for _, h := range fleet.Hosts {
		state, rollout := "-", "-"
		if h.Rollout != nil {
			state, rollout = stateOf(*h.Rollout), plain(h.Rollout.RolloutID)
		}
		rows = append(rows, []string{plain(h.Host), ago(h.SeenAt, now), state, rollout, closure(h.Running), strings.Join(notesOf(h), "; ")})
	}
	out.table(rows, func(row, column int, cell string) string {
		if row == 0 || column != 2 {
			return cell
		}
		switch strings.TrimSpace(cell) {
		case "Converged":
			return out.good(cell)
		case "Deferred", gone:
			return out.warn(cell)
		case "Failed", "Reverted":
			return out.bad(cell)
		}
		return cell
	})
	return out.err
}

// notesOf is what an operator would want to know of a host that is not as it should be.
func notesOf(h operator.Summary) []string {
	var notes []string
	if r := h.Rollout; r != nil {
		if says, plainly := sayProgress(*r), stateOf(*r); says != plainly {
			notes = append(notes, strings.TrimPrefix(strings.TrimPrefix(says, plainly), ", "))
		}
	}
	if h.Hold != "" {
		notes = append(notes, "held: "+plain(h.Hold))
	}
	if h.OutboxDepth > 0 {
		notes = append(notes, fmt.Sprintf("%d events to come", h.OutboxDepth))
	}
	if h.Refusals > 0 {
		notes = append(notes, fmt.Sprintf("%d events refused", h.Refusals))
	}
	for _, d := range h.Degraded {
		notes = append(notes, plain(d))
	}
	return notes
}

// ago says how long ago something was, roughly.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := now.Sub(t); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds ago", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours()/24))
	}
}
