package activate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// DefaultDeadlines are generous: they end what hangs, and must never end what is slow.
var DefaultDeadlines = Deadlines{
	Realise: 12 * time.Hour,   // a large closure over a slow line
	Profile: 10 * time.Minute, // two links; it waits for the lock of the profile
	Switch:  time.Hour,        // switch-to-configuration waits for units without a limit of its own
	Boot:    30 * time.Minute, // copying kernels to a slow boot partition
}

// Deadlines bound the programs that are run. A zero is the default.
type Deadlines struct {
	Realise time.Duration
	Profile time.Duration
	Switch  time.Duration // for ActionSwitch and ActionTest
	Boot    time.Duration
}

func (d Deadlines) complete() Deadlines {
	for _, one := range []struct{ d, def *time.Duration }{
		{&d.Realise, &DefaultDeadlines.Realise}, {&d.Profile, &DefaultDeadlines.Profile},
		{&d.Switch, &DefaultDeadlines.Switch}, {&d.Boot, &DefaultDeadlines.Boot},
	} {
		if *one.d <= 0 {
			*one.d = *one.def
		}
	}
	return d
}

// Options is what a Runner is made with.
type Options struct {
	Host      *system.Host
	Launcher  Launcher
	StateDir  string // the launcher's, on this machine's file system
	Log       *slog.Logger
	Now       func() time.Time // of the log
	Rules     Rules
	Deadlines Deadlines
	Verify    Verification
}

// serviceManager is what a launcher also knows of the host, if it works through one.
type serviceManager interface {
	SystemState(ctx context.Context) (string, error)
	UnitRuns(ctx context.Context, name string) (bool, error)
	FailedUnits(ctx context.Context) ([]string, error)
}

// Runner touches the host. It holds no state of its own and may be used by several goroutines; that one attempt runs at a time
// is the caller's to see to.
type Runner struct {
	host     *system.Host
	launcher Launcher
	services serviceManager // nil where there is none
	opt      Options
	lock     nixosLock
}

// NewRunner returns a runner for a host. A launcher that works through a service manager, as Systemd does, is also asked about
// it: whether the boot has finished, whether another tool switches, and which units have failed.
func NewRunner(opt Options) *Runner {
	opt.Deadlines = opt.Deadlines.complete()
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	services, _ := opt.Launcher.(serviceManager)
	return &Runner{host: opt.Host, launcher: opt.Launcher, services: services, opt: opt, lock: nixosLock{host: opt.Host}}
}

// Look finds out where an attempt is. One at realising runs as long as its verification does.
func (r *Runner) Look(ctx context.Context, id JobID) (Observed, error) {
	seen, err := r.launcher.Look(ctx, id)
	if err != nil || r.opt.Verify.Signatures == 0 || seen.State != JobEnded {
		return seen, err
	}
	verification, err := r.launcher.Look(ctx, verifyID(id))
	if err == nil && verification.State == JobRunning {
		return verification, nil
	}
	return seen, err
}

// Stop ends an attempt that runs, and returns when it and its verification have ended.
func (r *Runner) Stop(ctx context.Context, id JobID) error {
	err := r.launcher.Stop(ctx, id)
	if r.opt.Verify.Signatures == 0 {
		return err
	}
	return errors.Join(err, r.launcher.Stop(ctx, verifyID(id)))
}

// forgetPatience bounds how long PID 1 is asked for in Forget.
const forgetPatience = 10 * time.Second

// Forget removes what is left of the attempts of a rollout, up to and including the number given. One that runs is an error
// and stays.
func (r *Runner) Forget(rollout string, attempts int) error {
	ids, err := attemptsOf(r.opt.StateDir, rollout)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), forgetPatience)
	defer cancel()
	var errs []error
	for _, id := range ids {
		if id.Attempt <= attempts {
			errs = append(errs, r.launcher.Forget(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// Compare classifies a target against what runs.
func (r *Runner) Compare(ctx context.Context, target string) (Verdict, error) {
	base, to, err := Gather(ctx, r.host, target, r.opt.Rules)
	if err != nil {
		return Verdict{}, err
	}
	return Classify(base, to, r.opt.Rules), nil
}

// CriticalForReturn names what keeps the running system from being brought back to prior live: the bus, systemd, the init
// interface, or an inhibitor. What only a reboot loads (kernel, initrd, parameters, firmware) does not. That the operator lets
// one of them go live towards a target says nothing about the way back of one that failed; ignored is ignored on either way.
func (r *Runner) CriticalForReturn(ctx context.Context, prior string) ([]Change, error) {
	verdict, err := r.Compare(ctx, prior)
	if err != nil {
		return nil, err
	}
	var critical []Change
	for _, change := range slices.Concat(verdict.Deferred, verdict.Switched) {
		switch {
		case change.Component == ComponentDBus, change.Component == ComponentSystemd, change.Component == ComponentInit,
			strings.HasPrefix(change.Component, inhibitorPrefix):
			critical = append(critical, change)
		}
	}
	return critical, nil
}

// LockHolder names who holds the lock of switch-to-configuration, "" if nobody does. It does not take the lock.
func (r *Runner) LockHolder() string { return r.lock.holder() }

// SwitchUnfinished reports whether a switch was cut off: it left its lists behind, and none is under way that would take them
// up.
func (r *Runner) SwitchUnfinished() bool { return len(r.listsLeft()) > 0 }

// listDir and listFiles are where switch-to-configuration keeps the units that it still has to work on.
const listDir = "/run/nixos"

var listFiles = []string{"start-list", "restart-list", "reload-list", "activation-restart-list", "activation-reload-list"}

func (r *Runner) listsLeft() []string {
	var left []string
	for _, name := range listFiles {
		if info, err := os.Stat(r.host.Path(path.Join(listDir, name))); err == nil && info.Size() > 0 {
			left = append(left, name)
		}
	}
	if len(left) == 0 || r.LockHolder() != "" {
		return nil
	}
	return left
}

// FailedUnits lists the units that have failed, sorted. It is empty where no service manager can be asked.
func (r *Runner) FailedUnits(ctx context.Context) ([]string, error) {
	if r.services == nil {
		return nil, nil
	}
	return r.services.FailedUnits(ctx)
}

// passedOn are the variables of the agent's environment that the programs it runs get: where to find programs and locales,
// and how Nix reaches its store and its caches.
var passedOn = []string{
	"PATH", "LOCALE_ARCHIVE", "LANG", "TZDIR",
	"NIX_REMOTE", "NIX_CONFIG", "NIX_CONF_DIR", "NIX_PATH", "NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "CURL_CA_BUNDLE",
	"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
}

// environment is the whole environment of a program. NIXOS_NO_CHECK is never in it: it would skip every check of the site.
func environment() []string {
	env := []string{"HOME=/root", "USER=root", "NIXOS_INSTALL_BOOTLOADER=0"}
	for _, name := range passedOn {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// program finds a program of the host: on the PATH, or below another root in the system that runs there.
func (r *Runner) program(name string) (string, error) {
	if r.host.Root() == "/" {
		if found, err := exec.LookPath(name); err == nil && path.IsAbs(found) {
			return found, nil
		}
	}
	for _, at := range []string{runningLink, bootedLink, r.host.ProfilePath()} {
		if found, err := r.host.Resolve(path.Join(at, "sw/bin", name)); err == nil {
			return r.host.Path(found), nil
		}
	}
	return "", fmt.Errorf("find program %s: neither on the PATH nor in the running system", name)
}

// run brings a job to its end.
func (r *Runner) run(ctx context.Context, id JobID, what string, deadline time.Duration, argv ...string) (Result, error) {
	return r.runWatched(ctx, id, nil, what, deadline, argv...)
}

// runWatched is run, with a watch that is called every now and then while the job runs.
func (r *Runner) runWatched(ctx context.Context, id JobID, watch func(context.Context), what string, deadline time.Duration, argv ...string) (Result, error) {
	log := r.opt.Log.With(slog.String("job", id.Name()))
	log.Info("run", slog.String("what", what), slog.Any("argv", argv))
	began := r.opt.Now()
	job := Job{ID: id, Description: "nixfleet-agent: " + what, Argv: argv, Env: environment(), Deadline: deadline}
	result, err := do(ctx, r.launcher, job, watch)
	if err == nil {
		log.Info("ended", slog.String("how", result.words()), slog.Duration("watched_for", r.opt.Now().Sub(began)))
	}
	return result, err
}
