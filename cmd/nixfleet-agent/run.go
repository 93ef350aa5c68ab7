package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/agent"
)

// gcPercent lets the heap of the daemon grow by half before it is collected. It idles for months in some hundred kilobytes, and
// one status must not cost the host megabytes that it never needs again.
const gcPercent = 50

func runVerb(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Run the agent in the foreground, as its service does. It says READY to the service manager as soon as its store is open and
its socket answers, before anything of the network.

With --root the host is that directory: the same work is done below it, unprivileged, with processes in the place of
systemd's units.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := g.load(cmd)
			if err != nil {
				return err
			}
			if err := g.mayRun(); err != nil {
				return err
			}
			self, err := executable()
			if err != nil {
				return err
			}
			watchdog, err := daemon.SdWatchdogEnabled(false)
			if err != nil {
				return fmt.Errorf("read WATCHDOG_USEC: %w", err)
			}
			debug.SetGCPercent(gcPercent)
			return agent.Run(cmd.Context(), agent.Options{
				Config: cfg, Root: g.root, Version: version, Executable: self, Log: newLog(cmd.ErrOrStderr(), cfg.Level(), g.color),
				Watchdog: watchdog,
				Notify:   func(state string) { _, _ = daemon.SdNotify(false, state) },
			})
		},
	}
}

// mayRun refuses to run where nothing could be done.
func (g *globals) mayRun() error {
	if g.root == "/" && os.Geteuid() != 0 {
		return hinted("the agent must run as root: it sets the system profile and starts units", "run it as the service nixfleet-agent.service, or with --root on a directory of your own")
	}
	return nil
}

// executable is the real path of this binary: the link that it was started by may lead elsewhere after a switch.
func executable() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own binary: %w", err)
	}
	return filepath.EvalSymlinks(self)
}
