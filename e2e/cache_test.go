//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

const (
	cacheURL  = "http://127.0.0.1:8080"
	cacheUnit = "binarycache.service"
)

// installCache puts the server of the cache on the host. It does not run yet.
func (h *host) installCache() {
	h.t.Helper()
	program := filepath.Join(h.t.TempDir(), "binarycache")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./testdata/binarycache")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		h.t.Fatalf("build the cache: %v\n%s", err, output)
	}
	h.Install(program, "/usr/local/bin/binarycache", 0o755)
	h.Write("/etc/systemd/system/"+cacheUnit, "[Service]\nExecStart=/usr/local/bin/binarycache "+cacheDir+" 127.0.0.1:8080\n", 0o644)
	h.Run("systemctl", "daemon-reload")
}

// startCache returns when the cache answers: the program of a simple service runs before it listens.
func (h *host) startCache() {
	h.t.Helper()
	h.Run("systemctl", "start", cacheUnit)
	h.Eventually("the cache answers", func() (string, bool) {
		result := h.Exec("nix", "store", "ping", "--store", cacheURL)
		return result.String(), result.Code == 0
	})
}

// pushToCache builds a closure with a file of that many MiB in it and puts it into the binary cache, signed by each of the keys.
// It is not in the host's store then.
func (h *host) pushToCache(label string, mebibytes int, keys ...string) string {
	h.t.Helper()
	c := nixos(label)
	source := h.Add(c)
	target := strings.TrimSpace(h.Run("nix-build", "--no-out-link", "--expr", fmt.Sprintf(`derivation {
		name = "%s"; system = builtins.currentSystem; builder = "/bin/sh";
		args = [ "-c" "/bin/cp -RP %s $out && /bin/chmod u+w $out && /usr/bin/head -c %dM /dev/zero >$out/ballast" ];
	}`, c.StoreName(), source, mebibytes)))
	for _, key := range keys {
		h.Run("nix", "store", "sign", "--key-file", key, target)
	}
	h.Run("nix", "copy", "--to", "file://"+cacheDir+"?compression=none", target)
	h.Run("nix-store", "--delete", target)
	return target
}

// bootFiles are the files of the boot partition with their contents.
func (h *host) bootFiles() string {
	h.t.Helper()
	return h.Shell("cd /boot && find . -type f -exec sha256sum {} + | sort -k 2")
}

// failsUntouched activates a closure that cannot be realised. The host must be as before, and the closure must not be blamed.
func (h *host) failsUntouched(target, reason string) status {
	h.t.Helper()
	return h.untouched(func() string { return h.detach(target) }, reason)
}

func (h *host) untouched(activate func() string, reason string) status {
	h.t.Helper()
	before, boot, ran := links{h.Running(), h.Booted(), h.Profile(), h.BootDefault()}, h.bootFiles(), h.Read(simhost.SwitchLog)
	generations := h.Run("nix-env", "--profile", systemProfile, "--list-generations")
	rollout := activate()
	var st status
	h.Eventually("the rollout has failed", func() (string, bool) {
		st = h.status()
		return st.Summary + "\n" + strings.Join(st.Why, "\n"), st.Rollout.ID == rollout && st.state() == "Failed"
	})
	if st.Verdict != "unsuccessful" || st.Rollout.FailureReason != reason || st.Why[0] != reason {
		h.t.Errorf("want %s, got %s: %q", reason, st.Rollout.FailureReason, st.Why)
	}
	h.wantEvents(rollout, "DispatchAck", "ActivationFailed")
	h.wantLinks(before)
	if now := h.bootFiles(); now != boot {
		h.t.Errorf("%s: the boot partition was touched:\n%s\nbefore:\n%s", reason, now, boot)
	}
	if now := h.Read(simhost.SwitchLog); now != ran {
		h.t.Errorf("%s: something was switched:\n%s", reason, now)
	}
	if now := h.Run("nix-env", "--profile", systemProfile, "--list-generations"); now != generations {
		h.t.Errorf("%s: the profile was touched:\n%s\nbefore:\n%s", reason, now, generations)
	}
	if rows := h.wantCode(0, "quarantine", "list"); rows != "" {
		h.t.Errorf("%s: quarantine:\n%s", reason, rows)
	}
	return st
}

// converges activates a closure that must go live.
func (h *host) converges(target string) {
	h.t.Helper()
	rollout := h.detach(target)
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{target, h.Booted(), target, target})
}

// awaitRollout waits until that rollout owns the host and is in that state.
func (h *host) awaitRollout(rollout, state string) status {
	h.t.Helper()
	var st status
	h.Eventually(rollout+" is "+state, func() (string, bool) {
		st = h.status()
		return fmt.Sprintf("%s %q", st.Summary, st.Why), st.Rollout != nil && st.Rollout.ID == rollout && st.state() == state
	})
	return st
}

// newCachedHost is a host whose only cache is the server, which trusts one of the keys that there are. The server does not run
// yet.
func newCachedHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t, hostOptions{})
	h.installCache()
	for _, key := range []string{trusted, stranger} {
		h.Run("nix-store", "--generate-binary-cache-key", strings.TrimPrefix(key, "/root/")+"-1", key, key+".pub")
	}
	h.useCache(cacheURL, strings.TrimSpace(h.Read(trusted+".pub")))
	h.Write(nixConfig, h.Read(nixConfig)+"download-attempts = 2\n", 0o644)
	return h
}

// Files with the secret keys that closures are signed with.
const trusted, stranger = "/root/trusted", "/root/stranger"

func TestUnreachableCache(t *testing.T) {
	t.Parallel()
	h := newCachedHost(t)
	missed, cut := h.pushToCache("25.11.2", 1, stranger, trusted), h.pushToCache("25.11.3", 1, trusted)
	boot := h.bootFiles()

	// Nobody listens. It is tried again, ever less often, and goes on by itself when the cache is there.
	rollout := h.detach(missed)
	for _, pause := range []string{"2s", "4s"} {
		h.Eventually("the cache is missed for "+pause, func() (string, bool) {
			st := h.status()
			why := strings.Join(st.Why, "\n")
			if st.state() != "Activating" || st.Verdict != "in-progress" {
				t.Fatalf("status: %+v", st)
			}
			return st.Summary + "\n" + why, strings.Contains(why, "does not answer") && strings.Contains(why, "trying again in "+pause)
		})
	}
	h.wantEvents(rollout, "DispatchAck")
	h.wantLinks(links{h.first, h.first, h.first, h.first})
	if now := h.bootFiles(); now != boot {
		t.Errorf("the boot partition was touched:\n%s\nbefore:\n%s", now, boot)
	}
	h.startCache()
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{missed, h.first, missed, missed})

	// The cache closes the connection half way through every closure, and mends.
	h.Write(cacheDir+"/fault", "cut", 0o644)
	rollout = h.detach(cut)
	h.Eventually("the cache is found to be bad", func() (string, bool) {
		st := h.status()
		why := strings.Join(st.Why, "\n")
		return st.Summary + "\n" + why, st.state() == "Activating" && strings.Contains(why, "trying again in")
	})
	h.wantEvents(rollout, "DispatchAck")
	h.wantLinks(links{missed, h.first, missed, missed})
	h.Remove(cacheDir + "/fault")
	h.awaitRollout(rollout, "Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{cut, h.first, cut, cut})
	h.wantSwitches("switch "+missed+" 0", "switch "+cut+" 0")
	h.wantQuarantine("at the end", map[string]int{})
	h.wantNoNotices()
}

func TestFailureToRealise(t *testing.T) {
	t.Parallel()
	h := newCachedHost(t)
	unsigned, strange := h.pushToCache("25.11.2", 1), h.pushToCache("25.11.3", 1, stranger)
	late, killed := h.pushToCache("25.11.4", 1, trusted), h.pushToCache("25.11.5", 1, trusted)
	large := h.pushToCache("25.11.6", 96, trusted)
	h.startCache()
	h.failsUntouched(unsigned, "no-trusted-signature")
	h.failsUntouched(strange, "no-trusted-signature")

	// In no cache; and the cache has it a moment later.
	narinfo := cacheDir + "/" + hashOf(late) + ".narinfo"
	h.Run("mv", narinfo, narinfo+".away")
	h.failsUntouched(late, "not-found")
	h.Run("mv", narinfo+".away", narinfo)
	h.converges(late)

	// Somebody kills nix-store while it fetches. The half of the closure that it leaves in the store does not stand for it.
	h.Write(cacheDir+"/fault", "stall", 0o644)
	h.untouched(func() string {
		rollout := h.detach(killed)
		h.Eventually("nix-store fetches", func() (string, bool) {
			said := h.Journal("--unit=" + cacheUnit)
			return said, strings.Contains(said, "GET "+h.narOf(killed))
		})
		h.Run("kill", "-KILL", strings.TrimSpace(h.Run("pgrep", "--exact", "nix-store")))
		return rollout
	}, "realise-killed")
	if !h.Exists(killed) {
		t.Fatal("nothing of the closure is left in the store")
	}
	h.Remove(cacheDir + "/fault")
	h.converges(killed)

	// The file system of the store fills up while it fetches. What was fetched is left there, so the next one finds it full.
	h.Shell("cp -a /nix/store /root/store && mount -t tmpfs -o size=96m tmpfs /nix/store && cp -a /root/store/. /nix/store/")
	h.failsUntouched(large, "disk-full")
	st := h.failsUntouched(large, "disk-full")
	if why := strings.Join(st.Why, "\n"); !strings.Contains(why, "the file system of /nix/store has") || !strings.Contains(why, "hint: ") {
		t.Errorf("status: %s", why)
	}
	h.Shell("umount /nix/store")
	h.converges(large)
	if !slices.Contains(strings.Fields(h.Run("nix-store", "--query", "--requisites", systemProfile)), large) {
		t.Error("the profile does not keep its closure")
	}
	h.wantNoNotices()
}

// narOf is where the cache has the contents of a store path.
func (h *host) narOf(storePath string) string {
	h.t.Helper()
	for line := range strings.Lines(h.Read(cacheDir + "/" + hashOf(storePath) + ".narinfo")) {
		if nar, ok := strings.CutPrefix(line, "URL: "); ok {
			return "/" + strings.TrimSpace(nar)
		}
	}
	h.t.Fatalf("the cache has no %s", storePath)
	return ""
}

func hashOf(storePath string) string {
	hash, _, _ := strings.Cut(strings.TrimPrefix(storePath, "/nix/store/"), "-")
	return hash
}
