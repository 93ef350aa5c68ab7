package fleetstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// authority makes a CA with a server's and a client's certificate, and gives its directory.
func authority(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	caKey, ca := certify(t, dir, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	certify(t, dir, "server", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, ca, caKey)
	certify(t, dir, "client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, caKey)
	return dir
}

// certify writes a certificate and its key, signed by an authority or by itself.
func certify(t *testing.T, dir, name string, template, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if by == nil {
		by, byKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), byKey)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return key, cert
}

// secured are the options of a server that speaks TLS with the certificates of a directory, and asks for one.
func secured(t *testing.T, dir string, port int) *server.Options {
	t.Helper()
	config, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: filepath.Join(dir, "server.crt"), KeyFile: filepath.Join(dir, "server.key"),
		CaFile: filepath.Join(dir, "ca.crt"), Verify: true})
	must(t, err)
	return &server.Options{Port: port, TLS: true, TLSVerify: true, TLSConfig: config, TLSTimeout: patience.Seconds()}
}

func clusterOf(url, ca, cert string) fleetstore.Cluster {
	c := fleetstore.Cluster{URL: url}
	if ca != "" {
		c.CA = filepath.Join(ca, "ca.crt")
	}
	if cert != "" {
		c.Cert, c.Key = filepath.Join(cert, "client.crt"), filepath.Join(cert, "client.key")
	}
	return c
}

// startNATS starts a server on a port of its own choice.
func startNATS(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	opts.ServerName, opts.Host, opts.JetStream, opts.StoreDir, opts.NoSigs, opts.NoLog = "n", "127.0.0.1", true, t.TempDir(), true, true
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("the server does not come up")
	}
	return ns
}

func TestDialVerifiesBothSides(t *testing.T) {
	dir, strange := authority(t), authority(t)
	ns := startNATS(t, secured(t, dir, 0))
	open := startNATS(t, &server.Options{})
	for name, c := range map[string]struct {
		cluster fleetstore.Cluster
		ok      bool
	}{
		"both certificates":            {clusterOf(ns.ClientURL(), dir, dir), true},
		"another authority":            {clusterOf(ns.ClientURL(), strange, dir), false},
		"this machine's authorities":   {clusterOf(ns.ClientURL(), "", dir), false},
		"no client certificate":        {clusterOf(ns.ClientURL(), dir, ""), false},
		"a strange client certificate": {clusterOf(ns.ClientURL(), dir, strange), false},
		"a certificate without a key":  {fleetstore.Cluster{URL: ns.ClientURL(), Cert: filepath.Join(dir, "client.crt")}, false},
		"an authority of no file":      {fleetstore.Cluster{URL: ns.ClientURL(), CA: filepath.Join(dir, "absent.crt")}, false},
		"a server that has no TLS":     {clusterOf(open.ClientURL(), dir, dir), false},
		"nothing is asked for":         {clusterOf(open.ClientURL(), "", ""), true},
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := fleetstore.Dial(c.cluster, slog.New(slog.DiscardHandler))
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			store, err := fleetstore.Open(context.Background(), nc, 1, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if _, results := appendBatch(t, store, "h", notice("h", 1)); results[0].Result != wire.Applied {
				t.Errorf("results %+v", results)
			}
		})
	}
}

// The files are replaced while there is a connection, by those of another authority. The next connection goes by them.
func TestDialReadsItsFilesAgain(t *testing.T) {
	used, next := authority(t), authority(t)
	ns := startNATS(t, secured(t, used, 0))
	nc, err := fleetstore.Dial(clusterOf(ns.ClientURL(), used, used), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	port := ns.PortsInfo(patience).Nats[0]
	ns.Shutdown()
	ns.WaitForShutdown()
	replacement := secured(t, next, portOf(t, port))
	for _, file := range []string{"ca.crt", "client.crt", "client.key"} {
		if err := os.Rename(filepath.Join(next, file), filepath.Join(used, file)); err != nil {
			t.Fatal(err)
		}
	}
	startNATS(t, replacement)
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		store, err := fleetstore.Open(ctx, nc, 1, slog.New(slog.DiscardHandler))
		if err == nil {
			_, _, err = store.Change(ctx, "h", func(mirror.State) (mirror.Entry, error) {
				return mirror.Entry{At: epochStart, Batch: []wire.Event{notice("h", 1)}}, nil
			})
		}
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not connected again: %v", err)
		}
	}
}

// portOf is the port in the URL of a server.
func portOf(t *testing.T, raw string) int {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
