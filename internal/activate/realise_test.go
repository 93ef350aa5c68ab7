package activate_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

// within is a context that ends long after what is tested.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func jobAt(step string, attempt int) activate.JobID {
	return activate.JobID{Rollout: "stable@abc", Step: step, Attempt: attempt}
}

// failureOf is the Failure that err is.
func failureOf(t *testing.T, err error) *activate.Failure {
	t.Helper()
	var f *activate.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a Failure", err)
	}
	return f
}

// quoted is a text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// TestRealiseFailures has nix-store end in the words of its versions.
func TestRealiseFailures(t *testing.T) {
	target := storePathOf("nixos-system-web1-26.11")
	dep := storePathOf("glibc-2.40")
	const cache = "https://cache.example.org"
	tests := []struct {
		name      string
		says      []string
		exit      int
		reason    string
		retryable bool
	}{
		{"2.8: unknown", []string{"don't know how to build these paths:", "  " + target, "error: build of '" + target + "' failed"}, 1, activate.ReasonNotFound, false},
		{"2.26: unknown", []string{"error: path '" + target + "' is required, but there is no substituter that can build it"}, 1, activate.ReasonNotFound, false},
		{"2.8: a missing dependency", []string{"don't know how to build these paths:", "  " + dep, "error: build of '" + target + "' failed"}, 1, activate.ReasonNotFound, false},
		{"not in the database", []string{"error: path '" + target + "' is not valid"}, 1, activate.ReasonNotFound, false},
		{"2.8: not there", []string{"error: getting status of " + target + ": No such file or directory"}, 1, activate.ReasonNotFound, false},

		{"2.8: unsigned", []string{"warning: the substitute for '" + target + "' from '" + cache + "' is not signed by any of the keys in 'trusted-public-keys'",
			"don't know how to build these paths:", "  " + target, "error: build of '" + target + "' failed"}, 1, activate.ReasonUntrusted, false},
		{"2.26: unsigned", []string{"warning: ignoring substitute for '" + target + "' from '" + cache + "', as it's not signed by any of the keys in 'trusted-public-keys'",
			"error: path '" + target + "' is required, but there is no substituter that can build it"}, 1, activate.ReasonUntrusted, false},
		{"2.8: added unsigned", []string{"error: cannot add path '" + target + "' because it lacks a valid signature"}, 1, activate.ReasonUntrusted, false},
		{"2.26: added unsigned", []string{"error: cannot add path '" + target + "' because it lacks a signature by a trusted key"}, 1, activate.ReasonUntrusted, false},

		{"2.8: cache down", []string{"warning: unable to download '" + cache + "/nix-cache-info': Couldn't connect to server (7)",
			"don't know how to build these paths:", "  " + target, "error: build of '" + target + "' failed"}, 1, activate.ReasonUnreachable, true},
		{"2.26: cache down", []string{"warning: error: unable to download '" + cache + "/x.narinfo': Could not connect to server (7) Failed to connect to cache.example.org port 443 after 0 ms: Could not connect to server; retrying in 262 ms",
			"error: path '" + target + "' is required, but there is no substituter that can build it"}, 1, activate.ReasonUnreachable, true},
		{"no name", []string{"warning: unable to download '" + cache + "/nix-cache-info': Couldn't resolve host name (6)",
			"don't know how to build these paths:", "  " + target}, 1, activate.ReasonUnreachable, true},
		{"cache answers with an error", []string{"error: unable to download '" + cache + "/nar/x.nar.xz': HTTP error 503"}, 1, activate.ReasonUnreachable, true},
		{"2.8: cut off on its way", []string{"error: unable to download '" + cache + "/nar/x.nar.xz': HTTP error 200 ('OK') (curl error: Transferred a partial file)",
			"error: build of '" + target + "' failed"}, 1, activate.ReasonUnreachable, true},
		{"a cache that says anything", []string{"error: unable to download '" + cache + "/nar/x.nar.xz': HTTP error 500 ('Internal Server Error')", "",
			"       response body:", "", "       No space left on device, and path is not signed by any of the keys", "error: build of '" + target + "' failed"}, 1, activate.ReasonUnreachable, true},
		{"a cache that said anything, and then was there", []string{"warning: error: unable to download '" + cache + "/x.narinfo': HTTP error 500 ('Internal Server Error')", "",
			"       response body:", "", "       <title>No space left on device</title>; retrying in 274 ms", "error: cannot add path '" + target + "' because it lacks a valid signature"}, 1, activate.ReasonUntrusted, false},
		{"2.8: listed and not there", []string{"error: file 'nar/x.nar.xz' does not exist in binary cache '" + cache + "'", "error: build of '" + target + "' failed"}, 1, activate.ReasonNotFound, false},
		{"2.8: cut off in the cache", []string{"error: failed to read compressed data (Lzma library error:  No progress is possible)", "error: build of '" + target + "' failed"}, 1, activate.ReasonRealiseFailed, false},
		{"not what was signed", []string{"error: hash mismatch importing path '" + target + "';", "         specified: sha256:a", "         got:       sha256:b"}, 1, activate.ReasonRealiseFailed, false},
		{"daemon away", []string{"error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Connection refused"}, 1, activate.ReasonRealiseFailed, true},

		{"no room", []string{"error: writing to file: No space left on device"}, 1, activate.ReasonDiskFull, false},
		{"no room, said by the database", []string{"error: executing SQLite statement 'insert into ValidPaths …': database or disk is full (in '/nix/var/nix/db/db.sqlite')"}, 1, activate.ReasonDiskFull, false},
		{"no room while a cache is down", []string{"warning: unable to download '" + cache + "/nix-cache-info': Couldn't connect to server (7)",
			"error: cannot create directory: No space left on device"}, 1, activate.ReasonDiskFull, false},
		{"interrupted", []string{"error: interrupted by the user"}, 1, activate.ReasonRealiseKilled, false},
		{"something else", []string{"error: the store is on fire"}, 7, activate.ReasonRealiseFailed, false},
		{"malformed", []string{"error: 'zzz-nope' is too short to be a valid store path"}, 1, activate.ReasonBadPath, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRoot(t, nixos())
			r.program("nix-store", "printf '%s\\n' "+quoted(strings.Join(test.says, "\n"))+" >&2; exit "+strconv.Itoa(test.exit))
			f := failureOf(t, r.runner().Realise(within(t), jobAt("realise", 1), target, "target", nil))
			if f.Reason != test.reason || f.Retryable != test.retryable || f.ExitCode != test.exit {
				t.Errorf("got %s, retryable %t, exit code %d; want %s, %t, %d", f.Reason, f.Retryable, f.ExitCode, test.reason, test.retryable, test.exit)
			}
			for _, line := range test.says {
				if !strings.Contains(f.Text(), line) {
					t.Errorf("the report does not hold %q: %s", line, f.Text())
				}
			}
		})
	}
}

func TestRealiseThatIsKilled(t *testing.T) {
	target := storePathOf("nixos-system-web1-26.11")
	for script, deadline := range map[string]time.Duration{"kill -KILL $$": 0, "exec sleep 1000": 300 * time.Millisecond} {
		r := newRoot(t, nixos())
		r.program("nix-store", script)
		runner := r.runner(func(o *activate.Options) { o.Deadlines.Realise = deadline })
		f := failureOf(t, runner.Realise(within(t), jobAt("realise", 1), target, "target", nil))
		if f.Reason != activate.ReasonRealiseKilled || f.ExitCode != -1 || f.Retryable {
			t.Errorf("%s: got %+v", script, f)
		}
	}
}

func TestAnUnreachableCacheIsNamed(t *testing.T) {
	target := storePathOf("nixos-system-web1-26.11")
	r := newRoot(t, nixos())
	r.program("nix-store", "echo \"warning: error: unable to download 'http://10.0.0.9:5000/nix-cache-info': Couldn't connect to server (7)\" >&2; exit 1")
	f := failureOf(t, r.runner().Realise(within(t), jobAt("realise", 1), target, "target", nil))
	if !strings.HasSuffix(f.Detail, " (http://10.0.0.9:5000)") {
		t.Errorf("says %q", f.Detail)
	}
}

// TestProgressIsTold looks at a fetch that runs, from its beginning; an agent that was started anew learns the same.
func TestProgressIsTold(t *testing.T) {
	r := newRoot(t, nixos())
	other := nixos()
	other.label = "26.11"
	target, going := r.add(other), r.at("/go")
	r.program("nix-store", "echo 'these 300 paths will be fetched (9.50 MiB download, 20.00 MiB unpacked):' >&2\n"+
		"for i in $(seq 300); do echo \"  /nix/store/$i\" >&2; done\n"+
		"for i in 1 2 3; do echo \"copying path '/nix/store/$i' from 'http://c'...\" >&2; done\n"+
		"while [ ! -e "+going+" ]; do sleep 0.05; done")
	ctx, leave := context.WithCancel(within(t))
	defer leave()
	for _, first := range []bool{true, false} {
		told := make(chan activate.Progress, 100)
		done := make(chan error, 1)
		go func() {
			done <- r.runner().Realise(ctx, jobAt("realise", 1), target, "target", func(p activate.Progress) { told <- p })
		}()
		for p := range told {
			if p.String() == "3 of 300 paths, 9.50 MiB download" {
				break
			}
		}
		if first { // this agent goes, its attempt stays
			leave()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Fatalf("left with %v", err)
			}
			ctx = within(t)
			continue
		}
		if err := os.WriteFile(going, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// realised is a nix-store that has a closure, and roots it below the root.
func realised(r *root, rooted bool) {
	script := `[ "$1" = --realise ] && [ "$3" = --add-root ] || exit 9`
	if rooted {
		script += "\nmkdir -p \"" + r.dir + "/$(dirname \"$4\")\" && ln -sfn \"$2\" \"" + r.dir + "/$4\""
	}
	r.program("nix-store", script)
}

func TestRealiseRoots(t *testing.T) {
	for _, rooted := range []bool{true, false} {
		r := newRoot(t, nixos())
		other := nixos()
		other.label = "26.11"
		target := r.add(other)
		realised(r, rooted)
		runner := r.runner()
		for attempt := range 2 { // a root of an earlier rollout is replaced
			if err := runner.Realise(within(t), jobAt("realise", attempt+1), target, "target", nil); err != nil {
				t.Fatal(err)
			}
			if got, err := os.Readlink(r.at(activate.RootsDir + "/target")); err != nil || got != target {
				t.Fatalf("the root leads to %q, %v", got, err)
			}
			r.link(activate.RootsDir+"/target", nixos().path())
		}
	}
}

func TestRealisedButNotThere(t *testing.T) {
	r := newRoot(t, nixos())
	realised(r, true)
	f := failureOf(t, r.runner().Realise(within(t), jobAt("realise", 1), storePathOf("nixos-system-web1-gone"), "target", nil))
	if f.Reason != activate.ReasonRealiseFailed || !f.Retryable {
		t.Errorf("got %+v", f)
	}
}

func TestRoots(t *testing.T) {
	r := newRoot(t, nixos())
	runner := r.runner()
	at := r.at(activate.RootsDir + "/prior")
	for _, to := range []string{nixos().path(), storePathOf("other"), storePathOf("other")} {
		r.link(activate.RootsDir+"/.prior.new", "/left/by/a/crash")
		if err := runner.Root("prior", to); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(at); err != nil || got != to {
			t.Fatalf("the root leads to %q, %v", got, err)
		}
	}
	for range 2 {
		if err := runner.Unroot("prior"); err != nil || exists(at) {
			t.Fatalf("unroot: %v", err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", ".hidden"} {
		if runner.Root(name, nixos().path()) == nil || runner.Unroot(name) == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	if runner.Root("x", "/etc/passwd") == nil {
		t.Error("something that is no store path was rooted")
	}
}

func TestSetProfile(t *testing.T) {
	other := nixos()
	other.label = "26.11"
	const set = `[ "$1" = --profile ] && [ "$3" = --set ] || exit 9; echo set >>`
	tests := []struct {
		name   string
		script string // "": the profile is set as nix-env does it
		reason string
		exit   int
	}{
		{"set", "", "", 0},
		{"exit code 0 and nothing changed", "exit 0", activate.ReasonProfileNotSet, 0},
		{"exit code 1", "echo 'error: no' >&2; exit 1", activate.ReasonProfileNotSet, 1},
		{"no room", "echo 'error: creating symlink: No space left on device' >&2; exit 1", activate.ReasonDiskFull, 1},
		{"killed", "kill -KILL $$", activate.ReasonProfileNotSet, -1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRoot(t, nixos())
			target, ran := r.add(other), r.at("/ran")
			script := test.script
			if script == "" {
				profiles := r.at("/nix/var/nix/profiles/")
				script = set + ran + `; ln -sfn "$4" ` + profiles + `/system-2-link; ln -sfn system-2-link ` + profiles + `/system`
			}
			r.program("nix-env", script)
			runner := r.runner()
			err := runner.SetProfile(within(t), jobAt("profile", 1), target)
			if test.reason != "" {
				if f := failureOf(t, err); f.Reason != test.reason || f.ExitCode != test.exit {
					t.Errorf("got %+v", f)
				}
				return
			}
			// Set once; then it is found set, also with another attempt.
			for attempt := range 3 {
				if err != nil {
					t.Fatal(err)
				}
				err = runner.SetProfile(within(t), jobAt("profile", attempt+1), target)
			}
			if got := content(t, ran); got != "set\n" {
				t.Errorf("nix-env was run: %q", got)
			}
		})
	}
}

// A program that claims success is not believed where the profile was set by another hand since.
func TestSetProfileIsReadBack(t *testing.T) {
	r := newRoot(t, nixos())
	other := nixos()
	other.label = "26.11"
	target := r.add(other)
	r.program("nix-env", "ln -sfn "+target+" "+r.at("/nix/var/nix/profiles/system"))
	runner := r.runner()
	if err := runner.SetProfile(within(t), jobAt("profile", 1), target); err != nil {
		t.Fatal(err)
	}
	r.link("/nix/var/nix/profiles/system", nixos().path())
	f := failureOf(t, runner.SetProfile(within(t), jobAt("profile", 1), target))
	if f.Reason != activate.ReasonProfileNotSet || !strings.Contains(f.Detail, nixos().path()) {
		t.Errorf("got %+v", f)
	}
}

func TestMissingProgramIsNoFailureOfTheTarget(t *testing.T) {
	r := newRoot(t, nixos())
	err := r.runner().Realise(within(t), jobAt("realise", 1), storePathOf("x"), "target", nil)
	var f *activate.Failure
	if err == nil || errors.As(err, &f) {
		t.Errorf("got %v", err)
	}
}
