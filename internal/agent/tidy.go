package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/store"
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

// tidy drops the roots and the attempts of a rollout that has come to rest. The roots go last: as long as one is there, sweep
// finds what is left.
func (l *loop) tidy(rollout string) {
	rec, err := l.record(rollout)
	if err != nil || owns(rec) {
		return
	}
	if rec.State != fsm.Failed { // its output is still asked for
		if err := l.runner.Forget(rollout, rec.Attempts); err != nil {
			l.log.Warn("drop attempts", slog.String("rollout", rollout), slog.Any("err", err))
		}
	}
	for _, what := range []string{rootTarget, rootPriorRunning, rootPriorProfile, rootPriorBoot} {
		if err := l.runner.Unroot(rootName(rollout, what)); err != nil {
			l.log.Warn("drop root", slog.String("rollout", rollout), slog.Any("err", err))
		}
	}
}

// tidyRested tidies the rollouts that a turn brought to rest. One whose worker has still to leave is tidied when it has.
func (l *loop) tidyRested(log []transition) {
	for _, tr := range log {
		if tr.from != tr.to && l.workers[tr.rollout] == nil {
			l.tidy(tr.rollout)
		}
	}
}

// sweep tidies what an agent left that was killed after the commit which brought a rollout to rest, and drops the output of failed
// rollouts that another one has followed: what matters of it is in their records. Roots of rollouts that are not known stay: they
// tell of the loss of a store.
func (l *loop) sweep() {
	entries, err := os.ReadDir(l.host.Path(activate.RootsDir))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.log.Warn("list roots", slog.Any("err", err))
		}
		entries = nil
	}
	rooted := map[string]bool{}
	for _, e := range entries {
		rooted[e.Name()] = true
	}
	var records []fsm.Record
	claimed := map[string]bool{}
	err = l.store.View(func(tx *store.Tx) error {
		var err error
		claimed[tx.Live()], claimed[tx.Next()] = true, true
		records, _, err = tx.Records()
		return err
	})
	if err != nil {
		l.log.Warn("list records", slog.Any("err", err))
		return
	}
	for _, rec := range records {
		if rec.State == fsm.Failed && !owns(rec) && !claimed[rec.RolloutID] {
			if err := l.runner.Forget(rec.RolloutID, rec.Attempts); err != nil {
				l.log.Warn("drop attempts", slog.String("rollout", rec.RolloutID), slog.Any("err", err))
			}
		}
		for _, what := range []string{rootTarget, rootPriorRunning, rootPriorProfile, rootPriorBoot} {
			if rooted[rootName(rec.RolloutID, what)] {
				l.tidy(rec.RolloutID)
				break
			}
		}
	}
}
