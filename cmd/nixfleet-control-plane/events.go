package main

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

func eventsVerb(g *globals) *cobra.Command {
	var (
		asJSON, follow bool
		host           string
		number         int
	)
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what the hosts reported, in order",
		Long: `Show the log of the fleet in the order in which it was stored: what hosts reported, with what became of it, and what they were
asked for. --json prints one object a line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if number < 0 || number > 10_000 {
				return hinted("-n takes a whole number from 0 to 10000", "with --follow and -n 0 only what is new is shown")
			}
			client, err := g.ask()
			if err != nil {
				return err
			}
			defer client.Close()
			out := newInk(cmd.OutOrStdout(), g.color)
			err = client.Events(cmd.Context(), host, number, follow, func(l operator.Line) error {
				if asJSON {
					return json.NewEncoder(out.w).Encode(l)
				}
				return showLine(out, l)
			})
			if follow && cmd.Context().Err() != nil {
				return nil // interrupted, which is how it ends
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	flags.BoolVarP(&follow, "follow", "f", false, "go on with everything that is new")
	flags.StringVar(&host, "host", "", "only of this `host`")
	flags.IntVarP(&number, "number", "n", 50, "show the last `lines`")
	return cmd
}

func showLine(out *ink, l operator.Line) error {
	if l.Kind == operator.LinePurged {
		return showPurged(out, l)
	}
	at := l.Time
	if at.IsZero() {
		at = l.ReceivedAt
	}
	out.printf("%s  %s  %-22s %s", when(at), plain(l.Host), plain(l.Kind), orDash(l.RolloutID))
	switch l.Result {
	case wire.Refused:
		out.printf("  %s: %s", out.bad("refused"), plain(l.Reason))
	case wire.Duplicate:
		out.printf("  duplicate")
	default:
		if says := gist(l.Data); says != "" {
			out.printf("  %s", plain(says))
		}
	}
	out.printf("\n")
	return out.err
}

// showPurged says what is no longer there to be shown.
func showPurged(out *ink, l operator.Line) error {
	var gone struct {
		Before time.Time `json:"before"`
	}
	if len(l.Data) > 0 {
		if err := json.Unmarshal(l.Data, &gone); err != nil {
			return err
		}
	}
	switch {
	case l.Host == "":
		out.printf("%s\n", out.warn("older lines are gone: what is kept is bounded by age and number"))
	case gone.Before.IsZero():
		out.printf("%s\n", out.warn(plain(l.Host)+": older lines are gone"))
	default:
		out.printf("%s\n", out.warn(plain(l.Host)+": older lines are gone, those of up to "+when(gone.Before)))
	}
	return out.err
}

// kindOf is the kind in the type of an event, or the type where it is not ours.
func kindOf(eventType string) string {
	if kind, ok := wire.KindOf(eventType); ok {
		return plain(kind)
	}
	return plain(eventType)
}

// gist is what matters of an event's data, in a few words.
func gist(data json.RawMessage) string {
	var b struct {
		Reason       string `json:"reason"`
		Text         string `json:"text"`
		SwitchMethod string `json:"switch_method"`
		Components   []struct {
			Component string `json:"component"`
		} `json:"components"`
		Observed   string `json:"observed_current_closure"`
		RevertedTo string `json:"reverted_to_closure"`
		By         string `json:"by_rollout_id"`
		Accepted   string `json:"target_closure"`
		Target     string `json:"target"`
	}
	if json.Unmarshal(data, &b) != nil {
		return ""
	}
	components := make([]string, 0, len(b.Components))
	for _, c := range b.Components {
		components = append(components, c.Component)
	}
	for _, says := range []string{b.Reason, b.Text, b.SwitchMethod, strings.Join(components, ", "), b.Observed, b.RevertedTo, b.By, b.Accepted, b.Target} {
		if says != "" {
			return says
		}
	}
	return ""
}
