package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/config"
)

// globals are the flags that every verb has.
type globals struct {
	config string
	root   string
	socket string
	color  string
}

const rootLong = `nixfleet-agent brings this NixOS host to the system closure that it is told to run, and proves that it got there.

A closure that changes nothing critical is switched to live. One that changes dbus, systemd, the kernel or the init
interface is made the boot default and waits for a reboot, after which the agent verifies what booted.`

// exitCodes is what --help and the man pages say about exit codes.
const exitCodes = `
Exit codes:
  0  the host is at its target, or the verb did what it was asked
  1  error: bad usage, a bad configuration, or what was asked for cannot be done
  2  in progress
  3  a reboot is needed
  4  failed or rolled back
  5  no agent answers and its file does not tell either`

// onlyInBuilds are the verbs that programs built with a tag have besides.
var onlyInBuilds []func() *cobra.Command

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:           "nixfleet-agent",
		Short:         "Bring this NixOS host to its target closure",
		Long:          rootLong + "\n" + exitCodes,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.config, "config", config.DefaultPath, "configuration `file`; it need not exist if it is not named")
	flags.StringVar(&g.root, "root", "/", "root `directory` of the host, for a host that is a directory")
	flags.StringVar(&g.socket, "socket", "", "`path` of the agent's socket, instead of the configured one")
	flags.StringVar(&g.color, "color", "auto", "colours: auto, always or never; NO_COLOR is respected")
	root.AddCommand(runVerb(g), activateVerb(g), statusVerb(g), explainVerb(g), eventsVerb(g), historyVerb(g),
		cancelVerb(g), holdVerb(g), resumeVerb(g), quarantineVerb(g),
		versionVerb(), checkVerb(g), attemptVerb())
	for _, verb := range onlyInBuilds {
		root.AddCommand(verb())
	}
	return root
}

// execute runs the command line and gives its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	default:
		complain(stderr, err)
		return codeOf(err)
	}
}

// load reads the configuration and moves its paths below the root, which must be a directory. A configuration that was not named need not exist.
func (g *globals) load(cmd *cobra.Command) (config.Config, error) {
	cfg, err := config.Load(g.config)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("config"):
		cfg = config.Default()
	default:
		return cfg, err
	}
	if g.root, err = filepath.Abs(g.root); err != nil {
		return cfg, fmt.Errorf("find --root: %w", err)
	}
	if err := g.checkRoot(); err != nil {
		return cfg, err
	}
	cfg = cfg.WithRoot(g.root)
	if g.socket != "" {
		cfg.SocketPath = g.socket
	}
	return cfg, cfg.Validate()
}

// checkRoot refuses a root that is no directory.
func (g *globals) checkRoot() error {
	info, err := os.Stat(g.root)
	if err != nil || !info.IsDir() {
		return hinted(fmt.Sprintf("--root %s is not a directory", g.root), "name the directory that is the root of the host")
	}
	return nil
}
