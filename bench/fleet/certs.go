package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/pki"
)

// sharedKeys is the number of keys that the hosts of a fleet share.
const sharedKeys = 16

// certificates is an authority that issues certificates of hosts without files.
type certificates struct {
	dir    string
	issuer *pki.Authority
	ca     *x509.Certificate
	signer *ecdsa.PrivateKey
	roots  *x509.CertPool
	keys   []*ecdsa.PrivateKey
	made   int64
}

func newCertificates(dir string) (*certificates, error) {
	now := time.Now()
	if _, err := pki.Create(dir, "bench", now); err != nil {
		return nil, err
	}
	issuer, err := pki.Open(dir)
	if err != nil {
		return nil, err
	}
	c := &certificates{dir: dir, issuer: issuer, roots: x509.NewCertPool()}
	if _, err := issuer.Issue(pki.Server, "localhost", []string{"127.0.0.1"}, now, false); err != nil {
		return nil, err
	}
	if _, err := issuer.Issue(pki.Operator, "bench", nil, now, false); err != nil {
		return nil, err
	}
	if c.ca, err = pki.ReadCert(c.path("ca.crt")); err != nil {
		return nil, err
	}
	if c.signer, err = readKey(c.path("ca.key")); err != nil {
		return nil, err
	}
	c.roots.AddCert(c.ca)
	for range sharedKeys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		c.keys = append(c.keys, key)
	}
	return c, nil
}

func (c *certificates) path(file string) string { return filepath.Join(c.dir, file) }

func readKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read %s: it holds no key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the authority's key is not ECDSA")
	}
	return key, nil
}

// host issues a certificate as pki does, but for the key, and gives what an agent's connections are made with.
func (c *certificates) host(name string) (*tls.Config, error) {
	c.made++
	key := c.keys[c.made%sharedKeys]
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(c.made), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, &key.PublicKey, c.signer)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", name, err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: c.roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, nil
}
