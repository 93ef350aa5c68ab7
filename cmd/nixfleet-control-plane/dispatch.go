package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
)

type dispatchOptions struct {
	hosts     []string
	hostsFrom string
	detach    bool
	json      bool
	timeout   time.Duration
	expires   time.Duration
	soak      time.Duration
	req       operator.Request
}

// followAgain is the pause before a control plane that went away is asked again.
const followAgain = time.Second

func dispatchVerb(g *globals) *cobra.Command {
	var opt dispatchOptions
	cmd := &cobra.Command{
		Use:   "dispatch --host HOST [--host HOST]... TARGET",
		Short: "Ask hosts to bring themselves to a system closure",
		Long: `Ask hosts to bring themselves to TARGET, the store path of a system closure, and follow them until each has come to its end or
waits for a reboot. An interruption ends the following alone. The rollout is CHANNEL@REF; the same command again does nothing twice.

--json prints one object a line: the answer to the dispatch, and then every change.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.req.Target = args[0]
			if err := opt.complete(cmd.InOrStdin(), time.Now()); err != nil {
				return err
			}
			client, err := g.ask()
			if err != nil {
				return err
			}
			defer client.Close()
			return opt.run(cmd.Context(), client, newInk(cmd.OutOrStdout(), g.color))
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&opt.hosts, "host", nil, "`host` to ask; may be given many times, or with commas")
	flags.StringVar(&opt.hostsFrom, "hosts-from", "", "`file` of hosts to ask, one a line; - is the standard input")
	flags.StringVar(&opt.req.Channel, "channel", "manual", "`channel` of the rollout")
	flags.StringVar(&opt.req.Ref, "ref", "", "`ref` of the rollout on its channel (default: the time, and some chance)")
	flags.StringVar(&opt.req.Specialisation, "specialisation", "", "`name` of the specialisation of the target to run")
	flags.DurationVar(&opt.soak, "soak", 5*time.Minute, "`time` for which the target has to stay healthy")
	flags.StringVar(&opt.req.Policy, "policy", "", "on failure: rollback-and-halt or halt (default: as the host is configured)")
	flags.BoolVar(&opt.req.Force, "force", false, "pass the quarantine, and the checks of host name and machine type, once")
	flags.DurationVar(&opt.expires, "expires", 0, "do not start it after this `time` from now (default: never expires)")
	flags.BoolVar(&opt.detach, "detach", false, "do not follow")
	flags.DurationVar(&opt.timeout, "timeout", 0, "follow for this `time` at most (default: until all have come to their end)")
	flags.BoolVar(&opt.json, "json", false, "print JSON, one object a line")
	return cmd
}

func (o *dispatchOptions) complete(stdin io.Reader, now time.Time) error {
	o.req.Hosts = o.hosts
	if o.hostsFrom != "" {
		more, err := o.readHosts(stdin)
		if err != nil {
			return err
		}
		o.req.Hosts = append(o.req.Hosts, more...)
	}
	if len(o.req.Hosts) == 0 {
		return hinted("no host is named", "name them with --host, or --hosts-from")
	}
	if o.expires < 0 || o.soak < 0 || o.timeout < 0 {
		return hinted("a time is below zero", "write it as 90s, 5m or 1h30m")
	}
	if o.expires > 0 {
		o.req.ExpiresAt = now.Add(o.expires).UTC()
	}
	o.req.SoakMS = o.soak.Milliseconds()
	if o.req.Ref == "" {
		o.req.Ref = now.UTC().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:6])
	}
	return nil
}

func (o *dispatchOptions) readHosts(stdin io.Reader) (hosts []string, err error) {
	in := stdin
	if o.hostsFrom != "-" {
		f, err := os.Open(o.hostsFrom)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		in = f
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			hosts = append(hosts, line)
		}
	}
	return hosts, lines.Err()
}

func (o *dispatchOptions) run(ctx context.Context, client *operator.Client, out *ink) error {
	reply, err := client.Dispatch(ctx, o.req)
	if err != nil {
		return err
	}
	f := operator.Follow{RolloutID: reply.RolloutID}
	failed := 0
	for _, d := range reply.Hosts {
		if d.Error != "" {
			failed++
		} else {
			f.Hosts = append(f.Hosts, d.Host)
		}
	}
	if o.json {
		err = json.NewEncoder(out.w).Encode(reply)
	} else {
		err = sayDispatched(out, reply)
	}
	if err != nil {
		return err
	}
	code := exitOK
	if !o.detach && len(f.Hosts) > 0 {
		following, err := o.follow(ctx, client, f, out)
		if err != nil {
			return err
		}
		code = following
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d hosts were not asked", failed, len(reply.Hosts))
	}
	return exitWith(code)
}

func sayDispatched(out *ink, reply operator.Reply) error {
	out.printf("rollout %s\n", plain(reply.RolloutID))
	for _, d := range reply.Hosts {
		switch {
		case d.Error != "":
			out.printf("%s: %s: %s\n", plain(d.Host), out.bad("not asked"), plain(d.Error))
			if d.Hint != "" {
				out.printf("  hint: %s\n", plain(d.Hint))
			}
		case d.NeverHeard:
			out.printf("%s: %s\n", plain(d.Host), out.warn("asked, but nothing was ever heard of this host"))
		case !d.New:
			out.printf("%s: asked before\n", plain(d.Host))
		}
	}
	return out.err
}

// errSettled ends the following.
var errSettled = errors.New("every host has settled")

// follow shows the hosts until each has settled. A control plane that goes away meanwhile is asked again: it may have been
// restarted. It gives the exit code that says how they stand.
func (o *dispatchOptions) follow(ctx context.Context, client *operator.Client, f operator.Follow, out *ink) (int, error) {
	following := ctx
	if o.timeout > 0 {
		var cancel context.CancelFunc
		following, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	now := map[string]operator.Progress{}
	settled := 0
	show := func(p operator.Progress) error {
		before, known := now[p.Host]
		now[p.Host] = p
		if done(p) != (known && done(before)) {
			if done(p) {
				settled++
			} else {
				settled--
			}
		}
		if !known || sayProgress(before) != sayProgress(p) {
			if o.json {
				if err := json.NewEncoder(out.w).Encode(p); err != nil {
					return err
				}
			} else {
				out.printf("%s  %s: %s\n", p.At.Local().Format(time.TimeOnly), plain(p.Host), paintProgress(out, p))
			}
		}
		if settled == len(f.Hosts) {
			return errors.Join(out.err, errSettled)
		}
		return out.err
	}
	said := false
	for {
		err := client.Follow(following, f, show)
		switch {
		case errors.Is(err, errSettled) || following.Err() != nil:
			return codeOfProgress(f.Hosts, now), out.err
		case !errors.Is(err, operator.ErrUnreachable):
			return exitError, err
		}
		if !said && !o.json {
			out.printf("%s\n", out.warn("the control plane is away; asking again"))
			said = true
		}
		pause := time.NewTimer(followAgain)
		select {
		case <-pause.C:
		case <-following.Done():
			pause.Stop()
		}
	}
}

// done reports whether there is nothing to wait for: a host that is behind never takes this dispatch.
func done(p operator.Progress) bool { return p.Settled || p.Behind }

// codeOfProgress is the exit code of the worst that became of the hosts.
func codeOfProgress(hosts []string, now map[string]operator.Progress) int {
	code := exitOK
	for _, host := range hosts {
		switch p := now[host]; {
		case !done(p):
			return exitInProgress
		case !p.GoneAt.IsZero():
			code = exitUnsuccessful
		case p.State == "Converged":
		case p.State == "Deferred":
			code = max(code, exitRebootNeeded)
		default:
			code = exitUnsuccessful
		}
	}
	return code
}

func paintProgress(out *ink, p operator.Progress) string {
	says := sayProgress(p)
	switch p.State {
	case "Converged":
		return out.good(says)
	case "Failed", "Reverted", "Superseded":
		return out.bad(says)
	case "Deferred":
		return out.warn(says)
	}
	if done(p) {
		return out.bad(says)
	}
	return says
}

// sayProgress is where a rollout stands, in words.
func sayProgress(p operator.Progress) string {
	says := stateOf(p)
	switch {
	case !p.GoneAt.IsZero():
		return plain(says + ", " + saysGone(p.State))
	case p.ReplacedBy > 0:
		says += fmt.Sprintf(", replaced by a later dispatch (generation %d)", p.ReplacedBy)
	case p.Behind:
		says += ", and the host has seen later generations than this control plane gave out: dispatch it again"
	case p.State == "Pending":
		says += ", not answered yet"
	case len(p.Waiting) > 0:
		says += ", waits for a reboot: " + strings.Join(p.Waiting, ", ")
	}
	if p.Inferred {
		says += " (inferred: the host runs it and has lost its state)"
	}
	if p.Reason != "" {
		says += ", " + p.Reason
	}
	if p.Detail != "" {
		says += ": " + lastLine(p.Detail)
	}
	return plain(says)
}

// gone is the word for a rollout that has ended on the host in a way that is not known here.
const gone = "Gone"

// stateOf is the state of a rollout, in one word.
func stateOf(p operator.Progress) string {
	if !p.GoneAt.IsZero() {
		return gone
	}
	return orElse(p.State, "unknown")
}

// saysGone explains it.
func saysGone(last string) string {
	return "it was " + last + " when it was last heard of, and how it ended is not known to this control plane"
}

// lastLine is the last line of an output, which usually says what went wrong.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
