package main

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

// showStatus writes the status for people: what is, why, what next, and the rest.
func showStatus(out *ink, st localapi.Status) error {
	out.printf("%s%s\n\n", hostPrefix(st), paintVerdict(out, st.Verdict, plain(st.Summary)))
	for _, row := range []struct {
		title   string
		closure localapi.Closure
		known   bool
		or      string
	}{
		{"running", st.Running, st.Running.Path != "", "cannot be read"},
		{"next boot", st.NextBoot.Closure, st.NextBoot.Path != "", orUnknown(st.NextBoot.Reason)},
		{"target", targetOf(st), st.Target != nil, "none: this host was never told what to run"},
	} {
		showRow(out, st, row.title, row.closure, row.known, row.or)
	}
	showList(out, "why", st.Why)
	if st.Then != "" {
		out.printf("\nnext: %s\n", out.bold(plain(st.Then)))
	}
	showRest(out, st)
	return out.err
}

func showRow(out *ink, st localapi.Status, title string, c localapi.Closure, known bool, or string) {
	if !known {
		out.printf("  %-10s %s\n", title, out.dim(plain(or)))
		return
	}
	age := ""
	if !c.Since.IsZero() {
		age = "for " + duration(st.At.Sub(c.Since))
	}
	label := plain(c.Label)
	if label == "" {
		label = "?"
	}
	if c.Specialisation != "" {
		label += " (" + plain(c.Specialisation) + ")"
	}
	out.printf("  %-10s %-16s %-12s %s\n", title, label, age, out.dim(plain(c.Path)))
}

func targetOf(st localapi.Status) localapi.Closure {
	if st.Target == nil {
		return localapi.Closure{}
	}
	return *st.Target
}

func orUnknown(reason string) string {
	if reason == "" {
		return "unknown"
	}
	return "unknown: " + reason
}

func showList(out *ink, title string, lines []string) {
	for i, line := range lines {
		if i == 0 {
			out.printf("\n%s:\n", title)
		}
		out.printf("  %s\n", plain(line))
	}
}

func showRest(out *ink, st localapi.Status) {
	out.printf("\n")
	if r := st.Rollout; r != nil {
		line := fmt.Sprintf("%s, %s", plain(r.ID), plain(r.State))
		if !r.Since.IsZero() {
			line += " for " + duration(st.At.Sub(r.Since))
		}
		if r.Phase != "" {
			line += fmt.Sprintf(", phase %s", plain(r.Phase))
		}
		out.printf("  %-10s %s\n", "rollout", line)
	}
	if n := st.Next; n != nil {
		out.printf("  %-10s %s, %s: %s\n", "waiting", plain(n.ID), plain(path.Base(n.TargetClosure)), plain(n.Why))
	}
	if h := st.Hold; h != nil {
		out.printf("  %-10s %s\n", "held", out.warn(holdWords(*h)))
	}
	out.printf("  %-10s %s\n", "events", outboxWords(st))
	if st.Source == localapi.FromAgent {
		out.printf("  %-10s %s, up %s\n", "agent", plain(st.Agent.Version), duration(st.At.Sub(st.Agent.StartedAt)))
	}
	if st.Agent.ReadOnly != "" {
		out.printf("  %s %s\n", out.warn("read only:"), plain(st.Agent.ReadOnly))
	}
	for _, note := range st.Notes {
		out.printf("  %s %s\n", out.warn("note:"), plain(note))
	}
}

// outboxWords says what waits, and the last event and the last one that was acknowledged.
func outboxWords(st localapi.Status) string {
	o := st.Outbox
	if o.LastPos == 0 {
		return "none yet"
	}
	words := []string{fmt.Sprintf("last #%d", o.LastPos)}
	if o.LastKind != "" {
		words[0] += fmt.Sprintf(" %s %s ago", plain(o.LastKind), duration(st.At.Sub(o.LastAt)))
	}
	if o.AckedPos > 0 {
		words = append(words, fmt.Sprintf("acknowledged up to #%d", o.AckedPos))
	} else {
		words = append(words, "none acknowledged")
	}
	if o.Depth > 0 {
		waits := fmt.Sprintf("%d waiting", o.Depth)
		if !o.OldestAt.IsZero() {
			waits += ", the oldest for " + duration(st.At.Sub(o.OldestAt))
		}
		words = append(words, waits)
	}
	if o.DeadLetters > 0 {
		words = append(words, fmt.Sprintf("%d refused for good", o.DeadLetters))
	}
	if o.Receiver == "none" {
		words = append(words, "kept until there is a control plane")
	}
	return strings.Join(words, "; ")
}

func onelineStatus(st localapi.Status) string {
	line := hostPrefix(st) + plain(st.Summary)
	if st.Then != "" && st.Verdict != localapi.AtTarget {
		line += ". " + plain(st.Then)
	}
	return line
}

func hostPrefix(st localapi.Status) string {
	if st.Host.Name == "" {
		return ""
	}
	return plain(st.Host.Name) + ": "
}

func paintVerdict(out *ink, v localapi.Verdict, text string) string {
	switch v {
	case localapi.AtTarget:
		return out.good(text)
	case localapi.InProgress, localapi.RebootNeeded:
		return out.warn(text)
	case localapi.Unsuccessful, localapi.NoAgent:
		return out.bad(text)
	default:
		return text
	}
}

// named is a closure with its version label, as explain shows it.
func named(closure, label string) string {
	if label == "" {
		return plain(closure)
	}
	return fmt.Sprintf("%s (%s)", plain(closure), plain(label))
}

// duration rounds to what a reader compares: the largest unit that is not zero.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s" // a clock that was set back
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d/time.Second))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d/time.Hour))
	default:
		return fmt.Sprintf("%d d", int(d/(24*time.Hour)))
	}
}
