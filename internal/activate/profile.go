package activate

import (
	"context"
	"fmt"
)

// SetProfile makes a closure the current generation of the system profile, and reads that back. Where it is so already,
// nothing is run. Its error is a *Failure of reason profile-not-set or disk-full.
//
// It comes before any work on the boot loader: the builder of systemd-boot only makes the default from what the profile lists.
func (r *Runner) SetProfile(ctx context.Context, id JobID, target string) error {
	seen, err := r.launcher.Look(ctx, id)
	if err != nil {
		return err
	}
	if seen.State != JobRunning && r.profile() == target {
		return nil
	}
	nixEnv, err := r.program("nix-env")
	if err != nil {
		return err
	}
	result, err := r.run(ctx, id, "set the system profile to "+target, r.opt.Deadlines.Profile, nixEnv, "--profile", r.host.ProfilePath(), "--set", target)
	if err != nil {
		return err
	}
	now := r.profile()
	if now == target {
		return nil
	}
	f := &Failure{
		Reason: ReasonProfileNotSet, ExitCode: result.exitCode(), Tail: result.Tail,
		Detail: fmt.Sprintf("nix-env %s, and the system profile is %s", result.words(), orNothing(now)),
		Hint:   "see whether another tool sets the system profile, and whether its directory can be written",
	}
	if diskFull(result.Tail) {
		f.Reason, f.Hint = ReasonDiskFull, "make room where /nix/var/nix is"
	}
	return f
}

// profile is the toplevel that the system profile names, "" if it cannot be told.
func (r *Runner) profile() string {
	toplevel, err := r.host.Resolve(r.host.ProfilePath())
	if err != nil {
		return ""
	}
	return toplevel
}
