package controlplane

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Config is what a Server is made of.
type Config struct {
	Store   *fleetstore.Store
	Targets *fleetstore.Targets
	TLS     *tls.Config      // must verify client certificates
	Now     func() time.Time // the clock
	Log     *slog.Logger

	Retention fleetstore.Retention // of the log of each host
	TrimEvery time.Duration        // how often it is seen to; 0: never
}

// Server is one instance of the control plane.
type Server struct {
	store   *fleetstore.Store
	targets *fleetstore.Targets
	now     func() time.Time
	log     *slog.Logger
	tls     *tls.Config

	retention fleetstore.Retention
	trimEvery time.Duration

	slots   chan struct{}
	stopped chan struct{} // closed when long polls are to end
}

// New makes a server. It is started by Serve.
func New(cfg Config) *Server {
	return &Server{store: cfg.Store, targets: cfg.Targets, now: cfg.Now, log: cfg.Log, tls: cfg.TLS, retention: cfg.Retention, trimEvery: cfg.TrimEvery,
		slots: make(chan struct{}, maxWorking), stopped: make(chan struct{})}
}

// Serve answers on a listener, which it takes over, until ctx ends; it then ends the long polls and waits for what is being worked on.
// It is called once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.routes(), TLSConfig: s.tls,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what strangers do wrong in a handshake
	}
	trimming, stopTrimming := context.WithCancel(ctx)
	var trimmer sync.WaitGroup
	trimmer.Go(func() { s.trim(trimming) })
	defer trimmer.Wait()
	defer stopTrimming()
	failed := make(chan error, 1)
	most := maxConnections()
	go func() { failed <- server.ServeTLS(bound(listener, most, s.sayFull(most)), "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	close(s.stopped)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err := server.Shutdown(closing)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if serving := <-failed; !errors.Is(serving, http.ErrServerClosed) {
		err = errors.Join(err, serving)
	}
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.DispatchPath, s.as(pki.Host, s.agentDispatch))
	mux.HandleFunc("POST "+wire.EventsPath, s.as(pki.Host, s.agentEvents))
	mux.HandleFunc("POST "+wire.HeartbeatPath, s.as(pki.Host, s.agentHeartbeat))
	mux.HandleFunc("POST "+operator.DispatchPath, s.as(pki.Operator, s.operatorDispatch))
	mux.HandleFunc("POST "+operator.FollowPath, s.as(pki.Operator, s.operatorFollow))
	mux.HandleFunc("GET "+operator.HostsPath, s.as(pki.Operator, s.operatorHosts))
	mux.HandleFunc("GET "+operator.HostsPath+"/{host}", s.as(pki.Operator, s.operatorShow))
	mux.HandleFunc("GET "+operator.AccusedPath, s.as(pki.Operator, s.operatorAccused))
	mux.HandleFunc("POST "+operator.ClearPath, s.as(pki.Operator, s.operatorClear))
	mux.HandleFunc("GET "+operator.EventsPath, s.as(pki.Operator, s.operatorEvents))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		s.fail(w, &refusal{status: http.StatusNotFound, Problem: wire.Problem{Code: "not-found", Message: "there is nothing here"}})
	})
	return mux
}

// call is a request with who asks.
type call struct {
	*http.Request
	name string
}

// as lets only callers of a role in. What a handler returns is answered, or the connection is cut where an answer has begun.
func (s *Server) as(role pki.Role, handle func(http.ResponseWriter, call) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		arrive := time.Time{} // an expired deadline of a request without a body would end the wait for an answer
		if r.Method == http.MethodPost {
			arrive = s.now().Add(bodyTimeout)
		}
		if err := errors.Join(control.SetReadDeadline(arrive), control.SetWriteDeadline(s.now().Add(bodyTimeout+wire.MaxWait+answerTimeout))); err != nil {
			s.fail(w, err)
			return
		}
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			s.fail(w, &refusal{status: http.StatusUnauthorized, Problem: wire.Problem{Code: "no-certificate", Message: "a client certificate is needed"}})
			return
		}
		is, name, err := pki.Speaker(r.TLS.PeerCertificates[0])
		switch {
		case err != nil:
			s.fail(w, &refusal{status: http.StatusForbidden, Problem: wire.Problem{Code: "bad-certificate", Message: err.Error()}})
		case is != role:
			s.fail(w, &refusal{status: http.StatusForbidden, Problem: wire.Problem{Code: "wrong-role",
				Message: fmt.Sprintf("this takes a certificate of the role %s, and %s is of the role %s", role, name, is)}})
		default:
			if err := handle(w, call{Request: r, name: name}); err != nil {
				s.fail(w, err)
			}
		}
	}
}

// refusal is an error with its status.
type refusal struct {
	wire.Problem
	status int
}

func (r *refusal) Error() string { return r.Message }

func badRequest(format string, args ...any) error {
	return &refusal{status: http.StatusBadRequest, Problem: wire.Problem{Code: "bad-request", Message: fmt.Sprintf(format, args...)}}
}

// fail answers with what went wrong.
func (s *Server) fail(w http.ResponseWriter, err error) {
	var known *refusal
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &known):
	case errors.As(err, &tooLarge):
		known = &refusal{status: http.StatusRequestEntityTooLarge, Problem: wire.Problem{Code: "too-large", Message: fmt.Sprintf("more than %d bytes", tooLarge.Limit)}}
	case errors.Is(err, fleetstore.ErrTooLarge):
		known = &refusal{status: http.StatusRequestEntityTooLarge, Problem: wire.Problem{Code: "too-large", Message: err.Error()}}
	case errors.Is(err, fleetstore.ErrNotAccused):
		known = &refusal{status: http.StatusNotFound, Problem: wire.Problem{Code: "not-accused", Message: err.Error(), Hint: "`nixfleet-control-plane accused list` lists what is accused, with its channel"}}
	case errors.Is(err, fleetstore.ErrUnknownHost):
		known = &refusal{status: http.StatusNotFound, Problem: wire.Problem{Code: "unknown-host", Message: err.Error(), Hint: "`nixfleet-control-plane hosts` lists those that are known"}}
	default:
		s.log.Warn("answer a request", slog.Any("err", err))
		known = &refusal{status: http.StatusServiceUnavailable, Problem: wire.Problem{Code: "unavailable", Message: "the control plane cannot do this at the moment"}}
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter+rand.N(retrySpread)))
	}
	s.answer(w, known.status, known.Problem)
}

// answer writes a whole JSON answer. That it could not be taken is the asker's to notice.
func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		s.log.Error("encode answer", slog.Any("err", err))
		status, data = http.StatusInternalServerError, []byte(`{"code":"internal","message":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", wire.JSON)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if _, err := w.Write(data); err != nil {
		s.log.Debug("write answer", slog.Any("err", err))
	}
}

// read reads a body of a content type into v, within bounds.
func read(w http.ResponseWriter, r *http.Request, contentType string, limit int64, v any) error {
	if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || got != contentType {
		return &refusal{status: http.StatusUnsupportedMediaType, Problem: wire.Problem{Code: "content-type",
			Message: fmt.Sprintf("the body is %q, not %s", r.Header.Get("Content-Type"), contentType)}}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		err = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return err
	case err != nil:
		return &refusal{status: http.StatusRequestTimeout, Problem: wire.Problem{Code: "cut-off", Message: "the body did not arrive: " + err.Error()}}
	case nesting(data) > wire.MaxNesting:
		return badRequest("nested deeper than %d", wire.MaxNesting)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return badRequest("read body: %s", err)
	}
	return nil
}

// nesting is how deep the arrays and objects of a JSON text nest at most.
func nesting(data []byte) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// work takes one of the slots for the work on a request, and bounds its time. The work goes on when the asker goes away: what was
// begun to be stored is stored.
func (s *Server) work(ctx context.Context) (context.Context, func(), error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTimeout)
	select {
	case s.slots <- struct{}{}:
		return ctx, func() { cancel(); <-s.slots }, nil
	case <-ctx.Done():
		cancel()
		return nil, nil, fmt.Errorf("too many requests are being worked on: %w", ctx.Err())
	}
}
