package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"
)

// Files are the paths of one's own certificate and key, and of the authority that the other side must come from.
type Files struct {
	Cert string
	Key  string
	CA   string
}

// Identity is a certificate with its authority, read again when the files have changed. Files that cannot be used, half
// written ones among them, leave what was read before in its place.
type Identity struct {
	files  Files
	failed func(error)

	mu      sync.Mutex
	stamps  [3]stamp
	cert    *tls.Certificate
	pool    *x509.CertPool
	problem string
}

type stamp struct {
	modified time.Time
	size     int64
}

// Load reads the files. Failed hears of later changes that cannot be used, once each.
func Load(files Files, failed func(error)) (*Identity, error) {
	id := &Identity{files: files, failed: failed}
	stamps, err := id.stat()
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	if id.cert, id.pool, err = files.read(); err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	id.stamps = stamps
	return id, nil
}

func (f Files) read() (*tls.Certificate, *x509.CertPool, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, nil, err
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("read %s: it holds no certificate", f.CA)
	}
	return &cert, pool, nil
}

func (id *Identity) stat() (stamps [3]stamp, err error) {
	for i, path := range []string{id.files.Cert, id.files.Key, id.files.CA} {
		info, err := os.Stat(path)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{modified: info.ModTime(), size: info.Size()}
	}
	return stamps, nil
}

// current is what the files say now, as far as it can be used.
func (id *Identity) current() (*tls.Certificate, *x509.CertPool) {
	id.mu.Lock()
	defer id.mu.Unlock()
	stamps, err := id.stat()
	if err == nil && stamps != id.stamps {
		var cert *tls.Certificate
		var pool *x509.CertPool
		if cert, pool, err = id.files.read(); err == nil {
			id.cert, id.pool, id.stamps, id.problem = cert, pool, stamps, ""
		}
	}
	if err != nil && err.Error() != id.problem {
		id.problem = err.Error()
		id.failed(fmt.Errorf("reload certificate: %w; the old one stays in use", err))
	}
	return id.cert, id.pool
}

// ServerConfig asks every client for a certificate of the authority. There is no protocol below TLS 1.3.
func (id *Identity) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, pool := id.current()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
				NextProtos: []string{"http/1.1"}, // agents speak nothing else
			}, nil
		},
	}
}

// ClientConfig shows the certificate to a server of the authority.
func (id *Identity) ClientConfig() *tls.Config {
	_, pool := id.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, _ := id.current()
			return cert, nil
		},
	}
}
