package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

var _ outbox.Receiver = (*Client)(nil)

// Deliver posts a batch and says what the receiver made of it. It repeats nothing and splits nothing.
//
// A success that is no wire.Answer acknowledges the batch: any receiver of CloudEvents will do. A success that says that it is
// JSON, and is not, is cut off, or exceeds its bounds, acknowledges nothing.
func (c *Client) Deliver(ctx context.Context, batch []outbox.Entry) (outbox.Receipt, error) {
	if len(batch) == 0 {
		return outbox.Receipt{Whole: true}, nil
	}
	q := &question{op: "post events to", method: http.MethodPost, to: c.eventsURL, kind: wire.Batch, most: wire.MaxAnswer}
	var rejected *outbox.Rejected
	if q.body, rejected = c.encode(batch); rejected != nil {
		return outbox.Receipt{}, &Error{Op: q.name(), What: rejected.Reason, Err: rejected}
	}
	r, err := c.ask(ctx, q)
	switch {
	case err != nil:
		return outbox.Receipt{}, err
	case !success(r.status):
		return outbox.Receipt{}, c.refused(q, r)
	case r.broken != nil:
		return outbox.Receipt{}, r.broken
	}
	return receipt(q, r.body)
}

// encode makes the body of a batch. What the protocol's bounds forbid is rejected before it is sent.
func (c *Client) encode(batch []outbox.Entry) ([]byte, *outbox.Rejected) {
	if len(batch) > wire.MaxEvents {
		return nil, &outbox.Rejected{TooLarge: true, Reason: fmt.Sprintf("%d events are more than the %d of a batch", len(batch), wire.MaxEvents)}
	}
	var b bytes.Buffer
	b.WriteByte('[')
	to := json.NewEncoder(&b)
	to.SetEscapeHTML(false) // data goes out as it was stored
	for i, e := range batch {
		if i > 0 {
			b.WriteByte(',')
		}
		err := to.Encode(wire.Event{
			SpecVersion: wire.SpecVersion, ID: wire.EventID(e.Epoch, e.Pos), Source: wire.SourceOf(c.host), Type: wire.TypeOf(e.Kind),
			Subject: e.RolloutID, Time: e.At.UTC(), DataContentType: wire.JSON, Data: e.Body,
		})
		if err != nil {
			return nil, &outbox.Rejected{Permanent: true, Pos: e.Pos, Reason: fmt.Sprintf("encode event %d: %v", e.Pos, err)}
		}
		if b.Len() >= wire.MaxBatch {
			tooLarge := &outbox.Rejected{TooLarge: true, Reason: fmt.Sprintf("the batch is larger than %d bytes", wire.MaxBatch)}
			if len(batch) == 1 {
				tooLarge.Pos, tooLarge.Reason = e.Pos, fmt.Sprintf("event %d is larger than the %d bytes of a batch", e.Pos, wire.MaxBatch)
			}
			return nil, tooLarge
		}
	}
	b.WriteByte(']')
	return b.Bytes(), nil
}

// receipt reads the body of a success.
func receipt(q *question, body []byte) (outbox.Receipt, error) {
	var is struct {
		Acked *json.RawMessage `json:"acked"`
	}
	if len(body) == 0 || json.Unmarshal(body, &is) != nil || is.Acked == nil {
		return outbox.Receipt{Whole: true}, nil //nolint:nilerr // another receiver's words, which we need not understand
	}
	var answer wire.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return outbox.Receipt{}, &Error{Op: q.name(), What: "its answer makes no sense: " + clip(err.Error()), Err: err}
	}
	got := outbox.Receipt{Acked: answer.Acked}
	for _, one := range answer.Results {
		if one.Result == wire.Refused {
			got.Refused = append(got.Refused, outbox.Refusal{Pos: one.Pos, Reason: clip(one.Reason)})
		}
	}
	return got, nil
}
