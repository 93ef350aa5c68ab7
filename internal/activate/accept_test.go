package activate_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

const agentUnit = "etc/systemd/system/nixfleet-agent.service"

// withAgent is a host and a target whose agent is started by that command line.
func withAgent(t *testing.T, execStart string) (r *root, target string) {
	t.Helper()
	c := nixos()
	c.label = "26.11"
	if execStart != "" {
		c.files = map[string]string{agentUnit: "[Service]\nType=notify\nExecStart=" + execStart + "\n"}
	}
	r = newRoot(t, nixos())
	return r, r.add(c)
}

func TestTheTargetsAgentIsAsked(t *testing.T) {
	agent := storePathOf("nixfleet-agent") + "/bin/nixfleet-agent"
	tests := []struct {
		name    string
		start   string
		script  string // "": there is no such file
		accepts bool
		exit    int
		says    string
	}{
		{"no agent", "", "", true, 0, ""},
		{"accepts", agent + " run --config /etc/agent.json", "exit 0", true, 0, ""},
		{"accepts aloud", "-" + agent + " run", "echo fine; exit 0", true, 0, ""},
		{"refuses", agent + " run", "echo 'nixfleet-agent: read configuration /etc/agent.json: unknown field' >&2; echo 'hint: x' >&2; exit 1", false, 1, "could not take over: nixfleet-agent: read configuration /etc/agent.json: unknown field"},
		{"refuses without a word", agent + " run", "exit 3", false, 3, "could not take over"},
		{"is killed", agent + " run", "kill -KILL $$", false, -1, "could not take over"},
		{"is not there", agent + " run", "", false, -1, "is not there"},
		{"cannot be asked", agent + " run $OPTIONS", "exit 0", false, -1, "cannot be asked"},
		{"is started by something else", agent, "exit 0", false, -1, "not started with the verb run"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, target := withAgent(t, test.start)
			if test.script != "" {
				r.file(agent, "#!/bin/sh\necho \"$@\" > "+r.at("/asked")+"\n"+test.script+"\n")
			}
			_, err := r.runner().Inspect(within(t), target, false)
			if test.accepts {
				if err != nil {
					t.Error(err)
				}
			} else if f := failureOf(t, err); f.Reason != activate.ReasonAgentRefuses || f.ExitCode != test.exit || f.Retryable || f.Hint == "" || !strings.Contains(f.Detail, test.says) {
				t.Errorf("got %+v", f)
			}
			asked := exists(r.at("/asked"))
			if want := test.script != "" && !strings.Contains(test.says, "cannot be asked") && !strings.Contains(test.says, "verb"); asked != want {
				t.Errorf("asked: %t", asked)
			}
		})
	}
}

// Below a root the agent is asked about that root, with the configuration there.
func TestTheTargetsAgentIsAskedBelowTheRoot(t *testing.T) {
	agent := storePathOf("nixfleet-agent") + "/bin/nixfleet-agent"
	for start, want := range map[string]string{
		agent + " run":                        "check --root ROOT",
		agent + " run --config /nix/c.json":   "check --config ROOT/nix/c.json --root ROOT",
		agent + " --config=/nix/c.json run x": "--config=ROOT/nix/c.json check x --root ROOT",
	} {
		r, target := withAgent(t, start)
		r.file(agent, "#!/bin/sh\necho \"$@\" > "+r.at("/asked")+"\n")
		if _, err := r.runner().Inspect(within(t), target, false); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(content(t, r.at("/asked"))); got != strings.ReplaceAll(want, "ROOT", r.dir) {
			t.Errorf("%s: asked %q, want %q", start, got, want)
		}
	}
}

func TestAnAgentThatCannotBeRun(t *testing.T) {
	agent := storePathOf("nixfleet-agent") + "/bin/nixfleet-agent"
	r, target := withAgent(t, agent+" run")
	r.file(agent, "#!/bin/sh\nexit 0\n")
	if err := os.Chmod(r.at(agent), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := r.runner().Inspect(within(t), target, false)
	if f := failureOf(t, err); f.Reason != activate.ReasonAgentRefuses || !strings.Contains(f.Detail, "is not executable") {
		t.Errorf("not executable: %+v", f)
	}
	r.remove(agent)
	r.file(agent+"/x", "")
	_, err = r.runner().Inspect(within(t), target, false)
	if f := failureOf(t, err); f.Reason != activate.ReasonAgentRefuses || !strings.Contains(f.Detail, "is not executable") {
		t.Errorf("a directory: %+v", f)
	}
	r.remove(agent)
	r.file(agent, "\x7fELF no program of any machine")
	_, err = r.runner().Inspect(within(t), target, false)
	if f := failureOf(t, err); f.Reason != activate.ReasonAgentRefuses || !strings.Contains(f.Detail, "cannot be run") {
		t.Errorf("another machine's: %+v", f)
	}
}

// A unit that NixOS has disabled is a link to /dev/null, and one that is linked is read where it leads.
func TestUnitsThatAreLinks(t *testing.T) {
	agent := storePathOf("nixfleet-agent") + "/bin/nixfleet-agent"
	r, target := withAgent(t, "")
	r.file(agent, "#!/bin/sh\nexit 1\n")
	r.file("/dev/null", "")
	r.link(target+"/"+agentUnit, "/dev/null")
	if _, err := r.runner().Inspect(within(t), target, false); err != nil {
		t.Errorf("a masked unit: %v", err)
	}
	unit := storePathOf("unit-nixfleet-agent.service") + "/nixfleet-agent.service"
	r.file(unit, "[Service]\nExecStart="+agent+" run\n")
	r.link(target+"/"+agentUnit, unit)
	_, err := r.runner().Inspect(within(t), target, false)
	if f := failureOf(t, err); f.Reason != activate.ReasonAgentRefuses {
		t.Errorf("a linked unit: %+v", f)
	}
}

// When the one who asks goes, the answer is waited for no longer.
func TestAnAgentThatDoesNotAnswer(t *testing.T) {
	agent := storePathOf("nixfleet-agent") + "/bin/nixfleet-agent"
	r, target := withAgent(t, agent+" run")
	r.file(agent, "#!/bin/sh\necho $$ > "+r.at("/pid.new")+" && mv "+r.at("/pid.new")+" "+r.at("/pid")+"\nexec sleep 1000\n")
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() { done <- second(r.runner().Inspect(ctx, target, false)) }()
	eventually(t, "the agent is asked", func() bool { return exists(r.at("/pid")) })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	pid := strings.TrimSpace(content(t, r.at("/pid")))
	eventually(t, "the agent is ended", func() bool { return !exists("/proc/" + pid) })
}

func TestVerify(t *testing.T) {
	target, dep := storePathOf("nixos-system-web1-26.11"), storePathOf("glibc-2.40")
	untrusted := func(paths ...string) string {
		var lines []string
		for _, path := range paths {
			lines = append(lines, "path '"+path+"' is untrusted")
		}
		return strings.Join(lines, "\n")
	}
	five := []string{storePathOf("a"), storePathOf("b"), storePathOf("c"), storePathOf("d"), storePathOf("e")}
	tests := []struct {
		name      string
		say       string
		end       string
		reason    string
		retryable bool
		detail    string
	}{
		{"all is signed", "", "exit 0", "", false, ""},
		{"one is not", untrusted(dep), "exit 2", activate.ReasonUntrusted, false, "has 2 signatures by trusted keys: " + dep},
		{"many are not", untrusted(five...), "exit 2", activate.ReasonUntrusted, false, ": " + strings.Join(five[:3], ", ") + " and 2 more"},
		{"untrusted, and more is wrong", untrusted(dep), "exit 6", activate.ReasonUntrusted, false, dep},
		{"untrusted without a word", "", "exit 2", activate.ReasonUntrusted, false, "trusted keys"},
		{"only something else is wrong", "error: cannot read '" + dep + "'", "exit 4", activate.ReasonRealiseFailed, false, "exit code 4"},
		{"a Nix without it", "error: 'store' is not a recognised command", "exit 1", activate.ReasonRealiseFailed, false, "exit code 1"},
		{"no such program", "", "exit 127", activate.ReasonRealiseFailed, false, "exit code 127"},
		{"an exit code that is no sum", "", "exit 10", activate.ReasonRealiseFailed, false, "exit code 10"},
		{"daemon away", "error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Connection refused", "exit 1", activate.ReasonRealiseFailed, true, "daemon"},
		{"killed", "", "kill -KILL $$", activate.ReasonRealiseKilled, false, "SIGKILL"},
		{"interrupted", "error: interrupted by the user", "exit 1", activate.ReasonRealiseKilled, false, "exit code 1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRoot(t, nixos())
			r.program("nix", "printf '%s\\n' \"$@\" > "+r.at("/asked")+"; [ -z "+quoted(test.say)+" ] || printf '%s\\n' "+quoted(test.say)+" >&2; "+test.end)
			runner := r.runner(func(o *activate.Options) {
				o.Verify = activate.Verification{Signatures: 2, TrustedKeys: []string{"a-1:x", "b-1:y"}}
			})
			err := runner.Verify(within(t), jobAt("realise", 1), target)
			want := []string{"--extra-experimental-features", "nix-command", "store", "verify", "--quiet", "--recursive", "--no-contents",
				"--sigs-needed", "2", "--option", "trusted-public-keys", "a-1:x b-1:y", target}
			if got := strings.Split(strings.TrimSpace(content(t, r.at("/asked"))), "\n"); !slices.Equal(got, want) {
				t.Errorf("asked %q", got)
			}
			if test.reason == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			f := failureOf(t, err)
			if f.Reason != test.reason || f.Retryable != test.retryable || f.Hint == "" || !strings.Contains(f.Detail, test.detail) {
				t.Errorf("got %+v", f)
			}
		})
	}
}

func TestNothingIsVerifiedUnlessAsked(t *testing.T) {
	r := newRoot(t, nixos()) // which has no nix
	if err := r.runner().Verify(within(t), jobAt("realise", 1), storePathOf("x")); err != nil {
		t.Error(err)
	}
}

// A verification that runs is the attempt that runs: it is found by the next agent, and stopped with it.
func TestAVerificationIsPartOfItsAttempt(t *testing.T) {
	r := newRoot(t, nixos())
	other := nixos()
	other.label = "26.11"
	target := r.add(other)
	realised(r, true)
	r.program("nix", "echo > "+r.at("/verifies")+"; exec sleep 1000")
	verify := func(o *activate.Options) { o.Verify.Signatures = 1 }
	runner, id := r.runner(verify), jobAt("realise", 1)
	if err := runner.Realise(within(t), id, target, "target", nil); err != nil {
		t.Fatal(err)
	}
	look := func() activate.JobState {
		seen, err := r.runner(verify).Look(within(t), id)
		if err != nil {
			t.Fatal(err)
		}
		return seen.State
	}
	if state := look(); state != activate.JobEnded {
		t.Errorf("before: %s", state)
	}
	ctx, leave := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() { done <- runner.Verify(ctx, id, target) }()
	eventually(t, "it is verified", func() bool { return exists(r.at("/verifies")) })
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("left with %v", err)
	}
	if state := look(); state != activate.JobRunning {
		t.Errorf("while it runs: %s", state)
	}
	if err := r.runner(verify).Stop(within(t), id); err != nil {
		t.Fatal(err)
	}
	if state := look(); state != activate.JobEnded {
		t.Errorf("after: %s", state)
	}
	if f := failureOf(t, r.runner(verify).Verify(within(t), id, target)); f.Reason != activate.ReasonRealiseKilled {
		t.Errorf("got %+v", f)
	}
	if err := runner.Forget(id.Rollout, id.Attempt); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(r.at("/var/lib/nixfleet-agent/attempts")); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}
