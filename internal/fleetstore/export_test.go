package fleetstore

import (
	"context"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/mirror"
)

// TrimCutOff does what Trim does to a host up to the purge.
func (s *Store) TrimCutOff(ctx context.Context, host string, messages uint64, r Retention, now time.Time) (mirror.Purged, error) {
	through, err := s.beyond(ctx, host, messages, r, now)
	if err != nil || through.Through == 0 {
		return through, err
	}
	return through, s.checkpoint(ctx, host, through, now)
}
