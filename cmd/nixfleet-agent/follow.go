package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
)

// absencePatience bounds how long a follower waits for an agent that went away. A switch that replaces the agent restarts it
// within seconds; the work goes on without it.
const absencePatience = 2 * time.Minute

// errFollowed ends a watch whose rollout has come to its outcome.
var errFollowed = errors.New("the outcome is known")

// follower shows the work of one rollout until its outcome is known. Progress goes to stderr, the outcome to stdout.
type follower struct {
	ask      *ask
	rollout  string
	out      *ink
	progress *ink
	json     bool
	// cancelled: it is the way back of a deferral that is followed; Reverted is its success.
	cancelled bool

	said    string
	outcome outcome
}

// outcome is how a followed rollout ended.
type outcome struct {
	code   int
	text   string
	why    []string
	status localapi.Status
}

// follow returns when the outcome is known, with its exit code. Over restarts of the agent it goes on.
func (f *follower) follow(ctx context.Context) error {
	missingSince := time.Time{}
	for {
		err := f.ask.client.Watch(ctx, func(st localapi.Status) error {
			missingSince = time.Time{}
			return f.look(ctx, st)
		})
		switch {
		case errors.Is(err, errFollowed):
			return f.conclude()
		case ctx.Err() != nil:
			f.progress.printf("the work goes on; see nixfleet-agent status --watch\n")
			return exitCode(exitInProgress)
		case !errors.Is(err, localapi.ErrNoAgent):
			return err
		}
		if missingSince.IsZero() {
			missingSince = time.Now()
			f.say("the agent went away; its work goes on, and it is waited for")
		}
		if time.Since(missingSince) > absencePatience {
			return fmt.Errorf("follow %s: %w; its work may go on", f.rollout, err)
		}
		if err := pause(ctx, askAgain); err != nil {
			continue // the interrupt is said above
		}
	}
}

// look shows what is new and returns errFollowed when the outcome is known.
func (f *follower) look(ctx context.Context, st localapi.Status) error {
	f.outcome.status = st
	switch {
	case st.Rollout != nil && st.Rollout.ID == f.rollout:
		return f.owning(st)
	case st.Next != nil && st.Next.ID == f.rollout:
		return f.waiting(st.Next)
	default:
		return f.ended(ctx)
	}
}

// owning looks at a rollout that owns the host.
func (f *follower) owning(st localapi.Status) error {
	r := st.Rollout
	switch r.State {
	case "Soaking", "Converged":
		f.outcome.text, f.outcome.code = "the target runs", exitOK
		if r.State == "Soaking" && r.SoakMS > 0 {
			f.outcome.text += " and is watched for " + duration(time.Duration(r.SoakMS)*time.Millisecond)
		}
		f.outcome.why = r.Degraded
		return errFollowed
	case "Deferred":
		if f.cancelled {
			return f.cancelling(st)
		}
		f.outcome.text, f.outcome.code, f.outcome.why = st.Summary+". "+st.Then, exitRebootNeeded, st.Why
		return errFollowed
	case "Failed":
		goesOn := r.Phase != "" && r.Phase != "staged" && (r.WayBackFailed == "" || r.Progress != "")
		if !goesOn {
			f.outcome.text, f.outcome.code, f.outcome.why = st.Summary, exitUnsuccessful, st.Why
			return errFollowed
		}
	case "Reverted":
		if f.cancelled {
			f.outcome.text, f.outcome.code = "cancelled: profile and boot default are back", exitOK
			return errFollowed
		}
		f.outcome.text, f.outcome.code, f.outcome.why = st.Summary, exitUnsuccessful, st.Why
		return errFollowed
	case "Superseded":
		f.outcome.text, f.outcome.code = st.Summary, exitUnsuccessful
		return errFollowed
	}
	words := []string{strings.ToLower(r.State)}
	if r.Phase != "" {
		words = append(words, r.Phase)
	}
	if r.Progress != "" {
		words = append(words, r.Progress)
	}
	f.say(strings.Join(words, ": "))
	return nil
}

// cancelling looks at a deferral whose profile and boot default are being returned.
func (f *follower) cancelling(st localapi.Status) error {
	r := st.Rollout
	if r.WayBackFailed != "" && r.Progress == "" {
		f.outcome.text, f.outcome.code, f.outcome.why = "it could not be cancelled: "+r.WayBackFailed, exitUnsuccessful, st.Why
		return errFollowed
	}
	f.say("cancelling: " + r.Phase)
	return nil
}

// waiting looks at a rollout whose predecessor still owns the host.
func (f *follower) waiting(n *localapi.Waiting) error {
	if n.State == "Failed" {
		f.outcome.text, f.outcome.code, f.outcome.why = "failed: "+n.FailureReason, exitUnsuccessful, []string{n.Why}
		return errFollowed
	}
	f.say("waiting: " + n.Why)
	return nil
}

// ended finds the end of a rollout that is no longer the host's, as one that a newer one replaced.
func (f *follower) ended(ctx context.Context) error {
	rows, err := f.ask.client.History(ctx, f.rollout, 1)
	if err != nil {
		return err
	}
	f.outcome.code, f.outcome.text = exitUnsuccessful, "another rollout took this one's place"
	if len(rows) > 0 {
		f.outcome.text = fmt.Sprintf("it ended as %s", rows[0].To)
		if rows[0].Reason != "" {
			f.outcome.text += " (" + rows[0].Reason + ")"
		}
		if rows[0].To == "Converged" {
			f.outcome.code = exitOK
		}
	}
	return errFollowed
}

func (f *follower) say(text string) {
	if text != f.said {
		f.said = text
		f.progress.printf("%s: %s\n", plain(f.rollout), plain(text))
	}
}

func (f *follower) conclude() error {
	o := f.outcome
	if f.json {
		if err := printJSON(f.out.w, o.status); err != nil {
			return err
		}
		return exitWith(o.code)
	}
	paint := f.out.good
	switch o.code {
	case exitRebootNeeded:
		paint = f.out.warn
	case exitUnsuccessful:
		paint = f.out.bad
	}
	f.out.printf("%s: %s\n", plain(f.rollout), paint(plain(o.text)))
	for _, line := range o.why {
		f.out.printf("  %s\n", plain(line))
	}
	if f.out.err != nil {
		return f.out.err
	}
	return exitWith(o.code)
}
