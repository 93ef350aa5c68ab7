package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the server.
const (
	maxBody        = 64 << 10         // an ActivateRequest is some hundred bytes
	maxHeader      = 16 << 10         //
	askPatience    = 10 * time.Second // a peer on the same host that needs longer to ask is stuck
	writePatience  = 30 * time.Second // for what is written at once to a peer that does not read
	closePatience  = 3 * time.Second  // for requests under way when the agent stops
	maxConnections = 128              // status from every terminal and a few watchers
	maxStreams     = 64               // watchers must not take all connections from those who only ask
	maxRows        = 10_000           // of events and history in one answer
	defaultRows    = 100
	followBatch    = 500
)

// Server serves a Backend on the socket that Listen made.
type Server struct {
	listener *net.UnixListener
	path     string
	bounds   bounds
}

// bounds are the bounds of a server that tests make smaller.
type bounds struct {
	ask, write, close    time.Duration
	connections, streams int
}

var usualBounds = bounds{ask: askPatience, write: writePatience, close: closePatience, connections: maxConnections, streams: maxStreams}

type peerKey struct{}

// Serve answers until ctx ends, then lets what is under way come to its end for a moment. When it returns, no request uses the
// backend any more. The socket is left in place: the next agent replaces it, and until then a client is told that nobody answers.
func (s *Server) Serve(ctx context.Context, backend Backend, log *slog.Logger) error {
	caller := ctx
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	requests, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	h := &handler{backend: backend, log: log, stop: ctx.Done(), streams: make(chan struct{}, s.bounds.streams)}
	var connections sync.WaitGroup
	server := &http.Server{
		Handler: h.routes(), ReadTimeout: s.bounds.ask, IdleTimeout: s.bounds.ask, MaxHeaderBytes: maxHeader,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return requests },
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				connections.Add(1)
			case http.StateClosed, http.StateHijacked:
				connections.Done()
			default:
			}
		},
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			peer, err := peerOf(conn)
			if err != nil {
				log.Warn("read credentials of a peer", slog.Any("err", err))
				peer = Peer{PID: -1, UID: -1, GID: -1}
			}
			return context.WithValue(ctx, peerKey{}, peer)
		},
	}
	var closing sync.WaitGroup
	closing.Go(func() {
		<-ctx.Done()
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.bounds.close)
		defer cancel()
		if err := server.Shutdown(patience); err != nil {
			abandon()
			_ = server.Close()
		}
	})
	err := server.Serve(&limited{Listener: s.listener, slots: make(chan struct{}, s.bounds.connections), stop: ctx.Done(), write: s.bounds.write})
	stop()
	closing.Wait()
	connections.Wait()
	if caller.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil // it was to end; how the listener says so does not matter
	}
	return err
}

// peerOf asks the kernel who is at the other end.
func peerOf(conn net.Conn) (Peer, error) {
	if counted, ok := conn.(*countedConn); ok {
		conn = counted.Conn
	}
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, errors.New("not a unix socket")
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var asked error
	if err := raw.Control(func(fd uintptr) { cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return Peer{}, err
	}
	if asked != nil {
		return Peer{}, asked
	}
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid)}, nil
}

// limited bounds the connections that are open at once: a further one waits in the kernel's queue.
type limited struct {
	net.Listener
	slots chan struct{}
	stop  <-chan struct{}
	write time.Duration
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.stop:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &countedConn{Conn: conn, write: l.write, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

// countedConn is a connection that holds a slot, and whose peer has to read.
type countedConn struct {
	net.Conn
	write time.Duration
	free  func()
}

// past is a deadline that is over, whatever the clock says.
var past = time.Unix(1, 0)

// Write gives each write its time. A peer that has not read by then is given up.
func (c *countedConn) Write(p []byte) (int, error) {
	late := time.AfterFunc(c.write, func() { _ = c.SetWriteDeadline(past) })
	defer late.Stop()
	return c.Conn.Write(p)
}

// CloseWrite lets net/http tell a peer that still writes that it was answered. Closed at once, such a connection is reset, and
// the peer may not get to read the answer.
func (c *countedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *countedConn) Close() error {
	c.free()
	return c.Conn.Close()
}

type handler struct {
	backend Backend
	log     *slog.Logger
	stop    <-chan struct{}
	streams chan struct{} // holds one value for each stream
}

func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(method, path string, serve http.HandlerFunc) {
		mux.HandleFunc(method+" "+path, serve)
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", method)
			h.refuse(w, &Error{Code: CodeBadMethod, Message: fmt.Sprintf("%s is asked with %s, not with %s", path, method, r.Method)})
		})
	}
	handle(http.MethodGet, "/v1/status", h.reading(h.status))
	handle(http.MethodGet, "/v1/events", h.reading(h.events))
	handle(http.MethodGet, "/v1/history", h.reading(h.history))
	handle(http.MethodGet, "/v1/quarantine", h.reading(h.quarantine))
	handle(http.MethodPost, "/v1/activate", changing(h, h.backend.Activate))
	handle(http.MethodPost, "/v1/cancel", changing(h, h.backend.Cancel))
	handle(http.MethodPost, "/v1/hold", changing(h, h.backend.Hold))
	handle(http.MethodPost, "/v1/resume", changing(h, h.backend.Resume))
	handle(http.MethodPost, "/v1/quarantine/clear", changing(h, h.backend.ClearQuarantine))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuse(w, &Error{Code: CodeNotFound, Message: "there is no " + r.URL.Path, Hint: "agent and client may be of different versions"})
	})
	return mux
}

// reading serves a request that has no body. It is whole when it is here: the time to ask must not end the answer.
func (h *handler) reading(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			h.refuse(w, badRequestf("send it without a body", "%s takes no body", r.URL.Path))
			return
		}
		asked(w)
		serve(w, r)
	}
}

// asked lifts the time to ask. While it runs, its end counts as the peer being gone.
func asked(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (h *handler) status(w http.ResponseWriter, r *http.Request) {
	watch, bad := flagOf(r, "watch")
	if bad != nil {
		h.refuse(w, bad)
		return
	}
	if !watch {
		st, err := h.backend.Status(r.Context())
		h.answer(w, st, err)
		return
	}
	h.stream(w, r, func(send func(any) error) error {
		st, err := h.backend.Status(r.Context())
		if err != nil {
			return err
		}
		return send(st)
	})
}

func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(orDefault(r.URL.Query().Get("after"), "0"), 10, 64)
	if err != nil {
		h.refuse(w, badRequestf("after is the position of an event", "after=%q is not a position", r.URL.Query().Get("after")))
		return
	}
	limit, bad := limitOf(r)
	if bad != nil {
		h.refuse(w, bad)
		return
	}
	follow, bad := flagOf(r, "follow")
	if bad != nil {
		h.refuse(w, bad)
		return
	}
	if !follow {
		events, err := h.backend.Events(r.Context(), after, limit)
		if events == nil {
			events = []Event{}
		}
		h.answer(w, events, err)
		return
	}
	h.stream(w, r, func(send func(any) error) error {
		for {
			events, err := h.backend.Events(r.Context(), after, followBatch)
			if err != nil {
				return err
			}
			for _, e := range events {
				if err := send(e); err != nil {
					return err
				}
				after = max(after, e.Pos) // whatever the backend gives, the stream never begins anew
			}
			if len(events) < followBatch {
				return nil
			}
		}
	})
}

func (h *handler) history(w http.ResponseWriter, r *http.Request) {
	limit, bad := limitOf(r)
	if bad != nil {
		h.refuse(w, bad)
		return
	}
	rows, err := h.backend.History(r.Context(), r.URL.Query().Get("rollout"), limit)
	if rows == nil {
		rows = []HistoryRow{}
	}
	h.answer(w, rows, err)
}

func (h *handler) quarantine(w http.ResponseWriter, r *http.Request) {
	rows, err := h.backend.Quarantine(r.Context())
	if rows == nil {
		rows = []QuarantineRow{}
	}
	h.answer(w, rows, err)
}

// changing serves a request that changes something: the peer must be allowed to, and send one JSON object without a field that is
// not known.
func changing[Request, Reply any](h *handler, do func(ctx context.Context, req Request, by Peer) (Reply, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		peer, known := r.Context().Value(peerKey{}).(Peer)
		if !known || !mayChange(peer, os.Geteuid()) {
			h.refuse(w, &Error{Code: CodeNotAllowed, Message: "only root may change what this host runs", Hint: "run it with sudo"})
			return
		}
		var req Request
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&req); err != nil {
			h.refuse(w, badRequestf("send one JSON object with the fields of this request", "read request: %v", err))
			return
		}
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			h.refuse(w, badRequestf("send one JSON object and nothing else", "read request: something follows the object"))
			return
		}
		asked(w)
		reply, err := do(r.Context(), req, peer)
		h.answer(w, reply, err)
	}
}

// mayChange says whether a peer may change what this host runs: root, or the very user that the agent runs as.
func mayChange(peer Peer, agent int) bool {
	return peer.UID == 0 || (peer.UID > 0 && peer.UID == agent)
}

func flagOf(r *http.Request, name string) (bool, *Error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	set, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequestf("write 1 or 0", "%s=%q is neither yes nor no", name, text)
	}
	return set, nil
}

func limitOf(r *http.Request) (int, *Error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return defaultRows, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxRows {
		return 0, badRequestf("write a whole number from 1 to "+strconv.Itoa(maxRows), "limit=%q is not a number of rows", text)
	}
	return n, nil
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (h *handler) answer(w http.ResponseWriter, body any, err error) {
	if err != nil {
		h.refuse(w, err)
		return
	}
	h.write(w, http.StatusOK, body)
}

func (h *handler) refuse(w http.ResponseWriter, err error) {
	var known *Error
	if !errors.As(err, &known) {
		known = &Error{Code: CodeInternal, Message: err.Error()}
	}
	h.write(w, httpStatus(known.Code), known)
}

func httpStatus(code Code) int {
	switch code {
	case CodeBadRequest:
		return http.StatusBadRequest
	case CodeNotAllowed:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeBadMethod:
		return http.StatusMethodNotAllowed
	case CodeReadOnly:
		return http.StatusConflict
	case CodeBusy:
		return http.StatusServiceUnavailable
	case CodeInternal:
		return http.StatusInternalServerError
	default:
		return http.StatusInternalServerError
	}
}

func (h *handler) write(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		h.log.Error("encode answer", slog.Any("err", err))
		http.Error(w, "the answer could not be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(append(data, '\n')); err != nil {
		h.log.Debug("write answer", slog.Any("err", err))
	}
}

// stream sends one JSON value a line: what there is now, and again what there is at every change. Changes that come while a
// line is written are told by the next one.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, round func(send func(any) error) error) {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		h.refuse(w, &Error{Code: CodeBusy, Message: "too many clients watch this agent", Hint: "end some of them, or ask without --watch and --follow"})
		return
	}
	encoder := json.NewEncoder(w)
	begun := false
	var gone error // the peer does not take any more
	send := func(v any) error {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		gone = encoder.Encode(v)
		return gone
	}
	flush := http.NewResponseController(w)
	for {
		changed := h.backend.Changed()
		switch err := round(send); {
		case err == nil:
		case gone != nil:
			h.log.Debug("stream ended", slog.Any("err", err))
			return
		case !begun:
			h.refuse(w, err)
			return
		default: // the stream has no place for an error but its end
			h.log.Warn("stream ended", slog.Any("err", err))
			return
		}
		if err := flush.Flush(); err != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-h.stop:
			return
		}
	}
}
