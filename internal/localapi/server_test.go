package localapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAsk(t *testing.T) {
	h := newHost()
	s := serve(t, h, nil)
	ctx := t.Context()
	if st, err := s.Status(ctx); err != nil || st.Summary != "idle" || st.Verdict != NoAgent || !st.At.Equal(testTime) {
		t.Errorf("status = %+v, %v", st, err)
	}
	if events, err := s.Events(ctx, 0, 10); err != nil || events == nil || len(events) != 0 {
		t.Errorf("no events are %v, %v", events, err)
	}
	if rows, err := s.History(ctx, "", 10); err != nil || rows == nil || len(rows) != 0 {
		t.Errorf("no history is %v, %v", rows, err)
	}
	row := HistoryRow{At: testTime, RolloutID: "stable@1", From: "Pending", To: "Activating", Kind: "Activate", Seq: 1}
	h.set(func(h *host) { h.events, h.rows = []Event{event(1), event(2), event(3)}, []HistoryRow{row, row} })
	if events, err := s.Events(ctx, 1, 1); err != nil || !reflect.DeepEqual(events, []Event{event(2)}) {
		t.Errorf("events = %+v, %v", events, err)
	}
	if rows, err := s.History(ctx, "a&b=c ü", 1); err != nil || !reflect.DeepEqual(rows, []HistoryRow{row}) || h.rollout != "a&b=c ü" {
		t.Errorf("history of %q = %+v, %v", h.rollout, rows, err)
	}
	req := ActivateRequest{Target: "/nix/store/x", Specialisation: "s", Force: true, Soak: "5m", Policy: "halt"}
	reply, err := s.Activate(ctx, req)
	if want := (ActivateReply{RolloutID: "local@e-1", State: "Pending", Waiting: "for its turn"}); err != nil || reply != want {
		t.Errorf("activate = %+v, %v", reply, err)
	}
	if want := (Peer{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid()}); h.by != want || !reflect.DeepEqual(h.asked, []ActivateRequest{req}) {
		t.Errorf("the backend was asked %+v by %+v, want %+v", h.asked, h.by, want)
	}
}

func TestChanges(t *testing.T) {
	h := newHost()
	s := serve(t, h, nil)
	ctx := t.Context()
	me := Peer{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid()}
	until := testTime.Add(time.Hour)

	if reply, err := s.Cancel(ctx, CancelRequest{Rollout: "stable@1"}); err != nil || reply != (CancelReply{RolloutID: "stable@1", State: "Deferred"}) {
		t.Errorf("cancel = %+v, %v", reply, err)
	}
	if hold, err := s.Hold(ctx, HoldRequest{Reason: "audit", Until: until}); err != nil || hold != (Hold{Reason: "audit", Until: until, UID: me.UID}) {
		t.Errorf("hold = %+v, %v", hold, err)
	}
	if hold, err := s.Resume(ctx); err != nil || hold.Reason != "it was held" {
		t.Errorf("resume = %+v, %v", hold, err)
	}
	if rows, err := s.Quarantine(ctx); err != nil || len(rows) != 1 || rows[0].Attempts != 2 || !rows[0].At.Equal(testTime) {
		t.Errorf("quarantine = %+v, %v", rows, err)
	}
	if reply, err := s.ClearQuarantine(ctx, QuarantineClearRequest{Closure: "/nix/store/x"}); err != nil || !reflect.DeepEqual(reply.Cleared, []string{"/nix/store/x"}) {
		t.Errorf("clear = %+v, %v", reply, err)
	}
	want := []any{CancelRequest{Rollout: "stable@1"}, HoldRequest{Reason: "audit", Until: until}, ResumeRequest{}, QuarantineClearRequest{Closure: "/nix/store/x"}}
	if !reflect.DeepEqual(h.changes, want) || h.by != me {
		t.Errorf("the backend was asked %+v by %+v", h.changes, h.by)
	}
}

func TestErrorsOfTheBackend(t *testing.T) {
	h := newHost()
	s := serve(t, h, nil)
	h.err = &Error{Code: CodeReadOnly, Message: "the agent may only read", Hint: "upgrade it"}
	ask := map[string]func() error{
		"status":   func() error { _, err := s.Status(t.Context()); return err },
		"watch":    func() error { return s.Watch(t.Context(), func(Status) error { return nil }) },
		"events":   func() error { _, err := s.Events(t.Context(), 0, 1); return err },
		"follow":   func() error { return s.Follow(t.Context(), 0, func(Event) error { return nil }) },
		"history":  func() error { _, err := s.History(t.Context(), "", 1); return err },
		"activate": func() error { _, err := s.Activate(t.Context(), ActivateRequest{}); return err },
	}
	for name, do := range ask {
		var got *Error
		if err := do(); !errors.As(err, &got) || *got != *h.err.(*Error) { //nolint:errorlint // it is what was put there
			t.Errorf("%s: %v", name, err)
		}
	}
	h.err = errors.New("a plain error")
	for name, do := range ask {
		var got *Error
		if err := do(); !errors.As(err, &got) || got.Code != CodeInternal || got.Message != "a plain error" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWatchTellsEveryChange(t *testing.T) {
	h := newHost()
	s := serve(t, h, nil)
	enough := errors.New("enough")
	n := 0
	err := s.Watch(t.Context(), func(st Status) error {
		if want := map[bool]string{true: "idle", false: fmt.Sprint(n)}[n == 0]; st.Summary != want {
			t.Errorf("line %d says %q", n, st.Summary)
		}
		if n++; n == 20 {
			return enough
		}
		h.set(func(h *host) { h.summary = fmt.Sprint(n) })
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	until(t, "the stream has ended", func() bool { return running("localapi.(*handler).stream") == 0 })
}

func TestFollowGivesEachEventOnce(t *testing.T) {
	h := newHost()
	const first, more = followBatch*2 + 10, 20
	for pos := range uint64(first) {
		h.events = append(h.events, event(pos+1))
	}
	s := serve(t, h, nil)
	enough := errors.New("enough")
	next := uint64(6)
	err := s.Follow(t.Context(), 5, func(e Event) error {
		if e.Pos != next {
			t.Fatalf("event %d, want %d", e.Pos, next)
		}
		if next >= first {
			if next == first+more {
				return enough
			}
			h.set(func(h *host) { h.events = append(h.events, event(next+1)) })
		}
		next++
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

// exchange sends bytes and gives the status and the body of the answer.
func exchange(t *testing.T, path, request string) (status int, body string) {
	t.Helper()
	conn := dial(t, path)
	go func() { _, _ = io.WriteString(conn, request) }() // a server that has heard enough may not read all of it
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(data)
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func get(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: agent\r\n\r\n" }

func post(body string) string {
	return "POST /v1/activate HTTP/1.1\r\nHost: agent\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

func TestBadRequests(t *testing.T) {
	h := newHost()
	s := serve(t, h, nil)
	for name, c := range map[string]struct {
		request string
		status  int
		code    Code
		says    string
	}{
		"no such path":        {get("/v2/status"), 404, CodeNotFound, "/v2/status"},
		"root":                {get("/"), 404, CodeNotFound, ""},
		"wrong method":        {"DELETE /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n", 405, CodeBadMethod, "GET"},
		"get of activate":     {get("/v1/activate"), 405, CodeBadMethod, "POST"},
		"get with a body":     {"GET /v1/status HTTP/1.1\r\nHost: agent\r\nContent-Length: 2\r\n\r\n{}", 400, CodeBadRequest, "body"},
		"watch":               {get("/v1/status?watch=maybe"), 400, CodeBadRequest, "maybe"},
		"follow":              {get("/v1/events?follow=maybe"), 400, CodeBadRequest, "maybe"},
		"after negative":      {get("/v1/events?after=-1"), 400, CodeBadRequest, "-1"},
		"after too large":     {get("/v1/events?after=18446744073709551616"), 400, CodeBadRequest, "position"},
		"limit 0":             {get("/v1/events?limit=0"), 400, CodeBadRequest, "limit"},
		"limit too large":     {get("/v1/history?limit=10001"), 400, CodeBadRequest, "limit"},
		"limit no number":     {get("/v1/history?limit=ten"), 400, CodeBadRequest, "ten"},
		"no body":             {post(""), 400, CodeBadRequest, "EOF"},
		"garbage":             {post("target=/nix/store/x"), 400, CodeBadRequest, "invalid character"},
		"cut off":             {post(`{"target":`), 400, CodeBadRequest, "EOF"},
		"wrong type":          {post(`{"target":7}`), 400, CodeBadRequest, "target"},
		"a list":              {post(`[]`), 400, CodeBadRequest, "array"},
		"unknown field":       {post(`{"target":"x","now":true}`), 400, CodeBadRequest, "now"},
		"two objects":         {post(`{"target":"x"}{"target":"y"}`), 400, CodeBadRequest, "follows"},
		"something after it":  {post(`{"target":"x"} garbage`), 400, CodeBadRequest, "follows"},
		"body too large":      {post(`{"target":"` + strings.Repeat("x", maxBody) + `"}`), 400, CodeBadRequest, "too large"},
		"body much too large": {post(`{"target":"` + strings.Repeat("x", 64*maxBody) + `"}`), 400, CodeBadRequest, "too large"},
		"get of cancel":       {get("/v1/cancel"), 405, CodeBadMethod, "POST"},
		"post of quarantine":  {strings.Replace(post("{}"), "activate", "quarantine", 1), 405, CodeBadMethod, "GET"},
		"no HTTP":             {"hello\r\n\r\n", 400, "", ""},
		"header too large":    {"GET /v1/status HTTP/1.1\r\nHost: agent\r\nX: " + strings.Repeat("x", 4*maxHeader) + "\r\n\r\n", 431, "", ""},
	} {
		status, body := exchange(t, s.path, c.request)
		if status != c.status {
			t.Errorf("%s: %d, want %d: %s", name, status, c.status, body)
		}
		if c.code == "" {
			continue
		}
		var refused Error
		if err := json.Unmarshal([]byte(body), &refused); err != nil || refused.Code != c.code || !strings.Contains(refused.Message, c.says) {
			t.Errorf("%s: %s, %v", name, body, err)
		}
	}
	if len(h.asked) != 0 {
		t.Errorf("the backend was asked for %+v", h.asked)
	}
	for _, target := range []string{"/v1/status?watch=0", "/v1/status?watch=false", "/v1/events?follow=0&limit=10000"} {
		if status, body := exchange(t, s.path, get(target)); status != 200 {
			t.Errorf("%s: %d %s", target, status, body)
		}
	}
	if status, body := exchange(t, s.path, post(" {\"target\":\"x\"} \n")); status != 200 || len(h.asked) != 1 {
		t.Errorf("space around the object: %d %s", status, body)
	}
}

// A peer that does not ask is given up, and holds nobody meanwhile.
func TestSlowAskers(t *testing.T) {
	s := serve(t, newHost(), func(b *bounds) { b.ask = 100 * time.Millisecond })
	for name, begun := range map[string]string{
		"nothing":  "",
		"a header": "GET /v1/status HTTP/1.1\r\nHost:",
		"a body":   "POST /v1/activate HTTP/1.1\r\nHost: agent\r\nContent-Length: 50\r\n\r\n{",
	} {
		conn := dial(t, s.path)
		if _, err := io.WriteString(conn, begun); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Status(t.Context()); err != nil {
			t.Errorf("%s: another client: %v", name, err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: the connection does not end: %v", name, err)
		}
	}
}

// The time to ask is not the time of the answer.
func TestStreamsOutliveTheTimeToAsk(t *testing.T) {
	h := newHost()
	s := serve(t, h, func(b *bounds) { b.ask = 50 * time.Millisecond })
	begin := time.Now()
	enough := errors.New("enough")
	err := s.Watch(t.Context(), func(Status) error {
		if time.Since(begin) > 300*time.Millisecond {
			return enough
		}
		time.AfterFunc(20*time.Millisecond, func() { h.set(func(*host) {}) })
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

// A watcher that does not read is given up, and holds nobody meanwhile.
func TestSlowReaders(t *testing.T) {
	h := newHost()
	h.padding = 1 << 20
	s := serve(t, h, func(b *bounds) { b.write = 100 * time.Millisecond })
	for _, target := range []string{"/v1/status?watch=1", "/v1/status"} {
		conn := dial(t, s.path)
		if _, err := io.WriteString(conn, get(target)); err != nil {
			t.Fatal(err)
		}
		until(t, "it is asked", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.statuses > 0 })
		h.set(func(h *host) { h.statuses = 0 })
		if _, err := s.Status(t.Context()); err != nil {
			t.Errorf("another client: %v", err)
		}
		until(t, target+" has ended", func() bool { return running("localapi.(*handler).status") == 0 })
		h.set(func(h *host) { h.statuses = 0 })
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := serve(t, newHost(), func(b *bounds) { b.connections, b.ask = 2, time.Hour })
	first, second := dial(t, s.path), dial(t, s.path)
	until(t, "both are accepted", func() bool { return running("http.(*conn).serve") == 2 })
	answered := make(chan error, 1)
	go func() {
		_, err := s.Status(context.Background())
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("a third one was answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	_ = first.Close()
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the third one is not answered when there is room")
	}
	_ = second.Close()
	for range 50 { // no slot is lost
		if _, err := s.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchersLeaveRoomForOthers(t *testing.T) {
	h := newHost()
	s := serve(t, h, func(b *bounds) { b.connections, b.streams = 4, 2 })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for range 2 {
		seen := make(chan struct{}, 1)
		go func() { ended <- s.Watch(ctx, func(Status) error { seen <- struct{}{}; return nil }) }()
		<-seen
	}
	var busy *Error
	if err := s.Follow(ctx, 0, func(Event) error { return nil }); !errors.As(err, &busy) || busy.Code != CodeBusy || busy.Hint == "" {
		t.Errorf("a third stream: %v", err)
	}
	if _, err := s.Status(ctx); err != nil {
		t.Errorf("status: %v", err)
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("watch = %v", err)
		}
	}
	until(t, "the streams of clients that went have ended", func() bool { return running("localapi.(*handler).stream") == 0 })
	until(t, "their connections are gone", func() bool { return running("http.(*conn).serve") == 0 })
}

func TestShutdownEndsStreams(t *testing.T) {
	s := serve(t, newHost(), nil)
	ended := make(chan error, 2)
	for _, follow := range []func() error{
		func() error { return s.Watch(context.Background(), func(Status) error { return nil }) },
		func() error { return s.Follow(context.Background(), 0, func(Event) error { return nil }) },
	} {
		go func() { ended <- follow() }()
	}
	until(t, "both are served", func() bool { return running("localapi.(*handler).stream") == 2 })
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, ErrNoAgent) {
			t.Errorf("stream = %v", err)
		}
	}
	if n := running("localapi.(*handler)") + running("http.(*conn).serve"); n != 0 {
		t.Errorf("%d goroutines are left", n)
	}
	if _, err := s.Status(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("after the end: %v", err)
	}
}

// What is stuck when the agent stops is given up, and does not use the backend after Serve has returned.
func TestShutdownAbandonsWhatIsStuck(t *testing.T) {
	h := newHost()
	h.stuck = make(chan struct{})
	s := serve(t, h, func(b *bounds) { b.close, b.connections = 50*time.Millisecond, 2 })
	ended := make(chan error, 1)
	go func() {
		_, err := s.Activate(context.Background(), ActivateRequest{Target: "x"})
		ended <- err
	}()
	<-h.stuck
	dial(t, s.path) // the last place is taken, by somebody who does not ask
	until(t, "both are accepted", func() bool { return running("http.(*conn).serve") == 2 })
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if n := running("localapi.(*host).Activate"); n != 0 {
		t.Errorf("the backend is still used")
	}
	if err := <-ended; err == nil {
		t.Error("the client was told of success")
	}
}

func TestMayChange(t *testing.T) {
	for _, c := range []struct {
		uid, agent int
		want       bool
	}{
		{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 0, false}, {1000, 1001, false}, {65534, 0, false}, {-1, 0, false}, {-1, -1, false},
	} {
		if got := mayChange(Peer{UID: c.uid}, c.agent); got != c.want {
			t.Errorf("uid %d asks an agent of uid %d: %v", c.uid, c.agent, got)
		}
	}
}

func init() {
	// Asks as whoever it runs as, and says what became of it.
	roles["ask"] = func(args []string) error {
		client := NewClient(args[0])
		_, status := client.Status(context.Background())
		_, activate := client.Activate(context.Background(), ActivateRequest{Target: "/nix/store/x"})
		return json.NewEncoder(os.Stdout).Encode([]*Error{asError(status), asError(activate)})
	}
}

func asError(err error) *Error {
	var known *Error
	if err != nil && !errors.As(err, &known) {
		known = &Error{Message: err.Error()}
	}
	return known
}

// askAs asks the agent behind a socket from a process of another user, and gives the errors of status and activate.
func askAs(t *testing.T, dir, path string, id uint32) (status, activate *Error) {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "child") // where such a user may execute it
	if err := os.WriteFile(binary, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(binary)
	child.Env = append(os.Environ(), roleVariable+"=ask\x1f"+path)
	child.Dir = dir
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	var stderr bytes.Buffer
	child.Stderr = &stderr
	out, err := child.Output()
	if err != nil {
		t.Fatalf("child: %v: %s", err, &stderr)
	}
	var both []*Error
	if err := json.Unmarshal(out, &both); err != nil || len(both) != 2 {
		t.Fatalf("child says %s, %v", out, err)
	}
	return both[0], both[1]
}

func TestOnlyRootMayChange(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can ask as another user; TestMayChange tests the decision itself")
	}
	dir, err := os.MkdirTemp("", "localapi-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHost()
	const member, stranger = 65534, 65533
	s := serveAt(t, filepath.Join(dir, "agent.sock"), strconv.Itoa(member), h, nil)
	status, activate := askAs(t, dir, s.path, member)
	if status != nil || activate == nil || activate.Code != CodeNotAllowed || activate.Hint == "" {
		t.Errorf("a member of the group: status %+v, activate %+v", status, activate)
	}
	status, activate = askAs(t, dir, s.path, stranger)
	for what, err := range map[string]*Error{"status": status, "activate": activate} {
		if err == nil || err.Code != CodeNotAllowed || !strings.Contains(err.Message, "permission denied") || err.Hint == "" {
			t.Errorf("a stranger's %s: %+v", what, err)
		}
	}
	if len(h.asked) != 0 {
		t.Errorf("the backend was asked for %+v", h.asked)
	}
}
