package activate

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Verification says which signatures a closure must have beyond what Nix asked for when it got it. The zero value asks for none.
type Verification struct {
	// Signatures is how many signatures by different trusted keys every path of a closure must have, also a path that was in
	// the store before, and also one that this host has built itself. Content-addressed paths need none: the signed path that
	// refers to one names its content. 0: nothing is verified.
	Signatures int
	// TrustedKeys are the keys that count, as NAME:BASE64, instead of the host's trusted-public-keys.
	TrustedKeys []string
}

const (
	// verifyStep is what is added to the step of an attempt for its verification.
	verifyStep = "-verify"

	// The exit code of `nix store verify` is a sum (its manual, since 2.4): corrupted, untrusted, failed otherwise.
	verifyUntrusted = 2
	verifyMost      = 1 + verifyUntrusted + 4

	untrustedSuffix = "' is untrusted"
	// maxUntrusted paths are named.
	maxUntrusted = 3
)

func verifyID(id JobID) JobID {
	id.Step += verifyStep
	return id
}

// Verify checks that every path of a closure in the store has the signatures that Options.Verify asks for; if it asks for none,
// nothing is run. It is a job of its own beside that of Realise with the same id, with the same deadline.
//
// With a number of signatures, Nix does not take a path for trusted because this host has built it ("ultimate"): what is asked
// for is a signature. Its error is a *Failure of reason no-trusted-signature, realise-killed or realise-failed.
func (r *Runner) Verify(ctx context.Context, id JobID, target string) error {
	want := r.opt.Verify
	if want.Signatures <= 0 {
		return nil
	}
	nix, err := r.program("nix")
	if err != nil {
		return err
	}
	// Quiet, or the names of all paths that are fine would push the others out of the tail.
	argv := []string{nix, "--extra-experimental-features", "nix-command", "store", "verify", "--quiet", "--recursive", "--no-contents",
		"--sigs-needed", strconv.Itoa(want.Signatures)}
	if len(want.TrustedKeys) > 0 {
		argv = append(argv, "--option", "trusted-public-keys", strings.Join(want.TrustedKeys, " "))
	}
	result, err := r.run(ctx, verifyID(id), "verify the signatures of "+target, r.opt.Deadlines.Realise, append(argv, target)...)
	if err != nil {
		return err
	}
	if result.Succeeded() {
		return nil
	}
	return verifyFailure(target, want, result)
}

func verifyFailure(target string, want Verification, result Result) *Failure {
	if code := result.exitCode(); code > 0 && code <= verifyMost && code&verifyUntrusted != 0 {
		f := &Failure{Reason: ReasonUntrusted, ExitCode: code, Tail: result.Tail}
		f.Detail = fmt.Sprintf("not every path of %s has %s%s", target, signatures(want.Signatures), untrustedIn(result.Tail))
		f.Hint = "sign the closure (nix store sign) or fetch its signatures (nix store copy-sigs); a path that was built on this host needs them as well"
		return f
	}
	f := &Failure{Reason: ReasonRealiseFailed, ExitCode: result.exitCode(), Tail: result.Tail}
	switch {
	case result.Kind != KindExited || contains(result.Tail, killedTexts):
		f.Reason, f.Detail = ReasonRealiseKilled, "nix store verify "+result.words()+" while it verified "+target
		f.Hint = "see the journal for who ended it; then activate it again"
	case contains(result.Tail, daemonAwayTexts):
		f.Retryable = true
		f.Detail, f.Hint = "the Nix daemon does not answer", "see systemctl status nix-daemon.socket nix-daemon.service"
	default:
		f.Detail = fmt.Sprintf("the signatures of %s cannot be verified: nix store verify %s", target, result.words())
		f.Hint = "nix store verify needs Nix 2.4; see its output, and nix-store --verify for a store that is damaged"
	}
	return f
}

func signatures(number int) string {
	if number == 1 {
		return "a signature by a trusted key"
	}
	return fmt.Sprintf("%d signatures by trusted keys", number)
}

// untrustedIn names the first untrusted paths of an output, as the end of a sentence.
func untrustedIn(tail string) string {
	var named []string
	more := 0
	for line := range strings.Lines(tail) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "path '")
		path, untrusted := strings.CutSuffix(path, untrustedSuffix)
		switch {
		case !ok || !untrusted:
		case len(named) < maxUntrusted:
			named = append(named, path)
		default:
			more++
		}
	}
	if len(named) == 0 {
		return ""
	}
	words := ": " + strings.Join(named, ", ")
	if more > 0 {
		words += fmt.Sprintf(" and %d more", more)
	}
	return words
}
