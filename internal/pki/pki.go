// Package pki is a small certificate authority for one fleet, and says who a certificate speaks for.
//
// A directory holds the authority (ca.crt, ca.key) and what it has issued (NAME.crt, NAME.key). Keys are ECDSA P-256, written once,
// readable by their owner alone. An issued certificate is for exactly one purpose: a host's and an operator's for clients, a
// control plane's for a server. An authority of one's own serves as well, if its certificates say the same.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Role is what the holder of a certificate may do.
type Role string

// The roles. A host may speak for itself and an operator for the fleet; a server is whom both call.
const (
	Host     Role = "host"
	Operator Role = "operator"
	Server   Role = "server"
)

const (
	// operatorUnit is the organisational unit that makes a certificate an operator's.
	operatorUnit = "nixfleet-operator"
	// authorityValid and issuedValid are how long certificates are good for. An authority outlives the hosts that trust it;
	// what it issues is renewed by issuing again, at most yearly, in good time before.
	authorityValid = 10 * 365 * 24 * time.Hour
	issuedValid    = 398 * 24 * time.Hour
	// skew is how far a host's clock may be behind.
	skew = time.Hour

	keyMode  fs.FileMode = 0o600
	certMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o700
)

// ErrExists says that a file that would be written is there already. Nothing is overwritten but by asking for it.
var ErrExists = errors.New("it exists already")

// Authority is a certificate authority in a directory.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Issued are the files of a certificate.
type Issued struct {
	Cert     string    `json:"cert"`
	Key      string    `json:"key"`
	NotAfter time.Time `json:"notAfter"`
}

// Create makes an authority in dir.
func Create(dir, name string, now time.Time) (Issued, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return Issued{}, fmt.Errorf("create authority: %w", err)
	}
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		NotAfter: now.Add(authorityValid),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, MaxPathLenZero: true, BasicConstraintsValid: true,
	}
	issued, err := issue(dir, "ca", template, nil, now, false)
	if err != nil {
		return issued, fmt.Errorf("create authority: %w", err)
	}
	return issued, nil
}

// Open reads the authority of a directory.
func Open(dir string) (*Authority, error) {
	cert, err := ReadCert(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	key, err := readKey(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("open authority: ca.key in %s is not the key of ca.crt", dir)
	}
	return &Authority{dir: dir, cert: cert, key: key}, nil
}

// Issue makes a certificate and its key. Names are further names and addresses of a server. Replace permits to overwrite what was
// issued under that name before.
func (a *Authority) Issue(role Role, name string, names []string, now time.Time, replace bool) (Issued, error) {
	if err := CheckName(name); err != nil {
		return Issued{}, err
	}
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		NotAfter: earlier(now.Add(issuedValid), a.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	file := name
	switch role {
	case Host:
		template.DNSNames = []string{name}
	case Operator:
		template.Subject.OrganizationalUnit = []string{operatorUnit}
		file = "operator-" + name
	case Server:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		file = "server-" + name
		for _, n := range append([]string{name}, names...) {
			if ip := net.ParseIP(n); ip != nil {
				template.IPAddresses = append(template.IPAddresses, ip)
			} else {
				template.DNSNames = append(template.DNSNames, n)
			}
		}
	default:
		return Issued{}, fmt.Errorf("issue certificate: no role %q", role)
	}
	issued, err := issue(a.dir, file, template, a, now, replace)
	if err != nil {
		return issued, fmt.Errorf("issue certificate for %s %s: %w", role, name, err)
	}
	return issued, nil
}

// issue signs a template, by its own key where there is no authority, and writes the key before the certificate: a certificate
// without a key never stays behind.
func issue(dir, file string, template *x509.Certificate, by *Authority, now time.Time, replace bool) (Issued, error) {
	issued := Issued{Cert: filepath.Join(dir, file+".crt"), Key: filepath.Join(dir, file+".key"), NotAfter: template.NotAfter.UTC().Truncate(time.Second)}
	if !replace {
		for _, path := range []string{issued.Key, issued.Cert} {
			if _, err := os.Lstat(path); err == nil {
				return issued, fmt.Errorf("%s: %w", path, ErrExists)
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issued, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return issued, err
	}
	template.NotBefore = now.Add(-skew)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return issued, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return issued, err
	}
	if err := write(issued.Key, "PRIVATE KEY", der, keyMode); err != nil {
		return issued, err
	}
	return issued, write(issued.Cert, "CERTIFICATE", cert, certMode)
}

// write puts a PEM file in its place whole: whoever reloads it never sees a half of it.
func write(path, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // made with mode 0600
	if err != nil {
		return err
	}
	err = errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// ReadCert reads the first certificate of a PEM file.
func ReadCert(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read %s: it holds no certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return cert, nil
}

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
		return nil, fmt.Errorf("read %s: it is no ECDSA key", path)
	}
	return key, nil
}

// Speaker says for whom a client's certificate speaks, which was verified before: for an operator, whose organisational unit says so, or
// for the host that it names.
func Speaker(cert *x509.Certificate) (Role, string, error) {
	name := cert.Subject.CommonName
	if slices.Contains(cert.Subject.OrganizationalUnit, operatorUnit) {
		return Operator, name, nil
	}
	// The agent holds its own name against the DNS names, so these are what counts here as well.
	if !slices.Contains(cert.DNSNames, name) {
		if len(cert.DNSNames) != 1 {
			return "", "", fmt.Errorf("read the certificate's name: it has %d DNS names, and its common name %q is none of them", len(cert.DNSNames), name)
		}
		name = cert.DNSNames[0]
	}
	if err := CheckName(name); err != nil {
		return "", "", fmt.Errorf("read the certificate's name: %w", err)
	}
	return Host, name, nil
}

// CheckName refuses what is neither the name of a host nor an address: it names files, and is shown to people.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > 253:
		return fmt.Errorf("%q is not a name: it has %d characters, 1 to 253 are allowed", name, len(name))
	case strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-"):
		return fmt.Errorf("%q is not a name: it begins with a dot or a dash", name)
	}
	for _, r := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:@", r) {
			return fmt.Errorf("%q is not a name: only letters, digits and - . _ : @ are allowed", name)
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
