package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

const (
	hostname = "lab-7"
	// socketPath is the agent's default, below the root of the host.
	socketPath = "/run/nixfleet-agent/agent.sock"
	storePath  = "/var/lib/nixfleet-agent/state.db"
	// pastTransitions are in the store of the host that the agent is started on: a year of a host that is updated every week.
	pastTransitions = 6 * 52
	// longSoak keeps a host that has completed from converging while it is measured.
	longSoak = "1h"
	// startPatience is how long a start may take before the run is given up.
	startPatience = 30 * time.Second
	// poll is the pause between two looks at something that is waited for.
	poll = time.Millisecond
)

// machine is a host-shaped directory with a configuration for the agent.
type machine struct {
	host   *simhost.Host
	binary string
	config string
	notify string // the socket that stands for the service manager's
}

// newMachine lays out a host that has been in use for a while.
func (b *bench) newMachine(ctx context.Context) (*machine, error) {
	dir, err := os.MkdirTemp(b.dir, "m")
	if err != nil {
		return nil, err
	}
	host, err := simhost.Create(filepath.Join(dir, "host"), simhost.Options{Hostname: hostname, First: simhost.NixOS(hostname, "25.11.1")})
	if err != nil {
		return nil, err
	}
	if err := seedStore(host.Path(storePath)); err != nil {
		return nil, err
	}
	m := &machine{host: host, binary: b.binary, config: filepath.Join(dir, "nixfleet-agent.json"), notify: filepath.Join(dir, "notify")}
	config, err := json.Marshal(map[string]any{"soak": longSoak})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.config, config, 0o644); err != nil {
		return nil, err
	}
	// The first start of all makes what is only made once; it is not what hosts do every day.
	return m, m.whileUp(ctx, func(*daemon) error { return nil })
}

// seedStore gives the host a past.
func seedStore(path string) error {
	st, _, err := store.Open(path, store.Options{})
	if err != nil {
		return err
	}
	w := &walk{store: st}
	for range pastTransitions {
		if _, err := w.step(); err != nil {
			return errors.Join(err, st.Close())
		}
	}
	return st.Close()
}

func (m *machine) client() *localapi.Client { return localapi.NewClient(m.host.Path(socketPath)) }

func (m *machine) args(verb ...string) []string {
	return append([]string{"--root", m.host.Root(), "--config", m.config}, verb...)
}

// daemon is a running agent.
type daemon struct {
	cmd     *exec.Cmd
	log     bytes.Buffer
	began   time.Time
	toReady time.Duration
}

// start starts the agent as a service manager would and returns when it has said READY.
func (m *machine) start(ctx context.Context) (*daemon, error) {
	if err := os.Remove(m.notify); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.notify, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer manager.Close()
	if err := manager.SetReadDeadline(time.Now().Add(startPatience)); err != nil {
		return nil, err
	}
	d := &daemon{cmd: exec.CommandContext(ctx, m.binary, m.args("run")...)}
	d.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.notify)
	d.cmd.Stderr = &d.log
	d.began = time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	if err := readReady(manager); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for READY: %w", err), d.kill())
	}
	d.toReady = time.Since(d.began)
	return d, nil
}

func readReady(manager io.Reader) error {
	message := make([]byte, 4096)
	for {
		n, err := manager.Read(message)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(message[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// stop ends the agent as a shutdown does.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("the agent did not stop cleanly: %w\n%s", err, d.log.String())
	}
	return nil
}

// kill ends an agent that is of no more use and gives what it said.
func (d *daemon) kill() error {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	if d.log.Len() == 0 {
		return nil
	}
	return errors.New("its log:\n" + d.log.String())
}

// whileUp starts the agent, waits until it has recovered, calls do, and stops it.
func (m *machine) whileUp(ctx context.Context, do func(d *daemon) error) error {
	d, err := m.start(ctx)
	if err != nil {
		return err
	}
	_, err = m.until(ctx, func(st localapi.Status) bool { return st.Agent.Ready })
	if err == nil {
		err = do(d)
	}
	if err != nil {
		return errors.Join(err, d.kill())
	}
	return d.stop()
}

// until waits for the status to be as it should become.
func (m *machine) until(ctx context.Context, met func(localapi.Status) bool) (localapi.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	client := m.client()
	for {
		st, err := client.Status(ctx)
		if err == nil && met(st) {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return st, errors.Join(fmt.Errorf("wait for the agent, whose last status was %q: %w", st.Summary, ctx.Err()), err)
		case <-time.After(poll):
		}
	}
}

const (
	startRounds = 15
	// maxReady is promised of a start: a boot does not wait for the agent, and a restart is over before anyone asks.
	maxReady = 50 // ms
)

// startToReady starts the agent on a host with a past, again and again, in turns with its own version verb.
func startToReady(ctx context.Context, b *bench) ([]figure, error) {
	m, err := b.newMachine(ctx)
	if err != nil {
		return nil, err
	}
	all, err := inTurns(startRounds, b.startEmpty(ctx), b.startVersion(ctx), func(int) (time.Duration, error) {
		var took time.Duration
		err := m.whileUp(ctx, func(d *daemon) error {
			took = d.toReady
			return nil
		})
		return took, err
	})
	if err != nil {
		return nil, err
	}
	empty, version, ready := all[0], all[1], all[2]
	f := figure{Name: "ready", What: "median from the start of the agent to READY", Value: ms(ready.median()), Unit: "ms", Bound: maxReady, Samples: len(ready),
		Note: fmt.Sprintf("the slowest took %s", amount(ms(ready.quantile(1)), "ms"))}
	return []figure{f.against(versionAnchor, ms(version.median()), "ms").judge(slowness(empty, emptyIdle))}, nil
}

const (
	statusRounds = 30
	// maxStatus is promised of the status verb, whole: scripts ask it in loops.
	maxStatus = 20 // ms
)

// The exit codes of status for a host that is being brought to its target, and for one that is there.
var statusCodes = []int{0, 2}

// statusVerb asks a running agent for its status, in turns with its version verb.
func statusVerb(ctx context.Context, b *bench) ([]figure, error) {
	m, err := b.newMachine(ctx)
	if err != nil {
		return nil, err
	}
	var all []times
	err = m.whileUp(ctx, func(*daemon) error {
		// A rollout is under way, so that there is something to tell.
		if err := m.bringLive(ctx); err != nil {
			return err
		}
		var err error
		all, err = inTurns(statusRounds, b.startEmpty(ctx), b.startVersion(ctx), func(int) (time.Duration, error) {
			return timed(ctx, statusCodes, b.binary, m.args("status")...)
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	empty, version, status := all[0], all[1], all[2]
	f := figure{Name: "status", What: "median of the status verb, asked of a running agent", Value: ms(status.median()), Unit: "ms", Bound: maxStatus, Samples: len(status)}
	return []figure{f.against(versionAnchor, ms(version.median()), "ms").judge(slowness(empty, emptyIdle))}, nil
}

// bringLive brings the host to a closure that differs in nothing critical.
func (m *machine) bringLive(ctx context.Context) error {
	return m.activate(ctx, simhost.NixOS(hostname, "25.11.2"), "Soaking")
}

// activate brings the host to a closure, as far as the state given.
func (m *machine) activate(ctx context.Context, c simhost.Closure, state string) error {
	target, err := m.host.AddClosure(c)
	if err != nil {
		return err
	}
	reply, err := m.client().Activate(ctx, localapi.ActivateRequest{Target: target})
	if err != nil {
		return err
	}
	_, err = m.until(ctx, func(st localapi.Status) bool {
		return st.Rollout != nil && st.Rollout.ID == reply.RolloutID && st.Rollout.State == state
	})
	return err
}
