package control_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/control"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// raw takes the connection of a request, to misbehave on it.
func raw(w http.ResponseWriter, misbehave func(net.Conn)) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	misbehave(conn)
}

// reset ends a connection with a RST.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*tls.Conn).NetConn().(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}
}

func say(text string) func(net.Conn) {
	return func(conn net.Conn) { _, _ = io.WriteString(conn, text) }
}

const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

// faults are answers that say nothing, each with the words for it.
var faults = []struct {
	name, says string
	slow, hint bool // runs into the timeout; comes with a hint
	handler    http.HandlerFunc
}{
	{"no answer", "it does not answer in time", true, true, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}},
	{"a slow-loris header", "it does not answer in time", true, true, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, func(conn net.Conn) { trickle(conn, head) })
	}},
	{"a slow-loris body", "it does not answer in time", true, true, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, func(conn net.Conn) {
			say(head + "\r\n")(conn)
			trickle(conn, `{"acked":3,`)
		})
	}},
	{"closed without an answer", "the connection broke", false, true, func(w http.ResponseWriter, _ *http.Request) { raw(w, func(net.Conn) {}) }},
	{"reset without an answer", "the connection broke", false, true, func(w http.ResponseWriter, _ *http.Request) { raw(w, reset) }},
	{"body cut off", "the connection broke before the answer was whole", false, true, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, say(head+"Content-Length: 13\r\n\r\n{\"acked\":3"))
	}},
	{"chunked body cut off", "the connection broke before the answer was whole", false, true, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, say(head+"Transfer-Encoding: chunked\r\n\r\nb\r\n{\"acked\":3}\r\n"))
	}},
	{"reset within the body", "the connection broke before the answer was whole", false, true, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, func(conn net.Conn) {
			say(head + "Content-Length: 13\r\n\r\n{\"acked\":3")(conn)
			reset(conn)
		})
	}},
	{"bad chunks", "invalid byte in chunk length", false, false, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, say(head+"Transfer-Encoding: chunked\r\n\r\nzzz\r\n{\"acked\":3}\r\n"))
	}},
	{"no HTTP", "malformed HTTP", false, false, func(w http.ResponseWriter, _ *http.Request) { raw(w, say("\x1b[2Jhello\r\n\r\n")) }},
	{"an endless header", "exceeded", false, false, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, func(conn net.Conn) { say(head + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n")(conn) })
	}},
	{"many headers", "exceeded", false, false, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, func(conn net.Conn) { say(head + strings.Repeat("X: x\r\n", 1<<17) + "\r\n")(conn) })
	}},
	{"endless JSON", "its answer is larger than", false, false, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.JSON)
		for _, err := io.WriteString(w, `{"acked":3,"x":"`); err == nil; {
			_, err = w.Write(lots)
		}
	}},
	{"endless nesting", "its answer is larger than", false, false, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.JSON)
		for _, err := io.WriteString(w, `{"acked":3,"x":`); err == nil; {
			_, err = w.Write(brackets)
		}
	}},
	{"a packed bomb", "its answer is not the JSON that it says it is", false, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			panic("something packed was asked for")
		}
		w.Header().Set("Content-Type", wire.JSON)
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "\x1f\x8b\x08\x00\x00\x00\x00\x00")
	}},
}

var (
	lots     = []byte(strings.Repeat("x", 64<<10))
	brackets = []byte(strings.Repeat("[", 64<<10))
)

// trickle writes a byte at a time, each well within any timeout, until the other side has had enough.
func trickle(conn net.Conn, text string) {
	for i := 0; ; i = (i + 1) % len(text) {
		if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
			return
		}
		<-time.After(short / 20)
	}
}

// Whatever goes wrong on the line, for each of the three questions: an error that says so, is no refusal, and acknowledges nothing.
func TestFaultsOnTheLine(t *testing.T) {
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, fault.handler)
			if fault.slow {
				f.opts.Timeout, f.opts.Wait = short, time.Millisecond
			}
			c := f.client()
			for question, err := range questions(t.Context(), t, c) {
				t.Run(question, func(t *testing.T) {
					hinted(t, err, fault.says, fault.hint)
					var rejected *outbox.Rejected
					if errors.As(err, &rejected) {
						t.Errorf("taken for a refusal: %v", err)
					}
				})
			}
		})
	}
}

// questions asks all three.
func questions(ctx context.Context, t testing.TB, c *control.Client) map[string]error {
	receipt, delivered := c.Deliver(ctx, batch(1, 3))
	if delivered != nil && (receipt.Whole || receipt.Acked != 0) {
		t.Errorf("something counts as delivered: %+v", receipt)
	}
	d, found, polled := c.Poll(ctx, 4)
	if found || d != (wire.Dispatch{}) {
		t.Errorf("a dispatch: %+v", d)
	}
	_, beaten := c.Heartbeat(ctx, wire.Heartbeat{Host: host})
	return map[string]error{"events": delivered, "dispatch": polled, "heartbeat": beaten}
}

// All of it, over and over, leaves nothing behind: no goroutines, no connections, no memory.
func TestFaultsLeaveNothingBehind(t *testing.T) {
	var next atomic.Int64
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fault := faults[int(next.Add(1))%len(faults)]
		if fault.slow {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fault.handler(w, r)
	})
	c := f.client()
	round := func(n int) {
		for range n {
			for question, err := range questions(t.Context(), t, c) {
				if err == nil {
					t.Errorf("%s was answered", question)
				}
			}
		}
		c.Close()
		f.server.CloseClientConnections()
	}
	round(5)
	var before, after runtime.MemStats
	goroutines := 0
	eventually(t, "goroutines settle", func() bool {
		was := goroutines
		goroutines = runtime.NumGoroutine()
		return was == goroutines
	})
	runtime.GC()
	runtime.ReadMemStats(&before)
	round(60)
	eventually(t, fmt.Sprintf("no more than %d goroutines", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d bytes more are in use after 180 questions", grown)
	}
}

// An answer of a gigabyte is cut where its bound is; what was sent beyond it is what the line holds.
func TestEndlessAnswerIsCut(t *testing.T) {
	sent := make(chan int, 1)
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", wire.JSON)
		n := 0
		for n < 1<<30 {
			one, err := w.Write(lots)
			if n += one; err != nil {
				break
			}
		}
		sent <- n
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for question, err := range questions(t.Context(), t, f.client()) {
		hinted(t, err, "its answer is larger than", false)
		if n := <-sent; n > 64<<20 {
			t.Errorf("%s: %d bytes were taken", question, n)
		}
	}
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > 64<<20 {
		t.Errorf("%d bytes were allocated", made)
	}
}

// A connection that was ended while it was idle costs no error: the request was not seen, and goes out on another one.
func TestIdleConnectionThatIsGone(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	c := f.client()
	for range 20 {
		if _, err := c.Deliver(t.Context(), batch(1, 1)); err != nil {
			t.Fatal(err)
		}
		f.server.CloseClientConnections()
	}
}

func TestTLS(t *testing.T) {
	type change = func(*tls.Config, *authority)
	for _, c := range []struct {
		name   string
		server change
		files  func(*fixture)
		says   string
	}{
		{"TLS 1.2 only", func(s *tls.Config, _ *authority) { s.MinVersion, s.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, nil, "it does not speak TLS 1.3"},
		{"wrong CA", nil, func(f *fixture) { f.write("ca.pem", newAuthority(f.t).pem) }, "its certificate is signed by no CA that is trusted here"},
		{"no CA named", nil, func(f *fixture) { f.opts.CA = "" }, "its certificate is signed by no CA that is trusted here"},
		{"expired", func(s *tls.Config, ca *authority) {
			s.Certificates = served(ca.issue(expired))
		}, nil, "its certificate expired on "},
		{"not yet valid", func(s *tls.Config, ca *authority) {
			s.Certificates = served(ca.issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }))
		}, nil, "its certificate is valid only from "},
		{"wrong name", func(s *tls.Config, ca *authority) {
			s.Certificates = served(ca.issue(func(c *x509.Certificate) { c.IPAddresses = nil }, "a.example", "b.example"))
		}, nil, "its certificate is for a.example, b.example, not for 127.0.0.1"},
		{"no name", func(s *tls.Config, ca *authority) {
			s.Certificates = served(ca.issue(func(c *x509.Certificate) { c.IPAddresses = nil }))
		}, nil, "its certificate is for no name, not for 127.0.0.1"},
		{"a client's certificate", func(s *tls.Config, ca *authority) {
			s.Certificates = served(ca.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }))
		}, nil, "its certificate is not valid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []change
			if c.server != nil {
				changes = append(changes, c.server)
			}
			f := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request came through") }, changes...)
			if c.files != nil {
				c.files(f)
			}
			for _, err := range questions(t.Context(), t, f.client()) {
				hinted(t, err, c.says, true)
			}
		})
	}
}

func served(certificate, key []byte) []tls.Certificate {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		panic(err)
	}
	return []tls.Certificate{pair}
}

// A server refuses a client's certificate after the handshake is over for the client; whether its alert arrives before the end of the
// connection is a race that the network decides. Both are no refusal of the events, and both speak of the certificate.
func TestCertificateThatTheServerRefuses(t *testing.T) {
	for name, identify := range map[string]func(*fixture){
		"expired":    func(f *fixture) { f.identify(f.ca.issue(expired, host)) },
		"another CA": func(f *fixture) { f.identify(newAuthority(f.t).issue(nil, host)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
			identify(f)
			c := f.client()
			for _, err := range questions(t.Context(), t, c) {
				hinted(t, err, "", true)
				var known *control.Error
				if !errors.As(err, &known) || !strings.Contains(known.Error()+known.Hint, "this host's certificate") {
					t.Errorf("%v, hint %q", err, known.Hint)
				}
			}
			if degraded := c.Degraded(); name == "expired" && (len(degraded) != 1 || !strings.Contains(degraded[0], "expired on")) {
				t.Errorf("degraded: %q", degraded)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	f := serve(t, func(http.ResponseWriter, *http.Request) {})
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("plain HTTP came through") }))
	t.Cleanup(plain.Close)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for _, c := range []struct{ name, url, says string }{
		{"refused", "https://" + closed.Addr().String(), "nobody listens on " + closed.Addr().String()},
		{"plain HTTP", strings.Replace(plain.URL, "http:", "https:", 1), "it does not speak TLS"},
		{"mute", "https://" + mute.Addr().String(), "it does not answer in time"},
		{"no such name", "https://control-plane.invalid:8443", "look up control-plane.invalid: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := f.opts
			opts.URL = c.url
			if c.name == "mute" {
				opts.Timeout, opts.Wait = short, time.Millisecond
			}
			client, err := control.New(opts)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			for _, err := range questions(t.Context(), t, client) {
				hinted(t, err, c.says, true)
			}
			if is := client.Reachable(); !is.Known || is.Reachable || is.Problem == nil {
				t.Errorf("reach: %+v", is)
			}
		})
	}
}

// TestThroughAProxy starts itself with HTTPS_PROXY, which net/http reads once in a process.
func TestThroughAProxy(t *testing.T) {
	const role = "NIXFLEET_TEST_PROXIED"
	if dir := os.Getenv(role); dir != "" {
		c, err := control.New(control.Options{URL: "https://cp.example:8443", Host: host, Certificate: dir + "/host.pem", Key: dir + "/host.key", CA: dir + "/ca.pem",
			Timeout: long, Now: time.Now, Log: discard})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		receipt, err := c.Deliver(t.Context(), batch(1, 3))
		fmt.Printf("acked %d, err %v\n", receipt.Acked, err)
		return
	}
	for _, c := range []struct {
		name, says string
		handler    func(*fixture) http.HandlerFunc
	}{
		{"lets it through", "acked 3, err <nil>", func(f *fixture) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodConnect || r.Host != "cp.example:8443" {
					t.Errorf("the proxy was asked for %s %s", r.Method, r.Host)
				}
				u, err := url.Parse(f.server.URL)
				if err != nil {
					t.Error(err)
					return
				}
				to, err := net.Dial("tcp", u.Host)
				if err != nil {
					t.Error(err)
					return
				}
				defer to.Close()
				raw(w, func(from net.Conn) {
					say("HTTP/1.1 200 Connection established\r\n\r\n")(from)
					go func() { _, _ = io.Copy(to, from) }()
					_, _ = io.Copy(from, to)
				})
			}
		}},
		{"refuses", "the proxy 127.0.0.1:PORT does not let it through: 403 Forbidden", func(*fixture) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
		}},
		{"is away", "connect to the proxy: dial tcp 127.0.0.1:PORT: ", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, wire.Answer{Acked: 3}) })
			handler := http.NotFound
			if c.handler != nil {
				handler = c.handler(f)
			}
			proxy := httptest.NewServer(http.HandlerFunc(handler))
			t.Cleanup(proxy.Close)
			if c.handler == nil {
				proxy.Close()
			}
			out := again(t, "TestThroughAProxy", role+"="+f.dir, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
			_, port, _ := net.SplitHostPort(proxy.Listener.Addr().String())
			if want := strings.Replace(c.says, "PORT", port, 1); !strings.Contains(out, want) {
				t.Errorf("says %s\nwant it to say %q", out, want)
			}
		})
	}
}
