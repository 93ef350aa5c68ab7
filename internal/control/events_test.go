package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

func TestDeliverSpeaksCloudEvents(t *testing.T) {
	type seen struct {
		method, path, kind, agent, peer string
		proto                           int
		body                            []byte
	}
	var got seen
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.URL.Path, r.Header.Get("Content-Type"), r.UserAgent(), r.TLS.PeerCertificates[0].DNSNames[0], r.ProtoMajor, body}
		if _, sent := r.Header["Idempotency-Key"]; sent {
			t.Error("an empty header went out")
		}
		answer(w, wire.Answer{Acked: 8})
	})
	f.opts.URL += "/fleet"
	entries := batch(7, 2)
	entries[1].RolloutID = ""
	receipt, err := f.client().Deliver(t.Context(), entries)
	if err != nil || !reflect.DeepEqual(receipt, outbox.Receipt{Acked: 8}) {
		t.Errorf("got %+v, %v", receipt, err)
	}
	body := got.body
	got.body = nil
	if want := (seen{"POST", "/fleet/v1/agent/events", wire.Batch, "nixfleet-agent/1.2.3", host, 1, nil}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	var events []map[string]any
	if err := json.Unmarshal(body, &events); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"specversion": "1.0", "id": "e1:7", "source": "/hosts/" + host, "type": "dev.nixfleet.agent.Converged.v1", "subject": "stable@1",
			"time": "2026-01-02T03:04:05.000000006Z", "datacontenttype": "application/json", "data": map[string]any{"why": "a<b & c"}},
		{"specversion": "1.0", "id": "e1:8", "source": "/hosts/" + host, "type": "dev.nixfleet.agent.Converged.v1",
			"time": "2026-01-02T03:04:05.000000006Z", "datacontenttype": "application/json", "data": map[string]any{"why": "a<b & c"}},
	}
	if !reflect.DeepEqual(events, want) {
		t.Errorf("got %v\nwant %v", events, want)
	}
	if !strings.Contains(string(body), `{"why":"a<b & c"}`) {
		t.Errorf("data did not go out as it was stored: %s", body)
	}
}

// What a success says of the batch. Whatever it acknowledges is passed on: the sender judges it.
func TestReceipts(t *testing.T) {
	whole := outbox.Receipt{Whole: true}
	long := strings.Repeat("x", 1000)
	for _, c := range []struct {
		name   string
		status int
		kind   string
		body   string
		want   outbox.Receipt
		says   string // of the error; empty: none
	}{
		{"an answer", 200, wire.JSON, `{"acked":3}`, outbox.Receipt{Acked: 3}, ""},
		{"with a charset", 200, "application/json; charset=utf-8", `{"acked":3}`, outbox.Receipt{Acked: 3}, ""},
		{"of a JSON type", 202, "application/vnd.example+json", ` {"acked":3}`, outbox.Receipt{Acked: 3}, ""},
		{"results", 200, wire.JSON, `{"acked":3,"results":[{"pos":1,"result":"applied"},{"pos":2,"result":"refused","reason":"no\nway"},{"pos":3,"result":"duplicate"},{"pos":9,"result":"new"}]}`,
			outbox.Receipt{Acked: 3, Refused: []outbox.Refusal{{Pos: 2, Reason: "no way"}}}, ""},
		{"a long reason", 200, wire.JSON, `{"acked":3,"results":[{"pos":2,"result":"refused","reason":"` + long + `"}]}`, outbox.Receipt{Acked: 3, Refused: []outbox.Refusal{{Pos: 2, Reason: long[:512] + " …"}}}, ""},
		{"nothing new", 200, wire.JSON, `{"acked":0}`, outbox.Receipt{}, ""},
		{"a lower ack", 200, wire.JSON, `{"acked":1,"more":{"to":["come"]}}`, outbox.Receipt{Acked: 1}, ""},
		{"an absurd ack", 200, wire.JSON, `{"acked":18446744073709551615}`, outbox.Receipt{Acked: 1<<64 - 1}, ""},
		{"another receiver", 204, "", "", whole, ""},
		{"200 without a body", 200, "", "", whole, ""},
		{"JSON without a body", 200, wire.JSON, "", whole, ""},
		{"in words", 202, "text/plain", "thanks", whole, ""},
		{"other JSON", 200, wire.JSON, `{"ok":true}`, whole, ""},
		{"a list", 200, wire.JSON, `[]`, whole, ""},
		{"null", 200, wire.JSON, `null`, whole, ""},
		{"an answer that says it is text", 200, "text/html", `{"acked":1}`, whole, ""},
		{"much text", 200, "text/html", strings.Repeat("<p>", wire.MaxAnswer), whole, ""},
		{"a negative ack", 200, wire.JSON, `{"acked":-1}`, outbox.Receipt{}, "its answer makes no sense"},
		{"an ack beyond all", 200, wire.JSON, `{"acked":18446744073709551616}`, outbox.Receipt{}, "its answer makes no sense"},
		{"an ack in words", 200, wire.JSON, `{"acked":"all"}`, outbox.Receipt{}, "its answer makes no sense"},
		{"garbage", 200, wire.JSON, "\x00\xff<html>", outbox.Receipt{}, "its answer is not the JSON that it says it is"},
		{"half an answer", 200, wire.JSON, `{"acked":3`, outbox.Receipt{}, "its answer is not the JSON that it says it is"},
		{"two answers", 200, wire.JSON, `{"acked":3}{"acked":4}`, outbox.Receipt{}, "its answer is not the JSON that it says it is"},
		{"a deep answer", 200, wire.JSON, `{"acked":3,"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, outbox.Receipt{}, "its answer nests deeper than 32"},
		{"a huge answer", 200, wire.JSON, `{"acked":3,"x":"` + strings.Repeat("x", wire.MaxAnswer) + `"}`, outbox.Receipt{}, "its answer is larger than 262144 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.kind != "" {
					w.Header().Set("Content-Type", c.kind)
				} else {
					w.Header()["Content-Type"] = nil
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			got, err := f.client().Deliver(t.Context(), batch(1, 3))
			if c.says != "" {
				hinted(t, err, c.says, false)
				var rejected *outbox.Rejected
				if errors.As(err, &rejected) {
					t.Errorf("taken for a refusal: %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	type expected struct {
		permanent, tooLarge bool
		pos                 uint64
		after               time.Duration
	}
	for _, c := range []struct {
		status           int
		after, kind      string
		body             string
		want             expected
		says, hintBegins string
	}{
		{status: 400, want: expected{permanent: true}, says: "it answered 400 Bad Request"},
		{status: 400, kind: wire.JSON, body: `{"code":"bad-event","message":"event 5 is no event","hint":"upgrade it","pos":5}`, want: expected{permanent: true, pos: 5}, says: "400 Bad Request: event 5 is no event", hintBegins: "upgrade it"},
		{status: 400, kind: "text/plain", body: `{"message":"m","pos":5}`, want: expected{permanent: true}, says: "400 Bad Request"},
		{status: 400, kind: wire.JSON, body: `{"message":`, want: expected{permanent: true}, says: "400 Bad Request"},
		{status: 400, kind: wire.JSON, body: `{"message":7,"pos":5}`, want: expected{permanent: true}, says: "400 Bad Request"},
		{status: 400, kind: wire.JSON, body: `{"message":"` + strings.Repeat(`a\u001b`, 2000) + `","pos":5}`, want: expected{permanent: true, pos: 5}, says: "a a a"},
		{status: 400, kind: wire.JSON, body: strings.Repeat("[", wire.MaxProblem), want: expected{permanent: true}, says: "400 Bad Request"},
		{status: 400, kind: wire.JSON, body: `{"message":"` + strings.Repeat("x", wire.MaxProblem) + `"}`, want: expected{permanent: true}, says: "400 Bad Request"},
		{status: 422, want: expected{permanent: true}, says: "422"},
		{status: 401, says: "401 Unauthorized", hintBegins: "is this host's certificate"},
		{status: 403, says: "403 Forbidden", hintBegins: "is this host's certificate"},
		{status: 404, says: "404 Not Found", hintBegins: "does the URL lead to"},
		{status: 405, want: expected{permanent: true}, says: "405", hintBegins: "does the URL lead to"},
		{status: 408, says: "408"},
		{status: 413, want: expected{tooLarge: true}, says: "413"},
		{status: 413, kind: wire.JSON, body: `{"code":"too-large","message":"event 9","pos":9}`, want: expected{tooLarge: true, pos: 9}, says: "413"},
		{status: 425, says: "425"},
		{status: 429, after: "120", want: expected{after: 2 * time.Minute}, says: "429"},
		{status: 429, after: "Tue, 24 Nov 2026 12:05:00 GMT", want: expected{after: 5 * time.Minute}, says: "429"},
		{status: 429, after: "Tue, 24 Nov 2026 11:05:00 GMT", says: "429"},
		{status: 429, after: "Tue, 24 Nov 2099 11:05:00 GMT", want: expected{after: time.Hour}, says: "429"},
		{status: 429, after: "99999999999999999999", want: expected{after: time.Hour}, says: "429"},
		{status: 429, after: "-5", says: "429"},
		{status: 429, after: "soon", says: "429"},
		{status: 500, says: "500"},
		{status: 502, kind: "text/html", body: "<html>Bad gateway", says: "502"},
		{status: 503, after: "30", want: expected{after: 30 * time.Second}, says: "503"},
		{status: 504, says: "504"},
		{status: 599, says: "599"},
		{status: 301, says: "301 Moved Permanently, to https://elsewhere.example/x; redirects are not followed", hintBegins: "set the URL"},
		{status: 307, says: "307 Temporary Redirect, to https://elsewhere.example/x", hintBegins: "set the URL"},
		{status: 308, says: "308", hintBegins: "set the URL"},
	} {
		t.Run(fmt.Sprintf("%d %s%.20s", c.status, c.after, c.body), func(t *testing.T) {
			var asked atomic.Int64
			f := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				if c.after != "" {
					w.Header().Set("Retry-After", c.after)
				}
				if c.status/100 == 3 {
					w.Header().Set("Location", "https://elsewhere.example/x")
				}
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			f.opts.Now = func() time.Time { return now }
			got, err := f.client().Deliver(t.Context(), batch(1, 3))
			hinted(t, err, c.says, c.hintBegins != "")
			var rejected *outbox.Rejected
			if !errors.As(err, &rejected) {
				t.Fatalf("no refusal: %v", err)
			}
			if is := (expected{rejected.Permanent, rejected.TooLarge, rejected.Pos, rejected.RetryAfter}); is != c.want {
				t.Errorf("got %+v\nwant %+v", is, c.want)
			}
			if rejected.Reason == "" || !reflect.DeepEqual(got, outbox.Receipt{}) || asked.Load() != 1 {
				t.Errorf("reason %q, receipt %+v, asked %d times", rejected.Reason, got, asked.Load())
			}
			var hint interface{ Hints() string }
			if errors.As(err, &hint) && !strings.HasPrefix(hint.Hints(), c.hintBegins) {
				t.Errorf("hint %q", hint.Hints())
			}
		})
	}
}

// What the bounds of the protocol forbid is told to the sender, and nobody else is asked.
func TestWhatIsTooLargeIsNotSent(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		t.Error("it was sent")
		w.WriteHeader(http.StatusNoContent)
	})
	c := f.client()
	many := batch(1, wire.MaxEvents+1)
	large := batch(1, 3)
	for i := range large {
		large[i].Body = json.RawMessage(`"` + strings.Repeat("x", wire.MaxBatch/3) + `"`)
	}
	one := batch(7, 1)
	one[0].Body = json.RawMessage(`"` + strings.Repeat("x", wire.MaxBatch) + `"`)
	bad := batch(7, 3)
	bad[1].Body = json.RawMessage(`{`)
	for name, b := range map[string]struct {
		entries []outbox.Entry
		want    outbox.Rejected
	}{
		"events":    {many, outbox.Rejected{TooLarge: true}},
		"bytes":     {large, outbox.Rejected{TooLarge: true}},
		"one event": {one, outbox.Rejected{TooLarge: true, Pos: 7}},
		"no JSON":   {bad, outbox.Rejected{Permanent: true, Pos: 8}},
	} {
		_, err := c.Deliver(t.Context(), b.entries)
		var rejected *outbox.Rejected
		if !errors.As(err, &rejected) || rejected.Reason == "" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := *rejected
		got.Reason = ""
		if got != b.want {
			t.Errorf("%s: got %+v, want %+v", name, got, b.want)
		}
	}
	if got, err := c.Deliver(t.Context(), nil); err != nil || !got.Whole {
		t.Errorf("nothing: %+v, %v", got, err)
	}
}

func TestTheLargestBatchGoesOut(t *testing.T) {
	size := 0
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var events []wire.Event
		if err := json.Unmarshal(body, &events); err != nil || len(events) != wire.MaxEvents {
			t.Errorf("%d events, %v", len(events), err)
		}
		size = len(body)
		w.WriteHeader(http.StatusNoContent)
	})
	entries := batch(1, wire.MaxEvents)
	for i := range entries {
		entries[i].Body = json.RawMessage(`"` + strings.Repeat("x", 1850) + `"`)
	}
	if got, err := f.client().Deliver(t.Context(), entries); err != nil || !got.Whole || size > wire.MaxBatch || size < wire.MaxBatch*9/10 {
		t.Errorf("%+v, %v, %d bytes", got, err, size)
	}
}

func TestEventsMayGoToAnotherReceiver(t *testing.T) {
	f := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the control plane was asked") })
	sink := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/in?fleet=a" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	sink.opts.EventsURL, sink.opts.URL = sink.server.URL+"/in?fleet=a", f.server.URL
	c := sink.client()
	if got, err := c.Deliver(t.Context(), batch(1, 1)); err != nil || !got.Whole {
		t.Errorf("%+v, %v", got, err)
	}
	if c.Reachable().Known {
		t.Error("another receiver tells nothing about the control plane")
	}
}

func TestCancelIsNoFailure(t *testing.T) {
	arrived := make(chan struct{})
	f := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	c := f.client()
	if _, err := c.Deliver(ctx, batch(1, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if c.Reachable().Known {
		t.Errorf("a cancelled request says nothing: %+v", c.Reachable())
	}
}
