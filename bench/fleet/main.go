// Fleet simulates a fleet against the real control plane, on this machine and its loopback, and prints what it costs.
//
// The control plane is the binary that is shipped, in a process and a directory of its own, with JetStream embedded and every write
// synced. The agents are in this process. Each has a certificate of its own and speaks TLS 1.3: it holds a long poll open, sends
// heartbeats, answers dispatches and reports events, all in the shapes of package wire. Its certificate's key is one of a few that the
// fleet shares; making ten thousand would be measured as nothing.
//
// A run goes through fleets of growing size, each with a new control plane, so that the cost per host of one can be set against that
// of the next. It then drains a long queue of one agent through the real sender and client.
//
// What fails a run:
//   - an event that was lost, refused or stored twice, a host that is not where it should be, a control plane that does not stop cleanly;
//   - a drain that took longer than is promised in each of three tries;
//   - memory per host, or processor time per event, that more than doubles from one fleet to the next. Linear is once; what is
//     quadratic is ten times, also on a machine that is busy.
//
// Times of a fleet depend on the machine, which runs both sides, and are shown without a bound.
//
// Exit codes: 0 if nothing failed, 1 if something did, 2 if it could not be measured.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// patience bounds a whole run.
	patience = 10 * time.Minute

	manyHosts  = 10_000
	quickHosts = 200
	// leastHosts is the smallest fleet: in a smaller one, what does not depend on it is all that is seen.
	leastHosts = 20

	exitFailed     = 1
	exitUnmeasured = 2
)

type options struct {
	hosts  int
	quick  bool
	json   bool
	dir    string
	binary string
}

// stages are the sizes of the fleets, growing tenfold to the one that was asked for.
func (o options) stages() []int {
	sizes := []int{o.hosts}
	for most := 3; len(sizes) < most && sizes[0]/10 >= leastHosts; {
		sizes = append([]int{sizes[0] / 10}, sizes...)
	}
	return sizes
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := mainCode(ctx)
	stop()
	os.Exit(code)
}

func mainCode(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	opt, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return exitUnmeasured
	}
	report, err := measure(ctx, opt, os.Stderr)
	if report != nil {
		err = errors.Join(err, report.write(os.Stdout, opt.json))
	}
	var broken *brokenPromise
	switch {
	case errors.As(err, &broken):
		fmt.Fprintf(os.Stderr, "bench-fleet: %v\n", err)
		return exitFailed
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench-fleet: %v\n", err)
		return exitUnmeasured
	case report.failed():
		return exitFailed
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var opt options
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&opt.hosts, "hosts", 0, fmt.Sprintf("simulate this `number` of hosts (default %d; with -quick %d)", manyHosts, quickHosts))
	flags.BoolVar(&opt.quick, "quick", false, "a small fleet, and short looks: some fifteen seconds")
	flags.BoolVar(&opt.json, "json", false, "print JSON")
	flags.StringVar(&opt.dir, "dir", "", "work in a new directory below `path` (default: that for temporary files)")
	flags.StringVar(&opt.binary, "binary", "", "the control plane is this `file` (default: what make build makes)")
	err := flags.Parse(args)
	switch {
	case err != nil:
		return opt, err
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opt.hosts == 0 && opt.quick:
		opt.hosts = quickHosts
	case opt.hosts == 0:
		opt.hosts = manyHosts
	case opt.hosts < leastHosts:
		err = fmt.Errorf("%d hosts are no fleet; at least %d are simulated", opt.hosts, leastHosts)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench-fleet: %v\n", err)
	}
	return opt, err
}

// brokenPromise is the error of what must never happen, however slow the machine is.
type brokenPromise struct{ what string }

func (e *brokenPromise) Error() string { return e.what }

func broken(format string, args ...any) error { return &brokenPromise{fmt.Sprintf(format, args...)} }

// measure gives what was measured, also with an error.
func measure(ctx context.Context, opt options, progress io.Writer) (r *report, err error) {
	files, hosts, err := room(opt.hosts)
	if err != nil {
		return nil, err
	}
	r = &report{}
	if hosts < opt.hosts {
		r.Notes = append(r.Notes, fmt.Sprintf("%d hosts instead of %d: a process may open %d files", hosts, opt.hosts, files))
		opt.hosts = hosts
	}
	if lone := lonely(files, opt.hosts); lone > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("a process may open %d files: %d of %d agents close their second connection after each use, and their handshakes are in the figures", files, lone, opt.hosts))
	}
	dir, err := os.MkdirTemp(opt.dir, "nixfleet-bench-fleet-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary := opt.binary
	if binary == "" {
		fmt.Fprintln(progress, "building the control plane")
		if binary, err = build(ctx, dir); err != nil {
			return nil, err
		}
	}
	certs, err := newCertificates(filepath.Join(dir, "certs"))
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, binary: binary, certs: certs, files: files, quick: opt.quick, progress: progress}
	for _, n := range opt.stages() {
		s, err := b.stage(ctx, n)
		if err != nil {
			return r, fmt.Errorf("%d hosts: %w", n, err)
		}
		r.Stages = append(r.Stages, s)
	}
	r.Growth = growths(r.Stages)
	r.Drain, err = b.drainAlone(ctx)
	return r, err
}

// bench is what the stages share.
type bench struct {
	dir      string
	binary   string
	certs    *certificates
	files    int // that a process may open
	quick    bool
	progress io.Writer
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}

// spareFiles are for everything but the connections of agents: those that the control plane keeps for its log, the operator's, and
// what is left for a while of requests that were given up.
const spareFiles = 640

// room raises the number of files that may be open, here and in the control plane, as far as it is allowed. It gives that number, and
// how many hosts fit: each needs one connection for its long poll, and some need a second one at the same time.
func room(hosts int) (files, fit int, err error) {
	want := uint64(2*hosts + spareFiles) //nolint:gosec // a positive number of hosts
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, 0, fmt.Errorf("read the number of files: %w", err)
	}
	// Also where there is enough: a limit that was set here, and not by the runtime, is what a child starts with.
	raised := syscall.Rlimit{Cur: max(want, limit.Max), Max: max(want, limit.Max)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		raised = syscall.Rlimit{Cur: limit.Max, Max: limit.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
			return 0, 0, fmt.Errorf("raise the number of files: %w", err)
		}
	}
	files = int(min(raised.Cur, 1<<30)) //nolint:gosec // bounded
	return files, min(hosts, max(files-spareFiles-posting, leastHosts)), nil
}

// lonely is how many agents cannot keep their second connection.
func lonely(files, hosts int) int {
	return max(0, 2*hosts+spareFiles+posting-files)
}

// report is what a run prints. Its JSON is that of -json.
type report struct {
	Notes  []string `json:"notes,omitempty"`
	Stages []stage  `json:"stages"`
	Growth []growth `json:"growth"`
	Drain  drained  `json:"drain"`
}

func (r *report) failed() bool {
	for _, g := range r.Growth {
		if g.Verdict == failed {
			return true
		}
	}
	return r.Drain.Verdict == failed
}

func (r *report) write(out io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	return r.print(out)
}
