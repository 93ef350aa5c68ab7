package activate_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

// nixKey is a key that paths are signed with.
type nixKey struct {
	name    string
	private ed25519.PrivateKey
}

func newNixKey(name string) nixKey {
	seed := sha256.Sum256([]byte(name))
	return nixKey{name: name, private: ed25519.NewKeyFromSeed(seed[:])}
}

// public is the key as Nix's configuration has it.
func (k nixKey) public() string {
	public, ok := k.private.Public().(ed25519.PublicKey)
	if !ok {
		panic("not an Ed25519 key")
	}
	return k.name + ":" + base64.StdEncoding.EncodeToString(public)
}

func (k nixKey) sign(text string) string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.private, []byte(text)))
}

// binaryCache is a directory that Nix reads as a binary cache, and serves as one.
type binaryCache struct {
	t    *testing.T
	dir  string
	nars map[string]string // by store path, the file of its content
}

func newBinaryCache(t *testing.T) *binaryCache {
	t.Helper()
	c := &binaryCache{t: t, dir: t.TempDir(), nars: map[string]string{}}
	c.write("nix-cache-info", []byte("StoreDir: /nix/store\n"))
	return c
}

func (c *binaryCache) url() string { return "file://" + c.dir }

func (c *binaryCache) write(name string, data []byte) {
	c.t.Helper()
	at := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(at, data, 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// add puts a path with one file into the cache.
func (c *binaryCache) add(storePath string, content []byte, references []string, keys ...nixKey) {
	c.t.Helper()
	nar := narOf(content)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(nar)
	if err := firstOf(err, w.Close()); err != nil {
		c.t.Fatal(err)
	}
	sum := sha256.Sum256(nar)
	hash, _, _ := strings.Cut(path.Base(storePath), "-")
	file := "nar/" + hex.EncodeToString(sum[:]) + ".nar.gz"
	var bases []string
	for _, r := range references {
		bases = append(bases, path.Base(r))
	}
	info := fmt.Sprintf("StorePath: %s\nURL: %s\nCompression: gzip\nFileSize: %d\nNarHash: sha256:%s\nNarSize: %d\nReferences: %s\n",
		storePath, file, packed.Len(), nixBase32(sum[:]), len(nar), strings.Join(bases, " "))
	fingerprint := fmt.Sprintf("1;%s;sha256:%s;%d;%s", storePath, nixBase32(sum[:]), len(nar), strings.Join(references, ","))
	for _, key := range keys {
		info += "Sig: " + key.sign(fingerprint) + "\n"
	}
	c.write(file, packed.Bytes())
	c.write(hash+".narinfo", []byte(info))
	c.nars[storePath] = file
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// narOf is a file as Nix archives it: every string with its length before it, filled up to eight bytes.
func narOf(content []byte) []byte {
	var nar bytes.Buffer
	for _, s := range [][]byte{[]byte("nix-archive-1"), []byte("("), []byte("type"), []byte("regular"), []byte("contents"), content, []byte(")")} {
		_ = binary.Write(&nar, binary.LittleEndian, uint64(len(s)))
		nar.Write(s)
		nar.Write(make([]byte, -len(s)&7))
	}
	return nar.Bytes()
}

// nixBase32 writes a hash as Nix does: from its end, five bits to a digit.
func nixBase32(hash []byte) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	var out strings.Builder
	for n := (len(hash)*8-1)/5 + 1; n > 0; n-- {
		bit := (n - 1) * 5
		c := uint(hash[bit/8]) >> (bit % 8)
		if bit/8+1 < len(hash) {
			c |= uint(hash[bit/8+1]) << (8 - bit%8)
		}
		out.WriteByte(digits[c&0x1f])
	}
	return out.String()
}

// TestRealNix has the real Nix of this machine fail and succeed against real caches. Its store is below the root; what newer
// versions say is in TestRealiseFailures.
func TestRealNix(t *testing.T) {
	nixStore, err := exec.LookPath("nix-store")
	if err != nil {
		t.Skip("there is no nix-store on this machine (Debian: nix-bin): the words of the real Nix are not held against ours")
	}
	nix, err := exec.LookPath("nix")
	if err != nil {
		t.Skip("there is no nix beside nix-store on this machine")
	}
	good, foreign := newNixKey("good-1"), newNixKey("foreign-1")
	target, dep := storePathOf("nixos-system-web1-26.11"), storePathOf("glibc-2.40")
	content := make([]byte, 200<<10)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	filled := func(t *testing.T, keys ...nixKey) *binaryCache {
		t.Helper()
		c := newBinaryCache(t)
		c.add(target, []byte(dep), []string{dep}, keys...)
		c.add(dep, content, nil, keys...)
		return c
	}
	// cacheThat serves a whole cache but for what answer does with a request itself.
	cacheThat := func(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, file []byte) bool) string {
		t.Helper()
		c := filled(t, good)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			file, err := os.ReadFile(filepath.Join(c.dir, path.Clean("/"+r.URL.Path)))
			switch {
			case answer != nil && answer(w, r, file):
			case err != nil:
				http.NotFound(w, r)
			default:
				_, _ = w.Write(file)
			}
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	isNar := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/nar/") }
	isInfo := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".narinfo") }
	status := func(code int, of func(*http.Request) bool, body string) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if of(r) {
				http.Error(w, body, code)
			}
			return of(r)
		}
	}
	all := func(*http.Request) bool { return true }
	torn := func(w http.ResponseWriter, r *http.Request, file []byte) bool {
		if !isNar(r) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(file)))
		_, _ = w.Write(file[:len(file)/2])
		panic(http.ErrAbortHandler)
	}
	closed := func(t *testing.T) string {
		t.Helper()
		s := httptest.NewServer(http.NotFoundHandler())
		s.Close()
		return s.URL
	}
	cutOff := func(t *testing.T, bytesLeft int64) string {
		t.Helper()
		c := filled(t, good)
		if err := os.Truncate(filepath.Join(c.dir, c.nars[dep]), bytesLeft); err != nil {
			t.Fatal(err)
		}
		return c.url()
	}

	tests := []struct {
		name      string
		cache     func(t *testing.T) string
		reason    string // "": it is realised
		retryable bool
	}{
		{"signed", func(t *testing.T) string { return filled(t, good).url() }, "", false},
		{"signed twice", func(t *testing.T) string { return filled(t, foreign, good).url() }, "", false},
		{"signed, over http", func(t *testing.T) string { return cacheThat(t, nil) }, "", false},
		{"no cache", func(*testing.T) string { return "" }, activate.ReasonNotFound, false},
		{"a cache that is empty", func(t *testing.T) string { return newBinaryCache(t).url() }, activate.ReasonNotFound, false},
		{"a cache that is not there", func(t *testing.T) string { return "file://" + t.TempDir() + "/none" }, activate.ReasonNotFound, false},
		{"a cache without a dependency", func(t *testing.T) string {
			c := newBinaryCache(t)
			c.add(target, []byte(dep), []string{dep}, good)
			return c.url()
		}, activate.ReasonNotFound, false},
		{"a cache without the content", func(t *testing.T) string {
			c := filled(t, good)
			if err := os.Remove(filepath.Join(c.dir, c.nars[dep])); err != nil {
				t.Fatal(err)
			}
			return c.url()
		}, activate.ReasonNotFound, false},
		{"http 404", func(t *testing.T) string { return cacheThat(t, status(404, isInfo, "no")) }, activate.ReasonNotFound, false},
		{"http 404 for the content", func(t *testing.T) string { return cacheThat(t, status(404, isNar, "no")) }, activate.ReasonNotFound, false},
		{"http 403", func(t *testing.T) string { return cacheThat(t, status(403, isInfo, "no")) }, activate.ReasonNotFound, false},
		{"unsigned", func(t *testing.T) string { return filled(t).url() }, activate.ReasonUntrusted, false},
		{"signed by somebody else", func(t *testing.T) string { return filled(t, foreign).url() }, activate.ReasonUntrusted, false},
		{"refuses connections", closed, activate.ReasonUnreachable, true},
		{"is beside one that has nothing", func(t *testing.T) string { return newBinaryCache(t).url() + " " + closed(t) }, activate.ReasonUnreachable, true},
		{"http 500", func(t *testing.T) string { return cacheThat(t, status(500, all, "oops")) }, activate.ReasonUnreachable, true},
		{"http 500 for the content, whose disk is full", func(t *testing.T) string { return cacheThat(t, status(500, isNar, "No space left on device")) }, activate.ReasonUnreachable, true},
		{"http 503", func(t *testing.T) string { return cacheThat(t, status(503, isInfo, "later")) }, activate.ReasonUnreachable, true},
		{"http 429 for the content", func(t *testing.T) string { return cacheThat(t, status(429, isNar, "later")) }, activate.ReasonUnreachable, true},
		{"breaks off", func(t *testing.T) string { return cacheThat(t, torn) }, activate.ReasonUnreachable, true},
		{"has half of the content", func(t *testing.T) string { return cutOff(t, 60) }, activate.ReasonRealiseFailed, false},
		{"has none of the content", func(t *testing.T) string { return cutOff(t, 0) }, activate.ReasonRealiseFailed, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t, nixos())
			r.realNix(nixStore, nix, test.cache(t), good)
			err := r.runner().Realise(within(t), jobAt("realise", 1), target, "target", nil)
			if test.reason == "" {
				if err != nil {
					t.Fatalf("%v: %s", err, failureOf(t, err).Tail)
				}
				if link, err := os.Readlink(r.at(activate.RootsDir + "/target")); err != nil || link != target {
					t.Errorf("rooted %q, %v", link, err)
				}
				return
			}
			f := failureOf(t, err)
			if f.Reason != test.reason || f.Retryable != test.retryable {
				t.Errorf("got %s, retryable %t, want %s, %t: %s", f.Reason, f.Retryable, test.reason, test.retryable, f.Text())
			}
		})
	}

	t.Run("hangs until the deadline", func(t *testing.T) {
		t.Parallel()
		gone := make(chan struct{})
		url := cacheThat(t, func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
			select {
			case <-gone:
			case <-r.Context().Done():
			}
			return true
		})
		defer close(gone)
		r := newRoot(t, nixos())
		r.realNix(nixStore, nix, url, good)
		runner := r.runner(func(o *activate.Options) { o.Deadlines.Realise = 500 * time.Millisecond })
		if f := failureOf(t, runner.Realise(within(t), jobAt("realise", 1), target, "target", nil)); f.Reason != activate.ReasonRealiseKilled || f.ExitCode != -1 {
			t.Errorf("got %s: %s", f.Reason, f.Text())
		}
	})

	t.Run("verification", func(t *testing.T) {
		t.Parallel()
		r := newRoot(t, nixos())
		r.realNix(nixStore, nix, filled(t, good).url(), good)
		attempt := 0
		verify := func(v activate.Verification) error {
			runner := r.runner(func(o *activate.Options) { o.Verify = v })
			attempt++
			return runner.Verify(within(t), jobAt("realise", attempt), target)
		}
		if err := r.runner().Realise(within(t), jobAt("realise", 1), target, "target", nil); err != nil {
			t.Fatal(err)
		}
		for _, one := range []struct {
			want    activate.Verification
			reason  string
			missing []string
		}{
			{activate.Verification{}, "", nil},
			{activate.Verification{Signatures: 1}, "", nil},
			{activate.Verification{Signatures: 1, TrustedKeys: []string{good.public()}}, "", nil},
			{activate.Verification{Signatures: 1, TrustedKeys: []string{foreign.public(), good.public()}}, "", nil},
			{activate.Verification{Signatures: 2}, activate.ReasonUntrusted, []string{target, dep}},
			{activate.Verification{Signatures: 1, TrustedKeys: []string{foreign.public()}}, activate.ReasonUntrusted, []string{target, dep}},
		} {
			err := verify(one.want)
			if one.reason == "" {
				if err != nil {
					t.Errorf("%+v: %v", one.want, err)
				}
				continue
			}
			f := failureOf(t, err)
			if f.Reason != one.reason {
				t.Errorf("%+v: got %s: %s", one.want, f.Reason, f.Text())
			}
			for _, missing := range one.missing {
				if !strings.Contains(f.Detail, missing) {
					t.Errorf("%+v: %s is not named: %s", one.want, missing, f.Detail)
				}
			}
		}
	})

	// What is in the store already was not asked for a signature by nix-store; what has been put there by its own hand has none.
	t.Run("verification of what was there", func(t *testing.T) {
		t.Parallel()
		r := newRoot(t, nixos())
		r.realNix(nixStore, nix, filled(t).url(), good, "require-sigs = false")
		runner := r.runner(func(o *activate.Options) { o.Verify.Signatures = 1 })
		for attempt := range 2 {
			id := jobAt("realise", attempt+1)
			if err := runner.Realise(within(t), id, target, "target", nil); err != nil {
				t.Fatal(err)
			}
			if f := failureOf(t, runner.Verify(within(t), id, target)); f.Reason != activate.ReasonUntrusted || f.ExitCode != 2 {
				t.Errorf("got %s: %s", f.Reason, f.Text())
			}
		}
	})
}

// realNix puts the Nix of this machine into the running system, with a store and a configuration below the root.
func (r *root) realNix(nixStore, nix, caches string, trusted nixKey, settings ...string) {
	r.t.Helper()
	r.file("/conf/nix.conf", strings.Join(append(settings,
		//nolint:misspell // substituters is the name of a setting of Nix
		"sandbox = false", "build-users-group =", "substituters = "+caches, "trusted-public-keys = "+trusted.public(),
		"connect-timeout = 5", "download-attempts = 2"), "\n")+"\n")
	r.file("/home/x", "")
	for name, program := range map[string]string{"nix-store": nixStore, "nix": nix} {
		r.program(name, "export NIX_CONF_DIR="+r.at("/conf")+" HOME="+r.at("/home")+" NIX_REMOTE="+quoted("local?root="+r.dir)+`
unset NIX_CONFIG http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
for word; do
	shift
	case $word in /nix/var/*) word=`+r.dir+`$word ;; esac # roots are not below the root by themselves
	set -- "$@" "$word"
done
exec `+program+` "$@"`)
	}
}
