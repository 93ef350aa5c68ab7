package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// The garbage-collector roots of a rollout: its target and the three of its way back.
const (
	rootTarget       = "target"
	rootPriorRunning = "prior-running"
	rootPriorProfile = "prior-profile"
	rootPriorBoot    = "prior-boot"
)

// rootName names a root of a rollout below the agent's directory of roots. Rollout ids hold characters that file names may
// not, so it is named by its hash.
func rootName(rollout, what string) string {
	sum := sha256.Sum256([]byte(rollout))
	return hex.EncodeToString(sum[:6]) + "-" + what
}

// rootPrior keeps the closures of the way back from being collected until the rollout rests.
func (w *worker) rootPrior() error {
	p := w.rec.Prior
	for what, path := range map[string]string{rootPriorRunning: p.Running, rootPriorProfile: p.Profile, rootPriorBoot: p.BootDefault} {
		if path == "" {
			continue
		}
		if err := w.loop.runner.Root(rootName(w.rec.RolloutID, what), path); err != nil {
			return err
		}
	}
	return nil
}

// tidy drops the roots and the attempts of a rollout that has come to rest.
func (l *loop) tidy(rollout string) {
	rec, err := l.record(rollout)
	if err != nil || owns(rec) {
		return
	}
	for _, what := range []string{rootTarget, rootPriorRunning, rootPriorProfile, rootPriorBoot} {
		if err := l.runner.Unroot(rootName(rollout, what)); err != nil {
			l.log.Warn("drop root", slog.String("rollout", rollout), slog.Any("err", err))
		}
	}
	if rec.State == fsm.Failed { // its output is still asked for
		return
	}
	if err := l.runner.Forget(rollout, rec.Attempts); err != nil {
		l.log.Warn("drop attempts", slog.String("rollout", rollout), slog.Any("err", err))
	}
}
