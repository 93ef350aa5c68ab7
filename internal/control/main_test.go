package control_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/control"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const (
	host = "web-1.example"
	// short is the timeout of a request that is meant to run into it, long that of every other.
	short = 150 * time.Millisecond
	long  = 30 * time.Second
)

// authority is a CA.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

var serial = struct {
	sync.Mutex
	n int64
}{}

func nextSerial() *big.Int {
	serial.Lock()
	defer serial.Unlock()
	serial.n++
	return big.NewInt(serial.n)
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: "a CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a certificate and its key, both in PEM.
func (a *authority) issue(change func(*x509.Certificate), names ...string) (certificate, key []byte) {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: nextSerial(), DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	own := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// expired moves the validity of a certificate into the past.
func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
}

// fixture is a control plane and the files with which a client speaks to it.
type fixture struct {
	t      testing.TB
	ca     *authority
	dir    string
	server *httptest.Server
	log    *record
	opts   control.Options
}

// serve starts a control plane that asks for a client certificate of its CA.
func serve(t testing.TB, handler http.HandlerFunc, change ...func(*tls.Config, *authority)) *fixture {
	t.Helper()
	f := &fixture{t: t, ca: newAuthority(t), dir: t.TempDir(), log: &record{}}
	certificate, key := f.ca.issue(nil, "cp.example")
	f.server = httptest.NewUnstartedServer(handler)
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pairOf(t, certificate, key)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: f.ca.pool()}
	for _, c := range change {
		c(f.server.TLS, f.ca)
	}
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	f.write("ca.pem", f.ca.pem)
	f.identify(f.ca.issue(nil, host))
	f.opts = control.Options{
		URL: f.server.URL, Host: host, Version: "1.2.3", Certificate: f.path("host.pem"), Key: f.path("host.key"), CA: f.path("ca.pem"),
		Timeout: long, Now: time.Now, Log: slog.New(slog.NewTextHandler(f.log, nil)),
	}
	return f
}

func pairOf(t testing.TB, certificate, key []byte) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// again runs one test of this binary in another process and gives what it says.
func again(t *testing.T, test string, env ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self, "-test.run=^"+test+"$", "-test.count=1")
	child.Env = append(os.Environ(), env...)
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

var discard = slog.New(slog.DiscardHandler)

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) write(name string, data []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// identify gives the host another certificate.
func (f *fixture) identify(certificate, key []byte) {
	f.t.Helper()
	f.write("host.pem", certificate)
	f.write("host.key", key)
}

func (f *fixture) client() *control.Client {
	f.t.Helper()
	c, err := control.New(f.opts)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

// record keeps a log.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.b.String(), text)
}

// batch is a batch of entries from pos on.
func batch(pos uint64, n int) []outbox.Entry {
	all := make([]outbox.Entry, n)
	for i := range all {
		all[i] = outbox.Entry{Pos: pos + uint64(i), Epoch: "e1", Kind: "Converged", RolloutID: "stable@1", At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Body: json.RawMessage(`{"why":"a<b & c"}`)}
	}
	return all
}

func dispatch(generation uint64) wire.Dispatch {
	return wire.Dispatch{Generation: generation, Host: host, RolloutID: "stable@1", Channel: "stable", Target: "/nix/store/x", SoakMS: 1000}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", wire.JSON)
	_ = json.NewEncoder(w).Encode(v)
}

// hinted holds an error to one line, and to saying what is wanted.
func hinted(t *testing.T, err error, says string, wantsHint bool) {
	t.Helper()
	var known *control.Error
	if !errors.As(err, &known) {
		t.Fatalf("got %v (%T)", err, err)
	}
	if !strings.Contains(known.Error(), says) || strings.ContainsAny(known.Error(), "\n\x00\x1b") || len(known.Error()) > 2048 {
		t.Errorf("says %q\nwant it to say %q", known.Error(), says)
	}
	if wantsHint && known.Hints() == "" {
		t.Errorf("no hint with %q", known.Error())
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (f *fixture) remove(name string) {
	f.t.Helper()
	must(f.t, os.Remove(f.path(name)))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

func decode(t testing.TB, data []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}
