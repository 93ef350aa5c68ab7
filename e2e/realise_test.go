//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const (
	nixConfig = "/etc/nix/nix.conf"
	cacheDir  = "/var/cache/binary-cache"
)

// useCache makes a binary cache the only one of the host.
func (h *host) useCache(url, trustedKey string) {
	h.t.Helper()
	//nolint:misspell // substituters is the name of a setting of Nix
	h.Write(nixConfig, fmt.Sprintf("substituters = %s\ntrusted-public-keys = %s\n"+
		"experimental-features = nix-command\nbuild-users-group =\nsandbox = false\n", url, trustedKey), 0o644)
}

// addToCache puts a closure into the host's binary cache and takes it from the store. It is the output of a build: what is
// addressed by its content, as add-path makes it, needs no signature.
func (h *host) addToCache(label string) string {
	h.t.Helper()
	c := nixos(label)
	source := h.Add(c)
	target := strings.TrimSpace(h.Run("nix-build", "--no-out-link", "--expr", fmt.Sprintf(`derivation {
		name = "%s"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "/bin/cp -RP %s $out" ];
	}`, c.StoreName(), source)))
	h.Run("nix", "copy", "--to", "file://"+cacheDir, target)
	h.Run("nix-store", "--delete", target)
	return target
}

func TestSubstitution(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	all := links{h.first, h.first, h.first, h.first}
	target := h.addToCache("25.11.2")
	h.Run("nix-store", "--generate-binary-cache-key", "cache-1", "/root/secret", "/root/public")

	// A cache that nobody trusts, and one whose key is trusted.
	h.useCache("file://"+cacheDir, "")
	h.wantCode(4, "activate", target)
	st := h.status()
	if st.state() != "Failed" || st.Rollout.FailureReason != "no-trusted-signature" {
		t.Errorf("status: %+v", st)
	}
	h.wantEvents(st.Rollout.ID, "DispatchAck", "ActivationFailed")
	h.wantLinks(all)
	h.Run("nix", "store", "sign", "--store", "file://"+cacheDir, "--key-file", "/root/secret", target)
	h.useCache("file://"+cacheDir, strings.TrimSpace(h.Read("/root/public")))
	h.wantCode(0, "activate", target)
	h.wantEvents(h.awaitState("Converged").Rollout.ID, convergedLive...)
	h.wantLinks(links{target, h.first, target, target})

	// A cache that does not answer is asked again until it does.
	next := h.addToCache("25.11.3")
	h.Run("nix", "store", "sign", "--store", "file://"+cacheDir, "--key-file", "/root/secret", next)
	public := strings.TrimSpace(h.Read("/root/public"))
	h.useCache("http://127.0.0.1:9", public)
	rollout := h.detach(next)
	h.Eventually("the cache is missed", func() (string, bool) {
		st := h.status()
		why := strings.Join(st.Why, "\n")
		return st.Summary + "\n" + why, st.state() == "Activating" && strings.Contains(why, "does not answer") && strings.Contains(why, "trying again in")
	})
	h.wantEvents(rollout, "DispatchAck")
	h.wantLinks(links{target, h.first, target, target})
	h.useCache("file://"+cacheDir, public)
	h.awaitState("Converged")
	h.wantEvents(rollout, convergedLive...)
	h.wantLinks(links{next, h.first, next, next})
	h.wantSwitches("switch "+target+" 0", "switch "+next+" 0")
}
