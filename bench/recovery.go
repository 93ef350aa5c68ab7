package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const (
	recoveryRounds = 9
	// maxRecovery is promised from the start of the agent on a host that was rebooted into its target, to the completion being
	// on disk.
	maxRecovery = 100 // ms
	// eventPage is how many events are asked for at once.
	eventPage = 1000
)

// recovery reboots a host that was deferred, and starts the agent on copies of it.
func recovery(ctx context.Context, b *bench) ([]figure, error) {
	m, err := b.rebooted(ctx)
	if err != nil {
		return nil, err
	}
	var stamped times
	all, err := inTurns(recoveryRounds, b.startEmpty(ctx), b.startVersion(ctx), func(int) (time.Duration, error) {
		took, event, err := b.recoverCopy(ctx, m)
		stamped = append(stamped, event)
		return took, err
	})
	if err != nil {
		return nil, err
	}
	empty, version, durable := all[0], all[1], all[2]
	f := figure{Name: "recovery", What: "median from the start of the agent after a reboot to the completion being on disk", Value: ms(durable.median()), Unit: "ms",
		Bound: maxRecovery, Samples: len(durable), Note: fmt.Sprintf("the event itself is stamped %s after the start", amount(ms(stamped.median()), "ms"))}
	return []figure{f.against(versionAnchor, ms(version.median()), "ms").judge(slowness(empty, emptyIdle))}, nil
}

// rebooted is a machine that has staged another kernel and was booted into it; no agent has run on it since.
func (b *bench) rebooted(ctx context.Context) (*machine, error) {
	m, err := b.newMachine(ctx)
	if err != nil {
		return nil, err
	}
	next := simhost.NixOS(hostname, "25.11.2")
	next.Kernel, next.Initrd = "linux-6.18.2", "initrd-linux-6.18.2"
	err = m.whileUp(ctx, func(*daemon) error { return m.activate(ctx, next, "Deferred") })
	if err != nil {
		return nil, err
	}
	return m, m.host.Boot()
}

// recoverCopy starts the agent on a copy of the machine. It gives the time to the completion being durable, as one who asks sees
// it, and to the moment that the event itself carries.
func (b *bench) recoverCopy(ctx context.Context, from *machine) (durable, stamped time.Duration, err error) {
	dir, err := os.MkdirTemp(b.dir, "r")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root := filepath.Join(dir, "host")
	if err := os.CopyFS(root, os.DirFS(from.host.Root())); err != nil {
		return 0, 0, fmt.Errorf("copy host: %w", err)
	}
	m := *from
	m.notify = filepath.Join(dir, "notify")
	if m.host, err = simhost.Open(root); err != nil {
		return 0, 0, err
	}
	d, err := m.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	// The agent is ready in this sense when recovery has returned, and that is after its commits have.
	_, err = m.until(ctx, func(st localapi.Status) bool {
		return st.Agent.Ready && st.Rollout != nil && st.Rollout.State == "Soaking"
	})
	durable = time.Since(d.began)
	if err == nil {
		stamped, err = m.completedAfter(ctx, d.began)
	}
	if err != nil {
		return 0, 0, errors.Join(err, d.kill())
	}
	return durable, stamped, d.stop()
}

// completedAfter finds the one completion that was reported since then.
func (m *machine) completedAfter(ctx context.Context, began time.Time) (time.Duration, error) {
	var found []time.Duration
	for last := uint64(0); ; {
		events, err := m.client().Events(ctx, last, eventPage)
		if err != nil {
			return 0, err
		}
		for _, e := range events {
			last = e.Pos
			if e.Kind == "ActivationCompleted" && e.At.After(began) {
				found = append(found, e.At.Sub(began))
			}
		}
		if len(events) < eventPage {
			break
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("the completion was reported %d times", len(found))
	}
	return found[0], nil
}
