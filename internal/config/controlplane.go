package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// CredentialsPrefix begins a path within the directory that systemd gives a service for its LoadCredential= (systemd.exec(5)). The
// directory's name is only known when the service runs: WithCredentials puts it in.
const CredentialsPrefix = "$CREDENTIALS_DIRECTORY/"

// minHeartbeat keeps a slip of the pen from flooding a control plane; maxHeartbeat is when a host counts as lost anyway.
const (
	minHeartbeat = time.Second
	maxHeartbeat = 24 * time.Hour
)

// Configured says whether there is a control plane.
func (c ControlPlane) Configured() bool { return c.URL != "" }

// files are the fields that name files, in the order in which they are documented.
func (c *ControlPlane) files() []file {
	return []file{{"controlPlane.certificate", &c.Certificate, true}, {"controlPlane.key", &c.Key, true}, {"controlPlane.ca", &c.CA, false}}
}

type file struct {
	field    string
	path     *string
	required bool
}

// WithCredentials gives c with dir, the value of $CREDENTIALS_DIRECTORY, in place of the prefix of its paths.
func (c ControlPlane) WithCredentials(dir string) (ControlPlane, error) {
	for _, f := range c.files() {
		within, ok := strings.CutPrefix(*f.path, CredentialsPrefix)
		if !ok {
			continue
		}
		if !filepath.IsAbs(dir) {
			return c, invalid(f.field, fmt.Sprintf("%q, and there is no credentials directory", *f.path),
				"systemd makes one for a service that has LoadCredential=; elsewhere write a path that begins with /")
		}
		*f.path = filepath.Join(dir, within)
	}
	return c, nil
}

// withRoot moves the paths of a host that is the directory root. Credentials are the service's own, wherever its host is.
func (c ControlPlane) withRoot(root string) ControlPlane {
	for _, f := range c.files() {
		if filepath.IsAbs(*f.path) {
			*f.path = filepath.Join(root, *f.path)
		}
	}
	return c
}

func (c ControlPlane) validate() error {
	if !c.Configured() {
		for _, f := range append(c.files(), file{field: "controlPlane.eventsUrl", path: &c.EventsURL}) {
			if *f.path != "" {
				return invalid(f.field, "it is set, and controlPlane.url is not", "set controlPlane.url, or take it out")
			}
		}
	} else if what := notHTTPS(c.URL); what != "" {
		return invalid("controlPlane.url", what, "write it as https://control.example:8443")
	} else if u, err := url.Parse(c.URL); err != nil || u.RawQuery != "" || u.ForceQuery {
		return invalid("controlPlane.url", fmt.Sprintf("%q has a query", c.URL), "write it as https://control.example:8443")
	}
	if what := notHTTPS(c.EventsURL); c.EventsURL != "" && what != "" {
		return invalid("controlPlane.eventsUrl", what, "write it whole, as https://events.example/nixfleet")
	}
	for _, f := range c.files() {
		if *f.path == "" && (!c.Configured() || !f.required) {
			continue
		}
		within, credential := strings.CutPrefix(*f.path, CredentialsPrefix)
		if !filepath.IsAbs(*f.path) && (!credential || !filepath.IsLocal(within) || within == ".") {
			return invalid(f.field, fmt.Sprintf("%q is not an absolute path", *f.path), "write the whole path, beginning with / or with "+CredentialsPrefix)
		}
	}
	if every := c.HeartbeatInterval.Std(); every < minHeartbeat || every > maxHeartbeat {
		return invalid("controlPlane.heartbeatInterval", fmt.Sprintf("%q is not between %s and %s", c.HeartbeatInterval, Duration(minHeartbeat), Duration(maxHeartbeat)), "write a duration, as 30s, 1m or 5m")
	}
	return nil
}

// notHTTPS says what keeps text from being an https URL; empty if nothing does.
func notHTTPS(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "it is not a URL" // and may hold a password: it is not repeated
	case u.Scheme != "https":
		return fmt.Sprintf("%q does not begin with https://", u.Redacted())
	case u.Hostname() == "":
		return fmt.Sprintf("%q names no host", u.Redacted())
	case u.User != nil:
		return "it holds a name or a password; this host is known by its certificate"
	case u.Fragment != "":
		return fmt.Sprintf("%q has a fragment", u.Redacted())
	}
	return ""
}
