package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// link is what one content of the files gives: who this host is, whom it trusts, and the connections made so. A connection is
// never used with another content than the one it was made with.
type link struct {
	leaf      *x509.Certificate
	transport *http.Transport
}

// identity keeps the link of the files as they are, or as they last were when they could be used. Guarded by Client.mu.
type identity struct {
	link    *link
	content [sha256.Size]byte // of the files that were last looked at
	problem *Error            // why those cannot be used; nil: they are the link's
}

// current reads the files, and gives a link of what they hold now or, if that cannot be used, of what they held before.
func (c *Client) current() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := &c.identity
	files, problem := c.readFiles()
	if problem == nil {
		content := files.digest()
		if content == is.content {
			return is.usable()
		}
		is.content = content
		var next *link
		if next, problem = c.linkOf(files); problem == nil {
			c.replace(next)
			return next, nil
		}
	} else {
		is.content = [sha256.Size]byte{}
	}
	if is.problem == nil || is.problem.What != problem.What {
		c.log.Warn("certificate cannot be used", slog.Any("err", problem), slog.String("hint", problem.Hint), slog.Bool("former_one_stays", is.link != nil))
	}
	is.problem = problem
	return is.usable()
}

func (is *identity) usable() (*link, error) {
	if is.link == nil {
		return nil, is.problem
	}
	return is.link, nil
}

func (c *Client) replace(next *link) {
	is := &c.identity
	if is.link != nil {
		c.log.Info("certificate replaced", slog.Time("expires", next.leaf.NotAfter))
		is.link.transport.CloseIdleConnections()
	}
	is.link, is.problem = next, nil
}

type files struct{ certificate, key, ca []byte }

func (f files) digest() [sha256.Size]byte {
	h := sha256.New()
	for _, data := range [][]byte{f.certificate, f.key, f.ca} {
		sum := sha256.Sum256(data)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (c *Client) readFiles() (f files, problem *Error) {
	for _, one := range []struct {
		what, path string
		into       *[]byte
	}{{"certificate", c.certificateFile, &f.certificate}, {"key", c.keyFile, &f.key}, {"CA", c.caFile, &f.ca}} {
		if one.path == "" && one.what == "CA" {
			continue // those that the host trusts anyway
		}
		data, err := readFile(one.path)
		if err != nil {
			return files{}, &Error{What: fmt.Sprintf("read %s %s: %s", one.what, one.path, reasonOf(err)), Hint: "put the file there, readable by the agent", Err: err}
		}
		*one.into = data
	}
	return f, nil
}

func readFile(path string) ([]byte, error) {
	about, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !about.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return data, nil
}

// linkOf judges the content of the files.
func (c *Client) linkOf(f files) (*link, *Error) {
	const whole = "write certificate and key to new files and rename them into place"
	if err := wholePEM(f.certificate); err != nil {
		return nil, &Error{What: fmt.Sprintf("certificate %s: %v", c.certificateFile, err), Hint: whole, Err: err}
	}
	pair, err := tls.X509KeyPair(f.certificate, f.key)
	if err != nil {
		return nil, &Error{What: fmt.Sprintf("certificate %s and key %s do not make a pair: %s", c.certificateFile, c.keyFile, strings.TrimPrefix(err.Error(), "tls: ")), Hint: whole, Err: err}
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, &Error{What: fmt.Sprintf("certificate %s: %v", c.certificateFile, err), Hint: whole, Err: err}
	}
	if !isFor(leaf, c.host) {
		names := "no host"
		if len(leaf.DNSNames) > 0 {
			names = clip(strings.Join(leaf.DNSNames, ", "))
		}
		return nil, &Error{What: fmt.Sprintf("certificate %s is for %s, and this host is %s", c.certificateFile, names, c.host),
			Hint: fmt.Sprintf("issue one whose DNS name (subjectAltName) is %s, or set hostname to the name that it has", c.host)}
	}
	var roots *x509.CertPool
	if c.caFile != "" {
		if err := wholePEM(f.ca); err != nil {
			return nil, &Error{What: fmt.Sprintf("CA %s: %v", c.caFile, err), Hint: "write it to a new file and rename it into place", Err: err}
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(f.ca) {
			return nil, &Error{What: fmt.Sprintf("CA %s holds no certificate", c.caFile), Hint: "it holds one or more certificates in PEM, each from BEGIN CERTIFICATE to END CERTIFICATE"}
		}
	}
	return &link{leaf: leaf, transport: c.transportOf(pair, roots)}, nil
}

// isFor says whether a certificate names this host. A wildcard does not: it would let one host speak for all.
func isFor(leaf *x509.Certificate, host string) bool {
	for _, name := range leaf.DNSNames {
		if strings.EqualFold(name, host) {
			return true
		}
	}
	return false
}

// wholePEM reports a block that is cut off or damaged. The decoders of the standard library pass over it in silence.
func wholePEM(data []byte) error {
	begins := bytes.Count(data, []byte("-----BEGIN "))
	if begins == 0 {
		return errors.New("it holds nothing in PEM")
	}
	blocks := 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		blocks++
		data = rest
	}
	if blocks < begins {
		return errors.New("it is cut off or damaged")
	}
	return nil
}

func (c *Client) transportOf(pair tls.Certificate, roots *x509.CertPool) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	timeout := min(connectTimeout, c.timeout)
	dialer := &net.Dialer{Timeout: timeout}
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: dialer.DialContext,
		// Sessions are not resumed: a resumed one would speak with the certificate of the first.
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots,
			// Always the one: left to itself, net/http sends none to a server that lists other CAs, which then says less.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }},
		TLSHandshakeTimeout:    timeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    4, // a long-poll, a batch, a heartbeat, and one that is being replaced
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // what is small on the line must not be large here
		Protocols:              &protocols,
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			return &Error{What: fmt.Sprintf("the proxy %s does not let it through: %s", proxy.Host, clip(answer.Status)), Hint: "HTTPS_PROXY names a proxy that refuses; let it, or list the control plane in NO_PROXY"}
		},
	}
}

// Check says whether this host can speak at all: whether its certificate is there, fits its key and is for this host.
func (c *Client) Check() error {
	if _, err := c.current(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity.problem != nil {
		return c.identity.problem
	}
	return nil
}

// Degraded says what is wrong with this host's certificate, in words: as of the last request, but for its expiry.
func (c *Client) Degraded() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	if c.identity.problem != nil {
		all = append(all, c.identity.problem.What)
	}
	if l := c.identity.link; l != nil && l.leaf.NotAfter.Before(c.now()) {
		all = append(all, fmt.Sprintf("certificate %s expired on %s", c.certificateFile, day(l.leaf.NotAfter)))
	}
	return all
}

// Expires is when the certificate that is in use ends; zero: there is none.
func (c *Client) Expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity.link == nil {
		return time.Time{}
	}
	return c.identity.link.leaf.NotAfter
}
