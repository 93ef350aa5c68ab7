package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// settingHold is where a hold is stored.
const settingHold = "hold"

// maxHoldReason bounds the reason of a hold, in bytes. It is shown with everything that waits.
const maxHoldReason = 500

// held is the operator's word that nothing is to be started on this host.
type held struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is resumed
	UID    int       `json:"uid"`
}

func (h held) words() string {
	s := "the host is held: " + h.Reason
	if !h.Until.IsZero() {
		s += " (until " + h.Until.UTC().Format(time.RFC3339) + ")"
	}
	return s
}

// heldIn reads the hold that is in force at a moment; nil if there is none. One that cannot be read counts as one: it was put
// there to keep the host as it is.
func heldIn(tx *store.Tx, now time.Time) (*held, error) {
	raw, err := tx.Setting(settingHold)
	if err != nil || raw == nil {
		return nil, err
	}
	var h held
	if err := json.Unmarshal(raw, &h); err != nil {
		return &held{Reason: "the stored hold cannot be read (" + err.Error() + "); resume to take it away"}, nil //nolint:nilerr // it is said
	}
	if !h.Until.IsZero() && !now.Before(h.Until) {
		return nil, nil
	}
	return &h, nil
}

func (l *loop) heldNow() (h *held, err error) {
	err = l.store.View(func(tx *store.Tx) error {
		h, err = heldIn(tx, l.opt.Wall())
		return err
	})
	return h, err
}

// watchHold looks again when the hold ends that a rollout waits for. A clock that is set meanwhile is found by the slow tick.
func (l *loop) watchHold(h *held) {
	l.holdTimer = nil
	if h != nil && !h.Until.IsZero() {
		l.holdTimer = time.After(h.Until.Sub(l.opt.Wall()))
	}
}

// hold keeps every rollout from being started until it is resumed, or until a moment. What is at work goes on to its end.
func (l *loop) hold(_ context.Context, req localapi.HoldRequest, by localapi.Peer) (localapi.Hold, error) {
	if err := l.mayWrite(); err != nil {
		return localapi.Hold{}, err
	}
	switch {
	case req.Reason == "":
		return localapi.Hold{}, &localapi.Error{Code: localapi.CodeBadRequest, Message: "a hold needs a reason", Hint: "say with --reason why the host is to stay as it is"}
	case len(req.Reason) > maxHoldReason:
		return localapi.Hold{}, &localapi.Error{Code: localapi.CodeBadRequest, Message: fmt.Sprintf("the reason is longer than %d bytes", maxHoldReason), Hint: "say it shorter"}
	case !req.Until.IsZero() && !req.Until.After(l.opt.Wall()):
		return localapi.Hold{}, &localapi.Error{Code: localapi.CodeBadRequest, Message: "the hold would end in the past, at " + req.Until.Format(time.RFC3339),
			Hint: "give a duration such as 2h, or a moment that is to come"}
	}
	h := held{Reason: req.Reason, Since: l.now().Wall, Until: req.Until.UTC(), UID: by.UID}
	err := l.turn(func(t *turn) error {
		raw, err := json.Marshal(h)
		if err != nil {
			return err
		}
		if err := t.tx.PutSetting(settingHold, raw); err != nil {
			return err
		}
		return t.notify(notice{Kind: noticeHeld, Host: l.hostname, Text: h.words()})
	})
	if err != nil {
		return localapi.Hold{}, answerOf(err)
	}
	l.log.Info("host held", slog.String("reason", h.Reason), slog.Time("until", h.Until), slog.Int("uid", by.UID))
	return h.shown(), nil
}

// resume takes the hold away. It is no error if there is none.
func (l *loop) resume(_ context.Context, by localapi.Peer) (localapi.Hold, error) {
	if err := l.mayWrite(); err != nil {
		return localapi.Hold{}, err
	}
	var was *held
	err := l.turn(func(t *turn) error {
		var err error
		if was, err = heldIn(t.tx, t.now.Wall); err != nil {
			return err
		}
		if err := t.tx.PutSetting(settingHold, nil); err != nil || was == nil {
			return err
		}
		return t.notify(notice{Kind: noticeResumed, Host: l.hostname, Text: "the hold was taken away; it was held because: " + was.Reason})
	})
	if err != nil || was == nil {
		return localapi.Hold{}, answerOf(err)
	}
	l.log.Info("host resumed", slog.Int("uid", by.UID))
	return was.shown(), nil
}

func (h held) shown() localapi.Hold {
	return localapi.Hold{Reason: h.Reason, Since: h.Since, Until: h.Until, UID: h.UID}
}

// expired rejects a rollout that was not started in time.
func (t *turn) expired(rec fsm.Record) (fsm.Record, error) {
	return t.raise(rec, fsm.LocalDispatchRejected{DispatchRejected: fsm.DispatchRejected{
		Reason: fsm.ReasonExpired, Detail: "it was not started before " + rec.ExpiresAt.Format(time.RFC3339), RejectedAt: t.now.Wall}})
}
