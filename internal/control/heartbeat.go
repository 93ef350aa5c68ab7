package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Heartbeat posts what this host is. The reply is empty if the control plane has nothing to say.
func (c *Client) Heartbeat(ctx context.Context, beat wire.Heartbeat) (wire.HeartbeatReply, error) {
	var reply wire.HeartbeatReply
	q := &question{op: "post heartbeat to", method: http.MethodPost, to: c.heartbeatURL, kind: wire.JSON, most: wire.MaxHeartbeatReply}
	var err error
	if q.body, err = json.Marshal(beat); err != nil {
		return reply, fmt.Errorf("encode heartbeat: %w", err)
	}
	if len(q.body) > wire.MaxHeartbeat {
		return reply, &Error{Op: q.name(), What: fmt.Sprintf("its %d bytes are more than the %d of a heartbeat", len(q.body), wire.MaxHeartbeat)}
	}
	r, err := c.ask(ctx, q)
	switch {
	case err != nil:
		return reply, err
	case !success(r.status):
		return reply, c.refused(q, r)
	case r.broken != nil:
		return reply, r.broken
	case r.status == http.StatusNoContent:
		return reply, nil
	}
	if err := c.decode(q, r, &reply); err != nil {
		return wire.HeartbeatReply{}, err // not the half that could be read
	}
	return reply, nil
}

// decode reads an answer that has to be JSON. After an error, into holds what could be read.
func (c *Client) decode(q *question, r *reply, into any) error {
	if !r.json || len(r.body) == 0 {
		return &Error{Op: q.name(), What: fmt.Sprintf("it answered %d with %q, not with JSON", r.status, clip(r.header.Get("Content-Type"))), Hint: "does the URL lead to a control plane, or does something between answer in its place?"}
	}
	if err := json.Unmarshal(r.body, into); err != nil {
		return &Error{Op: q.name(), What: "its answer makes no sense: " + clip(err.Error()), Err: err}
	}
	return nil
}
