package activate

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"
)

// Realise gets a closure into the store, from there if it is there, else from a substituter, and gives it a garbage collector
// root of that name (see Root) in the same command: there is no moment in which it could be collected.
//
// Its error is a *Failure of reason not-found, cache-unreachable, no-trusted-signature, disk-full, bad-path, realise-killed or
// realise-failed. A Retryable one may succeed later, with another attempt.
//
// Told, if it is not nil, is told how far it has come, every watchPause at most and only while it runs.
func (r *Runner) Realise(ctx context.Context, id JobID, target, rootName string, told func(Progress)) error {
	nixStore, err := r.program("nix-store")
	if err != nil {
		return err
	}
	root, err := rootPath(rootName)
	if err != nil {
		return err
	}
	// What no cache had is asked for anew: Nix remembers for an hour that it was not there.
	result, err := r.runWatched(ctx, id, r.fetching(id, told), "realise "+target, r.opt.Deadlines.Realise,
		nixStore, "--realise", target, "--add-root", root, "--option", "narinfo-cache-negative-ttl", "0")
	if err != nil {
		return err
	}
	if !result.Succeeded() {
		return realiseFailure(target, result)
	}
	if _, err := r.host.Resolve(target); err != nil {
		return &Failure{Reason: ReasonRealiseFailed, ExitCode: result.ExitCode, Tail: result.Tail, Retryable: true,
			Detail: fmt.Sprintf("%s is not in the store although nix-store has realised it", target),
			Hint:   "it may have been collected since, or the store may be damaged: nix-store --verify"}
	}
	if link, err := os.Readlink(r.host.Path(root)); err != nil || path.Clean(link) != target {
		return r.Root(rootName, target)
	}
	return nil
}

// Texts of nix-store and of the libraries below it, over its versions.
var (
	untrustedTexts = []string{
		"not signed by any of the keys",      // "the substitute … is not", later "ignoring substitute …, as it's not"
		"lacks a valid signature",            // 2.3, 2.8
		"lacks a signature by a trusted key", // 2.10 and later
		"does not have a valid signature",    // from a daemon
		"no signature by a trusted key",      // from a daemon
	}
	unreachableTexts = []string{
		"unable to download", "disabling binary cache",
		"Couldn't connect to server", "Could not connect to server",
		"Couldn't resolve host", "Could not resolve host",
		"Timeout was reached", "Operation timed out", "Connection timed out",
		"Connection refused", "Connection reset by peer", "No route to host", "Network is unreachable",
		"SSL peer certificate", "SSL connect error", "SSL certificate problem",
		"cannot open connection to remote store", "failed to start SSH connection",
		"AWS error",
		"unexpected end-of-file",
	}
	daemonAwayTexts = []string{"cannot connect to socket at", "cannot connect to daemon at", "cannot open connection to daemon"}
	notFoundTexts   = []string{
		"don't know how to build these paths", // before 2.19
		"no substituter that can build it",    // 2.19 and later
		"does not exist and cannot be created",
		"cannot build missing derivation",
		"does not exist in binary cache", // a cache that lists a path and does not have it any more
		"' is not valid",                 // a path that the database does not have
	}
	damagedTexts = []string{
		"failed to read compressed data", // and what the library of the format says
		"hash mismatch importing path", "size mismatch importing path",
		"input doesn't look like a Nix archive", "bad archive",
	}
	badPathTexts = []string{"too short to be a valid store path", "is not in the Nix store", "is not a valid store path", "contains illegal character"}
	killedTexts  = []string{"error: interrupted by the user"}
)

// realiseFailure tells from how nix-store ended, and from its words, why a closure was not realised. A cache that is down and
// a path that nobody has end alike; the warnings before the end tell them apart.
func realiseFailure(target string, result Result) *Failure {
	f := &Failure{ExitCode: result.exitCode(), Tail: result.Tail}
	say := ownWords(result.Tail)
	switch {
	case diskFull(say):
		f.Reason, f.Detail = ReasonDiskFull, "there is no room for "+target
		f.Hint = "make room: nix-collect-garbage --delete-older-than 30d"
	case result.Kind != KindExited || contains(say, killedTexts):
		f.Reason, f.Detail = ReasonRealiseKilled, "nix-store "+result.words()+" while it realised "+target
		f.Hint = "see the journal for who ended it, such as the kernel for want of memory; then activate it again"
	case contains(say, badPathTexts):
		f.Reason, f.Detail = ReasonBadPath, "Nix does not take "+target+" for a store path"
	case contains(say, untrustedTexts):
		f.Reason, f.Detail = ReasonUntrusted, "no substituter has "+target+", or something it needs, with a signature by a trusted key"
		f.Hint = "add the key of the cache to nix.settings.trusted-public-keys, or sign the closure: nix store sign"
	case contains(say, daemonAwayTexts):
		f.Reason, f.Detail, f.Retryable = ReasonRealiseFailed, "the Nix daemon does not answer", true
		f.Hint = "see systemctl status nix-daemon.socket nix-daemon.service"
	case contains(say, unreachableTexts):
		f.Reason, f.Detail, f.Retryable = ReasonUnreachable, "a substituter that may have "+target+" does not answer"+cacheIn(say), true
		f.Hint = "see whether this host reaches its caches, and may read from them; it is tried again by itself"
	case contains(say, notFoundTexts), contains(say, []string{"getting status of " + target, "getting status of '" + target}):
		f.Reason, f.Detail = ReasonNotFound, "neither the store nor a substituter has "+target+", or something it needs"
		f.Hint = "copy it to this host or to a cache that this host uses: nix copy; a cache that refuses this host (401, 403) looks to Nix as if it had nothing"
	case contains(say, damagedTexts):
		f.Reason, f.Detail = ReasonRealiseFailed, "what a substituter has of "+target+", or of something it needs, is damaged or cut off"
		f.Hint = "have the cache repaired, or copy the closure to it anew: nix copy"
	default:
		f.Reason, f.Detail = ReasonRealiseFailed, "nix-store "+result.words()+" while it realised "+target
	}
	return f
}

// responseBody begins what a cache has said with an error. It is the cache's word and not Nix's, and may hold anything, as that
// the cache's own disk is full.
const responseBody = "response body:"

// ownWords is an output without what caches have said: that is indented, as all but the first lines of an error of Nix are.
// What an output begins with may be the end of such a body.
func ownWords(tail string) string {
	var own strings.Builder
	foreign := strings.HasPrefix(tail, errorIndent)
	for line := range strings.Lines(tail) {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(line, errorIndent) {
			foreign = false
		} else if text == responseBody {
			foreign = true
		}
		if !foreign {
			own.WriteString(line)
		}
	}
	return own.String()
}

// errorIndent begins the further lines of an error of Nix.
const errorIndent = "       "

// cacheIn names the cache that an output last says something could not be downloaded from, in brackets.
func cacheIn(say string) string {
	at := strings.LastIndex(say, "unable to download '")
	if at < 0 {
		return ""
	}
	_, rest, _ := strings.Cut(say[at:], "'")
	file, _, _ := strings.Cut(rest, "'")
	u, err := url.Parse(file)
	if err != nil || u.Host == "" {
		return ""
	}
	return " (" + u.Scheme + "://" + u.Host + ")"
}

func contains(text string, parts []string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
