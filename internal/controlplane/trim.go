package controlplane

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
)

// trim keeps the log within its bounds until ctx ends. That it could not be done is no reason not to serve.
func (s *Server) trim(ctx context.Context) {
	if s.retention == (fleetstore.Retention{}) || s.trimEvery <= 0 {
		return
	}
	timer := time.NewTimer(rand.N(s.trimEvery/trimSpread + 1))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		switch purged, err := s.store.Trim(ctx, s.retention, s.now()); {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn("trim log", slog.Any("err", err))
		case purged > 0:
			s.log.Info("trimmed log", slog.Uint64("messages", purged))
		}
		timer.Reset(s.trimEvery)
	}
}
