package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// Options is what an agent is started with.
type Options struct {
	Config     config.Config // paths already below Root
	Root       string        // root directory of the host; "/" is this one
	Version    string
	Executable string // the agent's own binary; it is started again as the body of every attempt
	Log        *slog.Logger

	Notify   func(state string)   // sd_notify; nil: nobody listens
	Watchdog time.Duration        // how often at least the service manager wants to hear of the loop; 0: never
	Wall     func() time.Time     // nil: time.Now
	Up       func() time.Duration // time since boot, suspend not counted; nil: CLOCK_MONOTONIC
}

func (o *Options) complete() {
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Up == nil {
		o.Up = monotonic
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Run is the daemon: it opens the store, answers on the local socket, says READY, recovers, and then serves until ctx ends.
// Everything it started has ended when it returns, but for the units of the work, which go on.
//
// Errors: store.ErrLocked if another agent holds the store, localapi's errors if the socket path is occupied. A store that
// cannot be read is not an error: it is moved aside and reported.
func Run(ctx context.Context, opt Options) error {
	opt.complete()
	st, opening, err := store.Open(opt.Config.StorePath(), store.Options{Logger: opt.Log, Now: opt.Wall})
	if err != nil {
		return err
	}
	defer st.Close()

	host := system.New(opt.Root)
	facts, err := host.Facts(ctx)
	if err != nil {
		return fmt.Errorf("read host: %w", err)
	}
	l := newLoop(opt, st, opening, host, facts)
	if err := l.connect(); err != nil {
		return err
	}
	server, err := localapi.Listen(opt.Config.SocketPath, opt.Config.SocketGroup)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	var servers sync.WaitGroup
	servers.Go(func() {
		if err := server.Serve(ctx, backend{l}, opt.Log); err != nil && ctx.Err() == nil {
			stop(fmt.Errorf("serve local socket: %w", err))
		}
	})
	opt.Notify("READY=1")
	l.converse(ctx, &servers)
	err = l.serve(ctx, facts)
	opt.Notify("STOPPING=1")
	stop(nil)
	servers.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

func newLoop(opt Options, st *store.Store, opening store.Opening, host *system.Host, facts system.Facts) *loop {
	l := &loop{
		opt: opt, log: opt.Log, store: st, opening: opening, host: host,
		hostname:  opt.Config.Hostname,
		boot:      fsm.BootStamp{BootID: facts.BootID, SoftReboots: facts.SoftReboots},
		queue:     outbox.New(st.DB(), outbox.WithLogger(opt.Log), outbox.WithClock(opt.Wall)),
		runner:    newRunner(opt, host),
		rules:     rulesOf(opt.Config),
		startedAt: opt.Wall(),
		asks:      make(chan ask),
		commits:   make(chan commitCall),
		ends:      make(chan workEnd),
		workers:   map[string]*worker{},
		owed:      map[string]bool{},
	}
	if l.hostname == "" {
		l.hostname = facts.Hostname
	}
	l.sender = outbox.NewSender(l.queue, nil, l.senderOptions("none"))
	l.board.init()
	return l
}

func newRunner(opt Options, host *system.Host) *activate.Runner {
	return activate.NewRunner(activate.Options{
		Host: host, Launcher: newLauncher(opt, host), StateDir: opt.Config.StateDir, Log: opt.Log, Now: opt.Wall,
		Rules: rulesOf(opt.Config), Deadlines: deadlinesOf(opt.Config),
		Verify: activate.Verification{Signatures: opt.Config.Verify.Signatures, TrustedKeys: opt.Config.Verify.TrustedKeys},
	})
}

// newLauncher gives PID 1 the work of this host, and runs it as processes of their own where the host is a directory.
func newLauncher(opt Options, host *system.Host) activate.Launcher {
	attempts := activate.AttemptOptions{StateDir: opt.Config.StateDir, Executable: opt.Executable, Host: host, Now: opt.Wall}
	if host.Root() == "/" {
		return activate.NewSystemd(attempts, opt.Log)
	}
	return activate.NewExec(attempts)
}
