package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// quarantineFile keeps the quarantine a second time, beside the store: a store that was lost or restored from a backup must not
// let a host try again what broke it. What is in either of them is in quarantine.
const quarantineFile = "quarantine.json"

// maxQuarantineFile bounds what is read of that file; a row is some three hundred bytes.
const maxQuarantineFile = 4 << 20

func (l *loop) quarantinePath() string { return filepath.Join(l.opt.Config.StateDir, quarantineFile) }

// quarantineRows gives the closures in quarantine, by path.
func quarantineRows(st *store.Store) (rows []localapi.QuarantineRow, err error) {
	err = st.View(func(tx *store.Tx) error {
		stored, err := tx.QuarantineRows()
		for _, r := range stored {
			rows = append(rows, localapi.QuarantineRow{Closure: r.Closure, Attempts: r.Attempts, Reason: r.Reason, At: r.At, RolloutID: r.RolloutID})
		}
		return err
	})
	return rows, err
}

// clearQuarantine lets closures be activated again. The file goes first: what a crash leaves is then still in quarantine.
func (l *loop) clearQuarantine(_ context.Context, req localapi.QuarantineClearRequest, by localapi.Peer) (localapi.QuarantineClearReply, error) {
	if err := l.mayWrite(); err != nil {
		return localapi.QuarantineClearReply{}, err
	}
	if (req.Closure == "") == !req.All {
		return localapi.QuarantineClearReply{}, &localapi.Error{Code: localapi.CodeBadRequest, Message: "name one closure, or all", Hint: "see `nixfleet-agent quarantine list`"}
	}
	rows, err := l.quarantineStored()
	if err != nil {
		return localapi.QuarantineClearReply{}, err
	}
	var kept []store.QuarantineRow
	reply := localapi.QuarantineClearReply{Cleared: []string{}}
	for _, row := range rows {
		if req.All || row.Closure == req.Closure {
			reply.Cleared = append(reply.Cleared, row.Closure)
		} else {
			kept = append(kept, row)
		}
	}
	if len(reply.Cleared) == 0 && !req.All {
		return reply, &localapi.Error{Code: localapi.CodeNotFound, Message: req.Closure + " is not in quarantine", Hint: "see `nixfleet-agent quarantine list`"}
	}
	if err := writeQuarantineFile(l.quarantinePath(), kept); err != nil {
		return localapi.QuarantineClearReply{}, err
	}
	err = l.turn(func(t *turn) error {
		for _, closure := range reply.Cleared {
			if err := t.tx.ClearQuarantine(closure); err != nil {
				return err
			}
			n := notice{Kind: noticeQuarantineCleared, Host: l.hostname, Text: closure + " may be activated again"}
			if err := t.notify(n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return localapi.QuarantineClearReply{}, answerOf(err)
	}
	l.log.Info("quarantine cleared", slog.Any("closures", reply.Cleared), slog.Int("uid", by.UID))
	return reply, nil
}

func (l *loop) quarantineStored() (rows []store.QuarantineRow, err error) {
	err = l.store.View(func(tx *store.Tx) error {
		rows, err = tx.QuarantineRows()
		return err
	})
	return rows, err
}

// mergeQuarantine brings store and file together at a start: what is in one of them and not in the other is added there.
func (l *loop) mergeQuarantine() error {
	stored, err := l.quarantineStored()
	if err != nil {
		return err
	}
	inFile, err := readQuarantineFile(l.quarantinePath())
	if err != nil {
		l.log.Warn("read the second copy of the quarantine; it is written anew", slog.Any("err", err))
		inFile = nil
	}
	has := func(rows []store.QuarantineRow, closure string) bool {
		return slices.ContainsFunc(rows, func(r store.QuarantineRow) bool { return r.Closure == closure })
	}
	missing := slices.DeleteFunc(slices.Clone(inFile), func(r store.QuarantineRow) bool { return has(stored, r.Closure) })
	if len(missing) > 0 {
		err := l.turn(func(t *turn) error {
			for _, row := range missing {
				if err := t.tx.PutQuarantine(row); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		l.log.Info("quarantine restored from its second copy", slog.Int("closures", len(missing)))
	}
	if len(missing) == 0 && len(inFile) == len(stored) {
		return nil
	}
	return l.keepQuarantine()
}

// keepQuarantine writes the second copy of what is stored.
func (l *loop) keepQuarantine() error {
	rows, err := l.quarantineStored()
	if err != nil {
		return err
	}
	return writeQuarantineFile(l.quarantinePath(), rows)
}

func readQuarantineFile(file string) ([]store.QuarantineRow, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxQuarantineFile:
		return nil, fmt.Errorf("%s is not what an agent writes", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var rows []store.QuarantineRow
	if err := json.Unmarshal(data, &rows); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return slices.DeleteFunc(rows, func(r store.QuarantineRow) bool { return r.Closure == "" }), nil
}

// writeQuarantineFile replaces the file; a crash leaves the old one or the new one.
func writeQuarantineFile(file string, rows []store.QuarantineRow) error {
	if rows == nil {
		rows = []store.QuarantineRow{}
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return fmt.Errorf("encode quarantine: %w", err)
	}
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write quarantine: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write quarantine: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write quarantine: %w", err)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("write quarantine: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}
