package localapi

import (
	"context"
	"time"
)

// CancelRequest asks for a rollout to be taken back. Empty: the newest that has a claim on the host.
type CancelRequest struct {
	Rollout string `json:"rollout,omitempty"`
}

// CancelReply says what became of a CancelRequest. A Deferred rollout is being taken back; it ends as Reverted.
type CancelReply struct {
	RolloutID string `json:"rolloutId"`
	State     string `json:"state"`
}

// HoldRequest asks that nothing be started on the host.
type HoldRequest struct {
	Reason string    `json:"reason"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is resumed
}

// ResumeRequest asks for a hold to be taken away.
type ResumeRequest struct{}

// Hold is a hold of the host. The zero value is none.
type Hold struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"` // absent: until it is resumed
	UID    int       `json:"uid"`            // of who asked for it
}

// QuarantineRow is a closure that failed on this host. Its shape is that of `quarantine list --json`.
type QuarantineRow struct {
	Closure   string    `json:"closure"`
	Attempts  int       `json:"attempts"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
	RolloutID string    `json:"rolloutId"`
}

// QuarantineClearRequest asks for one closure, or all, to be activated again.
type QuarantineClearRequest struct {
	Closure string `json:"closure,omitempty"`
	All     bool   `json:"all,omitempty"`
}

// QuarantineClearReply names what was in quarantine and is no longer.
type QuarantineClearReply struct {
	Cleared []string `json:"cleared"`
}

// Cancel asks for a rollout to be taken back. It returns when the agent has stored the request.
func (c *Client) Cancel(ctx context.Context, req CancelRequest) (CancelReply, error) {
	return request[CancelReply](ctx, c, "/v1/cancel", req)
}

// Hold asks that nothing be started on the host.
func (c *Client) Hold(ctx context.Context, req HoldRequest) (Hold, error) {
	return request[Hold](ctx, c, "/v1/hold", req)
}

// Resume takes a hold away and gives the one that was in force; the zero value if there was none.
func (c *Client) Resume(ctx context.Context) (Hold, error) {
	return request[Hold](ctx, c, "/v1/resume", ResumeRequest{})
}

// Quarantine asks for the closures in quarantine.
func (c *Client) Quarantine(ctx context.Context) ([]QuarantineRow, error) {
	var rows []QuarantineRow
	return rows, c.get(ctx, "/v1/quarantine", &rows)
}

// ClearQuarantine lets closures be activated again.
func (c *Client) ClearQuarantine(ctx context.Context, req QuarantineClearRequest) (QuarantineClearReply, error) {
	return request[QuarantineClearReply](ctx, c, "/v1/quarantine/clear", req)
}
