package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	// maxIdle is promised of the memory of an agent that waits, as the kernel counts it for the process.
	maxIdle = 16 // MiB
	// settled is how long the memory must stay within settledBy to count as settled, settlePatience how long that is waited for:
	// the runtime gives memory back a little at a time.
	settled        = 2 * time.Second
	settledBy      = 64 << 10
	settlePatience = 20 * time.Second
	settlePoll     = 100 * time.Millisecond
)

// memory is what a process takes, in bytes. The rest of resident is files, which the kernel can drop.
type memory struct{ resident, anonymous int64 }

// idleMemory starts the agent, brings the host to a target with it, and waits until it has nothing left to do.
func idleMemory(ctx context.Context, b *bench) ([]figure, error) {
	empty, err := b.idleEmpty(ctx)
	if err != nil {
		return nil, err
	}
	m, err := b.newMachine(ctx)
	if err != nil {
		return nil, err
	}
	var agent memory
	err = m.whileUp(ctx, func(d *daemon) error {
		if err := m.bringLive(ctx); err != nil {
			return err
		}
		var err error
		agent, err = settledMemory(ctx, d.cmd.Process.Pid)
		return err
	})
	if err != nil {
		return nil, err
	}
	mib := func(n int64) float64 { return float64(n) / mebibyte }
	rss := figure{Name: "rss", What: "memory of the idle agent (VmRSS)", Value: mib(agent.resident), Unit: "MiB", Bound: maxIdle, Samples: 1}
	anon := figure{Name: "anon", What: "of that, not files (RssAnon)", Value: mib(agent.anonymous), Unit: "MiB", Samples: 1}
	return []figure{
		rss.against("an idle empty Go program", mib(empty.resident), "MiB").judge(1),
		anon.against("an idle empty Go program", mib(empty.anonymous), "MiB").judge(1),
	}, nil
}

// idleEmpty measures the empty Go program.
func (b *bench) idleEmpty(ctx context.Context) (m memory, err error) {
	cmd := exec.CommandContext(ctx, b.empty, "stay")
	if err := cmd.Start(); err != nil {
		return m, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	return settledMemory(ctx, cmd.Process.Pid)
}

// settledMemory waits until the memory of a process stands still. One that never does is measured at the end of the patience.
func settledMemory(ctx context.Context, pid int) (memory, error) {
	deadline := time.Now().Add(settlePatience)
	var last memory
	var since time.Time
	for {
		now := time.Now()
		m, err := memoryOf(pid)
		if err != nil {
			return m, err
		}
		if since.IsZero() || max(m.resident-last.resident, last.resident-m.resident) > settledBy {
			last, since = m, now
		}
		if now.Sub(since) >= settled || now.After(deadline) {
			return m, nil
		}
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-time.After(settlePoll):
		}
	}
}

// memoryOf reads /proc/PID/status, as proc_pid_status(5) describes it.
func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	fields := map[string]int64{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if kib, ok := strings.CutSuffix(strings.TrimSpace(value), " kB"); ok {
			n, err := strconv.ParseInt(kib, 10, 64)
			if err != nil {
				return memory{}, err
			}
			fields[name] = n << 10
		}
	}
	m := memory{resident: fields["VmRSS"], anonymous: fields["RssAnon"]}
	if m.resident == 0 || m.anonymous == 0 {
		return m, errors.New("the kernel does not tell VmRSS and RssAnon")
	}
	return m, nil
}
