package controlplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

func request(hosts ...string) operator.Request {
	return operator.Request{Hosts: hosts, Channel: "stable", Ref: "1", Target: toplevel, SoakMS: 1000}
}

func ctxOf(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func mustDispatch(t *testing.T, o *operator.Client, req operator.Request) operator.Reply {
	t.Helper()
	reply, err := o.Dispatch(ctxOf(t), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range reply.Hosts {
		if d.Error != "" {
			t.Fatalf("%s: %s", d.Host, d.Error)
		}
	}
	return reply
}

// A rollout from the operator's request to its end, over HTTPS, with an operator who follows it.
func TestRolloutFromDispatchToConvergence(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web, op := cp.host("web-1"), cp.operator()

	waiting := make(chan *wire.Dispatch, 1)
	go func() { waiting <- web.poll(60, 0) }()
	reply := mustDispatch(t, op, request("web-1"))
	d := <-waiting
	if d == nil || d.Host != "web-1" || d.Generation != 1 || d.RolloutID != "stable@1" || d.Target != toplevel || d.SoakMS != 1000 {
		t.Fatalf("dispatch %+v", d)
	}
	if again := web.poll(0, d.Generation); again != nil {
		t.Errorf("handed out to who has it: %+v", again)
	}

	var states []string
	followed := make(chan error, 1)
	ctx := ctxOf(t)
	errDone := errors.New("done")
	go func() {
		followed <- op.Follow(ctx, operator.Follow{RolloutID: reply.RolloutID, Hosts: []string{"web-1"}}, func(p operator.Progress) error {
			states = append(states, p.State)
			if p.Settled {
				return errDone
			}
			return nil
		})
	}()
	if a := web.send(acked("web-1", 1, d.RolloutID, toplevel, 1), event("web-1", 2, d.RolloutID, "ActivationStarted", map[string]any{"started_at": moment, "switch_method": "switch", "attempt": 1, "seq": 2})); a.Acked != 2 {
		t.Errorf("answer %+v", a)
	}
	web.send(event("web-1", 3, d.RolloutID, "ActivationCompleted", map[string]any{"observed_current_closure": toplevel, "completed_at": moment, "seq": 3}))
	web.send(event("web-1", 4, d.RolloutID, "Converged", map[string]any{"current_closure": toplevel, "converged_at": moment, "seq": 4}))
	if err := <-followed; !errors.Is(err, errDone) {
		t.Fatalf("follow: %v", err)
	}
	if last := states[len(states)-1]; last != "Converged" {
		t.Errorf("followed %v", states)
	}

	web.beat(wire.Heartbeat{Host: "web-1", At: moment, AgentVersion: "1.2", Facts: wire.Facts{Running: toplevel}, Cursor: wire.Cursor{Epoch: "e1", Highest: 4, Acked: 4}, Generation: 1})
	fleet, err := op.Hosts(ctx)
	if err != nil || len(fleet.Hosts) != 1 || fleet.Hosts[0].Rollout.State != "Converged" || fleet.Hosts[0].Running != toplevel || fleet.Hosts[0].SeenAt.IsZero() {
		t.Errorf("hosts %+v, %v", fleet, err)
	}
	var kinds []string
	if err := op.Events(ctx, "", 50, false, func(l operator.Line) error { kinds = append(kinds, l.Kind+":"+string(l.Result)); return nil }); err != nil {
		t.Fatal(err)
	}
	want := "Dispatched: DispatchAck:applied ActivationStarted:applied ActivationCompleted:applied Converged:applied"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("log %s\nwant %s", got, want)
	}
	if _, err := op.Show(ctx, "nobody"); err == nil {
		t.Error("a host of which nothing is known is shown")
	}
}

func TestDispatchIsIdempotentAndNeverReusesARollout(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web, op := cp.host("web-1"), cp.operator()
	first := mustDispatch(t, op, request("web-1", "web-1", "web-2"))
	if len(first.Hosts) != 2 || !first.Hosts[0].New || !first.Hosts[0].NeverHeard || first.Hosts[0].Generation != 1 {
		t.Errorf("first %+v", first)
	}
	again := mustDispatch(t, op, request("web-1"))
	if again.Hosts[0].New || again.Hosts[0].Generation != 1 {
		t.Errorf("again %+v", again)
	}
	other := request("web-1")
	other.Target = repaired
	if reply, err := op.Dispatch(ctxOf(t), other); err != nil || !strings.Contains(reply.Hosts[0].Error, "stable@1") {
		t.Errorf("another target under the same rollout: %+v, %v", reply, err)
	}
	other.Ref = "2"
	if newer := mustDispatch(t, op, other); newer.Hosts[0].Generation != 2 {
		t.Errorf("newer %+v", newer)
	}
	if d := web.poll(60, 1); d == nil || d.Generation != 2 || d.Target != repaired {
		t.Errorf("the newest wins: %+v", d)
	}
	// The one that was replaced before the host answered is said to be so.
	var p operator.Progress
	err := op.Follow(ctxOf(t), operator.Follow{RolloutID: "stable@1", Hosts: []string{"web-1"}}, func(got operator.Progress) error { p = got; return errors.New("seen") })
	if p.ReplacedBy != 2 || !p.Settled {
		t.Errorf("progress of the replaced one: %+v, %v", p, err)
	}
}

func TestBadDispatchesAreRefused(t *testing.T) {
	f := newFleet(t)
	op := f.serve().operator()
	for name, spoil := range map[string]func(*operator.Request){
		"no host":         func(r *operator.Request) { r.Hosts = nil },
		"bad host":        func(r *operator.Request) { r.Hosts = []string{"../x"} },
		"no store path":   func(r *operator.Request) { r.Target = "/etc/passwd" },
		"path below it":   func(r *operator.Request) { r.Target += "/bin/sh" },
		"bad channel":     func(r *operator.Request) { r.Channel = "a@b" },
		"no ref":          func(r *operator.Request) { r.Ref = "" },
		"local":           func(r *operator.Request) { r.Channel = "local" },
		"policy":          func(r *operator.Request) { r.Policy = "hope" },
		"soak below zero": func(r *operator.Request) { r.SoakMS = -1 },
		"expired":         func(r *operator.Request) { r.ExpiresAt = moment.AddDate(-1, 0, 0) },
	} {
		req := request("web-1")
		spoil(&req)
		var problem *wire.Problem
		if reply, err := op.Dispatch(ctxOf(t), req); !errors.As(err, &problem) || problem.Message == "" {
			t.Errorf("%s: %+v, %v", name, reply, err)
		}
	}
	if fleet, err := op.Hosts(ctxOf(t)); err != nil || len(fleet.Hosts) != 0 {
		t.Errorf("something is left of it: %+v, %v", fleet, err)
	}
}

func TestTargetThatAHostWentBackFromIsKeptFromItsChannel(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	f.issue(pki.Host, "web-2")
	cp := f.serve()
	web, op := cp.host("web-1"), cp.operator()
	mustDispatch(t, op, request("web-1"))
	web.send(acked("web-1", 1, "stable@1", toplevel, 1),
		event("web-1", 2, "stable@1", "ActivationFailed", map[string]any{"exit_code": 1, "stderr_tail": "no", "reason": "switch-failed", "failed_at": moment, "seq": 2}),
		event("web-1", 3, "stable@1", "RollbackComplete", map[string]any{"reverted_to_closure": before, "completed_at": moment, "seq": 3}))
	next := request("web-2")
	next.Ref = "2"
	var problem *wire.Problem
	if _, err := op.Dispatch(ctxOf(t), next); !errors.As(err, &problem) || problem.Code != "quarantined" || !strings.Contains(problem.Message, "web-1") {
		t.Errorf("dispatched to the next: %v", err)
	}
	next.Force = true
	mustDispatch(t, op, next)
	next.Force, next.Channel = false, "testing"
	mustDispatch(t, op, next)

	accused, err := op.Accused(ctxOf(t))
	if err != nil || len(accused.Accused) != 1 {
		t.Fatalf("accused %+v, %v", accused, err)
	}
	if a := accused.Accused[0]; a.Channel != "stable" || a.Target != toplevel || a.Host != "web-1" || a.RolloutID != "stable@1" || a.Reason != "switch-failed" || !a.At.Equal(moment) {
		t.Errorf("accusation %+v", a)
	}
	for what, c := range map[string]operator.Clear{
		"another channel": {Channel: "testing", Target: toplevel}, "another target": {Channel: "stable", Target: repaired},
	} {
		if err := op.Clear(ctxOf(t), c); !errors.As(err, &problem) || problem.Code != "not-accused" || problem.Hint == "" {
			t.Errorf("cleared %s: %v", what, err)
		}
	}
	if err := op.Clear(ctxOf(t), operator.Clear{}); !errors.As(err, &problem) || problem.Code != "bad-request" {
		t.Errorf("cleared nothing: %v", err)
	}
	if err := op.Clear(ctxOf(t), operator.Clear{Channel: "stable", Target: toplevel}); err != nil {
		t.Fatal(err)
	}
	next.Channel, next.Ref = "stable", "3"
	mustDispatch(t, op, next)
	if accused, err := op.Accused(ctxOf(t)); err != nil || accused.Accused == nil || len(accused.Accused) != 0 {
		t.Errorf("left: %+v, %v", accused, err)
	}
	// The next host that goes back from it accuses it again.
	db := cp.host("web-2")
	db.send(acked("web-2", 1, "stable@3", toplevel, 1),
		event("web-2", 2, "stable@3", "ActivationFailed", map[string]any{"exit_code": 1, "stderr_tail": "no", "reason": "switch-failed", "failed_at": moment, "seq": 2}),
		event("web-2", 3, "stable@3", "RollbackComplete", map[string]any{"reverted_to_closure": before, "completed_at": moment, "seq": 3}))
	next.Ref = "4"
	if _, err := op.Dispatch(ctxOf(t), next); !errors.As(err, &problem) || problem.Code != "quarantined" || !strings.Contains(problem.Message, "web-2") {
		t.Errorf("dispatched after the next: %v", err)
	}
}

func TestWhoMaySpeak(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web, op := cp.host("web-1"), cp.as("operator-me", nil)
	for _, c := range []struct {
		who    *client
		method string
		path   string
	}{
		{web, http.MethodGet, operator.HostsPath}, {web, http.MethodPost, operator.DispatchPath}, {web, http.MethodGet, operator.EventsPath},
		{web, http.MethodPost, operator.FollowPath}, {web, http.MethodGet, operator.HostsPath + "/web-1"},
		{op, http.MethodGet, wire.DispatchPath}, {op, http.MethodPost, wire.EventsPath}, {op, http.MethodPost, wire.HeartbeatPath},
	} {
		if a := c.who.do(c.method, c.path, "", nil); a.status != http.StatusForbidden {
			t.Errorf("%s %s by %s: %d", c.method, c.path, c.who.host, a.status)
		}
	}
	foreign, err := json.Marshal([]wire.Event{event("web-2", 1, "", "Note", nil)})
	if err != nil {
		t.Fatal(err)
	}
	if a := web.do(http.MethodPost, wire.EventsPath, wire.Batch, foreign); a.status != http.StatusForbidden {
		t.Errorf("an event of another host: %d %s", a.status, a.body)
	}
	if a := web.do(http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte(`{"host":"web-2"}`)); a.status != http.StatusForbidden {
		t.Errorf("a heartbeat of another host: %d %s", a.status, a.body)
	}

	other := newFleet(t)
	other.issue(pki.Host, "web-1")
	for name, c := range map[string]*client{
		"no certificate":    cp.as("web-1", func(c *tls.Config) { c.GetClientCertificate = nil }),
		"TLS 1.2":           cp.as("web-1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }),
		"another authority": (&instance{fleet: other, url: cp.url}).as("web-1", func(c *tls.Config) { c.RootCAs = f.clientPool() }),
		"a server's":        cp.as("server-localhost", nil),
	} {
		if a, err := c.try(http.MethodGet, wire.DispatchPath, "", nil); err == nil {
			t.Errorf("%s: answered %d", name, a.status)
		}
	}
}

func TestBadRequestsAreRefusedAndChangeNothing(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web := cp.host("web-1")
	note := func(change func(*wire.Event)) []byte {
		ev := event("web-1", 7, "", "Note", nil)
		change(&ev)
		body, err := json.Marshal([]wire.Event{ev})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	many := make([]wire.Event, wire.MaxEvents+1)
	for i := range many {
		many[i] = event("web-1", uint64(i+1), "", "Note", nil)
	}
	tooMany, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, kind string
		body       []byte
		status     int
		pos        uint64
	}{
		"content type":  {wire.EventsPath, wire.JSON, note(func(*wire.Event) {}), http.StatusUnsupportedMediaType, 0},
		"no JSON":       {wire.EventsPath, wire.Batch, []byte("<html>"), http.StatusBadRequest, 0},
		"no array":      {wire.EventsPath, wire.Batch, []byte(`{"a":1}`), http.StatusBadRequest, 0},
		"deep":          {wire.EventsPath, wire.Batch, []byte(strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), http.StatusBadRequest, 0},
		"large":         {wire.EventsPath, wire.Batch, bytes.Repeat([]byte(" "), wire.MaxBatch+1), http.StatusRequestEntityTooLarge, 0},
		"many":          {wire.EventsPath, wire.Batch, tooMany, http.StatusRequestEntityTooLarge, 0},
		"no id":         {wire.EventsPath, wire.Batch, note(func(e *wire.Event) { e.ID = "x" }), http.StatusBadRequest, 0},
		"no CloudEvent": {wire.EventsPath, wire.Batch, note(func(e *wire.Event) { e.SpecVersion = "2" }), http.StatusBadRequest, 7},
		"heartbeat":     {wire.HeartbeatPath, wire.JSON, []byte(`[]`), http.StatusBadRequest, 0},
		"heavy":         {wire.HeartbeatPath, wire.JSON, bytes.Repeat([]byte(" "), wire.MaxHeartbeat+1), http.StatusRequestEntityTooLarge, 0},
	} {
		a := web.do(http.MethodPost, c.path, c.kind, c.body)
		var problem wire.Problem
		if err := json.Unmarshal(a.body, &problem); err != nil || a.status != c.status || problem.Message == "" || problem.Code == "" || problem.Pos != c.pos {
			t.Errorf("%s: %d %s, %v", name, a.status, a.body, err)
		}
	}
	for _, query := range []string{"wait=x", "have=-1", "have=18446744073709551616"} {
		if a := web.do(http.MethodGet, wire.DispatchPath+"?"+query, "", nil); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d", query, a.status)
		}
	}
	if a := web.do(http.MethodGet, "/", "", nil); a.status != http.StatusNotFound {
		t.Errorf("/: %d", a.status)
	}
	if a := web.send(); a.Acked != 0 {
		t.Errorf("an empty batch: %+v", a)
	}
	if fleet, err := cp.operator().Hosts(ctxOf(t)); err != nil || len(fleet.Hosts) != 0 {
		t.Errorf("something is left of it: %+v, %v", fleet, err)
	}
}

// Two instances, one JetStream: the same host's batches reach both at once, each several times. Every event is applied once, and the
// operator of one instance wakes a host that waits at the other.
func TestTwoInstances(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	a, b := f.serve(), f.serve()
	waiting := make(chan *wire.Dispatch, 1)
	go func() { waiting <- b.host("web-1").poll(60, 0) }()
	mustDispatch(t, a.operator(), request("web-1"))
	if d := <-waiting; d == nil || d.Generation != 1 {
		t.Fatalf("dispatch at the other instance: %+v", d)
	}

	const batches, size = 20, 5
	for n := range batches { // one batch in flight, but sent by three impatient tries at once
		var events []wire.Event
		for i := range size {
			events = append(events, event("web-1", uint64(n*size+i+1), "", "Note", map[string]any{"n": n}))
		}
		var wg sync.WaitGroup
		for _, c := range []*client{a.host("web-1"), b.host("web-1"), a.host("web-1")} {
			wg.Go(func() {
				if got := c.send(events...); got.Acked != uint64((n+1)*size) {
					t.Errorf("batch %d: acknowledged %d", n, got.Acked)
				}
			})
		}
		wg.Wait()
	}
	applied := map[string]int{}
	if err := b.operator().Events(ctxOf(t), "web-1", 10_000, false, func(l operator.Line) error {
		if l.Kind == "Note" && l.Result == wire.Applied {
			applied[l.ID]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for pos := uint64(1); pos <= batches*size; pos++ {
		if n := applied[wire.EventID("e1", pos)]; n != 1 {
			t.Errorf("event %d was applied %d times", pos, n)
		}
	}
}

// All data is lost while a host is Soaking. Its heartbeat brings the record back, its poll the generation, and the next dispatch is above.
func TestLostDataIsRebuiltByTheHost(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web := cp.host("web-1")
	if d := web.poll(0, 9); d != nil {
		t.Errorf("a dispatch out of nothing: %+v", d)
	}
	record := fmt.Sprintf(`{"hostname":"web-1","rollout_id":"stable@7","channel":"stable","generation":9,"target_closure":%q,"state":"Soaking","policy":"halt","soak_ms":5,
		"created_at":"2026-11-24T20:00:00Z","current_closure":%q,"last_event_seq":3,"work":{"kind":"switch","phase":"check"},"of_tomorrow":1}`, toplevel, toplevel)
	reply := web.beat(wire.Heartbeat{Host: "web-1", At: moment, Facts: wire.Facts{Running: toplevel}, Cursor: wire.Cursor{Epoch: "e1", Highest: 40, Acked: 40},
		Records: []json.RawMessage{json.RawMessage(record)}, Generation: 9})
	if reply.Cursor == nil || reply.Cursor.Acked != 40 || reply.Generation != 9 {
		t.Errorf("reply %+v", reply)
	}
	if a := web.send(event("web-1", 41, "stable@7", "Converged", map[string]any{"current_closure": toplevel, "converged_at": moment, "seq": 4})); a.Results[0].Result != wire.Applied {
		t.Errorf("the next event: %+v", a)
	}
	next := request("web-1")
	next.Ref = "8"
	if got := mustDispatch(t, cp.operator(), next); got.Hosts[0].Generation != 10 || got.Hosts[0].NeverHeard {
		t.Errorf("dispatch %+v", got)
	}
	if d := web.poll(60, 9); d == nil || d.Generation != 10 {
		t.Errorf("handed out %+v", d)
	}
}

// A dispatch made after a loss and before the host was heard has a generation that the host never takes. It is said to be so, and the
// same command again repairs it.
func TestDispatchBelowWhatTheHostHasSeen(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web, op := cp.host("web-1"), cp.operator()
	mustDispatch(t, op, request("web-1"))
	if d := web.poll(0, 5); d != nil {
		t.Errorf("handed out %+v", d)
	}
	var p operator.Progress
	err := op.Follow(ctxOf(t), operator.Follow{RolloutID: "stable@1", Hosts: []string{"web-1"}}, func(got operator.Progress) error { p = got; return errors.New("seen") })
	if !p.Behind {
		t.Errorf("progress %+v, %v", p, err)
	}
	if again := mustDispatch(t, op, request("web-1")); again.Hosts[0].Generation != 6 {
		t.Errorf("again %+v", again)
	}
	if d := web.poll(60, 5); d == nil || d.Generation != 6 || d.RolloutID != "stable@1" {
		t.Errorf("handed out %+v", d)
	}
}

// An agent that lost its state hears of the outcome in the reply to its first heartbeat.
func TestHostThatLostItsStateIsToldTheOutcome(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web := cp.host("web-1")
	mustDispatch(t, cp.operator(), request("web-1"))
	web.send(acked("web-1", 1, "stable@1", toplevel, 1))
	reply := web.beat(wire.Heartbeat{Host: "web-1", At: moment, Facts: wire.Facts{Running: toplevel}, Cursor: wire.Cursor{Epoch: "e2", Highest: 1}})
	if len(reply.Snapshots) != 1 || !strings.Contains(string(reply.Snapshots[0]), `"Soaking"`) {
		t.Errorf("reply %+v", reply)
	}
	if reply.Cursor.Epoch != "e2" || reply.Generation != 1 {
		t.Errorf("reply %+v", reply)
	}
}

// A stop answers the polls that wait, instead of cutting them off. A request that the server had not begun to read is cut off, which a
// test cannot tell from here: one of a few polls must have been waiting.
func TestStopEndsLongPollsAndFollowers(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	mustDispatch(t, cp.operator(), request("web-1"))
	cp.stop()
	var err error
	for range 20 {
		if err = stopWhilePolling(t, f.serve()); err == nil {
			return
		}
	}
	t.Errorf("the poll: %v", err)
}

func stopWhilePolling(t *testing.T, cp *instance) error {
	t.Helper()
	polled, followed := make(chan error, 1), make(chan error, 1)
	asked, begun := make(chan struct{}), make(chan struct{}, 1)
	web, op, ctx := cp.host("web-1"), cp.operator(), ctxOf(t)
	go func() {
		ctx := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(asked) }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cp.url+wire.DispatchPath+"?wait=60&have=1", nil)
		if err != nil {
			polled <- err
			return
		}
		resp, err := web.http.Do(req)
		if err == nil && resp.StatusCode != http.StatusNoContent {
			err = errors.New(resp.Status)
		}
		if err == nil {
			err = resp.Body.Close()
		}
		polled <- err
	}()
	go func() {
		followed <- op.Follow(ctx, operator.Follow{RolloutID: "stable@1", Hosts: []string{"web-1"}}, func(operator.Progress) error { begun <- struct{}{}; return nil })
	}()
	<-asked
	<-begun
	start := time.Now()
	cp.stop()
	err := <-polled
	if following := <-followed; !errors.Is(following, operator.ErrUnreachable) {
		t.Errorf("the follower: %v", following)
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("the stop took %s", took)
	}
	return err
}

func TestCertificateIsReadAgain(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	serial := func() string {
		t.Helper()
		resp, err := cp.host("web-1").http.Get(cp.url + wire.DispatchPath)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.String()
	}
	old := serial()
	for _, ext := range []string{".key", ".crt"} { // what was there goes, so that both are new
		if err := os.Remove(filepath.Join(f.certs, "server-localhost"+ext)); err != nil {
			t.Fatal(err)
		}
	}
	f.issue(pki.Server, "localhost", "127.0.0.1")
	if serial() == old {
		t.Error("the old certificate is still shown")
	}
}

// Everything is there after the process and its JetStream were stopped and started.
func TestRestartForgetsNothing(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	mustDispatch(t, cp.operator(), request("web-1"))
	cp.host("web-1").send(acked("web-1", 1, "stable@1", toplevel, 1))
	cp.stop()
	f.server.Close()
	f.start()
	cp = f.serve()
	web := cp.host("web-1")
	if d := web.poll(60, 0); d == nil || d.Generation != 1 {
		t.Errorf("the target: %+v", d)
	}
	if a := web.send(acked("web-1", 1, "stable@1", toplevel, 1)); a.Results[0].Result != wire.Duplicate {
		t.Errorf("the same event again: %+v", a)
	}
	detail, err := cp.operator().Show(ctxOf(t), "web-1")
	if err != nil || detail.Summary.Rollout.State != "Activating" {
		t.Errorf("detail %+v, %v", detail, err)
	}
}

// An old backup comes back: it has the beginning of a rollout whose end the host will not tell again. It is not waited for.
func TestRolloutWhoseEndIsNotInTheBackup(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web, op := cp.host("web-1"), cp.operator()
	mustDispatch(t, op, request("web-1"))
	web.send(acked("web-1", 1, "stable@1", toplevel, 1))
	cp.stop()
	f.server.Close()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(f.data)); err != nil {
		t.Fatal(err)
	}
	f.start()
	cp = f.serve()
	web = cp.host("web-1")
	web.send(event("web-1", 2, "stable@1", "ActivationFailed", map[string]any{"exit_code": 1, "stderr_tail": "no", "reason": "switch-failed", "failed_at": moment, "seq": 2}),
		event("web-1", 3, "stable@1", "RollbackComplete", map[string]any{"reverted_to_closure": before, "completed_at": moment, "seq": 3}))
	cp.stop()
	f.server.Close()

	f.data = backup
	f.start()
	cp = f.serve()
	web, op = cp.host("web-1"), cp.operator()
	progress := func() (p operator.Progress) {
		t.Helper()
		seen := errors.New("seen")
		if err := op.Follow(ctxOf(t), operator.Follow{RolloutID: "stable@1", Hosts: []string{"web-1"}}, func(got operator.Progress) error { p = got; return seen }); !errors.Is(err, seen) {
			t.Fatal(err)
		}
		return p
	}
	if p := progress(); p.Settled || p.State != "Activating" {
		t.Errorf("before the host is heard: %+v", p)
	}
	web.beat(wire.Heartbeat{Host: "web-1", At: moment, Facts: wire.Facts{Running: before}, Cursor: wire.Cursor{Epoch: "e1", Highest: 3, Acked: 3}, Generation: 1})
	if p := progress(); !p.Settled || !p.GoneAt.Equal(moment) || p.State != "Activating" {
		t.Errorf("after it: %+v", p)
	}
	next := request("web-1")
	next.Ref = "2"
	if got := mustDispatch(t, op, next); got.Hosts[0].Generation != 2 {
		t.Errorf("the next dispatch: %+v", got)
	}
}

// A rollout of no channel, as another control plane may have asked for, accuses nothing, and its events are taken.
func TestRolloutOfNoChannelAccusesNothing(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	cp := f.serve()
	web := cp.host("web-1")
	record := fmt.Sprintf(`{"hostname":"web-1","rollout_id":"r7","generation":9,"target_closure":%q,"state":"Failed","policy":"rollback-and-halt","soak_ms":5,
		"created_at":"2026-11-24T20:00:00Z","failed_at":"2026-11-24T20:00:00Z","failure_reason":"switch-failed","last_event_seq":3}`, toplevel)
	web.beat(wire.Heartbeat{Host: "web-1", At: moment, Cursor: wire.Cursor{Epoch: "e1", Highest: 3, Acked: 3}, Records: []json.RawMessage{json.RawMessage(record)}, Generation: 9})
	if a := web.send(event("web-1", 4, "r7", "RollbackComplete", map[string]any{"reverted_to_closure": before, "completed_at": moment, "seq": 4})); a.Results[0].Result != wire.Applied {
		t.Errorf("answer %+v", a)
	}
	if accused, err := cp.operator().Accused(ctxOf(t)); err != nil || len(accused.Accused) != 0 {
		t.Errorf("accused %+v, %v", accused, err)
	}
}

// An instance keeps the log within its bounds by itself, while it answers.
func TestInstanceTrimsTheLog(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	f.retention = fleetstore.Retention{Messages: 10}
	cp := f.serve()
	web := cp.host("web-1")
	const events = 60
	for pos := uint64(1); pos <= events; pos++ {
		if a := web.send(event("web-1", pos, "", "Note", nil)); a.Results[0].Result != wire.Applied || a.Acked != pos {
			t.Errorf("event %d: %+v", pos, a)
		}
	}
	ctx := ctxOf(t)
	for left := events; left > 11; { // ten at most, and the line that says so
		if left = 0; ctx.Err() != nil {
			t.Fatal("the log is not trimmed")
		}
		if err := cp.operator().Events(ctx, "web-1", 1000, false, func(operator.Line) error { left++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if a := web.send(event("web-1", events, "", "Note", nil), event("web-1", events+1, "", "Note", nil)); a.Results[0].Result != wire.Duplicate || a.Results[1].Result != wire.Applied {
		t.Errorf("after it: %+v", a)
	}
}

// What was purged of the log is said to be gone, and only where what is asked for reaches back to it.
func TestEventsSayThatOlderLinesAreGone(t *testing.T) {
	f := newFleet(t)
	f.issue(pki.Host, "web-1")
	f.issue(pki.Host, "db-1")
	cp := f.serve()
	web, db, op := cp.host("web-1"), cp.host("db-1"), cp.operator()
	db.send(event("db-1", 1, "", "Note", nil))
	for pos := uint64(1); pos <= 30; pos++ {
		web.send(event("web-1", pos, "", "Note", nil))
	}
	lines := func(host string, last int) (kinds []string, first operator.Line) {
		t.Helper()
		if err := op.Events(ctxOf(t), host, last, false, func(l operator.Line) error {
			if kinds == nil {
				first = l
			}
			kinds = append(kinds, l.Kind)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return kinds, first
	}
	if kinds, first := lines("", 100); len(kinds) != 31 || first.Kind != "Note" {
		t.Fatalf("%d lines, the first %+v", len(kinds), first)
	}
	nc, err := f.server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	store, err := fleetstore.Open(ctxOf(t), nc, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := store.Trim(ctxOf(t), fleetstore.Retention{Messages: 10}, time.Now()); err != nil || n != 21 {
		t.Fatalf("%d purged, %v", n, err)
	}
	for _, c := range []struct {
		host  string
		last  int
		lines int
		gone  bool
	}{
		{"web-1", 5, 5, false},
		{"web-1", 10, 10, false}, // nine and the checkpoint
		{"web-1", 11, 11, true},
		{"web-1", 100, 11, true},
		{"db-1", 100, 1, false},
		{"", 11, 11, false}, // the one of db-1 is beyond what was purged
		{"", 100, 12, true},
	} {
		kinds, first := lines(c.host, c.last)
		if len(kinds) != c.lines || (first.Kind == operator.LinePurged) != c.gone || slices.Contains(kinds[1:], operator.LinePurged) {
			t.Errorf("%q, the last %d: %d lines %v", c.host, c.last, len(kinds), kinds)
		}
		if first.Kind == operator.LinePurged && c.host != "" && (first.Host != c.host || first.Seq != 22 || first.ReceivedAt.IsZero()) {
			t.Errorf("it says %+v", first)
		}
	}
	// A host whose past is gone is known as before.
	if a := web.send(event("web-1", 30, "", "Note", nil), event("web-1", 31, "", "Note", nil)); a.Results[0].Result != wire.Duplicate || a.Results[1].Result != wire.Applied {
		t.Errorf("after it: %+v", a)
	}
}
