package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/agent"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

// maxRows is the most rows that one question gives, as the agent bounds it.
const maxRows = 10_000

type eventsOptions struct {
	json, follow bool
	number       int
	after        uint64
}

func eventsVerb(g *globals) *cobra.Command {
	var opt eventsOptions
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what this host reports, in order",
		Long: `Show the events of this host in the order in which they are reported to the control plane: each with its position, whether
it was acknowledged, and what it says. Acknowledged events are kept up to a bound.

--json prints one object a line, with the event's body. With the agent down its file is read.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkRows(opt.number); err != nil {
				return err
			}
			a, err := g.ask(cmd)
			if err != nil {
				return err
			}
			return opt.run(cmd.Context(), a, newInk(cmd.OutOrStdout(), g.color), cmd.ErrOrStderr(), cmd.Flags().Changed("after"))
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opt.json, "json", false, "print JSON, one object a line")
	flags.IntVarP(&opt.number, "number", "n", 50, "how `many`: the last ones, or with --after the first ones after it")
	flags.Uint64Var(&opt.after, "after", 0, "only events after this `position`")
	flags.BoolVarP(&opt.follow, "follow", "f", false, "go on with every new event")
	return cmd
}

func checkRows(n int) error {
	if n < 1 || n > maxRows {
		return hinted("-n takes a whole number from 1 to 10000", "for more, ask again with --after the last position")
	}
	return nil
}

func (o *eventsOptions) run(ctx context.Context, a *ask, out *ink, rest io.Writer, fromPosition bool) error {
	if !fromPosition {
		st, err := a.status(ctx)
		if err != nil {
			return err
		}
		if last := st.Outbox.LastPos; last > uint64(o.number) {
			o.after = last - uint64(o.number)
		}
	}
	events, fromFile, err := fromAgentOr(ctx,
		func(ctx context.Context) ([]localapi.Event, error) { return a.client.Events(ctx, o.after, o.number) },
		func() ([]localapi.Event, error) { return agent.ReadEvents(a.cfg, o.after, o.number) })
	if err != nil {
		return err
	}
	if fromFile {
		if _, err := io.WriteString(rest, saidFromFile); err != nil {
			return err
		}
	}
	for _, e := range events {
		if err := o.show(out, e); err != nil {
			return err
		}
		o.after = e.Pos
	}
	if !o.follow {
		return nil
	}
	err = a.client.Follow(ctx, o.after, func(e localapi.Event) error { return o.show(out, e) })
	if ctx.Err() != nil {
		return nil //nolint:nilerr // interrupted, which is how it ends
	}
	return err
}

func (o *eventsOptions) show(out *ink, e localapi.Event) error {
	if o.json {
		return json.NewEncoder(out.w).Encode(e)
	}
	state := plain(e.State)
	switch e.State {
	case "acked":
		state = out.dim(state)
	case "damaged":
		state = out.bad(state)
	}
	out.printf("#%-5d %s  %-22s %-24s %s", e.Pos, when(e.At), plain(e.Kind), plain(orDash(e.RolloutID)), state)
	if says := orElse(e.Reason, gist(e.Body)); says != "" {
		out.printf("  %s", plain(says))
	}
	out.printf("\n")
	return out.err
}

// gist is what matters of an event's body, in a few words.
func gist(body json.RawMessage) string {
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
		Target     string `json:"target_closure"`
	}
	if json.Unmarshal(body, &b) != nil {
		return ""
	}
	var components []string
	for _, c := range b.Components {
		components = append(components, c.Component)
	}
	for _, says := range []string{b.Reason, b.Text, b.SwitchMethod, strings.Join(components, ", "), b.Observed, b.RevertedTo, b.By, b.Target} {
		if says != "" {
			return says
		}
	}
	return ""
}

func when(t time.Time) string { return t.Local().Format(time.DateTime) }

func orDash(s string) string { return orElse(s, "-") }

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
