package pki_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/pki"
)

func authority(t *testing.T, dir string, now time.Time) *pki.Authority {
	t.Helper()
	if _, err := pki.Create(dir, "test", now); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *pki.Authority, role pki.Role, name string, now time.Time) (pki.Issued, *x509.Certificate) {
	t.Helper()
	issued, err := ca.Issue(role, name, nil, now, false)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ReadCert(issued.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return issued, cert
}

func TestCertificatesAreForOnePurpose(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	ca := authority(t, dir, now)
	root, err := pki.ReadCert(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	for role, good := range map[pki.Role]x509.ExtKeyUsage{pki.Host: client, pki.Operator: client, pki.Server: server} {
		issued, cert := issue(t, ca, role, "web-1.example", now)
		for _, usage := range []x509.ExtKeyUsage{client, server} {
			_, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}})
			if (err == nil) != (usage == good) {
				t.Errorf("%s for usage %v: %v", role, usage, err)
			}
		}
		for _, path := range []string{issued.Cert, issued.Key} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", path, info, err)
			}
		}
		if role == pki.Server {
			continue
		}
		got, name, err := pki.Speaker(cert)
		if got != role || name != "web-1.example" || err != nil {
			t.Errorf("speaker of %s: %s %q, %v", role, got, name, err)
		}
	}
}

func TestSpeakerIsTheHostThatTheAgentTakesItselfFor(t *testing.T) {
	for _, c := range []struct {
		common string
		names  []string
		want   string
	}{
		{"web-1", []string{"web-1"}, "web-1"}, {"web-1", []string{"web-1.example", "web-1"}, "web-1"}, {"", []string{"web-1"}, "web-1"},
		{"web-2", []string{"web-1"}, "web-1"}, // the agent on web-1 would use it
		{"web-3", []string{"web-1", "web-2"}, ""}, {"web-1", nil, ""}, {"", nil, ""},
	} {
		role, name, err := pki.Speaker(&x509.Certificate{Subject: pkix.Name{CommonName: c.common}, DNSNames: c.names})
		if name != c.want || (err == nil) != (c.want != "") || (err == nil && role != pki.Host) {
			t.Errorf("%q with %q speaks for %s %q, %v", c.common, c.names, role, name, err)
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	ca := authority(t, dir, now)
	if _, err := pki.Create(dir, "again", now); !errors.Is(err, pki.ErrExists) {
		t.Errorf("second authority: %v", err)
	}
	issued, first := issue(t, ca, pki.Host, "a", now)
	if _, err := ca.Issue(pki.Host, "a", nil, now, false); !errors.Is(err, pki.ErrExists) {
		t.Errorf("second certificate: %v", err)
	}
	if _, err := ca.Issue(pki.Host, "a", nil, now, true); err != nil {
		t.Fatal(err)
	}
	if second, err := pki.ReadCert(issued.Cert); err != nil || second.Equal(first) {
		t.Errorf("the certificate was not renewed: %v", err)
	}
}

func TestNames(t *testing.T) {
	ca := authority(t, t.TempDir(), time.Now())
	for _, bad := range []string{"", ".", "../x", "-x", "a/b", "a b", "a\nb", "ä"} {
		if issued, err := ca.Issue(pki.Host, bad, nil, time.Now(), false); err == nil {
			t.Errorf("%q is issued as %v", bad, issued)
		}
	}
}

func TestChangedFilesAreReadAgain(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	ca := authority(t, dir, now)
	issued, first := issue(t, ca, pki.Host, "a", now)
	var failures []error
	id, err := pki.Load(pki.Files{Cert: issued.Cert, Key: issued.Key, CA: filepath.Join(dir, "ca.crt")}, func(err error) { failures = append(failures, err) })
	if err != nil {
		t.Fatal(err)
	}
	shown := func() *x509.Certificate {
		t.Helper()
		cert, err := id.ClientConfig().GetClientCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf
	}
	if !shown().Equal(first) {
		t.Error("another certificate is shown")
	}
	if err := os.WriteFile(issued.Cert, []byte("half of a"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if !shown().Equal(first) || len(failures) != 1 {
			t.Errorf("with an unusable file: %d failures said: %v", len(failures), failures)
		}
	}
	if _, err := ca.Issue(pki.Host, "a", nil, now, true); err != nil {
		t.Fatal(err)
	}
	if shown().Equal(first) {
		t.Error("the new certificate is not shown")
	}
}
