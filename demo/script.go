package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const (
	hostname = "web"
	soak     = 2 * time.Second
)

// Exit codes of the command line that the demo expects.
const (
	exitOK           = 0
	exitInProgress   = 2
	exitRebootNeeded = 3
)

func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "nixfleet-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	chapter(out, "Set up: build the agent, lay out a host with three system closures")
	s, err := set(ctx, out, dir)
	if err != nil {
		return err
	}
	defer func() { s.strike(err) }()

	live := simhost.NixOS(hostname, "25.11.2")
	live.KernelParams = "" // the parameters are no critical component
	newKernel := simhost.NixOS(hostname, "25.11.3")
	newKernel.Kernel = "linux-6.18.4"
	first := s.host.Running()
	second, err := s.host.AddClosure(live)
	if err != nil {
		return err
	}
	third, err := s.host.AddClosure(newKernel)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  running      %s\n  live update  %s\n  new kernel   %s\n", first, second, third)

	chapter(out, "Start the agent; it has never been told what to run")
	if err := s.startAgent(); err != nil {
		return err
	}
	if err := s.show(exitOK, "status"); err != nil {
		return err
	}

	chapter(out, "A live update: nothing critical differs")
	if err := liveUpdate(s, first, second); err != nil {
		return err
	}

	chapter(out, "An update with another kernel: staged for the next boot, the running system untouched")
	if err := deferral(s, second, third); err != nil {
		return err
	}

	chapter(out, "Reboot: the boot loader picks its default, the agent finds what booted")
	if err := reboot(s, third); err != nil {
		return err
	}

	chapter(out, "What was reported, in order")
	if err := reported(s); err != nil {
		return err
	}
	if err := s.stopAgent(); err != nil {
		return err
	}
	chapter(out, "With the agent down, status reads its file and says so")
	if err := s.show(exitOK, "status", "--oneline"); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nEvery step was as it should be.\n")
	return nil
}

func liveUpdate(s *stage, before, target string) error {
	if err := s.show(exitOK, "explain", target); err != nil {
		return err
	}
	if err := s.show(exitOK, "activate", target); err != nil {
		return err
	}
	if err := s.expectLinks(before, target, target); err != nil {
		return err
	}
	if err := s.show(exitInProgress, "status"); err != nil {
		return err
	}
	if err := s.untilState("Converged"); err != nil {
		return err
	}
	return s.show(exitOK, "status")
}

func deferral(s *stage, running, target string) error {
	if err := s.show(exitOK, "explain", target); err != nil {
		return err
	}
	if err := s.show(exitRebootNeeded, "activate", target); err != nil {
		return err
	}
	if err := s.expectLinks(s.host.Booted(), running, target); err != nil {
		return err
	}
	return s.show(exitRebootNeeded, "status")
}

func reboot(s *stage, target string) error {
	if err := s.stopAgent(); err != nil {
		return err
	}
	if err := s.host.Boot(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\n  (the host rebooted: new boot id, empty /run, links as the boot loader sets them)\n")
	if err := s.startAgent(); err != nil {
		return err
	}
	if err := s.expectLinks(target, target, target); err != nil {
		return err
	}
	if err := s.show(exitInProgress, "status"); err != nil {
		return err
	}
	if err := s.untilState("Converged"); err != nil {
		return err
	}
	return s.show(exitOK, "status")
}

// reported checks that each rollout told its story once, whole and in order.
func reported(s *stage) error {
	if err := s.show(exitOK, "events"); err != nil {
		return err
	}
	if err := s.show(exitOK, "history"); err != nil {
		return err
	}
	st, err := s.status()
	if err != nil {
		return err
	}
	second := st.Rollout.ID
	first := strings.TrimSuffix(second, "2") + "1"
	for _, c := range []struct {
		rollout string
		want    []string
	}{
		{first, []string{"DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}},
		{second, []string{"DispatchAck", "ActivationStarted", "ActivationDeferred", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}},
	} {
		got, err := s.events(c.rollout)
		if err != nil {
			return err
		}
		if !slices.Equal(got, c.want) {
			return fmt.Errorf("rollout %s reported %v instead of %v", c.rollout, got, c.want)
		}
	}
	return nil
}

// expectLinks checks the host itself: what is claimed is one thing, its links are another.
func (s *stage) expectLinks(booted, running, profile string) error {
	for _, link := range []struct{ what, is, want string }{
		{"booted", s.host.Booted(), booted},
		{"running", s.host.Running(), running},
		{"profile", s.host.Profile(), profile},
	} {
		if link.is != link.want {
			return fmt.Errorf("the %s system is %s instead of %s", link.what, filepath.Base(link.is), filepath.Base(link.want))
		}
	}
	return nil
}

func chapter(out io.Writer, title string) {
	fmt.Fprintf(out, "\n%s\n%s\n", title, strings.Repeat("-", len(title)))
}
