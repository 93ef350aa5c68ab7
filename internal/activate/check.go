package activate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// foreignSwitchUnit is the unit in which nixos-rebuild runs switch-to-configuration. Its name is fixed and serves as a lock.
const foreignSwitchUnit = "nixos-rebuild-switch-to-configuration.service"

// CheckOptions are what a check goes by beside the host.
type CheckOptions struct {
	// Hostname is another name that this host goes by, beside its own; "" if there is none.
	Hostname string
	// Force lets a target pass that was built for another host or machine type.
	Force bool
}

// Check looks whether work towards a target may begin, and touches nothing. Its error is a *Failure: of reason bad-path,
// not-nixos, not-switchable, wrong-machine, wrong-host, boot-default-pinned or disk-full, or, and then it is Retryable, busy
// or boot-not-finished. A target that is not in the store yet is judged by its name alone.
func (r *Runner) Check(ctx context.Context, target string, opt CheckOptions) error {
	if err := r.checkTarget(ctx, target, opt); err != nil {
		return err
	}
	if err := r.checkBootDefault(target); err != nil {
		return err
	}
	if err := r.checkRoom(target); err != nil {
		return err
	}
	return r.Quiet(ctx)
}

func (r *Runner) checkTarget(ctx context.Context, target string, opt CheckOptions) error {
	if err := system.ParseStorePath(target); err != nil {
		return notSwitchable(err)
	}
	components, err := r.host.InspectTarget(target)
	var unfit *system.NotSwitchable
	switch {
	case err == nil:
	case !errors.As(err, &unfit):
		return err
	case unfit.Reason == system.DoesNotExist:
	case opt.Force && isWrongMachine(err):
	case !r.Valid(ctx, target): // it is judged once it is realised
	default:
		return notSwitchable(err)
	}
	if opt.Force {
		return nil
	}
	return r.checkName(ctx, target, components.Version, opt.Hostname)
}

// checkName refuses a closure that was built for another host: NixOS names it "nixos-system-<name>-<label>". The name may be
// set to something else than the host's; so where the running system does not bear the host's name, nothing is concluded.
func (r *Runner) checkName(ctx context.Context, target, label, hostname string) error {
	own := []string{hostname}
	if name := r.hostname(); name != "" {
		own = append(own, name)
	}
	if namedAfter(target, label, own) {
		return nil
	}
	running, err := runningComponents(ctx, r.host)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil || !namedAfter(running.Closure, running.Version, own) {
		return nil //nolint:nilerr // an unreadable running system tells nothing about the target's name
	}
	return &Failure{
		Reason: ReasonWrongHost, ExitCode: -1,
		Detail: fmt.Sprintf("%s was built for another host than %s", target, own[len(own)-1]),
		Hint:   "build the configuration of this host, or force it",
	}
}

// hostname is the host's own name, "" if it has none.
func (r *Runner) hostname() string {
	for _, file := range []string{"/proc/sys/kernel/hostname", "/etc/hostname"} {
		if data, err := r.host.ReadFile(file); err == nil {
			if name := strings.TrimSpace(string(data)); name != "" {
				return name
			}
		}
	}
	return ""
}

const systemNamePrefix = "nixos-system-"

// namedAfter reports whether a closure's name is that of one of the hosts, or not one that tells. Without its label, which
// may hold dashes like the name before it, the beginning must do.
func namedAfter(closure, label string, hosts []string) bool {
	_, name, _ := strings.Cut(path.Base(closure), "-")
	name, ok := strings.CutPrefix(name, systemNamePrefix)
	if !ok {
		return true
	}
	whole := false
	if label != "" {
		name, whole = strings.CutSuffix(name, "-"+label)
	}
	if name == "unnamed" || strings.HasPrefix(name, "unnamed-") { // no host name is configured
		return true
	}
	for _, host := range hosts {
		short, _, _ := strings.Cut(host, ".")
		for _, host := range []string{host, short} {
			if host != "" && (name == host || !whole && strings.HasPrefix(name, host+"-")) {
				return true
			}
		}
	}
	return false
}

// checkBootDefault refuses where a choice outside of the boot loader's configuration would outlast the installation of another.
func (r *Runner) checkBootDefault(target string) error {
	now := r.host.BootDefault()
	if _, isTarget := r.host.IsOrSpecialises(now.Closure, target); !now.Pinned || isTarget {
		return nil
	}
	hint := "take the choice back: bootctl set-default '' and bootctl set-oneshot ''"
	if now.Loader == system.LoaderGRUB {
		hint = "take the choice back: grub-editenv - unset next_entry saved_entry"
	}
	return &Failure{
		Reason: ReasonBootPinned, ExitCode: -1, Hint: hint,
		Detail: fmt.Sprintf("somebody chose what this host boots (%s: %s), and installing the target would not change that", now.Via, now.Entry),
	}
}

// Quiet looks whether anybody else is at work on the host: another switch, or the boot itself, whose jobs a switch would
// wait for while they wait for it. Its error is then a Retryable *Failure of reason busy or boot-not-finished.
func (r *Runner) Quiet(ctx context.Context) error {
	if holder := r.LockHolder(); holder != "" {
		return busy("another switch is under way: " + holder)
	}
	if r.services == nil {
		return nil
	}
	runs, err := r.services.UnitRuns(ctx, foreignSwitchUnit)
	if err != nil {
		return err
	}
	if runs {
		return busy("another switch is under way: " + foreignSwitchUnit)
	}
	state, err := r.services.SystemState(ctx)
	if err != nil {
		return err
	}
	switch state {
	case "initializing", "starting", "stopping":
		return &Failure{
			Reason: ReasonBootNotFinished, ExitCode: -1, Retryable: true,
			Detail: "the host is not up yet, or going down: its state is " + state,
			Hint:   "see systemctl list-jobs for what it waits for",
		}
	default:
		return nil
	}
}

func busy(detail string) error {
	return &Failure{Reason: ReasonBusy, Detail: detail, ExitCode: -1, Retryable: true, Hint: "wait for it to end"}
}

func isWrongMachine(err error) bool {
	var unfit *system.NotSwitchable
	return errors.As(err, &unfit) && unfit.Reason == system.WrongMachine
}

// notSwitchable turns what is wrong with a closure into a failure. Other errors stay what they are.
func notSwitchable(err error) error {
	var unfit *system.NotSwitchable
	if !errors.As(err, &unfit) {
		return err
	}
	reason := map[system.Reason]string{
		system.NotAStorePath:           ReasonBadPath,
		system.DoesNotExist:            ReasonNotFound,
		system.NotNixOS:                ReasonNotNixOS,
		system.WrongMachine:            ReasonWrongMachine,
		system.NoSwitchToConfiguration: ReasonNotSwitchable,
	}[unfit.Reason]
	return &Failure{Reason: reason, Detail: unfit.Error(), Hint: unfit.Hints(), ExitCode: -1}
}
