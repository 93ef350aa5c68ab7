package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// roleVariable makes the test binary play another process: it names the role, and its arguments follow.
const roleVariable = "LOCALAPI_TEST_ROLE"

var roles = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if line := os.Getenv(roleVariable); line != "" {
		args := strings.Split(line, "\x1f")
		if err := roles[args[0]](args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// patience is how long a condition is waited for before it is missed.
const patience = 20 * time.Second

// host is a Backend with a state that tests change.
type host struct {
	mu       sync.Mutex
	changed  chan struct{}
	summary  string
	events   []Event
	rows     []HistoryRow
	asked    []ActivateRequest
	changes  []any // the other changes that were asked for
	by       Peer
	err      error
	stuck    chan struct{} // Activate tells that it is stuck, and stays so until its context ends
	padding  int           // of the status
	rollout  string        // that History was asked for
	statuses int           // that were asked for
}

func newHost() *host { return &host{changed: make(chan struct{}), summary: "idle"} }

func (h *host) set(change func(*host)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *host) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *host) Status(context.Context) (Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses++
	st := least()
	st.Summary, st.Then = h.summary, strings.Repeat("x", h.padding)
	return st, h.err
}

func (h *host) Activate(ctx context.Context, req ActivateRequest, by Peer) (ActivateReply, error) {
	if h.stuck != nil {
		close(h.stuck)
		<-ctx.Done()
		return ActivateReply{}, ctx.Err()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked, h.by = append(h.asked, req), by
	return ActivateReply{RolloutID: "local@e-1", State: "Pending", Waiting: "for its turn"}, h.err
}

func (h *host) note(by Peer, req any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes, h.by = append(h.changes, req), by
}

func (h *host) Cancel(_ context.Context, req CancelRequest, by Peer) (CancelReply, error) {
	h.note(by, req)
	return CancelReply{RolloutID: req.Rollout, State: "Deferred"}, h.err
}

func (h *host) Hold(_ context.Context, req HoldRequest, by Peer) (Hold, error) {
	h.note(by, req)
	return Hold{Reason: req.Reason, Until: req.Until, UID: by.UID}, h.err
}

func (h *host) Resume(_ context.Context, req ResumeRequest, by Peer) (Hold, error) {
	h.note(by, req)
	return Hold{Reason: "it was held"}, h.err
}

func (h *host) Quarantine(context.Context) ([]QuarantineRow, error) {
	return []QuarantineRow{{Closure: "/nix/store/x", Attempts: 2, Reason: "switch-failed", At: testTime, RolloutID: "local@e-1"}}, h.err
}

func (h *host) ClearQuarantine(_ context.Context, req QuarantineClearRequest, by Peer) (QuarantineClearReply, error) {
	h.note(by, req)
	return QuarantineClearReply{Cleared: []string{req.Closure}}, h.err
}

func (h *host) Events(_ context.Context, after uint64, limit int) ([]Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Event
	for _, e := range h.events {
		if e.Pos > after && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, h.err
}

func (h *host) History(_ context.Context, rollout string, limit int) ([]HistoryRow, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rollout = rollout
	return h.rows[:min(limit, len(h.rows))], h.err
}

func event(pos uint64) Event {
	return Event{Pos: pos, ID: fmt.Sprintf("e:%d", pos), Kind: "K", At: testTime, State: "pending", Body: json.RawMessage(`{"n":1}`)}
}

// served is a server that runs.
type served struct {
	*Client
	path string
	stop func() error // ends it and gives what Serve returned
}

// serve runs a server of a backend until the test ends.
func serve(t *testing.T, backend Backend, change func(*bounds)) served {
	t.Helper()
	return serveAt(t, filepath.Join(t.TempDir(), "agent.sock"), "", backend, change)
}

func serveAt(t *testing.T, path, group string, backend Backend, change func(*bounds)) served {
	t.Helper()
	server, err := Listen(path, group)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&server.bounds)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, backend, slog.New(slog.DiscardHandler)) }()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("the server does not end")
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return served{Client: NewClient(path), path: path, stop: stop}
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// running is the number of goroutines that have a function on their stack.
func running(function string) int {
	buf := make([]byte, 4<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), function+"(")
}
