// Bench measures what this project promises of its cost and prints every figure beside an anchor that was measured in the
// same run, on the same disk, in turns with it: the ratio can be compared between machines, the figure itself cannot.
//
// How a figure is judged:
//   - A size or a count is what it is: above its bound, it fails.
//   - A time passes within its bound. Above it, the anchors say whether the machine is to blame. The gauge of the figure is
//     something that has none of our code in it (an empty Go program, an fdatasync, a hash) and was measured in turns with the
//     figure; what it takes on an idle machine is known here, generously. If it took three times that, the bound is stretched
//     threefold. A figure within the stretched bound is "noisy": it is neither broken nor proven. Above that, it fails.
//   - A ratio of two times is not made worse by a slow machine, but by an unsteady one: its bound is stretched by how far the
//     quartiles of its anchor lie apart, beyond what is usual.
//
// A figure that fails is measured once more before it counts: a machine that was disturbed for a second is not a regression.
//
// Exit codes: 0 if no figure failed (noisy ones are named), 1 if one did, 2 if it could not be measured.
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
	"regexp"
	"syscall"
	"time"
)

// patience bounds the whole run. It takes some fifteen seconds; a machine that needs longer is stuck.
const patience = 10 * time.Minute

const (
	exitFailed     = 1
	exitUnmeasured = 2
)

type options struct {
	only *regexp.Regexp
	json bool
	dir  string
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
	figures, err := measure(ctx, opt, os.Stderr)
	if figures != nil {
		err = errors.Join(err, report(os.Stdout, figures, opt.json))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return exitUnmeasured
	}
	for _, f := range figures {
		if f.Verdict == failed {
			return exitFailed
		}
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var opt options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("run", "", "measure only the figures whose name matches the `regexp`")
	flags.BoolVar(&opt.json, "json", false, "print JSON")
	flags.StringVar(&opt.dir, "dir", "", "measure in a new directory below `path`; by default in the first of $TMPDIR, /var/tmp and here that is on a disk")
	if err := flags.Parse(args); err != nil {
		return opt, err
	}
	var err error
	if flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	} else {
		opt.only, err = regexp.Compile(*only)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
	}
	return opt, err
}

// subject is one thing to measure. It gives one figure or, where they come from the same run, more.
type subject struct {
	names []string // of its figures
	run   func(ctx context.Context, b *bench) ([]figure, error)
}

var subjects = []subject{
	{[]string{"size"}, binarySize},
	{[]string{"commit", "commits"}, transitionCommits},
	{[]string{"classify", "gather"}, classification},
	{[]string{"ready"}, startToReady},
	{[]string{"rss", "anon"}, idleMemory},
	{[]string{"status"}, statusVerb},
	{[]string{"recovery"}, recovery},
}

// measure runs the subjects that have a figure to be printed. What was measured is there also with an error.
func measure(ctx context.Context, opt options, progress io.Writer) ([]figure, error) {
	b, err := setUp(ctx, opt.dir)
	if err != nil {
		return nil, err
	}
	defer b.cleanUp()
	all := []figure{}
	var errs []error
	for _, s := range subjects {
		if !wanted(s, opt.only) || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(progress, "measuring %s\n", s.names[0])
		figures, err := s.run(ctx, b)
		if err == nil && anyFailed(figures) {
			fmt.Fprintf(progress, "measuring %s again\n", s.names[0])
			figures, err = s.run(ctx, b)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("measure %s: %w", s.names[0], err))
			continue
		}
		for _, f := range figures {
			if opt.only.MatchString(f.Name) {
				all = append(all, f)
			}
		}
	}
	if len(all) == 0 && len(errs) == 0 && ctx.Err() == nil {
		errs = append(errs, fmt.Errorf("no figure matches %q", opt.only))
	}
	return all, errors.Join(append(errs, ctx.Err())...)
}

func wanted(s subject, only *regexp.Regexp) bool {
	for _, name := range s.names {
		if only.MatchString(name) {
			return true
		}
	}
	return false
}

func anyFailed(figures []figure) bool {
	for _, f := range figures {
		if f.Verdict == failed {
			return true
		}
	}
	return false
}

// report prints the figures.
func report(out io.Writer, figures []figure, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(figures)
	}
	for i, f := range figures {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := f.print(out); err != nil {
			return err
		}
	}
	return nil
}
