package config

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultPath is where the configuration is looked for unless another file is named. It need not exist.
const DefaultPath = "/etc/nixfleet-agent/nixfleet-agent.json"

// maxSocketPath is the longest path of a unix socket: sun_path of sockaddr_un holds 108 bytes with the closing NUL (unix(7)).
const maxSocketPath = 107

// Config is the configuration, with every default filled in. The zero value is not valid; begin with Default.
type Config struct {
	// StateDir holds the store and the attempts. It must survive reboots. Default /var/lib/nixfleet-agent.
	StateDir string `json:"stateDir"`

	// SocketPath is the unix socket of the local API, at most 107 bytes long. Default /run/nixfleet-agent/agent.sock.
	SocketPath string `json:"socketPath"`

	// SocketGroup is the group whose members may read over the socket besides root. Default empty: root alone.
	SocketGroup string `json:"socketGroup"`

	// Hostname is the name under which this host reports. Default empty: the host's own.
	Hostname string `json:"hostname"`

	// Soak is how long a target is watched before the host counts as converged, as 90s, 5m or 1h30m. Default 5m.
	Soak Duration `json:"soak"`

	// Policy is what the host does by itself when a rollout fails: rollback-and-halt brings profile, boot default and running
	// system back, halt leaves the running system. Default rollback-and-halt.
	Policy string `json:"policy"`

	// CriticalComponents says for a component (dbus, systemd, kernel, init, or one of extraComponents) what a difference
	// between what runs and the target leads to: defer (wait for a reboot, the default), switch (go live and say that a reboot
	// is pending) or ignore.
	CriticalComponents map[string]string `json:"criticalComponents"`

	// ExtraComponents are compared as well: initrd, kernel-params, firmware, or the path of a link or file within a closure,
	// such as etc/fstab. Default none.
	ExtraComponents []string `json:"extraComponents"`

	// SystemdIdentity is how two systemds are compared: version, or path, which also differs after a mass rebuild of the same
	// version. Default version.
	SystemdIdentity string `json:"systemdIdentity"`

	// Deadlines bound the parts of an activation.
	Deadlines Deadlines `json:"deadlines"`

	// Verify asks for signatures beyond those that Nix asks for when it fetches a path.
	Verify Verify `json:"verify"`

	// ControlPlane is who dispatches to this host and hears of it.
	ControlPlane ControlPlane `json:"controlPlane"`

	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `json:"logLevel"`
}

// Deadlines bound the parts of an activation. What runs longer is ended and counts as interrupted.
type Deadlines struct {
	Realise Duration `json:"realise"` // fetching the closure; default 2h
	Switch  Duration `json:"switch"`  // switch-to-configuration switch and test; default 20m
	Boot    Duration `json:"boot"`    // switch-to-configuration boot and setting the profile; default 10m
}

// Verify says which signatures a target must have, besides what Nix itself asks for when it fetches a path.
type Verify struct {
	// Signatures is how many signatures by different trusted keys every path of a target must have, from 0, which verifies
	// nothing, to 16. So must a path that was in the store before, and one that this host has built itself, which Nix would
	// trust; a content-addressed path needs none. A target that lacks them is refused before anything is touched. Default 0.
	Signatures int `json:"signatures"`

	// TrustedKeys are the public keys that count for it, as NAME:BASE64, instead of the host's trusted-public-keys. What
	// Nix fetches is still the host's Nix configuration's to say. Default none: the host's.
	TrustedKeys []string `json:"trustedKeys"`
}

// ControlPlane is who dispatches to this host and hears of it. A change of the files is used by the next request.
//
// With systemd's LoadCredential= a path is written as $CREDENTIALS_DIRECTORY/NAME. systemd copies credentials when the service
// starts: a certificate that is renewed while the agent runs is better named where it lies.
type ControlPlane struct {
	// URL is where the control plane is, as https://control.example:8443; it may have a path. Without one, events wait in
	// the outbox. Default empty.
	URL string `json:"url"`

	// Certificate is the file of this host's certificate in PEM, followed by those between it and the CA. One of its DNS
	// names is hostname. The path is absolute, or begins with $CREDENTIALS_DIRECTORY/, the directory that systemd makes for
	// LoadCredential; such a copy is as old as the start of the service, any other file is read anew for every request.
	// Required with a url. Default empty.
	Certificate string `json:"certificate"`

	// Key is the file of the certificate's key, named as certificate is. Required with a url. Default empty.
	Key string `json:"key"`

	// CA is the file of the CAs that may sign the control plane's certificate, named as certificate is. Without one, those
	// count that this host trusts anyway. Default empty.
	CA string `json:"ca"`

	// EventsURL is another receiver of events, the whole URL: any receiver of CloudEvents 1.0 in JSON batches that answers 2xx
	// once it has stored them. Without one, the control plane gets them. Default empty.
	EventsURL string `json:"eventsUrl"`

	// HeartbeatInterval is how often the control plane is told what this host is, from 1s to 24h. Default 1m.
	HeartbeatInterval Duration `json:"heartbeatInterval"`
}

// Default is the configuration of a host that configures nothing.
func Default() Config {
	return Config{
		StateDir:        "/var/lib/nixfleet-agent",
		SocketPath:      "/run/nixfleet-agent/agent.sock",
		Soak:            Duration(5 * time.Minute),
		Policy:          PolicyRollbackAndHalt,
		SystemdIdentity: ByVersion,
		Deadlines:       Deadlines{Realise: Duration(2 * time.Hour), Switch: Duration(20 * time.Minute), Boot: Duration(10 * time.Minute)},
		ControlPlane:    ControlPlane{HeartbeatInterval: Duration(time.Minute)},
		LogLevel:        "info",
	}
}

// Values of Policy.
const (
	PolicyRollbackAndHalt = "rollback-and-halt"
	PolicyHalt            = "halt"
)

// Values of SystemdIdentity.
const (
	ByVersion = "version"
	ByPath    = "path"
)

var (
	criticalComponents = []string{"dbus", "systemd", "kernel", "init"}
	namedExtras        = []string{"initrd", "kernel-params", "firmware"}
	treatments         = []string{"defer", "switch", "ignore"}
	logLevels          = []string{"debug", "info", "warn", "error"}
)

// StorePath is the file of the store.
func (c Config) StorePath() string { return filepath.Join(c.StateDir, "state.db") }

// Level is the log level.
func (c Config) Level() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return slog.LevelInfo
	}
	return level
}

// WithRoot gives the configuration of a host that is the directory root: its paths are below it.
func (c Config) WithRoot(root string) Config {
	if root == "/" || root == "" {
		return c
	}
	c.StateDir = filepath.Join(root, c.StateDir)
	c.SocketPath = filepath.Join(root, c.SocketPath)
	c.ControlPlane = c.ControlPlane.withRoot(root)
	return c
}

// Validate reports the first field that cannot be meant, as an *Error.
func (c Config) Validate() error {
	for _, p := range []struct{ field, value string }{{"stateDir", c.StateDir}, {"socketPath", c.SocketPath}} {
		if !filepath.IsAbs(p.value) {
			return invalid(p.field, fmt.Sprintf("%q is not an absolute path", p.value), "write the whole path, beginning with /")
		}
	}
	if len(c.SocketPath) > maxSocketPath {
		return invalid("socketPath", fmt.Sprintf("%q is %d bytes long", c.SocketPath, len(c.SocketPath)),
			fmt.Sprintf("the path of a unix socket has at most %d bytes; use a shorter one, or a shorter --root", maxSocketPath))
	}
	for _, d := range []struct {
		field string
		value Duration
		zero  bool
	}{{"soak", c.Soak, true}, {"deadlines.realise", c.Deadlines.Realise, false}, {"deadlines.switch", c.Deadlines.Switch, false}, {"deadlines.boot", c.Deadlines.Boot, false}} {
		if d.value < 0 || (d.value == 0 && !d.zero) {
			return invalid(d.field, fmt.Sprintf("%q is too short", d.value), "write a positive duration, as 90s, 5m or 1h30m")
		}
	}
	for _, e := range []struct {
		field, value string
		known        []string
	}{{"policy", c.Policy, []string{PolicyRollbackAndHalt, PolicyHalt}}, {"systemdIdentity", c.SystemdIdentity, []string{ByVersion, ByPath}}, {"logLevel", c.LogLevel, logLevels}} {
		if !slices.Contains(e.known, e.value) {
			return unknownValue(e.field, e.value, e.known)
		}
	}
	if err := c.Verify.validate(); err != nil {
		return err
	}
	if err := c.ControlPlane.validate(); err != nil {
		return err
	}
	return c.validateComponents()
}

const (
	// maxSignatures is far more than any path has.
	maxSignatures = 16
	// publicKeySize is the length of an Ed25519 key, which is what Nix signs with.
	publicKeySize = 32
)

func (v Verify) validate() error {
	if v.Signatures < 0 || v.Signatures > maxSignatures {
		return invalid("verify.signatures", fmt.Sprintf("%d is not a number of signatures", v.Signatures), fmt.Sprintf("write a number from 0 to %d; 0 verifies nothing", maxSignatures))
	}
	names := map[string]bool{}
	for _, key := range v.TrustedKeys {
		name, encoded, found := strings.Cut(key, ":")
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if !found || name == "" || strings.ContainsAny(key, " \t\n") || err != nil || len(raw) != publicKeySize {
			return invalid("verify.trustedKeys", fmt.Sprintf("%q is not a public key", key), "write it as Nix does, NAME:BASE64, such as cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=")
		}
		if names[name] {
			return invalid("verify.trustedKeys", fmt.Sprintf("two keys are named %q", name), "Nix knows one key by a name; give each its own")
		}
		names[name] = true
	}
	if len(v.TrustedKeys) > 0 && v.Signatures > len(v.TrustedKeys) {
		return invalid("verify.signatures", fmt.Sprintf("%d signatures are asked for and %d keys are trusted", v.Signatures, len(v.TrustedKeys)),
			"no closure can have more signatures by different keys than there are keys")
	}
	return nil
}

func (c Config) validateComponents() error {
	for _, extra := range c.ExtraComponents {
		if !slices.Contains(namedExtras, extra) && (!filepath.IsLocal(extra) || path.Clean(extra) != extra || extra == ".") {
			return invalid("extraComponents", fmt.Sprintf("%q is neither a component nor a path within a closure", extra),
				"write one of "+strings.Join(namedExtras, ", ")+", or a relative path such as etc/fstab")
		}
		if slices.Contains(criticalComponents, extra) {
			return invalid("extraComponents", fmt.Sprintf("%q is always compared", extra), "take it out; criticalComponents says what a difference leads to")
		}
	}
	names := make([]string, 0, len(c.CriticalComponents))
	for name := range c.CriticalComponents {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains(criticalComponents, name) && !slices.Contains(c.ExtraComponents, name) {
			return invalid("criticalComponents", fmt.Sprintf("%q is not a component", name),
				"one of "+strings.Join(criticalComponents, ", ")+", or what extraComponents adds")
		}
		if treatment := c.CriticalComponents[name]; !slices.Contains(treatments, treatment) {
			return unknownValue("criticalComponents."+name, treatment, treatments)
		}
	}
	return nil
}

func unknownValue(field, value string, known []string) error {
	return invalid(field, fmt.Sprintf("%q is not known", value), "one of "+strings.Join(known, ", "))
}
