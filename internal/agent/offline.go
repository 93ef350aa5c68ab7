package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// offlineWait bounds how long a reader waits for the file while an agent holds it. An agent that holds it and does not answer
// is starting or stopping.
const offlineWait = 500 * time.Millisecond

// ReadStatus makes the status from the file and the host while no agent answers. It changes nothing and never fails: where the
// file cannot be read, what the host shows is the answer, with the verdict NoAgent and the reason.
//
// The error says why the file was not read: store.ErrNotExist, store.ErrLocked if an agent holds it without answering,
// store.ErrUnreadable, or what the operating system says. The status is to be shown all the same.
func ReadStatus(ctx context.Context, cfg config.Config, root string, now time.Time) (localapi.Status, error) {
	host := system.New(root)
	s := snapshot{
		// No time of a soak is counted: while no agent runs nobody watches.
		at: now.UTC(), now: fsm.Now{Wall: now.UTC()}, source: localapi.FromFile, hostname: cfg.Hostname,
		receiver: receiverName(cfg.ControlPlane.URL, cfg.ControlPlane.EventsURL),
		label:    func(closure string) string { return labelOf(host, closure) }, specialises: specialisesOf(host),
	}
	s.facts, s.factsErr = host.Facts(ctx)
	if s.hostname == "" {
		s.hostname = s.facts.Hostname
	}
	st, queue, err := openToRead(cfg)
	if err != nil {
		return s.withoutAgent(err), err
	}
	defer st.Close()
	s.agent.Epoch = st.Epoch()
	s.notes = append(s.notes, "no agent answers; this was read from its file")
	if err := s.read(st, queue); err != nil {
		s.notes = append(s.notes, "the store cannot be read: "+err.Error())
	}
	return s.status(), nil
}

// withoutAgent is the status of a host of which only the host itself is known.
func (s *snapshot) withoutAgent(why error) localapi.Status {
	st := s.status()
	st.Verdict = localapi.NoAgent
	st.Summary = "no agent answers, and its file does not tell either: " + why.Error()
	st.Then = "Start the agent: systemctl start nixfleet-agent."
	switch {
	case errors.Is(why, store.ErrNotExist):
		st.Summary = "no agent has ever run here, as far as its state directory tells"
	case errors.Is(why, store.ErrLocked):
		st.Summary = "an agent holds its store and does not answer: it is starting, stopping or stuck"
		st.Then = "Wait a moment; if it stays so, see journalctl -u nixfleet-agent."
	}
	return st
}

// ReadEvents gives the events after position after, oldest first, from the file. Errors as of [ReadStatus].
func ReadEvents(cfg config.Config, after uint64, limit int) ([]localapi.Event, error) {
	st, queue, err := openToRead(cfg)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	return readEvents(queue, after, limit)
}

// ReadHistory gives the rows of history, newest first, from the file. Errors as of [ReadStatus].
func ReadHistory(cfg config.Config, rollout string, limit int) ([]localapi.HistoryRow, error) {
	st, _, err := openToRead(cfg)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	return readHistory(st, rollout, limit)
}

// ReadQuarantine gives the closures in quarantine from the file. Errors as of [ReadStatus].
func ReadQuarantine(cfg config.Config) ([]localapi.QuarantineRow, error) {
	st, _, err := openToRead(cfg)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	return quarantineRows(st)
}

// Acceptable reports, as an error, why an agent of this version could not work with the configured store. An older agent asks
// the one in a target before it switches to it, and holds the store meanwhile: then a copy is looked at.
func Acceptable(cfg config.Config) error {
	st, err := store.OpenReadOnly(cfg.StorePath(), store.Options{Timeout: offlineWait})
	if errors.Is(err, store.ErrLocked) {
		st, err = openCopy(cfg.StorePath())
	}
	switch {
	case errors.Is(err, store.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer st.Close()
	if why := st.Refusal(); why != "" {
		return fmt.Errorf("open %s: %s", cfg.StorePath(), why)
	}
	return nil
}

// copyAttempts bounds how often a store is copied that was written to meanwhile. Every commit of an agent ends with a sync, so
// that a copy of some hundred kilobytes mostly falls between two.
const copyAttempts = 20

// openCopy opens a copy of a store that another process has open. It may be torn, if that process has just committed; every
// value in it is sealed, and a copy that is not whole is not taken but made again.
func openCopy(path string) (*store.Store, error) {
	dir, err := os.MkdirTemp("", "nixfleet-agent-check-*")
	if err != nil {
		return nil, fmt.Errorf("copy store: %w", err)
	}
	defer os.RemoveAll(dir) // what is open stays readable
	to := filepath.Join(dir, filepath.Base(path))
	for range copyAttempts {
		if err := copyFile(to, path); err != nil {
			return nil, fmt.Errorf("copy store: %w", err)
		}
		var st *store.Store
		if st, err = store.OpenReadOnly(to, store.Options{}); err == nil || !errors.Is(err, store.ErrUnreadable) {
			return st, err
		}
	}
	return nil, err
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// specialisesOf reads on a host which specialisation of a target a closure is.
func specialisesOf(host *system.Host) func(closure, target string) string {
	return func(closure, target string) string {
		name, _ := host.IsOrSpecialises(closure, target)
		return name
	}
}

func openToRead(cfg config.Config) (*store.Store, *outbox.Queue, error) {
	st, err := store.OpenReadOnly(cfg.StorePath(), store.Options{Timeout: offlineWait})
	if err != nil {
		return nil, nil, err
	}
	return st, outbox.New(st.DB()), nil
}

// labelOf reads the version label of a closure; empty where it has none.
func labelOf(host *system.Host, closure string) string {
	c, err := host.Components(closure)
	if err != nil {
		return ""
	}
	return c.Version
}
