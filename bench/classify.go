package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

const (
	classifyRounds = 1000
	gatherRounds   = 200
	// warmUp is left out of the samples: the promise is of a warm one.
	warmUp = 20
	// maxClassify is promised of a classification whose facts are in memory.
	maxClassify = 0.1 // ms
	// hashed is hashed as a gauge; hashIdle is what that takes on an idle machine without instructions for it.
	hashed   = 16 << 10
	hashIdle = 150 * time.Microsecond
)

// classification compares two closures that differ in everything that is compared, as often as it takes, and reads them anew
// for the figure beside it.
func classification(ctx context.Context, b *bench) ([]figure, error) {
	dir, err := os.MkdirTemp(b.dir, "classify-")
	if err != nil {
		return nil, err
	}
	host, target, rules, err := unlikeHost(filepath.Join(dir, "host"))
	if err != nil {
		return nil, err
	}
	base, to, err := activate.Gather(ctx, host, target, rules)
	if err != nil {
		return nil, err
	}
	block := make([]byte, hashed)
	all, err := inTurns(warmUp+classifyRounds, func(int) (time.Duration, error) {
		began := time.Now()
		sum := sha256.Sum256(block)
		took := time.Since(began)
		copy(block, sum[:]) // used, so that it is not left out
		return took, nil
	}, func(int) (time.Duration, error) {
		began := time.Now()
		verdict := activate.Classify(base, to, rules)
		took := time.Since(began)
		if len(verdict.Deferred) < differences {
			return 0, fmt.Errorf("only %d differences were found: %v", len(verdict.Deferred), verdict.Deferred)
		}
		return took, nil
	})
	if err != nil {
		return nil, err
	}
	hashes, classified := all[0][warmUp:], all[1][warmUp:]
	f := figure{Name: "classify", What: fmt.Sprintf("median classification, warm, %d differences", differences),
		Value: ms(classified.median()), Unit: "ms", Bound: maxClassify, Samples: len(classified)}
	f = f.against("a SHA-256 of 16 KiB", ms(hashes.median()), "ms").judge(slowness(hashes, hashIdle))
	g, err := gathering(ctx, host, target, rules)
	return []figure{f, g}, err
}

// gathering reads what a classification compares from a host whose files are in the page cache.
func gathering(ctx context.Context, host *system.Host, target string, rules activate.Rules) (figure, error) {
	file := host.Path(target + "/nixos-version")
	all, err := inTurns(warmUp+gatherRounds, func(int) (time.Duration, error) {
		began := time.Now()
		_, err := os.ReadFile(file)
		return time.Since(began), err
	}, func(int) (time.Duration, error) {
		began := time.Now()
		_, _, err := activate.Gather(ctx, host, target, rules)
		return time.Since(began), err
	})
	if err != nil {
		return figure{}, err
	}
	reads, gathered := all[0][warmUp:], all[1][warmUp:]
	f := figure{Name: "gather", What: "median reading of what is compared, warm", Value: ms(gathered.median()), Unit: "ms", Samples: len(gathered)}
	return f.against("reading one small file", ms(reads.median()), "ms").judge(1), nil
}

// differences are those of unlikeHost: the four components, two inhibitors, and four that the operator added.
const differences = 10

// unlikeHost is a host and a closure that differs from it in all that can differ.
func unlikeHost(root string) (*system.Host, string, activate.Rules, error) {
	rules := activate.Rules{Extra: []string{activate.ComponentInitrd, activate.ComponentKernelParams, activate.ComponentFirmware, "etc/fstab"}}
	first, next := simhost.NixOS("lab-7", "25.11.1"), simhost.NixOS("lab-7", "25.11.2")
	first.Inhibitors = map[string]string{"dbus-implementation": simhost.DBusBroker, "storage": "1"}
	first.Extra = map[string]string{"etc/fstab": "/dev/sda1 / ext4\n"}
	next.Kernel, next.Initrd, next.Systemd, next.Firmware = "linux-6.18.2", "initrd-linux-6.18.2", "systemd-258.3", "firmware-2"
	next.KernelParams, next.InitInterface, next.DBus = "loglevel=3", "systemd 3", simhost.DBusDaemon
	next.Inhibitors = map[string]string{"dbus-implementation": simhost.DBusDaemon, "storage": "2"}
	next.Extra = map[string]string{"etc/fstab": "/dev/sda1 / btrfs\n"}
	sim, err := simhost.Create(root, simhost.Options{Hostname: "lab-7", First: first})
	if err != nil {
		return nil, "", rules, err
	}
	target, err := sim.AddClosure(next)
	return system.New(sim.Root()), target, rules, errors.Join(err, rules.Validate())
}
