package operator_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// patience bounds every wait of a test. What is waited for takes milliseconds.
const patience = 60 * time.Second

// serve answers with a handler, and gives a client of it.
func serve(t *testing.T, handle http.HandlerFunc) *operator.Client {
	t.Helper()
	server := httptest.NewTLSServer(handle)
	t.Cleanup(server.Close)
	return clientOf(t, server.URL+"/", server.Client().Transport.(*http.Transport).TLSClientConfig)
}

func clientOf(t *testing.T, url string, config *tls.Config) *operator.Client {
	t.Helper()
	c, err := operator.NewClient(url, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ctxOf(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func write(t *testing.T, w io.Writer, text string) {
	if _, err := io.WriteString(w, text); err != nil {
		t.Errorf("write answer: %v", err)
	}
}

func TestURLs(t *testing.T) {
	for _, bad := range []string{"", "control.example", "http://control.example", "https://", "https://[", "ftp://x"} {
		if _, err := operator.NewClient(bad, &tls.Config{MinVersion: tls.VersionTLS13}); err == nil || !strings.Contains(err.Error(), "https://HOST:PORT") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What is asked arrives as it was meant, whatever the names are.
func TestRequests(t *testing.T) {
	type asked struct{ method, path, query, contentType, body string }
	var got asked
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = asked{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Content-Type"), string(body)}
		write(t, w, `{"rolloutId":"stable@1","hosts":[],"of_tomorrow":1}`)
	})
	ctx := ctxOf(t)
	nothing := func(operator.Line) error { return nil }
	for _, c := range []struct {
		do   func() error
		want asked
	}{
		{func() error { _, err := c.Hosts(ctx); return err }, asked{"GET", "/v1/operator/hosts", "", "", ""}},
		{func() error { _, err := c.Show(ctx, "a/b?c d"); return err }, asked{"GET", "/v1/operator/hosts/a%2Fb%3Fc%20d", "", "", ""}},
		{func() error { _, err := c.Accused(ctx); return err }, asked{"GET", "/v1/operator/accused", "", "", ""}},
		{func() error { return c.Clear(ctx, operator.Clear{Channel: "s", Target: "t"}) },
			asked{"POST", "/v1/operator/accused/clear", "", wire.JSON, `{"channel":"s","target":"t"}`}},
		{func() error { return c.Events(ctx, "a&b", 3, false, nothing) }, asked{"GET", "/v1/operator/events", "host=a%26b&last=3", "", ""}},
		{func() error { return c.Events(ctx, "", 0, false, nothing) }, asked{"GET", "/v1/operator/events", "last=0", "", ""}},
		{func() error {
			reply, err := c.Dispatch(ctx, operator.Request{Hosts: []string{"web"}, Channel: "stable", Ref: "1", Target: "t"})
			if reply.RolloutID != "stable@1" {
				t.Errorf("reply %+v", reply)
			}
			return err
		}, asked{"POST", "/v1/operator/dispatch", "", wire.JSON, `{"hosts":["web"],"channel":"stable","ref":"1","target":"t","soakMs":0}`}},
	} {
		if err := c.do(); err != nil || got != c.want {
			t.Errorf("%v\nasked %+v\nwant  %+v", err, got, c.want)
		}
	}
}

func TestAnswersThatAreNoSuccess(t *testing.T) {
	for name, c := range map[string]struct {
		handle  http.HandlerFunc
		problem bool // what the control plane says of it
		away    bool // it counts as if none had answered
		says    string
	}{
		"a problem": {handle: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusConflict)
			write(t, w, `{"code":"quarantined","message":"it failed","hint":"mend it"}`)
		}, problem: true, says: "it failed"},
		"a proxy's page":          {handle: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) }, says: "502 Bad Gateway"},
		"an empty problem":        {handle: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "{}", http.StatusForbidden) }, says: "403 Forbidden"},
		"a problem without bound": {handle: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden); pour(w, r) }, says: "403 Forbidden"},
		"a redirect": {handle: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("it was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, says: "307 Temporary Redirect"},
		"nothing in it":       {handle: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, says: "204 No Content"},
		"no JSON":             {handle: func(w http.ResponseWriter, _ *http.Request) { write(t, w, "hello") }, says: "read answer of the control plane"},
		"without bound":       {handle: pour, says: "more than 67108864 bytes"},
		"cut off":             {handle: func(w http.ResponseWriter, _ *http.Request) { cut(w, `{"hosts":[`) }, away: true},
		"cut off at the head": {handle: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, away: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, c.handle).Hosts(ctxOf(t))
			var problem *wire.Problem
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.As(err, &problem) != c.problem || errors.Is(err, operator.ErrUnreachable) != c.away {
				t.Errorf("error %v", err)
			}
			if c.problem && (problem.Code != "quarantined" || problem.Hint != "mend it") {
				t.Errorf("problem %+v", problem)
			}
		})
	}
}

// pour writes an answer without an end, until the asker goes.
func pour(w http.ResponseWriter, _ *http.Request) {
	chunk := append([]byte(`{"hosts":"`), bytes.Repeat([]byte("x"), 64<<10)...)
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
		chunk = chunk[len(chunk)-64<<10:]
	}
}

// cut writes the beginning of an answer and ends the connection.
func cut(w http.ResponseWriter, begin string) {
	_, _ = io.WriteString(w, begin) // whether it arrives is not what is asked
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestNobodyAnswers(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	url, trusting := server.URL, server.Client().Transport.(*http.Transport).TLSClientConfig
	strange := clientOf(t, url, &tls.Config{MinVersion: tls.VersionTLS13})
	if _, err := strange.Hosts(ctxOf(t)); !errors.Is(err, operator.ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("one that is not trusted: %v", err)
	}
	server.Close()
	if _, err := clientOf(t, url, trusting).Hosts(ctxOf(t)); !errors.Is(err, operator.ErrUnreachable) {
		t.Errorf("one that is not there: %v", err)
	}
}

// An answer line by line: life signs between, and every way to its end.
func TestLines(t *testing.T) {
	line := func(n int) string { return fmt.Sprintf(`{"seq":%d,"host":"web","kind":"Note"}`+"\n", n) }
	enough := errors.New("enough")
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		stopAt uint64 // visit returns an error here
		lines  int
		once   error // of Events that do not follow
		follow error // of those that do
		says   string
	}{
		"to its end": {answer: func(w http.ResponseWriter, _ *http.Request) { write(t, w, "\n\n"+line(1)+"\n"+line(2)+"\n") },
			lines: 2, follow: operator.ErrUnreachable},
		"nothing":                {answer: func(http.ResponseWriter, *http.Request) {}, follow: operator.ErrUnreachable},
		"cut off between lines":  {answer: func(w http.ResponseWriter, _ *http.Request) { cut(w, line(1)) }, lines: 1, once: operator.ErrUnreachable, follow: operator.ErrUnreachable},
		"cut off within a line":  {answer: func(w http.ResponseWriter, _ *http.Request) { cut(w, line(1)+`{"seq":2,`) }, lines: 1, once: operator.ErrUnreachable, follow: operator.ErrUnreachable},
		"a line without its end": {answer: func(w http.ResponseWriter, _ *http.Request) { write(t, w, line(1)+`{"seq":2,`) }, lines: 1, once: operator.ErrUnreachable, follow: operator.ErrUnreachable},
		"visit has enough": {answer: func(w http.ResponseWriter, r *http.Request) {
			write(t, w, line(1)+line(2)+line(3))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, stopAt: 2, lines: 2, once: enough, follow: enough},
		"a line without bound": {answer: func(w http.ResponseWriter, r *http.Request) { write(t, w, line(1)); pour(w, r) }, lines: 1, says: "a line of more than 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, c.answer)
			for _, follow := range []bool{false, true} {
				seen := 0
				err := client.Events(ctxOf(t), "", 10, follow, func(l operator.Line) error {
					seen++
					if l.Seq != uint64(seen) || l.Host != "web" {
						t.Errorf("line %+v", l)
					}
					if c.stopAt == l.Seq {
						return enough
					}
					return nil
				})
				want := c.once
				if follow {
					want = c.follow
				}
				switch {
				case seen != c.lines:
					t.Errorf("follow %t: %d lines, want %d", follow, seen, c.lines)
				case c.says != "":
					if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, operator.ErrUnreachable) {
						t.Errorf("follow %t: %v", follow, err)
					}
				case !errors.Is(err, want) || want == nil && err != nil:
					t.Errorf("follow %t: %v, want %v", follow, err, want)
				}
			}
		})
	}
}

// Many lines, each within its bound, are more than one line may be.
func TestManyLines(t *testing.T) {
	const lines = 200
	data, err := json.Marshal(operator.Line{Kind: "Note", Data: json.RawMessage(`"` + strings.Repeat("x", 64<<10) + `"`)})
	if err != nil {
		t.Fatal(err)
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for range lines {
			write(t, w, string(data)+"\n")
		}
	})
	seen := 0
	if err := c.Events(ctxOf(t), "", lines, false, func(operator.Line) error { seen++; return nil }); err != nil || seen != lines {
		t.Errorf("%d lines, %v", seen, err)
	}
}

// Whoever follows stops when told to, and the control plane notices.
func TestFollowEndsWithItsContext(t *testing.T) {
	gone := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var f operator.Follow
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil || f.RolloutID != "stable@1" || len(f.Hosts) != 1 {
			t.Errorf("asked for %+v, %v", f, err)
		}
		write(t, w, `{"host":"web","rolloutId":"stable@1","state":"Soaking","settled":false}`+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	})
	ctx, stop := context.WithCancel(ctxOf(t))
	err := c.Follow(ctx, operator.Follow{RolloutID: "stable@1", Hosts: []string{"web"}}, func(p operator.Progress) error {
		if p.Host != "web" || p.State != "Soaking" || p.Settled {
			t.Errorf("progress %+v", p)
		}
		stop()
		return nil
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, operator.ErrUnreachable) {
		t.Errorf("error %v", err)
	}
	select {
	case <-gone:
	case <-ctxOf(t).Done():
		t.Error("the control plane goes on")
	}
}
