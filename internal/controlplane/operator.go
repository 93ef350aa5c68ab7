package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// operatorDispatch asks hosts for a target. Each host's dispatch stands by itself: what went wrong with one is said of that one.
func (s *Server) operatorDispatch(w http.ResponseWriter, c call) error {
	var req operator.Request
	if err := read(w, c.Request, wire.JSON, operator.MaxRequest, &req); err != nil {
		return err
	}
	if err := s.check(req); err != nil {
		return err
	}
	slices.Sort(req.Hosts)
	req.Hosts = slices.Compact(req.Hosts)
	if !req.Force {
		if err := s.mayDispatch(c.Context(), req); err != nil {
			return err
		}
	}
	s.log.Info("dispatch", slog.String("operator", c.name), slog.String("rollout", rolloutOf(req)), slog.String("target", req.Target),
		slog.Int("hosts", len(req.Hosts)), slog.Bool("force", req.Force))
	reply := operator.Reply{RolloutID: rolloutOf(req), Hosts: make([]operator.Dispatched, len(req.Hosts))}
	each(req.Hosts, func(i int, host string) {
		d, err := s.dispatch(c.Context(), host, req)
		if err != nil {
			var known *refusal
			if errors.As(err, &known) {
				d.Hint = known.Hint
			}
			d.Error = err.Error()
		}
		reply.Hosts[i] = d
	})
	s.answer(w, http.StatusOK, reply)
	return nil
}

// each calls do for every host, some at once, and waits for all.
func each(hosts []string, do func(i int, host string)) {
	slots := make(chan struct{}, working)
	var wg sync.WaitGroup
	for i, host := range hosts {
		slots <- struct{}{}
		wg.Go(func() {
			do(i, host)
			<-slots
		})
	}
	wg.Wait()
}

func rolloutOf(req operator.Request) string { return req.Channel + "@" + req.Ref }

// check refuses what cannot be a dispatch to any host.
func (s *Server) check(req operator.Request) error {
	if len(req.Hosts) == 0 || len(req.Hosts) > operator.MaxHosts {
		return badRequest("%d hosts; 1 to %d are dispatched to at once", len(req.Hosts), operator.MaxHosts)
	}
	for _, host := range req.Hosts {
		if err := pki.CheckName(host); err != nil {
			return badRequest("%s", err)
		}
	}
	for what, name := range map[string]string{"channel": req.Channel, "ref": req.Ref} {
		if !isName(name) {
			return badRequest("the %s %.40q is not a name: letters, digits and - . _ / : +, at most %d", what, name, maxName)
		}
	}
	if req.Specialisation != "" && !isName(req.Specialisation) {
		return badRequest("the specialisation %.40q is not a name", req.Specialisation)
	}
	if req.Channel == "local" {
		return badRequest("the channel local is the hosts' own")
	}
	if !isStorePath(req.Target) {
		return &refusal{status: http.StatusBadRequest, Problem: wire.Problem{Code: "bad-path", Message: fmt.Sprintf("%.200q is not a store path", req.Target),
			Hint: "it is the path of a system closure: `readlink -f result` after building config.system.build.toplevel"}}
	}
	switch fsm.Policy(req.Policy) {
	case "", fsm.RollbackAndHalt, fsm.Halt:
	default:
		return badRequest("the policy %.40q is not known; one of %s, %s", req.Policy, fsm.RollbackAndHalt, fsm.Halt)
	}
	if req.SoakMS < 0 {
		return badRequest("a soak of %d ms is not a duration", req.SoakMS)
	}
	if !req.ExpiresAt.IsZero() && !req.ExpiresAt.After(s.now()) {
		return badRequest("it expires in the past: %s", req.ExpiresAt)
	}
	return nil
}

func isName(s string) bool {
	return s != "" && len(s) <= maxName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/:+") == ""
}

// isStorePath reports whether a text has the form of a store path: a hash of 32 characters of Nix's base 32, and a name.
func isStorePath(s string) bool {
	base, ok := strings.CutPrefix(s, "/nix/store/")
	if !ok || len(base) < 34 || len(base) > 244 || base[32] != '-' {
		return false
	}
	return strings.Trim(base[:32], "0123456789abcdfghijklmnpqrsvwxyz") == "" &&
		strings.Trim(base[33:], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._?=") == ""
}

// mayDispatch refuses a target that a host of the channel went back from.
func (s *Server) mayDispatch(ctx context.Context, req operator.Request) error {
	a, err := s.store.Accused(ctx, req.Channel, req.Target)
	if err != nil || a == nil {
		return err
	}
	return &refusal{status: http.StatusConflict, Problem: wire.Problem{Code: "quarantined",
		Message: fmt.Sprintf("%s went back from %s on channel %s (%s, rollout %s)", a.Host, a.Target, a.Channel, a.Reason, a.RolloutID),
		Hint:    "dispatch a repaired closure, clear it with `nixfleet-control-plane accused clear --channel " + a.Channel + " " + a.Target + "`, or pass --force"}}
}

// operatorAccused lists what is dispatched only by force.
func (s *Server) operatorAccused(w http.ResponseWriter, c call) error {
	ctx, done, err := s.work(c.Context())
	if err != nil {
		return err
	}
	defer done()
	all, err := s.store.Accusations(ctx)
	if err != nil {
		return err
	}
	out := operator.Accused{Accused: make([]operator.Accusation, 0, len(all))}
	for _, a := range all {
		out.Accused = append(out.Accused, operator.Accusation(a))
	}
	slices.SortFunc(out.Accused, func(a, b operator.Accusation) int {
		return cmp.Or(cmp.Compare(a.Channel, b.Channel), a.At.Compare(b.At), cmp.Compare(a.Target, b.Target))
	})
	s.answer(w, http.StatusOK, out)
	return nil
}

// operatorClear takes an accusation away.
func (s *Server) operatorClear(w http.ResponseWriter, c call) error {
	var req operator.Clear
	if err := read(w, c.Request, wire.JSON, operator.MaxRequest, &req); err != nil {
		return err
	}
	if !isName(req.Channel) || !isStorePath(req.Target) {
		return badRequest("the channel %.40q or the closure %.200q is none", req.Channel, req.Target)
	}
	ctx, done, err := s.work(c.Context())
	if err != nil {
		return err
	}
	defer done()
	if err := s.store.Clear(ctx, req.Channel, req.Target); err != nil {
		return err
	}
	s.log.Info("accusation cleared", slog.String("operator", c.name), slog.String("channel", req.Channel), slog.String("target", req.Target))
	s.answer(w, http.StatusOK, req)
	return nil
}

// dispatch asks one host. Its generation is above all that the host may have seen.
func (s *Server) dispatch(ctx context.Context, host string, req operator.Request) (operator.Dispatched, error) {
	out := operator.Dispatched{Host: host}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return out, err
	}
	defer done()
	state, err := s.store.State(ctx, host)
	if err != nil {
		return out, err
	}
	out.NeverHeard = len(state.Epochs) == 0
	d, err := s.store.PutTarget(ctx, host, func(before *wire.Dispatch) (wire.Dispatch, error) {
		d := wire.Dispatch{
			Generation: state.Generation() + 1, Host: host, RolloutID: rolloutOf(req), Channel: req.Channel, Target: req.Target,
			Specialisation: req.Specialisation, SoakMS: req.SoakMS, SoakDueAt: req.SoakDueAt, Policy: req.Policy, Force: req.Force, ExpiresAt: req.ExpiresAt,
		}
		out.New = true
		if before != nil {
			d.Generation = max(d.Generation, before.Generation+1)
			if same := *before; same.RolloutID == d.RolloutID && same.Target == d.Target && same.Specialisation == d.Specialisation && state.Seen < same.Generation {
				out.New = false
				return same, nil
			}
		}
		return d, known(state, d)
	})
	if err != nil {
		return out, err
	}
	out.Generation = d.Generation
	_, _, err = s.store.Change(ctx, host, func(mirror.State) (mirror.Entry, error) {
		return mirror.Entry{At: s.now().UTC(), Dispatch: &d}, nil
	})
	return out, err
}

// known refuses a rollout that the host has already: an id is never used for another target, nor for another try.
func known(state mirror.State, d wire.Dispatch) error {
	r, ok := state.Rollout(d.RolloutID)
	switch {
	case !ok:
		return nil
	case r.Record.TargetClosure != d.Target || r.Record.Specialisation != d.Specialisation:
		return &refusal{status: http.StatusConflict, Problem: wire.Problem{Code: "rollout-used",
			Message: fmt.Sprintf("rollout %s is for %s", d.RolloutID, r.Record.TargetClosure), Hint: "use another --ref"}}
	case r.Record.State == fsm.Pending:
		return nil
	default:
		return &refusal{status: http.StatusConflict, Problem: wire.Problem{Code: "rollout-used",
			Message: fmt.Sprintf("rollout %s is %s there already", d.RolloutID, r.Record.State), Hint: "a retry needs another --ref"}}
	}
}

// operatorHosts lists the fleet.
func (s *Server) operatorHosts(w http.ResponseWriter, c call) error {
	hosts, err := s.store.Hosts(c.Context())
	if err != nil {
		return err
	}
	slices.Sort(hosts)
	fleet := operator.Hosts{Hosts: make([]operator.Summary, len(hosts))}
	errs := make([]error, len(hosts))
	each(hosts, func(i int, host string) {
		state, err := s.store.State(c.Context(), host)
		if err == nil {
			fleet.Hosts[i], _, err = s.summary(c.Context(), state)
		}
		errs[i] = err
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.answer(w, http.StatusOK, fleet)
	return nil
}

// operatorShow tells all that is known of a host.
func (s *Server) operatorShow(w http.ResponseWriter, c call) error {
	host := c.PathValue("host")
	state, err := s.store.State(c.Context(), host)
	if err != nil {
		return err
	}
	target, err := s.store.Target(c.Context(), host)
	if err != nil {
		return err
	}
	if len(state.Epochs) == 0 && len(state.Rollouts) == 0 && target == nil {
		return fmt.Errorf("%w: %.253q", fleetstore.ErrUnknownHost, host)
	}
	detail := operator.Detail{Dispatch: target}
	var beat *fleetstore.Heartbeat
	if detail.Summary, beat, err = s.summary(c.Context(), state); err != nil {
		return err
	}
	if beat != nil {
		detail.Heartbeat = &beat.Heartbeat
	}
	if detail.Mirror, err = mirror.Encode(state); err != nil {
		return err
	}
	s.answer(w, http.StatusOK, detail)
	return nil
}

func (s *Server) summary(ctx context.Context, state mirror.State) (operator.Summary, *fleetstore.Heartbeat, error) {
	out := operator.Summary{Host: state.Host, Refusals: len(state.Refusals)}
	if n := len(state.Rollouts); n > 0 {
		p := progressOf(state, state.Rollouts[n-1].Record.RolloutID)
		out.Rollout = &p
	}
	beat, err := s.store.LastHeartbeat(ctx, state.Host)
	if err != nil || beat == nil {
		return out, nil, err
	}
	out.SeenAt, out.AgentVersion, out.Running = beat.ReceivedAt, beat.AgentVersion, beat.Facts.Running
	out.OutboxDepth, out.Degraded, out.Hold = beat.Outbox.Depth, beat.Degraded, beat.Hold
	return out, beat, nil
}

// progressOf says where a rollout stands on a host.
func progressOf(state mirror.State, rollout string) operator.Progress {
	p := operator.Progress{Host: state.Host, RolloutID: rollout}
	r, ok := state.Rollout(rollout)
	if !ok {
		return p
	}
	rec := r.Record
	p.State, p.Generation, p.Inferred = string(rec.State), rec.Generation, r.Inferred
	switch rec.State {
	case fsm.Pending:
		if state.Dispatched > rec.Generation && rec.Generation > 0 {
			p.ReplacedBy, p.Settled = state.Dispatched, true
		}
		p.Behind = rec.Generation > 0 && state.Seen >= rec.Generation && r.Epoch == ""
	case fsm.Deferred:
		p.Settled = true
		for _, change := range rec.Components {
			p.Waiting = append(p.Waiting, change.Component)
		}
	case fsm.Failed, fsm.Reverted:
		p.Settled, p.Reason, p.Detail = true, string(rec.FailureReason), rec.FailureDetail
		if rec.RollbackFailureReason != "" {
			p.Reason, p.Detail = string(rec.RollbackFailureReason), "the way back: "+rec.RollbackFailureDetail
		}
	case fsm.Superseded:
		p.Settled, p.Detail = true, "by "+rec.SupersededBy
	case fsm.Soaking:
		if failing := fsm.FailingProbes(rec); len(failing) > 0 {
			p.Detail = "failing: " + strings.Join(failing, ", ")
		}
	default:
		p.Settled = rec.State.Terminal()
	}
	if !r.GoneAt.IsZero() {
		p.GoneAt, p.Settled = r.GoneAt, true
	}
	return p
}

// operatorFollow writes the progress of a rollout whenever it changes on one of the hosts, beginning with how it stands.
func (s *Server) operatorFollow(w http.ResponseWriter, c call) error {
	var f operator.Follow
	if err := read(w, c.Request, wire.JSON, operator.MaxRequest, &f); err != nil {
		return err
	}
	if f.RolloutID == "" || len(f.Hosts) == 0 || len(f.Hosts) > operator.MaxHosts {
		return badRequest("a rollout and 1 to %d hosts are needed", operator.MaxHosts)
	}
	last, err := s.store.Last(c.Context())
	if err != nil {
		return err
	}
	return s.lines(w, c, func(ctx context.Context, write func(any) error) error {
		shown := map[string]string{}
		show := func(ctx context.Context, host string) error {
			state, err := s.store.State(ctx, host)
			if err != nil {
				return err
			}
			p := progressOf(state, f.RolloutID)
			key, err := json.Marshal(p)
			if err != nil || shown[host] == string(key) {
				return err
			}
			shown[host] = string(key)
			p.At = s.now().UTC()
			return write(p)
		}
		for _, host := range f.Hosts {
			shown[host] = ""
			if err := show(ctx, host); err != nil {
				return err
			}
		}
		return s.store.Follow(ctx, "", last+1, func(l fleetstore.Logged) error {
			if _, wanted := shown[l.Entry.Host]; !wanted {
				return nil
			}
			return show(ctx, l.Entry.Host)
		})
	})
}

// operatorEvents writes the last lines of the log and, if that is asked for, those to come.
func (s *Server) operatorEvents(w http.ResponseWriter, c call) error {
	query := c.URL.Query()
	n, err := number(c, "last")
	switch {
	case err != nil:
		return err
	case !query.Has("last"):
		n = defaultLines
	case n > maxLines:
		return badRequest("at most the last %d lines are shown", maxLines)
	}
	host := query.Get("host")
	last, err := s.store.Last(c.Context())
	if err != nil {
		return err
	}
	recent, err := s.recent(c.Context(), host, last, n)
	if err != nil {
		return err
	}
	return s.lines(w, c, func(ctx context.Context, write func(any) error) error {
		for _, line := range recent {
			if err := write(line); err != nil {
				return err
			}
		}
		if query.Get("follow") != "1" {
			return nil
		}
		return s.store.Follow(ctx, host, last+1, func(l fleetstore.Logged) error {
			for _, line := range linesOf(l) {
				if err := write(line); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// recent are the last n lines of the log up to a sequence. Where there are fewer because older ones were purged, the first says so.
func (s *Server) recent(ctx context.Context, host string, last, n uint64) (lines []operator.Line, err error) {
	if n == 0 {
		return nil, nil
	}
	// A message has one line at least. Of a host it is not known how far back they are, nor where something was purged between.
	span := n
	if host != "" {
		span = last
	}
	for whole := false; !whole; span *= widen {
		from := last - min(last, span) + 1
		whole, lines = from == 1, nil
		if err := s.store.Range(ctx, host, from, last, func(l fleetstore.Logged) error {
			lines = append(lines, linesOf(l)...)
			if spare := len(lines) - int(n); spare > 0 { //nolint:gosec // at most maxLines
				lines = slices.Delete(lines, 0, spare)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		if uint64(len(lines)) == n {
			return lines, nil
		}
	}
	gone, err := s.gone(ctx, host)
	if err != nil || gone == nil {
		return lines, err
	}
	return slices.Insert(lines, 0, *gone), nil
}

// gone says that older lines were purged; nil if none were.
func (s *Server) gone(ctx context.Context, host string) (*operator.Line, error) {
	if host == "" {
		incomplete, err := s.store.Incomplete(ctx)
		if err != nil || !incomplete {
			return nil, err
		}
		return &operator.Line{Kind: operator.LinePurged}, nil
	}
	state, err := s.store.State(ctx, host)
	if err != nil || state.Purged == nil {
		return nil, err
	}
	return &operator.Line{Seq: state.Purged.Through, Host: host, ReceivedAt: state.Purged.Before, Kind: operator.LinePurged, Data: encoded(state.Purged)}, nil
}

// linesOf are the lines of an entry.
func linesOf(l fleetstore.Logged) []operator.Line {
	e := l.Entry
	base := operator.Line{Seq: l.Seq, Host: e.Host, ReceivedAt: e.At}
	switch {
	case e.Dispatch != nil:
		base.Kind, base.RolloutID, base.Data = operator.LineDispatched, e.Dispatch.RolloutID, encoded(e.Dispatch)
		return []operator.Line{base}
	case e.Heartbeat != nil:
		base.Kind, base.Data = operator.LineResynced, encoded(map[string]any{"facts": e.Heartbeat.Facts, "cursor": e.Heartbeat.Cursor, "generation": e.Heartbeat.Generation})
		return []operator.Line{base}
	case e.Seen > 0:
		base.Kind, base.Data = operator.LineGeneration, encoded(map[string]uint64{"generation": e.Seen})
		return []operator.Line{base}
	case e.Checkpoint != nil:
		base.Kind, base.Data = operator.LineCheckpoint, encoded(e.Checkpoint.Purged)
		return []operator.Line{base}
	}
	out := make([]operator.Line, 0, len(e.Batch))
	for i, ev := range e.Batch {
		line := base
		line.Kind = ev.Type
		if kind, ok := wire.KindOf(ev.Type); ok {
			line.Kind = kind
		}
		line.ID, line.RolloutID, line.Time, line.Data = ev.ID, ev.Subject, ev.Time, ev.Data
		if i < len(e.Results) {
			line.Result, line.Reason = e.Results[i].Result, e.Results[i].Reason
		}
		out = append(out, line)
	}
	return out
}

func encoded(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return data
}
