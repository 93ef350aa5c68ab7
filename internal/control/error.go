package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Error is why something did not get through, in words for an operator.
type Error struct {
	Op   string // what was tried, with the host and port of the other side
	What string
	Hint string // what to do about it; empty: wait
	Err  error  // underneath, if there is one

	unreached bool // there was no answer at all
}

func (e *Error) Error() string {
	if e.Op == "" {
		return e.What
	}
	return e.Op + ": " + e.What
}

// Hints says what to do about it.
func (e *Error) Hints() string { return e.Hint }

func (e *Error) Unwrap() error { return e.Err }

// errTooSlow is the cause of a request that its own deadline has ended.
var errTooSlow = errors.New("the deadline of the request has passed")

const hintReset = "if it stays so, look into the control plane's log: it may not accept this host's certificate; or something between cuts connections"

// explain says in words why a connection or an answer broke. It keeps an *Error as it is, but for Op.
func (c *Client) explain(op, host string, files *link, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return &Error{Op: op, What: known.What, Hint: known.Hint, Err: known.Err}
	}
	what, hint := c.wordsOf(host, files, err)
	return &Error{Op: op, What: what, Hint: hint, Err: err}
}

func (c *Client) wordsOf(host string, files *link, err error) (what, hint string) {
	var (
		dns       *net.DNSError
		operation *net.OpError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		name      x509.HostnameError
		noTLS     tls.RecordHeaderError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &dns):
		return fmt.Sprintf("look up %s: %s", clip(dns.Name), clip(dns.Err)), "is the name in the URL right, and do this host's name servers answer?"
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		return "connect to the proxy: " + clip(operation.Err.Error()), "HTTPS_PROXY names a proxy that does not answer; mend it, or list the control plane in NO_PROXY"
	case errors.As(err, &operation) && operation.Op == "remote error":
		return c.alerted(files, operation.Err.Error())
	case errors.As(err, &authority):
		return "its certificate is signed by no CA that is trusted here", c.hintCA()
	case errors.As(err, &invalid):
		return c.invalid(invalid)
	case errors.As(err, &name):
		return c.wrongName(name)
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS", "is the port in the URL right? Plain HTTP is not spoken"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens on " + host, "is the control plane running, and are address and port in the URL right?"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "there is no route to " + host, "is this host's network up?"
	case errors.Is(err, errTooSlow), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it does not answer in time", "is it overloaded, or does a firewall drop the packets?"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection broke before the answer was whole", hintReset
	default:
		return clip(err.Error()), ""
	}
}

func (c *Client) hintCA() string {
	if c.caFile == "" {
		return "set controlPlane.ca to the CA that signs its certificate"
	}
	return c.caFile + " must hold the CA that signs its certificate"
}

func (c *Client) invalid(err x509.CertificateInvalidError) (what, hint string) {
	if err.Reason != x509.Expired || err.Cert == nil {
		return "its certificate is not valid: " + clip(err.Error()), "issue it a new one"
	}
	if now := c.now(); now.Before(err.Cert.NotBefore) {
		return "its certificate is valid only from " + day(err.Cert.NotBefore) + " on", "is this host's clock right? It reads " + day(now)
	}
	return "its certificate expired on " + day(err.Cert.NotAfter), "renew it; or is this host's clock wrong? It reads " + day(c.now())
}

func (c *Client) wrongName(err x509.HostnameError) (what, hint string) {
	names := "no name"
	if err.Certificate != nil {
		all := append([]string{}, err.Certificate.DNSNames...)
		for _, ip := range err.Certificate.IPAddresses {
			all = append(all, ip.String())
		}
		if len(all) > 0 {
			names = clip(strings.Join(all, ", "))
		}
	}
	return fmt.Sprintf("its certificate is for %s, not for %s", names, clip(err.Host)), "use a name of its certificate in the URL, or issue it one with this name"
}

// Alerts of TLS (RFC 8446, section 6) that a server sends to a client that it does not like.
const (
	alertBadCertificate      tls.AlertError = 42
	alertRevoked             tls.AlertError = 44
	alertExpired             tls.AlertError = 45
	alertUnknownCertificate  tls.AlertError = 46
	alertUnknownCA           tls.AlertError = 48
	alertAccessDenied        tls.AlertError = 49
	alertProtocolVersion     tls.AlertError = 70
	alertCertificateRequired tls.AlertError = 116
)

// alerted explains an alert. crypto/tls gives those of a TCP connection a type of its own, which has the words of AlertError.
func (c *Client) alerted(files *link, alert string) (what, hint string) {
	const issue = "issue this host one by the CA that the control plane trusts"
	switch alert {
	case alertProtocolVersion.Error():
		return "it does not speak TLS 1.3", "let it, or the proxy before it, speak TLS 1.3"
	case alertCertificateRequired.Error():
		return "it asks for this host's certificate and got none that it can use", issue
	case alertExpired.Error(), alertBadCertificate.Error(), alertUnknownCertificate.Error(), alertUnknownCA.Error(), alertRevoked.Error(), alertAccessDenied.Error():
		if files != nil && files.leaf.NotAfter.Before(c.now()) {
			return "it does not accept this host's certificate, which expired on " + day(files.leaf.NotAfter), "renew " + c.certificateFile
		}
		return "it does not accept this host's certificate: " + strings.TrimPrefix(alert, "tls: "), issue
	default:
		return "it ends the connection: " + clip(alert), ""
	}
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// reasonOf leaves out the path, which the caller names.
func reasonOf(err error) string {
	var underneath *os.PathError
	if errors.As(err, &underneath) {
		return underneath.Err.Error()
	}
	return err.Error()
}

// clip makes a text of the other side fit to be repeated: one line, without control characters, of bounded length.
func clip(text string) string {
	cut := len(text) > maxWords
	if cut {
		text = text[:maxWords]
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = strings.TrimSpace(text)
	if cut {
		text += " …"
	}
	return text
}
