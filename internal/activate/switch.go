package activate

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// Inspect looks at a target that is in the store: it is a NixOS system that this host can be switched to, its boot images have
// room, and its own agent, if it has one, accepts what it would find. With force another machine type passes. The verdict says
// whether it goes live. Its error is a
// *Failure of reason not-nixos, not-switchable, wrong-machine, disk-full or agent-refuses, where the target is at fault.
func (r *Runner) Inspect(ctx context.Context, target string, force bool) (Verdict, error) {
	if _, err := r.host.InspectTarget(target); err != nil && (!force || !isWrongMachine(err)) {
		return Verdict{}, notSwitchable(err)
	}
	if err := r.checkBootRoom(target); err != nil {
		return Verdict{}, err
	}
	if err := r.askAgent(ctx, target); err != nil {
		return Verdict{}, err
	}
	return r.Compare(ctx, target)
}

// bootStep is what is added to the step of a switch to a specialisation, for the job that makes its parent the boot default.
const bootStep = "-boot"

// Switch runs switch-to-configuration of a closure, or of the specialisation named, and returns how it ended. What came of it
// is read with Observe.
//
// A specialisation is switched to in two jobs: the parent's script makes the parent the boot default, then the child's makes
// the child run. The builder of systemd-boot's older entries makes no default of a child. For ActionBoot it is the parent alone.
func (r *Runner) Switch(ctx context.Context, id JobID, closure, specialisation string, action Action) (Result, error) {
	if specialisation == "" || action == ActionBoot {
		return r.switchTo(ctx, id, closure, action)
	}
	child, err := r.specialisation(closure, specialisation)
	if err != nil {
		return Result{}, err
	}
	if action == ActionSwitch {
		before := id
		before.Step += bootStep
		if result, err := r.switchTo(ctx, before, closure, ActionBoot); err != nil || !result.Succeeded() {
			return result, err
		}
	}
	return r.switchTo(ctx, id, child, ActionTest)
}

func (r *Runner) specialisation(closure, name string) (string, error) {
	children, err := r.host.Specialisations(closure)
	if err != nil {
		return "", err
	}
	for _, child := range children {
		if child.Name == name {
			return child.Path, nil
		}
	}
	return "", &Failure{Reason: ReasonNotSwitchable, ExitCode: -1, Detail: fmt.Sprintf("%s has no specialisation %q", closure, name)}
}

func (r *Runner) switchTo(ctx context.Context, id JobID, closure string, action Action) (Result, error) {
	script := path.Join(closure, "bin/switch-to-configuration")
	if r.host.Root() != "/" {
		resolved, err := r.host.Resolve(script)
		if err != nil {
			return Result{}, fmt.Errorf("find %s: %w", script, err)
		}
		script = resolved
	}
	return r.run(ctx, id, string(action)+" "+closure, r.switchDeadline(action), r.host.Path(script), string(action))
}

func (r *Runner) switchDeadline(action Action) time.Duration {
	if action == ActionBoot {
		return r.opt.Deadlines.Boot
	}
	return r.opt.Deadlines.Switch
}

// Expectation is what a run of switch-to-configuration was to bring.
type Expectation struct {
	Action         Action
	Target         string
	Specialisation string // "" if none was asked for
	PriorRunning   string
	FailedBefore   []string // units that had failed before
}

// Observe reads the host after a run of switch-to-configuration.
func (r *Runner) Observe(ctx context.Context, want Expectation, result Result) (Observation, error) {
	facts, err := r.host.Facts(ctx)
	if err != nil {
		return Observation{}, err
	}
	seen := Observation{
		Action: want.Action, Result: result, Target: want.Target, Specialisation: want.Specialisation, Prior: want.PriorRunning,
		Running: facts.Running, Profile: facts.Profile, BootDefault: facts.BootDefault.Closure, BootDefaultNote: facts.BootDefault.Reason,
		ListsLeft: r.listsLeft(), LockHolder: r.LockHolder(), FailedBefore: want.FailedBefore,
	}
	seen.RunningSpecialisation, seen.RunningIsTarget = r.host.IsOrSpecialises(facts.Running, want.Target)
	if want.Specialisation != "" {
		seen.RunningIsTarget = seen.RunningIsTarget && seen.RunningSpecialisation == want.Specialisation
	}
	child, isTarget := r.host.IsOrSpecialises(facts.BootDefault.Closure, want.Target)
	seen.BootDefaultIsTarget = isTarget && (child == "" || want.Specialisation == "" || child == want.Specialisation)
	seen.FailedAfter = r.failedAfter(ctx, result)
	if !seen.RunningIsTarget {
		r.observeRefusal(&seen)
	}
	return seen, nil
}

// failedAfter lists the failed units, where nobody can be asked those that the output names.
func (r *Runner) failedAfter(ctx context.Context, result Result) []string {
	if r.services != nil {
		units, err := r.services.FailedUnits(ctx)
		if err == nil {
			return units
		}
		r.opt.Log.Warn("list failed units", slog.Any("err", err))
	}
	return unitsNamedFailed(result.Tail)
}

// observeRefusal compares what NixOS itself compares with the running system before it switches.
func (r *Runner) observeRefusal(seen *Observation) {
	target, errTarget := r.host.Components(seen.Target)
	running, errRunning := system.Components{}, error(nil)
	if seen.Running != "" {
		running, errRunning = r.host.Components(seen.Running)
	}
	if errTarget != nil || errRunning != nil {
		r.opt.Log.Warn("compare inhibitors", slog.Any("target_err", errTarget), slog.Any("running_err", errRunning))
		return
	}
	seen.Inhibitors = inhibitorChanges(running, target)
	if running.InitInterface != target.InitInterface {
		seen.Init = &Change{Component: ComponentInit, From: running.InitInterface, To: target.InitInterface, Treatment: Defer}
	}
}
