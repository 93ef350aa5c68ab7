package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
)

// lines answers with one JSON value per line, for as long as produce writes. It ends when the asker goes or the server stops. Once the
// first line is out, an error can only cut the answer off: the asker then sees that it is not whole.
func (s *Server) lines(w http.ResponseWriter, c call, produce func(ctx context.Context, write func(any) error) error) error {
	ctx, cancel := context.WithCancel(c.Context())
	out := &lineWriter{w: w, control: http.NewResponseController(w), now: s.now}
	var wg sync.WaitGroup
	wg.Go(func() { // shows that the connection lives, and ends it with the server
		tick := time.NewTicker(lifeSign)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := out.put([]byte("\n")); err != nil {
					cancel()
				}
			case <-s.stopped:
				cancel()
				return
			case <-ctx.Done():
				return
			}
		}
	})
	w.Header().Set("Content-Type", operator.Lines)
	err := out.put(nil)
	if err == nil {
		err = produce(ctx, func(v any) error {
			data, err := json.Marshal(v)
			if err != nil {
				return err
			}
			return out.put(append(data, '\n'))
		})
	}
	gone := ctx.Err() != nil
	cancel()
	wg.Wait()
	if gone || err == nil {
		return nil //nolint:nilerr // whoever is gone is told nothing
	}
	s.log.Warn("answer cut off", slog.String("path", c.URL.Path), slog.Any("err", err))
	panic(http.ErrAbortHandler) // the documented way to cut an answer off
}

// lineWriter writes and flushes, one line at a time.
type lineWriter struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
	now     func() time.Time
}

func (l *lineWriter) put(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.control.SetWriteDeadline(l.now().Add(answerTimeout)); err != nil {
		return err
	}
	_, err := l.w.Write(line)
	return errors.Join(err, l.control.Flush())
}
