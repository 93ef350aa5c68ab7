package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Options is what a Client needs. URL, Host, Certificate, Key, Now and Log are required.
type Options struct {
	URL       string // of the control plane: https, host, optionally port and path
	EventsURL string // of another receiver of events, whole; empty: the control plane
	Host      string // the name of this host; the certificate has it as a DNS name
	Version   string // of the agent

	Certificate string // file: this host's certificate in PEM, followed by those between it and the CA
	Key         string // file: its key
	CA          string // file: the CAs that may sign the other side's certificate; empty: those that this host trusts anyway

	Timeout time.Duration // of a request and its answer; 0: 30s
	Wait    time.Duration // how long the control plane may hold a request for a dispatch; 0: wire.MaxWait

	Now     func() time.Time // for dates that the other side names
	Log     *slog.Logger
	OnReach func(Reach) // told of every change, one after the other; must not block or call the Client. nil: nobody
}

// Client speaks with one control plane.
type Client struct {
	dispatchURL, heartbeatURL, eventsURL *url.URL
	host, agent                          string
	certificateFile, keyFile, caFile     string
	timeout, wait                        time.Duration
	now                                  func() time.Time
	log                                  *slog.Logger
	reach                                reachability

	mu       sync.Mutex
	identity identity
}

// New makes a client. It reads no file and speaks with nobody; Check says whether the files can be used.
func New(o Options) (*Client, error) {
	base, err := ParseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	switch {
	case o.Host == "" || strings.ContainsAny(o.Host, "*"):
		return nil, fmt.Errorf("control plane: %q is no name of a host", o.Host)
	case o.Certificate == "" || o.Key == "":
		return nil, errors.New("control plane: certificate and key are not named")
	case o.Now == nil || o.Log == nil:
		return nil, errors.New("control plane: no clock or no log was handed over")
	}
	c := &Client{
		dispatchURL: base.JoinPath(wire.DispatchPath), heartbeatURL: base.JoinPath(wire.HeartbeatPath), eventsURL: base.JoinPath(wire.EventsPath),
		host: o.Host, agent: "nixfleet-agent/" + o.Version,
		certificateFile: o.Certificate, keyFile: o.Key, caFile: o.CA,
		timeout: o.Timeout, wait: o.Wait, now: o.Now, log: o.Log,
		reach: newReachability(o.OnReach),
	}
	if o.EventsURL != "" {
		if c.eventsURL, err = ParseURL(o.EventsURL); err != nil {
			return nil, fmt.Errorf("events receiver: %w", err)
		}
	}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if c.wait <= 0 || c.wait > wire.MaxWait {
		c.wait = wire.MaxWait
	}
	return c, nil
}

// ParseURL reads the URL of a control plane or of a receiver of events.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a URL", text)
	case u.Scheme != "https":
		return nil, fmt.Errorf("%q does not begin with https://", text)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q names no host", text)
	case u.User != nil:
		return nil, errors.New("it holds a name or password; this host is known by its certificate")
	case u.Fragment != "":
		return nil, fmt.Errorf("%q has a fragment", text)
	}
	return u, nil
}

// Close ends the connections that are not in use. Those in use end with their request.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity.link != nil {
		c.identity.link.transport.CloseIdleConnections()
	}
}

// question is one request.
type question struct {
	op     string // as "post events to"
	method string
	to     *url.URL
	body   []byte
	kind   string        // content type of body
	wait   time.Duration // how long it may be held
	most   int           // bytes of an answer
}

func (q *question) name() string { return q.op + " " + q.to.Host }

// reply is an answer, checked for its bounds.
type reply struct {
	status int
	header http.Header
	json   bool // by its content type
	body   []byte
	// broken is why the body of a success cannot be used: it broke off, is too large, too deep, or not the JSON that it says it is.
	broken *Error
}

// ask sends a question and reads the answer, whatever its status. An error says that there was none.
func (c *Client) ask(ctx context.Context, q *question) (*reply, error) {
	files, err := c.current()
	if err != nil {
		return nil, c.failed(ctx, q, nil, err)
	}
	limit := c.timeout + q.wait + time.Duration(len(q.body))*time.Second/slowestRate
	asked, cancel := context.WithTimeoutCause(ctx, limit, errTooSlow)
	defer cancel()
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	req, err := http.NewRequestWithContext(asked, q.method, q.to.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q.name(), err)
	}
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", wire.JSON)
	if q.kind != "" {
		req.Header.Set("Content-Type", q.kind)
	}
	// Not sent, but it lets net/http repeat the request when an idle connection turns out to be gone. Both sides know what was said
	// twice.
	req.Header["Idempotency-Key"] = []string{}
	// The transport itself, not a Client around it: redirects and cookies are not for us.
	answer, err := files.transport.RoundTrip(req)
	if err != nil {
		return nil, c.failed(ctx, q, files, errors.Join(err, context.Cause(asked)))
	}
	defer answer.Body.Close()
	c.reached(q, nil)
	r := c.read(q, files, answer)
	if r.broken != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return r, nil
}

// failed turns the end of an attempt into its error.
func (c *Client) failed(ctx context.Context, q *question, files *link, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	explained := c.explain(q.name(), q.to.Host, files, err)
	explained.unreached = true
	c.reached(q, explained)
	return explained
}

func (c *Client) reached(q *question, problem *Error) {
	if q.to.Host == c.heartbeatURL.Host {
		c.reach.note(c.now(), problem)
	}
}

func (c *Client) read(q *question, files *link, answer *http.Response) *reply {
	r := &reply{status: answer.StatusCode, header: answer.Header, json: isJSON(answer.Header.Get("Content-Type"))}
	most := q.most
	if !success(r.status) {
		most = wire.MaxProblem
	}
	if !r.json || r.status == http.StatusNoContent {
		if 0 < answer.ContentLength && answer.ContentLength <= maxDrained {
			_, _ = io.CopyN(io.Discard, answer.Body, answer.ContentLength) // only for the connection's sake
		}
		return r
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, int64(most)+1))
	switch {
	case err != nil:
		r.broken = c.explain(q.name(), q.to.Host, files, err)
	case len(data) > most:
		r.broken = &Error{Op: q.name(), What: fmt.Sprintf("its answer is larger than %d bytes", most)}
	case tooDeep(data):
		r.broken = &Error{Op: q.name(), What: fmt.Sprintf("its answer nests deeper than %d", wire.MaxNesting)}
	case len(data) > 0 && !json.Valid(data):
		r.broken = &Error{Op: q.name(), What: "its answer is not the JSON that it says it is"}
	default:
		r.body = data
	}
	return r
}

func isJSON(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == wire.JSON || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"))
}

// tooDeep says whether JSON nests deeper than is allowed, before anything recurses into it.
func tooDeep(data []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch b := data[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			if depth++; depth > wire.MaxNesting {
				return true
			}
		case b == '}' || b == ']':
			depth--
		}
	}
	return false
}

func success(status int) bool { return status/100 == 2 }

// refused turns an answer that is no success into its error, which wraps an *outbox.Rejected.
func (c *Client) refused(q *question, r *reply) error {
	var problem wire.Problem
	if r.body != nil && json.Unmarshal(r.body, &problem) != nil {
		problem = wire.Problem{} // not one of ours: the status counts
	}
	reason := strings.TrimSpace(strconv.Itoa(r.status) + " " + http.StatusText(r.status))
	if message := clip(problem.Message); message != "" {
		reason += ": " + message
	}
	hint := clip(problem.Hint)
	if hint == "" {
		hint = c.hintFor(r)
	}
	if r.status/100 == 3 {
		reason += ", to " + clip(r.header.Get("Location")) + "; redirects are not followed"
	}
	return &Error{Op: q.name(), What: "it answered " + reason, Hint: hint, Err: &outbox.Rejected{
		Permanent:  permanent(r.status),
		TooLarge:   r.status == http.StatusRequestEntityTooLarge,
		Pos:        problem.Pos,
		RetryAfter: retryAfter(r.header.Get("Retry-After"), c.now()),
		Reason:     reason,
	}}
}

func (c *Client) hintFor(r *reply) string {
	switch {
	case r.status/100 == 3:
		return "set the URL to where it leads"
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden:
		return "is this host's certificate, " + c.certificateFile + ", one that it knows?"
	case r.status == http.StatusNotFound, r.status == http.StatusMethodNotAllowed:
		return "does the URL lead to a control plane?"
	default:
		return ""
	}
}

// permanent says whether the same request would be refused again. Who is not let in, and what is not found, may be mended on the
// other side; what is too large is another matter.
func permanent(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge,
		http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	default:
		return status/100 == 4
	}
}

// retryAfter reads a Retry-After (RFC 9110, section 10.2.3): seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	var pause time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		pause = time.Duration(seconds) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		pause = maxRetryAfter
	} else if at, err := http.ParseTime(text); err == nil {
		pause = at.Sub(now)
	}
	return min(max(pause, 0), maxRetryAfter)
}
