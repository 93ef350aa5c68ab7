package controlplane_test

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

func batchOf(events ...wire.Event) []byte {
	body, err := json.Marshal(events)
	if err != nil {
		panic(err)
	}
	return body
}

func gzipped(data []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(data) // into memory
	_ = w.Close()
	return out.Bytes()
}

func note(pos uint64, change func(*wire.Event)) wire.Event {
	ev := event("web-1", pos, "", "Note", nil)
	if change != nil {
		change(&ev)
	}
	return ev
}

// far is a position that no good event of the test has: what a fault brings is seen by it if it is stored.
const far = 1 << 40

// badRequests are requests of web-1 that say nothing, with the status that answers them.
var badRequests = []struct {
	name         string
	method, path string
	contentType  string
	body         []byte
	status       int
}{
	{"events: too many bytes", http.MethodPost, wire.EventsPath, wire.Batch, bytes.Repeat([]byte(" "), wire.MaxBatch+1), http.StatusRequestEntityTooLarge},
	{"events: one huge string", http.MethodPost, wire.EventsPath, wire.Batch, []byte(`["` + strings.Repeat("x", wire.MaxBatch) + `"]`), http.StatusRequestEntityTooLarge},
	{"events: half a million zeros", http.MethodPost, wire.EventsPath, wire.Batch, []byte("[" + strings.Repeat("0,", wire.MaxBatch/2-2) + "0]"), http.StatusBadRequest},
	{"events: a hundred thousand empty ones", http.MethodPost, wire.EventsPath, wire.Batch, []byte("[" + strings.Repeat("{},", 100_000) + "{}]"), http.StatusRequestEntityTooLarge},
	{"events: as deep as there is room", http.MethodPost, wire.EventsPath, wire.Batch, []byte(strings.Repeat("[", wire.MaxBatch)), http.StatusBadRequest},
	{"events: deep within an event", http.MethodPost, wire.EventsPath, wire.Batch,
		batchOf(note(far, func(e *wire.Event) { e.Data = []byte(strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)) })), http.StatusBadRequest},
	{"events: no content type", http.MethodPost, wire.EventsPath, "", batchOf(note(far, nil)), http.StatusUnsupportedMediaType},
	{"events: JSON", http.MethodPost, wire.EventsPath, wire.JSON, batchOf(note(far, nil)), http.StatusUnsupportedMediaType},
	{"events: a single one", http.MethodPost, wire.EventsPath, "application/cloudevents+json", batchOf(note(far, nil)), http.StatusUnsupportedMediaType},
	{"events: no media type at all", http.MethodPost, wire.EventsPath, ";;;=", batchOf(note(far, nil)), http.StatusUnsupportedMediaType},
	{"events: nothing", http.MethodPost, wire.EventsPath, wire.Batch, nil, http.StatusBadRequest},
	{"events: a page of a proxy", http.MethodPost, wire.EventsPath, wire.Batch, []byte("<!doctype html><title>Sign in</title>"), http.StatusBadRequest},
	{"events: zeros", http.MethodPost, wire.EventsPath, wire.Batch, make([]byte, 1<<16), http.StatusBadRequest},
	{"events: packed", http.MethodPost, wire.EventsPath, wire.Batch, gzipped(batchOf(note(far, nil))), http.StatusBadRequest},
	{"events: cut off", http.MethodPost, wire.EventsPath, wire.Batch, bytes.TrimSuffix(batchOf(note(far, nil)), []byte("}]")), http.StatusBadRequest},
	{"events: two batches in one", http.MethodPost, wire.EventsPath, wire.Batch, slices.Concat(batchOf(note(far, nil)), batchOf(note(far+1, nil))), http.StatusBadRequest},
	{"events: an object", http.MethodPost, wire.EventsPath, wire.Batch, []byte(`{"events":[]}`), http.StatusBadRequest},
	{"events: null within", http.MethodPost, wire.EventsPath, wire.Batch, []byte(`[null]`), http.StatusBadRequest},
	{"events: a position below zero", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.ID = "e1:-1" })), http.StatusBadRequest},
	{"events: position zero", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.ID = "e1:0" })), http.StatusBadRequest},
	{"events: a position beyond", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.ID = "e1:18446744073709551616" })), http.StatusBadRequest},
	{"events: an endless epoch", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.ID = strings.Repeat("e", 1<<16) + ":7" })), http.StatusBadRequest},
	{"events: an endless rollout", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.Subject = strings.Repeat("r", 1<<16) })), http.StatusBadRequest},
	{"events: an endless type", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.Type = strings.Repeat("t", 1<<16) })), http.StatusBadRequest},
	{"events: no time", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.Time = time.Time{} })), http.StatusBadRequest},
	{"events: the same twice in one batch", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, nil), note(far, nil)), http.StatusBadRequest},
	{"events: backwards", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far+1, nil), note(far, nil)), http.StatusBadRequest},
	{"events: good ones and one of another host", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, nil), event("web-2", far+1, "", "Note", nil)), http.StatusForbidden},
	{"events: of nobody", http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, func(e *wire.Event) { e.Source = "" })), http.StatusForbidden},
	{"heartbeat: too many bytes", http.MethodPost, wire.HeartbeatPath, wire.JSON, bytes.Repeat([]byte(" "), wire.MaxHeartbeat+1), http.StatusRequestEntityTooLarge},
	{"heartbeat: deep", http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte(`{"host":"web-1","records":[` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + `]}`), http.StatusBadRequest},
	{"heartbeat: a batch", http.MethodPost, wire.HeartbeatPath, wire.Batch, batchOf(note(far, nil)), http.StatusUnsupportedMediaType},
	{"heartbeat: garbage", http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte("\xff\xfe\x00host"), http.StatusBadRequest},
	{"heartbeat: of another host", http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte(`{"host":"web-2","cursor":{"epoch":"e1","highest":9,"acked":9}}`), http.StatusForbidden},
	{"heartbeat: of nobody", http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte(`{}`), http.StatusForbidden},
	{"heartbeat: a cursor below zero", http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte(`{"host":"web-1","cursor":{"epoch":"e1","highest":-1,"acked":-1}}`), http.StatusBadRequest},
	{"heartbeat: a generation that has no next", http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte(`{"host":"web-1","cursor":{"epoch":"e1"},"generation":18446744073709551615}`), http.StatusBadRequest},
	{"dispatch: a wait that is no number", http.MethodGet, wire.DispatchPath + "?wait=soon", "", nil, http.StatusBadRequest},
	{"dispatch: a generation that has no next", http.MethodGet, wire.DispatchPath + "?have=18446744073709551615", "", nil, http.StatusBadRequest},
	{"dispatch: another method", http.MethodPut, wire.DispatchPath, wire.JSON, []byte("{}"), http.StatusNotFound},
	{"nothing there", http.MethodGet, "/v2/agent/dispatch", "", nil, http.StatusNotFound},
	{"an operator's question", http.MethodGet, operator.HostsPath, "", nil, http.StatusForbidden},
	{"an operator's dispatch", http.MethodPost, operator.DispatchPath, wire.JSON, []byte(`{"hosts":["web-1"],"channel":"stable","ref":"9","target":"` + toplevel + `"}`), http.StatusForbidden},
	{"a header of 64 KiB", http.MethodGet, wire.DispatchPath + "?" + strings.Repeat("x", 64<<10), "", nil, http.StatusRequestHeaderFieldsTooLarge},
}

// reset ends a connection with a RST.
func reset(conn *tls.Conn) {
	if tcp, ok := conn.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}
}

// brokenTalk are connections of web-1 that do not get as far as a request, or end within one.
func brokenTalk(good []byte) map[string]func(*tls.Conn) {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n", wire.EventsPath, wire.Batch)
	say := func(text string, then func(*tls.Conn)) func(*tls.Conn) {
		return func(conn *tls.Conn) {
			_, _ = io.WriteString(conn, text) // the other side may have hung up
			then(conn)
		}
	}
	hangUp := func(conn *tls.Conn) { _ = conn.Close() }
	listen := func(conn *tls.Conn) {
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	return map[string]func(*tls.Conn){
		"not a word":                     hangUp,
		"reset at once":                  reset,
		"half a header":                  say(head, hangUp),
		"a batch cut off":                say(head+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(good))+string(good[:len(good)/2]), hangUp),
		"a batch reset":                  say(head+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(good))+string(good[:len(good)/2]), reset),
		"a chunk cut off":                say(head+fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", len(good))+string(good[:len(good)/2]), hangUp),
		"chunks that are none":           say(head+"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", listen),
		"a length that is none":          say(head+"Content-Length: -1\r\n\r\n", listen),
		"two lengths":                    say(head+"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]", listen),
		"another protocol":               say("SSH-2.0-OpenSSH_9.9\r\n\r\n", listen),
		"gone before the long poll":      say(fmt.Sprintf("GET %s?wait=60&have=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", wire.DispatchPath), hangUp),
		"reset within the long poll":     say(fmt.Sprintf("GET %s?wait=60&have=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", wire.DispatchPath), reset),
		"a heartbeat of which half came": say(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n{\"host\":", wire.HeartbeatPath, wire.JSON), reset),
	}
}

// absurd are heartbeats that a host could only send if it were broken. They are taken, and harm nobody but it.
func absurd(host string) map[string]wire.Heartbeat {
	var many []json.RawMessage
	for n := range 2000 {
		many = append(many, json.RawMessage(fmt.Sprintf(`{"hostname":"web-1","rollout_id":"absurd@%d","channel":"absurd","target_closure":%q,"state":"Soaking","last_event_seq":%d}`, n, toplevel, n+1)))
	}
	return map[string]wire.Heartbeat{
		"nothing in it":             {Host: host},
		"a cursor at the end":       {Host: host, At: moment, Cursor: wire.Cursor{Epoch: "absurd", Highest: math.MaxUint64, Acked: math.MaxUint64}},
		"more acknowledged than is": {Host: host, At: moment, Cursor: wire.Cursor{Epoch: "absurd2", Highest: 1, Acked: math.MaxUint64}},
		"an endless epoch":          {Host: host, At: moment, Cursor: wire.Cursor{Epoch: strings.Repeat("e", 1<<20)}},
		"records that are none": {Host: host, At: moment, Cursor: wire.Cursor{Epoch: "absurd3"},
			Records: []json.RawMessage{json.RawMessage(`null`), json.RawMessage(`[]`), json.RawMessage(`{"state":"Dreaming"}`), json.RawMessage(`"x"`)}},
		"two thousand records":     {Host: host, At: moment, Cursor: wire.Cursor{Epoch: "absurd4"}, Records: many},
		"a megabyte of complaints": {Host: host, At: moment, Cursor: wire.Cursor{Epoch: "absurd5"}, Degraded: []string{strings.Repeat("no ", 1<<18)}},
		"of the year 1":            {Host: host, At: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), Cursor: wire.Cursor{Epoch: "absurd6"}, Outbox: wire.Outbox{Depth: -1, DeadLetters: math.MinInt32}},
	}
}

// story is what is in the log of web-1: what was asked, and every event with what became of it.
func story(t *testing.T, op *operator.Client) []string {
	t.Helper()
	var lines []string
	if err := op.Events(ctxOf(t), "web-1", 10_000, false, func(l operator.Line) error {
		lines = append(lines, fmt.Sprintf("%s %s %s", l.Kind, l.ID, l.Result))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return lines
}

// Whatever arrives, by whomever: no event of the host is lost, none is applied twice, its record does not move but by its events, and
// nothing is left behind in the process.
func TestFaults(t *testing.T) {
	f := newFleet(t)
	for _, name := range []string{"web-1", "web-2", "odd-1"} {
		f.issue(pki.Host, name)
	}
	for name, issuedAt := range map[string]time.Time{"old-1": time.Now().AddDate(-9, 0, 0), "young-1": time.Now().AddDate(1, 0, 0)} {
		if _, err := f.ca.Issue(pki.Host, name, nil, issuedAt, false); err != nil {
			t.Fatal(err)
		}
	}
	other := newFleet(t)
	other.issue(pki.Host, "web-1")
	cp := f.serve()
	web, odd, op := cp.host("web-1"), cp.host("odd-1"), cp.operator()
	strangers := map[string]*client{
		"no certificate":    cp.as("web-1", func(c *tls.Config) { c.GetClientCertificate = nil }),
		"TLS 1.2":           cp.as("web-1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }),
		"another authority": (&instance{fleet: other, url: cp.url}).as("web-1", func(c *tls.Config) { c.RootCAs = f.clientPool() }),
		"expired":           cp.host("old-1"),
		"not valid yet":     cp.host("young-1"),
		"a server's":        cp.as("server-localhost", nil),
		"without TLS":       {t: t, url: strings.Replace(cp.url, "https:", "http:", 1), http: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}},
	}
	foreign := map[string]*client{"another host": cp.host("web-2"), "an operator": cp.as("operator-me", nil)}

	mustDispatch(t, op, request("web-1"))
	want := []string{"Dispatched  "}
	pos := uint64(0)
	var sent [][]wire.Event
	// good sends the next event of the host, which is applied, whatever came before.
	good := func(after string, ev func(pos uint64) wire.Event) {
		t.Helper()
		pos++
		next := ev(pos)
		got := web.send(next)
		if len(got.Results) != 1 || got.Results[0].Result != wire.Applied || got.Acked != pos {
			t.Fatalf("event %d after %s: %+v", pos, after, got)
		}
		kind, _ := wire.KindOf(next.Type)
		want, sent = append(want, fmt.Sprintf("%s %s %s", kind, next.ID, wire.Applied)), append(sent, []wire.Event{next})
	}
	aNote := func(pos uint64) wire.Event { return note(pos, nil) }
	good("the dispatch", func(pos uint64) wire.Event { return acked("web-1", pos, "stable@1", toplevel, 1) })
	good("that", func(pos uint64) wire.Event {
		return event("web-1", pos, "stable@1", "ActivationStarted", map[string]any{"started_at": moment, "switch_method": "switch", "attempt": 1, "seq": 2})
	})

	round := func(first bool) {
		t.Helper()
		check := func(name string) {
			t.Helper()
			if !first {
				return
			}
			good(name, aNote)
			if got := story(t, op); !slices.Equal(got, want) {
				t.Fatalf("after %s the log is\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		for _, c := range badRequests {
			a := web.do(c.method, c.path, c.contentType, c.body)
			if a.status != c.status {
				t.Errorf("%s: %d %.300s, want %d", c.name, a.status, a.body, c.status)
			}
			var problem wire.Problem
			if err := json.Unmarshal(a.body, &problem); c.status != http.StatusRequestHeaderFieldsTooLarge && (err != nil || problem.Code == "" || problem.Message == "" || len(a.body) > wire.MaxProblem) {
				t.Errorf("%s: it is not said what is wrong: %.300s", c.name, a.body)
			}
			check(c.name)
		}
		for name, misbehave := range brokenTalk(batchOf(note(far, nil), note(far+1, nil))) {
			transport, ok := web.http.Transport.(*http.Transport)
			if !ok {
				t.Fatalf("the transport is %T", web.http.Transport)
			}
			config := transport.TLSClientConfig.Clone()
			config.NextProtos, config.ServerName = []string{"http/1.1"}, "localhost"
			conn, err := tls.Dial("tcp", strings.TrimPrefix(cp.url, "https://"), config)
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			misbehave(conn)
			check(name)
		}
		for name, stranger := range strangers {
			for _, path := range []string{wire.EventsPath, wire.HeartbeatPath, operator.DispatchPath} {
				if a, err := stranger.try(http.MethodPost, path, wire.Batch, batchOf(note(far, nil))); err == nil && a.status != http.StatusBadRequest {
					t.Errorf("%s: %s is answered %d %s", name, path, a.status, a.body)
				}
			}
			check(name)
		}
		for name, c := range foreign {
			if a := c.do(http.MethodPost, wire.EventsPath, wire.Batch, batchOf(note(far, nil))); a.status != http.StatusForbidden {
				t.Errorf("%s speaks for web-1: %d %s", name, a.status, a.body)
			}
			if a := c.do(http.MethodPost, wire.HeartbeatPath, wire.JSON, []byte(`{"host":"web-1","cursor":{"epoch":"e1","highest":99,"acked":99}}`)); a.status != http.StatusForbidden {
				t.Errorf("%s sends a heartbeat of web-1: %d %s", name, a.status, a.body)
			}
			check(name)
		}
		for name, hb := range absurd("odd-1") {
			odd.beat(hb)
			check(name)
		}
		// What was sent comes again, in no order and several at once: tries that were overtaken.
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for _, i := range rand.Perm(len(sent)) {
					a, err := web.try(http.MethodPost, wire.EventsPath, wire.Batch, batchOf(sent[i]...))
					var got wire.Answer
					if err = errors.Join(err, json.Unmarshal(a.body, &got)); err != nil || len(got.Results) != 1 || got.Results[0].Result != wire.Duplicate || got.Acked != got.Results[0].Pos {
						t.Errorf("event %d again: %d %s, %v", i+1, a.status, a.body, err)
						return
					}
				}
			})
		}
		wg.Wait()
		check("what was overtaken")
	}
	round(true)

	// The odd host is as good as any, with a new epoch, and is asked like any.
	if a := odd.send(event("odd-1", 1, "", "Note", nil)); a.Results[0].Result != wire.Applied {
		t.Errorf("an event of the odd host: %+v", a)
	}
	if d := mustDispatch(t, op, request("odd-1")).Hosts[0]; d.Generation != 1 {
		t.Errorf("a dispatch to the odd host: %+v", d)
	}

	// Over and over, it leaves nothing behind.
	settled := func() (goroutines int, heap uint64) {
		t.Helper()
		for deadline, still := time.Now().Add(patience), 0; still < 10 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if n := runtime.NumGoroutine(); n == goroutines {
				still++
			} else {
				goroutines, still = n, 0
			}
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return goroutines, m.HeapAlloc
	}
	round(false)
	goroutines, heap := settled()
	const rounds, maxGrowth = 5, 8 << 20
	for range rounds {
		round(false)
	}
	after, grown := settled()
	if after > goroutines+4 {
		t.Errorf("%d goroutines have become %d", goroutines, after)
	}
	if grown > heap+maxGrowth {
		t.Errorf("the heap has grown from %d to %d bytes in %d rounds", heap, grown, rounds)
	}
	t.Logf("goroutines %d, then %d; heap %d KiB, then %d KiB", goroutines, after, heap>>10, grown>>10)
	if got := story(t, op); !slices.Equal(got, want) {
		t.Errorf("the log is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	detail, err := op.Show(ctxOf(t), "web-1")
	if err != nil || detail.Summary.Rollout.State != "Activating" || detail.Summary.Refusals != 0 {
		t.Errorf("web-1 is %+v, %v", detail.Summary, err)
	}
}
