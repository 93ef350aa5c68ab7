package control_test

import (
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/control"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// peers notes with which certificate each request came.
type peers struct {
	mu  sync.Mutex
	all []string
}

func (p *peers) handler(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, r.TLS.PeerCertificates[0].SerialNumber.String())
	w.WriteHeader(http.StatusNoContent)
}

func (p *peers) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[len(p.all)-1]
}

func (p *peers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all)
}

func serialOf(t *testing.T, certificate []byte) string {
	t.Helper()
	c, err := x509.ParseCertificate(decode(t, certificate))
	if err != nil {
		t.Fatal(err)
	}
	return c.SerialNumber.String()
}

func mustDeliver(t *testing.T, c *control.Client) {
	t.Helper()
	if _, err := c.Deliver(t.Context(), batch(1, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestRotatedCertificateIsUsedByTheNextRequest(t *testing.T) {
	seen := &peers{}
	f := serve(t, seen.handler)
	c := f.client()
	for range 5 {
		certificate, key := f.ca.issue(nil, host)
		f.identify(certificate, key)
		mustDeliver(t, c)
		if got, want := seen.last(), serialOf(t, certificate); got != want {
			t.Errorf("came with %s, want %s", got, want)
		}
		mustDeliver(t, c)
	}
	if n := f.log.count("certificate replaced"); n != 4 {
		t.Errorf("said %d times", n)
	}
	if left := time.Until(c.Expires()); left < 50*time.Minute || left > time.Hour {
		t.Errorf("expires in %s", left)
	}
}

// Connections made with a former certificate are ended, not kept until they time out.
func TestRotationLeavesNoConnections(t *testing.T) {
	f := serve(t, (&peers{}).handler)
	c := f.client()
	mustDeliver(t, c)
	before := runtime.NumGoroutine()
	for range 50 {
		f.identify(f.ca.issue(nil, host))
		mustDeliver(t, c)
	}
	eventually(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= before+4 })
}

// A rotation under a request that is held: it ends with the certificate with which it began, and its connection is not used again.
func TestRotationWhileARequestIsHeld(t *testing.T) {
	seen := &peers{}
	arrived, release := make(chan struct{}), make(chan struct{})
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wire.DispatchPath {
			close(arrived)
			<-release
		}
		seen.handler(w, r)
	})
	c := f.client()
	before := serialOf(t, read(t, f.path("host.pem")))
	polled := make(chan error)
	go func() {
		_, _, err := c.Poll(t.Context(), 0)
		polled <- err
	}()
	<-arrived
	certificate, key := f.ca.issue(nil, host)
	f.identify(certificate, key)
	mustDeliver(t, c)
	if got, want := seen.last(), serialOf(t, certificate); got != want {
		t.Errorf("the next request came with %s, want %s", got, want)
	}
	close(release)
	if err := <-polled; err != nil || seen.last() != before {
		t.Errorf("the held one: %v, with %s, want %s", err, seen.last(), before)
	}
	for range 3 {
		mustDeliver(t, c)
		if got, want := seen.last(), serialOf(t, certificate); got != want {
			t.Errorf("then came %s, want %s", got, want)
		}
	}
}

// Whatever half of a rotation is there, the former pair stays, and that is said once; the whole of it is then used.
func TestHalfARotation(t *testing.T) {
	for name, half := range map[string]func(f *fixture, certificate, key []byte){
		"certificate without its key": func(f *fixture, certificate, _ []byte) { f.write("host.pem", certificate) },
		"key without its certificate": func(f *fixture, _, key []byte) { f.write("host.key", key) },
		"half a certificate":          func(f *fixture, certificate, key []byte) { f.identify(certificate[:len(certificate)/2], key) },
		"half a chain": func(f *fixture, certificate, key []byte) {
			f.identify(append(append([]byte{}, certificate...), f.ca.pem[:len(f.ca.pem)/2]...), key)
		},
		"half a key":    func(f *fixture, certificate, key []byte) { f.identify(certificate, key[:len(key)/2]) },
		"an empty file": func(f *fixture, _, key []byte) { f.identify(nil, key) },
		"no file":       func(f *fixture, _, _ []byte) { f.remove("host.pem") },
		"no key":        func(f *fixture, _, _ []byte) { f.remove("host.key") },
		"a directory":   func(f *fixture, _, _ []byte) { f.remove("host.key"); must(f.t, os.Mkdir(f.path("host.key"), 0o700)) },
		"a pipe": func(f *fixture, _, _ []byte) {
			f.remove("host.key")
			must(f.t, syscall.Mkfifo(f.path("host.key"), 0o600))
		},
		"an endless file":   func(f *fixture, _, _ []byte) { must(f.t, os.Truncate(f.path("host.pem"), 1<<40)) },
		"no CA":             func(f *fixture, _, _ []byte) { f.remove("ca.pem") },
		"half a CA":         func(f *fixture, _, _ []byte) { f.write("ca.pem", f.ca.pem[:len(f.ca.pem)/2]) },
		"no CA in the file": func(f *fixture, _, key []byte) { f.write("ca.pem", key) },
		"another host's":    func(f *fixture, _, _ []byte) { f.identify(f.ca.issue(nil, "web-2.example")) },
	} {
		t.Run(name, func(t *testing.T) {
			seen := &peers{}
			f := serve(t, seen.handler)
			c := f.client()
			before := serialOf(t, read(t, f.path("host.pem")))
			mustDeliver(t, c)
			certificate, key := f.ca.issue(nil, host)
			half(f, certificate, key)
			for range 3 {
				mustDeliver(t, c)
			}
			if got := seen.last(); got != before {
				t.Errorf("came with %s, want the former %s", got, before)
			}
			if n := f.log.count("certificate cannot be used"); n != 1 {
				t.Errorf("said %d times", n)
			}
			hinted(t, c.Check(), f.dir, true)
			if degraded := c.Degraded(); len(degraded) != 1 || !strings.Contains(degraded[0], f.dir) {
				t.Errorf("degraded: %q", degraded)
			}
			_ = os.Remove(f.path("host.key"))
			f.identify(certificate, key)
			f.write("ca.pem", f.ca.pem)
			mustDeliver(t, c)
			if got, want := seen.last(), serialOf(t, certificate); got != want {
				t.Errorf("then came with %s, want %s", got, want)
			}
			if err := c.Check(); err != nil || len(c.Degraded()) != 0 {
				t.Errorf("then: %v, %q", err, c.Degraded())
			}
		})
	}
}

// The former pair comes back after a bad one: nothing is new, and nothing is wrong any more.
func TestRotationTakenBack(t *testing.T) {
	seen := &peers{}
	f := serve(t, seen.handler)
	c := f.client()
	certificate, key := read(t, f.path("host.pem")), read(t, f.path("host.key"))
	mustDeliver(t, c)
	f.write("host.key", []byte("x"))
	mustDeliver(t, c)
	f.identify(certificate, key)
	mustDeliver(t, c)
	if c.Check() != nil || len(c.Degraded()) != 0 || seen.last() != serialOf(t, certificate) {
		t.Errorf("%v, %q", c.Check(), c.Degraded())
	}
}

// Without a certificate for this host nothing is sent, and the reason is given at every attempt.
func TestNothingIsSentUnderAnotherName(t *testing.T) {
	for name, c := range map[string]struct {
		identify func(*fixture)
		says     string
	}{
		"another host":      {func(f *fixture) { f.identify(f.ca.issue(nil, "web-2.example", "x.example")) }, "is for web-2.example, x.example, and this host is web-1.example"},
		"no name":           {func(f *fixture) { f.identify(f.ca.issue(nil)) }, "is for no host, and this host is"},
		"a wildcard":        {func(f *fixture) { f.identify(f.ca.issue(nil, "*.example")) }, "is for *.example, and this host is"},
		"a longer name":     {func(f *fixture) { f.identify(f.ca.issue(nil, host+".org")) }, "and this host is"},
		"no files":          {func(f *fixture) { f.remove("host.pem") }, "no such file or directory"},
		"somebody's key":    {func(f *fixture) { f.write("host.key", read(f.t, other(f))) }, "do not make a pair: private key does not match public key"},
		"no PEM":            {func(f *fixture) { f.write("host.pem", []byte("hello")) }, "it holds nothing in PEM"},
		"a key in it alone": {func(f *fixture) { f.write("host.pem", read(f.t, f.path("host.key"))) }, "do not make a pair"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &peers{}
			f := serve(t, seen.handler)
			c.identify(f)
			client := f.client()
			hinted(t, client.Check(), c.says, true)
			for _, err := range questions(t.Context(), t, client) {
				hinted(t, err, c.says, true)
			}
			if seen.count() != 0 {
				t.Error("something was sent")
			}
			if degraded := client.Degraded(); len(degraded) != 1 || !strings.Contains(degraded[0], c.says) {
				t.Errorf("degraded: %q", degraded)
			}
			if !client.Expires().IsZero() {
				t.Errorf("expires %s", client.Expires())
			}
			if is := client.Reachable(); is.Reachable || !is.Known {
				t.Errorf("reach: %+v", is)
			}
			f.identify(f.ca.issue(nil, "x.example", strings.ToUpper(host)))
			mustDeliver(t, client)
		})
	}
}

func other(f *fixture) string {
	_, key := f.ca.issue(nil, host)
	f.write("other.key", key)
	return f.path("other.key")
}

func TestRotatedCA(t *testing.T) {
	seen := &peers{}
	f := serve(t, seen.handler)
	c := f.client()
	mustDeliver(t, c)
	next := newAuthority(t)
	f.write("ca.pem", append(append([]byte("# old and new\n"), next.pem...), f.ca.pem...))
	mustDeliver(t, c)
	f.write("ca.pem", next.pem)
	_, err := c.Deliver(t.Context(), batch(1, 1))
	hinted(t, err, "its certificate is signed by no CA that is trusted here", true)
}

func TestOptionsThatCannotBeMeant(t *testing.T) {
	f := serve(t, func(http.ResponseWriter, *http.Request) {})
	for name, change := range map[string]func(*control.Options){
		"no URL":         func(o *control.Options) { o.URL = "" },
		"plain HTTP":     func(o *control.Options) { o.URL = "http://cp.example" },
		"no host in it":  func(o *control.Options) { o.URL = "https:///x" },
		"a password":     func(o *control.Options) { o.URL = "https://a:b@cp.example" },
		"a fragment":     func(o *control.Options) { o.URL = "https://cp.example#x" },
		"no host":        func(o *control.Options) { o.Host = "" },
		"every host":     func(o *control.Options) { o.Host = "*.example" },
		"no certificate": func(o *control.Options) { o.Certificate = "" },
		"no key":         func(o *control.Options) { o.Key = "" },
		"no clock":       func(o *control.Options) { o.Now = nil },
		"no log":         func(o *control.Options) { o.Log = nil },
		"bad events":     func(o *control.Options) { o.EventsURL = "ftp://x" },
	} {
		opts := f.opts
		change(&opts)
		if _, err := control.New(opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	opts := f.opts
	opts.Certificate = f.path("absent")
	c, err := control.New(opts)
	if err != nil {
		t.Fatalf("a file that is not there yet: %v", err)
	}
	var known *control.Error
	if err := c.Check(); !errors.As(err, &known) {
		t.Errorf("check: %v", err)
	}
}
