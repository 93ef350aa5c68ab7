package localapi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Backend answers requests. Its methods are called from many goroutines.
type Backend interface {
	Status(ctx context.Context) (Status, error)
	// Changed gives a channel that is closed at the next change.
	Changed() <-chan struct{}
	Events(ctx context.Context, after uint64, limit int) ([]Event, error)
	History(ctx context.Context, rollout string, limit int) ([]HistoryRow, error)
	Quarantine(ctx context.Context) ([]QuarantineRow, error)
	Changer
}

// Changer does what peers ask to be changed. Only root gets so far.
type Changer interface {
	Activate(ctx context.Context, req ActivateRequest, by Peer) (ActivateReply, error)
	Cancel(ctx context.Context, req CancelRequest, by Peer) (CancelReply, error)
	Hold(ctx context.Context, req HoldRequest, by Peer) (Hold, error)
	Resume(ctx context.Context, req ResumeRequest, by Peer) (Hold, error)
	ClearQuarantine(ctx context.Context, req QuarantineClearRequest, by Peer) (QuarantineClearReply, error)
}

// ActivateRequest asks for a closure to be brought to this host.
type ActivateRequest struct {
	Target         string `json:"target"`                   // store path of a system closure
	Specialisation string `json:"specialisation,omitempty"` // one of the target's, by name
	Force          bool   `json:"force,omitempty"`          // pass quarantine and the check of the host name
	Soak           string `json:"soak,omitempty"`           // a duration such as 5m; empty: as configured
	Policy         string `json:"policy,omitempty"`         // rollback-and-halt or halt; empty: as configured
}

// ActivateReply says what became of an ActivateRequest.
type ActivateReply struct {
	RolloutID string `json:"rolloutId"`
	State     string `json:"state"`
	Waiting   string `json:"waiting,omitempty"` // why it does not start at once, if so
}

// Peer is who asks, as the kernel tells (SO_PEERCRED of unix(7)).
type Peer struct {
	PID int
	UID int
	GID int
}

// Event is one entry of the outbox. Its shape is that of `events --json`.
type Event struct {
	Pos       uint64          `json:"pos"`
	ID        string          `json:"id"`                  // epoch:pos; empty for a damaged one
	Kind      string          `json:"kind"`                // empty for a damaged one
	RolloutID string          `json:"rolloutId,omitempty"` // empty: a notice of the host
	At        time.Time       `json:"at"`
	State     string          `json:"state"`            // pending, acked or damaged
	Reason    string          `json:"reason,omitempty"` // why it counts as damaged
	Body      json.RawMessage `json:"body,omitempty"`
}

// HistoryRow is one change of state. Its shape is that of `history --json`.
type HistoryRow struct {
	At        time.Time `json:"at"`
	RolloutID string    `json:"rolloutId"`
	From      string    `json:"from"`
	To        string    `json:"to"`
	Kind      string    `json:"kind"` // of the event
	Reason    string    `json:"reason,omitempty"`
	Seq       uint64    `json:"seq"`
}

// Explanation says whether a closure would go live or be deferred on this host. Its shape is that of `explain --json`.
type Explanation struct {
	SchemaVersion int         `json:"schemaVersion"`
	Target        string      `json:"target"`
	Label         string      `json:"label,omitempty"`
	Verdict       ExplainedAs `json:"verdict"`
	Components    []Component `json:"components"` // why it is deferred
	Switched      []Component `json:"switched"`   // go live and wait for a reboot to take effect
	Ignored       []Component `json:"ignored"`
	Notes         []string    `json:"notes"`
	Reason        string      `json:"reason,omitempty"` // why it is no target
	Hint          string      `json:"hint,omitempty"`
}

// ExplainedAs is the verdict of an Explanation.
type ExplainedAs string

// The verdicts of an Explanation.
const (
	GoesLive      ExplainedAs = "live"
	IsDeferred    ExplainedAs = "deferred"
	NotSwitchable ExplainedAs = "not-switchable"
)

// Code says what kind of error an answer is.
type Code string

// The codes of errors and the status of HTTP that each comes with.
const (
	CodeBadRequest Code = "bad-request" // 400: the request cannot be meant
	CodeNotAllowed Code = "not-allowed" // 403: the peer may not change anything
	CodeNotFound   Code = "not-found"   // 404
	CodeBadMethod  Code = "bad-method"  // 405
	CodeReadOnly   Code = "read-only"   // 409: the agent may not write
	CodeBusy       Code = "busy"        // 503: not now
	CodeInternal   Code = "internal"    // 500
)

// Error is the answer to a request that failed, and the Go error of it.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Hints says what to do about it.
func (e *Error) Hints() string { return e.Hint }

func badRequestf(hint, format string, args ...any) *Error {
	return &Error{Code: CodeBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
}
