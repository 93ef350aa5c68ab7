package activate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

const (
	runningLink = "/run/current-system"
	bootedLink  = "/run/booted-system"

	// linkAttempts and linkPause cover the moment in which activation replaces the running link: "ln -sfn" unlinks it and
	// makes it anew.
	linkAttempts = 6
	linkPause    = 20 * time.Millisecond
)

// Gather reads from the host what Classify compares. It fails where the target or the running system cannot be read: without
// them nothing can be compared, and where ctx ends. A host without either link is not an error but an empty baseline.
func Gather(ctx context.Context, host *system.Host, target string, rules Rules) (Baseline, Target, error) {
	base := Baseline{Live: host.Live()}
	var to Target
	var err error
	if to.Components, err = host.Components(target); err != nil {
		return base, to, err
	}
	if base.Running, err = runningComponents(ctx, host); err != nil {
		return base, to, err
	}
	if base.Booted, err = linkedComponents(host, bootedLink, base.Running); err != nil {
		base.Booted = system.Components{}
		base.Notes = append(base.Notes, fmt.Sprintf("the booted system cannot be read: %v", err))
	}
	paths := rules.paths()
	if len(paths) == 0 {
		return base, to, nil
	}
	base.Extra, to.Extra = make(map[string]string, len(paths)), make(map[string]string, len(paths))
	for _, rel := range paths {
		if base.Running.Closure != "" {
			if base.Extra[rel], err = host.ClosurePath(base.Running.Closure, rel); err != nil {
				return base, to, err
			}
		}
		if to.Extra[rel], err = host.ClosurePath(target, rel); err != nil {
			return base, to, err
		}
	}
	return base, to, nil
}

// runningComponents reads the running system, again if the link is missing on a host that has booted a NixOS system.
func runningComponents(ctx context.Context, host *system.Host) (system.Components, error) {
	for attempt := 1; ; attempt++ {
		running, err := linkedComponents(host, runningLink, system.Components{})
		if err != nil || running.Closure != "" || attempt == linkAttempts {
			return running, err
		}
		if _, err := host.Resolve(bootedLink); err != nil {
			return running, nil //nolint:nilerr // a host that has booted nothing of NixOS runs nothing of it
		}
		if err := rest(ctx, linkPause); err != nil {
			return running, fmt.Errorf("read %s: %w", runningLink, err)
		}
	}
}

// linkedComponents reads the system behind a link of the host, none if nothing is there. One that was just read is not read again.
func linkedComponents(host *system.Host, link string, read system.Components) (system.Components, error) {
	closure, err := host.Resolve(link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return system.Components{}, nil
	case err != nil:
		return system.Components{}, fmt.Errorf("read %s: %w", link, err)
	}
	if closure == read.Closure {
		return read, nil
	}
	return host.Components(closure)
}
