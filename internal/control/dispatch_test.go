package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/control"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

func TestPoll(t *testing.T) {
	with := func(change func(*wire.Dispatch)) string {
		d := dispatch(5)
		if change != nil {
			change(&d)
		}
		data, _ := json.Marshal(d)
		return string(data)
	}
	full := with(func(d *wire.Dispatch) {
		d.Specialisation, d.SoakDueAt, d.ExpiresAt = "lab", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
		d.Policy, d.Force = "halt", true
	})
	for _, c := range []struct {
		name     string
		status   int
		kind     string
		body     string
		found    bool
		says     string
		ignored  bool
		refused  bool
		wantHint bool
	}{
		{name: "a dispatch", status: 200, kind: wire.JSON, body: full, found: true},
		{name: "with fields to come", status: 200, kind: "application/json;charset=UTF-8", body: strings.Replace(full, "{", `{"new":{"a":[1]},`, 1), found: true},
		{name: "what the agent will refuse", status: 200, kind: wire.JSON, body: with(func(d *wire.Dispatch) { d.Target, d.SoakMS = "/etc/passwd", -1 }), found: true},
		{name: "none", status: 204},
		{name: "another host's", status: 200, kind: wire.JSON, body: with(func(d *wire.Dispatch) { d.Host = "web-2\n" }), says: `it is for "web-2", and this host is "web-1.example"`, ignored: true, wantHint: true},
		{name: "nobody's", status: 200, kind: wire.JSON, body: `{}`, says: `it is for ""`, ignored: true, wantHint: true},
		{name: "null", status: 200, kind: wire.JSON, body: `null`, says: `it is for ""`, ignored: true, wantHint: true},
		{name: "the same again", status: 200, kind: wire.JSON, body: with(func(d *wire.Dispatch) { d.Generation = 4 }), says: "its generation 4 is not above 4", ignored: true, wantHint: true},
		{name: "an older one", status: 200, kind: wire.JSON, body: with(func(d *wire.Dispatch) { d.Generation = 3 }), says: "its generation 3 is not above 4", ignored: true, wantHint: true},
		{name: "a negative generation", status: 200, kind: wire.JSON, body: `{"generation":-5,"host":"` + host + `"}`, says: "its answer makes no sense"},
		{name: "a bad date", status: 200, kind: wire.JSON, body: strings.Replace(full, "2027-", "20270-", 1), says: "its answer makes no sense"},
		{name: "a list", status: 200, kind: wire.JSON, body: "[" + full + "]", says: "its answer makes no sense"},
		{name: "HTML", status: 200, kind: "text/html", body: "<html>Log in to this hotel's network", says: `it answered 200 with "text/html", not with JSON`, wantHint: true},
		{name: "JSON that says it is text", status: 200, kind: "text/plain", body: full, says: `not with JSON`, wantHint: true},
		{name: "nothing", status: 200, kind: wire.JSON, says: `not with JSON`, wantHint: true},
		{name: "garbage", status: 200, kind: wire.JSON, body: "\x00\x01", says: "its answer is not the JSON that it says it is"},
		{name: "half of one", status: 200, kind: wire.JSON, body: full[:len(full)/2], says: "its answer is not the JSON that it says it is"},
		{name: "too large", status: 200, kind: wire.JSON, body: with(func(d *wire.Dispatch) { d.Target = strings.Repeat("x", wire.MaxDispatch) }), says: "its answer is larger than 65536 bytes"},
		{name: "too deep", status: 200, kind: wire.JSON, body: strings.Replace(full, "{", `{"x":`+strings.Repeat("[", 33)+strings.Repeat("]", 33)+`,`, 1), says: "its answer nests deeper than 32"},
		{name: "accepted", status: 202, says: "it answered 202", refused: true},
		{name: "moved", status: 302, says: "it answered 302 Found", refused: true, wantHint: true},
		{name: "not modified", status: 304, says: "it answered 304", refused: true},
		{name: "not known", status: 403, says: "it answered 403 Forbidden", refused: true, wantHint: true},
		{name: "broken", status: 500, says: "it answered 500", refused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != wire.DispatchPath || r.URL.RawQuery != "have=4&wait=60" {
					t.Errorf("asked: %s %s", r.Method, r.URL)
				}
				if c.kind != "" {
					w.Header().Set("Content-Type", c.kind)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			got, found, err := f.client().Poll(t.Context(), 4)
			if found != c.found {
				t.Errorf("found %v, want %v", found, c.found)
			}
			want := wire.Dispatch{}
			if c.found {
				must(t, json.Unmarshal([]byte(c.body), &want))
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			hinted(t, err, c.says, c.wantHint)
			var ignored *control.Ignored
			if errors.As(err, &ignored) != c.ignored {
				t.Errorf("ignored: %v", err)
			}
			var rejected *outbox.Rejected
			if errors.As(err, &rejected) != c.refused {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// A request that is held as long as agreed is no failure: the client's patience begins where the wait ends.
func TestPollIsPatient(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "have=0&wait=2" {
			t.Errorf("asked for %s", r.URL)
		}
		<-time.After(2 * short)
		w.WriteHeader(http.StatusNoContent)
	})
	f.opts.Timeout, f.opts.Wait = short, 1100*time.Millisecond
	if _, found, err := f.client().Poll(t.Context(), 0); found || err != nil {
		t.Errorf("got %v, %v", found, err)
	}
}

// The whole of it: dispatches come in, once each by their generation, and the end of ctx is the end.
func TestWatch(t *testing.T) {
	var newest atomic.Uint64
	newest.Store(1)
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if have := r.URL.Query().Get("have"); have == "3" {
			<-r.Context().Done()
			return
		}
		answer(w, dispatch(newest.Load()))
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var have atomic.Uint64
	got := make(chan uint64)
	done := make(chan struct{})
	c := f.client()
	go func() {
		defer close(done)
		c.Watch(ctx, have.Load, func(d wire.Dispatch) {
			have.Store(d.Generation)
			newest.Store(3)
			got <- d.Generation
		})
	}()
	for _, want := range []uint64{1, 3} {
		if generation := <-got; generation != want {
			t.Errorf("got %d, want %d", generation, want)
		}
	}
	cancel()
	<-done
}

func TestHeartbeat(t *testing.T) {
	beat := wire.Heartbeat{Host: host, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), AgentVersion: "1.2.3", Records: []json.RawMessage{json.RawMessage(`{"a":1}`)},
		Cursor: wire.Cursor{Epoch: "e1", Highest: 9, Acked: 7}, Degraded: []string{"x"}}
	full := wire.HeartbeatReply{Cursor: &wire.Cursor{Epoch: "e1", Highest: 9, Acked: 8}, Snapshots: []json.RawMessage{json.RawMessage(`{"b":2}`)}, Generation: 3}
	reply, _ := json.Marshal(full)
	for _, c := range []struct {
		name   string
		status int
		kind   string
		body   string
		want   wire.HeartbeatReply
		says   string
	}{
		{"a reply", 200, wire.JSON, string(reply), full, ""},
		{"no reply", 204, "", "", wire.HeartbeatReply{}, ""},
		{"an empty one", 200, wire.JSON, "{}", wire.HeartbeatReply{}, ""},
		{"text", 200, "text/plain", string(reply), wire.HeartbeatReply{}, "not with JSON"},
		{"nothing", 200, wire.JSON, "", wire.HeartbeatReply{}, "not with JSON"},
		{"garbage", 200, wire.JSON, "{", wire.HeartbeatReply{}, "is not the JSON that it says it is"},
		{"half of another type", 200, wire.JSON, `{"generation":3,"cursor":7}`, wire.HeartbeatReply{}, "its answer makes no sense"},
		{"too deep", 200, wire.JSON, `{"snapshots":[` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `]}`, wire.HeartbeatReply{}, "nests deeper than"},
		{"too large", 200, wire.JSON, `{"snapshots":["` + strings.Repeat("x", wire.MaxHeartbeatReply) + `"]}`, wire.HeartbeatReply{}, "is larger than"},
		{"broken", 503, "", "", wire.HeartbeatReply{}, "it answered 503"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := serve(t, func(w http.ResponseWriter, r *http.Request) {
				var got wire.Heartbeat
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil || !reflect.DeepEqual(got, beat) {
					t.Errorf("got %+v, %v", got, err)
				}
				if r.Method != http.MethodPost || r.URL.Path != wire.HeartbeatPath || r.Header.Get("Content-Type") != wire.JSON {
					t.Errorf("asked: %s %s %s", r.Method, r.URL, r.Header)
				}
				if c.kind != "" {
					w.Header().Set("Content-Type", c.kind)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			got, err := f.client().Heartbeat(t.Context(), beat)
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
			if c.says != "" {
				hinted(t, err, c.says, false)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHeartbeatIsBounded(t *testing.T) {
	f := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	_, err := f.client().Heartbeat(t.Context(), wire.Heartbeat{Hold: strings.Repeat("x", wire.MaxHeartbeat)})
	hinted(t, err, "are more than the 4194304 of a heartbeat", false)
}

// Reachable is what was answered, by whatever status; every change is told, once, in order.
func TestReachable(t *testing.T) {
	var status atomic.Int64
	f := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if status.Load() == 0 {
			raw(w, reset)
			return
		}
		w.WriteHeader(int(status.Load()))
	})
	var told []bool
	f.opts.OnReach = func(r control.Reach) { told = append(told, r.Reachable) }
	c := f.client()
	if is := c.Reachable(); is != (control.Reach{}) {
		t.Errorf("at start: %+v", is)
	}
	beat := func(answers int64) control.Reach {
		status.Store(answers)
		_, _ = c.Heartbeat(t.Context(), wire.Heartbeat{})
		return c.Reachable()
	}
	if is := beat(204); !is.Reachable || !is.Known || is.Since.IsZero() || is.Answered.IsZero() || is.Problem != nil {
		t.Errorf("answered: %+v", is)
	}
	first := c.Reachable()
	if is := beat(503); !is.Reachable || !is.Since.Equal(first.Since) || !is.Answered.After(first.Answered) {
		t.Errorf("refused: %+v", is)
	}
	last := c.Reachable()
	if is := beat(0); is.Reachable || !is.Known || !is.Answered.Equal(last.Answered) || !is.Since.After(first.Since) {
		t.Errorf("reset: %+v", is)
	} else {
		hinted(t, is.Problem, "the connection broke", true)
	}
	beat(0)
	if is := beat(403); !is.Reachable || is.Problem != nil {
		t.Errorf("back: %+v", is)
	}
	if want := []bool{true, false, true}; !reflect.DeepEqual(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}
