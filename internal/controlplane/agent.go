package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// batchType is the content type of a batch, without its parameters.
const batchType = "application/cloudevents-batch+json"

// agentEvents stores a batch and answers what became of it.
func (s *Server) agentEvents(w http.ResponseWriter, c call) error {
	var batch []wire.Event
	if err := read(w, c.Request, batchType, wire.MaxBatch, &batch); err != nil {
		return err
	}
	if len(batch) > wire.MaxEvents {
		return &refusal{status: http.StatusRequestEntityTooLarge, Problem: wire.Problem{Code: "too-large",
			Message: fmt.Sprintf("%d events, at most %d are taken at once", len(batch), wire.MaxEvents)}}
	}
	var malformed *mirror.Malformed
	switch err := mirror.Admit(c.name, batch); {
	case errors.As(err, &malformed):
		return &refusal{status: http.StatusBadRequest, Problem: wire.Problem{Code: "malformed-event", Message: err.Error(), Pos: malformed.Pos}}
	case errors.Is(err, mirror.ErrForeign):
		return &refusal{status: http.StatusForbidden, Problem: wire.Problem{Code: "foreign-event", Message: err.Error(),
			Hint: "a host's certificate speaks for that host alone"}}
	case err != nil:
		return err
	}
	ctx, done, err := s.work(c.Context())
	if err != nil {
		return err
	}
	defer done()
	state, results, err := s.store.Change(ctx, c.name, func(mirror.State) (mirror.Entry, error) {
		return mirror.Entry{At: s.now().UTC(), Batch: batch}, nil
	})
	if err != nil {
		return err
	}
	if err := s.accuse(ctx, state, batch); err != nil {
		return err
	}
	if len(results) > manyResults {
		for i := range results {
			if len(results[i].Reason) > shortReason {
				results[i].Reason = strings.ToValidUTF8(results[i].Reason[:shortReason], "") + "…"
			}
		}
	}
	s.answer(w, http.StatusOK, wire.Answer{Acked: mirror.Acked(results), Results: results})
	return nil
}

// accuse keeps the target of a rollout that a host went back from away from the rest of its channel. A retry, which brings nothing new,
// does it as well: the first try may have ended before. A rollout of no channel has none to be kept from.
func (s *Server) accuse(ctx context.Context, state mirror.State, batch []wire.Event) error {
	done := map[string]bool{}
	for _, ev := range batch {
		r, ok := state.Rollout(ev.Subject)
		if !ok || done[ev.Subject] || !r.RolledBack() || r.Record.Generation == 0 || r.Record.Channel == "" {
			continue
		}
		done[ev.Subject] = true
		rec := r.Record
		if err := s.store.Accuse(ctx, fleetstore.Accusation{Channel: rec.Channel, Target: rec.TargetClosure, Host: rec.Hostname,
			RolloutID: rec.RolloutID, Reason: string(rec.FailureReason), At: rec.FailedAt}); err != nil {
			return err
		}
	}
	return nil
}

// agentHeartbeat keeps a heartbeat, lets the mirror take from it what no event tells any more, and answers what is known of the host.
func (s *Server) agentHeartbeat(w http.ResponseWriter, c call) error {
	var hb wire.Heartbeat
	if err := read(w, c.Request, wire.JSON, wire.MaxHeartbeat, &hb); err != nil {
		return err
	}
	if hb.Host != c.name {
		return &refusal{status: http.StatusForbidden, Problem: wire.Problem{Code: "foreign-heartbeat",
			Message: fmt.Sprintf("%s sends a heartbeat of %.253s", c.name, hb.Host), Hint: "a host's certificate speaks for that host alone"}}
	}
	if hb.Generation > maxGeneration {
		return badRequest("no dispatch can be above the generation %d", hb.Generation)
	}
	ctx, done, err := s.work(c.Context())
	if err != nil {
		return err
	}
	defer done()
	state, _, err := s.store.Change(ctx, c.name, func(mirror.State) (mirror.Entry, error) {
		return mirror.Entry{At: s.now().UTC(), Heartbeat: &hb}, nil
	})
	if err != nil {
		return err
	}
	if err := s.store.PutHeartbeat(ctx, fleetstore.Heartbeat{ReceivedAt: s.now().UTC(), Heartbeat: hb}); err != nil {
		return err
	}
	reply := wire.HeartbeatReply{Cursor: state.Cursor(), Generation: state.Generation()}
	for _, rec := range mirror.Snapshots(state, hb) {
		encoded, err := fsm.EncodeRecord(rec)
		if err != nil {
			s.log.Warn("encode record for its host", slog.String("host", c.name), slog.Any("err", err))
			continue
		}
		reply.Snapshots = append(reply.Snapshots, json.RawMessage(encoded))
	}
	s.answer(w, http.StatusOK, reply)
	return nil
}

// agentDispatch hands out a dispatch that the host does not have, or waits for one.
func (s *Server) agentDispatch(w http.ResponseWriter, c call) error {
	wait, err := number(c, "wait")
	if err != nil {
		return err
	}
	have, err := number(c, "have")
	if err != nil {
		return err
	}
	if have > maxGeneration {
		return badRequest("no dispatch can be above the generation %d", have)
	}
	if newest, ok := s.targets.Newest(c.name); have > 0 && (!ok || newest.Generation < have) {
		if err := s.learn(c, have); err != nil {
			return err
		}
	}
	span := time.Duration(min(wait, uint64(wire.MaxWait/time.Second))) * time.Second
	ctx, cancel := context.WithTimeout(c.Context(), span)
	defer cancel()
	d, ok := s.targets.Await(ctx, c.name, have, s.stopped)
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err := s.logDispatch(c.Context(), d); err != nil {
		return err
	}
	s.answer(w, http.StatusOK, d)
	return nil
}

// learn notes a generation that the host has seen and this control plane has not given out: its data was lost, or is old.
func (s *Server) learn(c call, have uint64) error {
	ctx, done, err := s.work(c.Context())
	if err != nil {
		return err
	}
	defer done()
	_, _, err = s.store.Change(ctx, c.name, func(state mirror.State) (mirror.Entry, error) {
		if have <= state.Generation() {
			return mirror.Entry{}, nil
		}
		return mirror.Entry{At: s.now().UTC(), Seen: have}, nil
	})
	return err
}

// logDispatch puts a dispatch into the host's log, unless it is there. It is there before anybody reads it, so that the mirror knows
// of whatever the host answers.
func (s *Server) logDispatch(ctx context.Context, d wire.Dispatch) error {
	ctx, done, err := s.work(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, _, err = s.store.Change(ctx, d.Host, func(mirror.State) (mirror.Entry, error) {
		return mirror.Entry{At: s.now().UTC(), Dispatch: &d}, nil
	})
	return err
}

// number reads a number of the query; absent is 0.
func number(c call, key string) (uint64, error) {
	text := c.URL.Query().Get(key)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, badRequest("%s is not a number: %.40q", key, text)
	}
	return n, nil
}
