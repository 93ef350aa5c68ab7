package localapi

import (
	"context"
	"encoding/json"
	"errors"
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
	headerPatience = 10 * time.Second // a peer on the same host that needs longer to ask is stuck
	writePatience  = 30 * time.Second // for one answer, or one line of a stream
	closePatience  = 3 * time.Second  // for requests under way when the agent stops
	maxConnections = 128              // status from every terminal and a few watchers
	maxRows        = 10_000           // of events and history in one answer
	defaultRows    = 100
	followBatch    = 500
)

// Server serves a Backend on the socket that Listen made.
type Server struct {
	listener *net.UnixListener
	path     string
}

type peerKey struct{}

// Serve answers until ctx ends, then lets what is under way come to its end for a moment. The socket is left in place: the next
// agent replaces it, and until then a client is told that nobody answers.
func (s *Server) Serve(ctx context.Context, backend Backend, log *slog.Logger) error {
	h := &handler{backend: backend, log: log, stop: ctx.Done()}
	server := &http.Server{
		Handler: h.routes(), ReadHeaderTimeout: headerPatience, IdleTimeout: headerPatience, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
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
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
		defer cancel()
		if err := server.Shutdown(patience); err != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(&limited{Listener: s.listener, slots: make(chan struct{}, maxConnections)})
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	closing.Wait()
	return nil
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
}

func (l *limited) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &countedConn{Conn: conn, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

type countedConn struct {
	net.Conn
	free func()
}

func (c *countedConn) Close() error {
	c.free()
	return c.Conn.Close()
}

type handler struct {
	backend Backend
	log     *slog.Logger
	stop    <-chan struct{}
}

func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", h.status)
	mux.HandleFunc("GET /v1/events", h.events)
	mux.HandleFunc("GET /v1/history", h.history)
	mux.HandleFunc("POST /v1/activate", h.activate)
	return mux
}

func (h *handler) status(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") == "" {
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
	if r.URL.Query().Get("follow") == "" {
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
				after = e.Pos
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

func (h *handler) activate(w http.ResponseWriter, r *http.Request) {
	peer, _ := r.Context().Value(peerKey{}).(Peer)
	if peer.UID != 0 && peer.UID != os.Geteuid() {
		h.refuse(w, &Error{Code: CodeNotAllowed, Message: "only root may change what this host runs", Hint: "run it with sudo"})
		return
	}
	var req ActivateRequest
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&req); err != nil {
		h.refuse(w, badRequestf("send one JSON object with a target", "read request: %v", err))
		return
	}
	reply, err := h.backend.Activate(r.Context(), req, peer)
	h.answer(w, reply, err)
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
	bounded(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(append(data, '\n')); err != nil {
		h.log.Debug("write answer", slog.Any("err", err))
	}
}

// stream sends one JSON value a line: what there is now, and again what there is at every change. Changes that come while a
// line is written are told by the next one.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, round func(send func(any) error) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder := json.NewEncoder(w)
	send := func(v any) error {
		bounded(w)
		return encoder.Encode(v)
	}
	flush := http.NewResponseController(w)
	for {
		changed := h.backend.Changed()
		if err := round(send); err != nil {
			h.log.Debug("stream", slog.Any("err", err))
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

// bounded gives the next write its time.
func bounded(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writePatience))
}
