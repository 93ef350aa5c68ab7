package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/config"
)

func TestMistakesOfTheControlPlaneAreNamed(t *testing.T) {
	const good = `"url": "https://cp.example", "certificate": "/c.pem", "key": "/k.pem"`
	for _, c := range []struct{ name, block, says string }{
		{"plain HTTP", `"url": "http://cp.example", "certificate": "/c", "key": "/k"`, `controlPlane.url: "http://cp.example" does not begin with https://`},
		{"no scheme", `"url": "cp.example:8443", "certificate": "/c", "key": "/k"`, `controlPlane.url: "cp.example:8443" does not begin with https://`},
		{"no host", `"url": "https://:8443", "certificate": "/c", "key": "/k"`, `names no host`},
		{"no URL", `"url": "https://cp example", "certificate": "/c", "key": "/k"`, `it is not a URL`},
		{"password", `"url": "https://me:secret@cp.example", "certificate": "/c", "key": "/k"`, `it holds a name or a password`},
		{"query", `"url": "https://cp.example?a=b", "certificate": "/c", "key": "/k"`, `has a query`},
		{"fragment", `"url": "https://cp.example#a", "certificate": "/c", "key": "/k"`, `has a fragment`},
		{"no certificate", `"url": "https://cp.example", "key": "/k"`, `controlPlane.certificate: "" is not an absolute path`},
		{"no key", `"url": "https://cp.example", "certificate": "/c"`, `controlPlane.key: "" is not an absolute path`},
		{"relative CA", good + `, "ca": "ca.pem"`, `controlPlane.ca: "ca.pem" is not an absolute path`},
		{"another variable", good + `, "ca": "$HOME/ca.pem"`, `controlPlane.ca: "$HOME/ca.pem" is not an absolute path`},
		{"out of the credentials", good + `, "ca": "$CREDENTIALS_DIRECTORY/../ca.pem"`, `is not an absolute path`},
		{"credentials alone", good + `, "ca": "$CREDENTIALS_DIRECTORY/"`, `is not an absolute path`},
		{"events over HTTP", good + `, "eventsUrl": "http://x.example"`, `controlPlane.eventsUrl: "http://x.example" does not begin with https://`},
		{"events alone", `"eventsUrl": "https://x.example"`, `controlPlane.eventsUrl: it is set, and controlPlane.url is not`},
		{"key alone", `"key": "/k"`, `controlPlane.key: it is set, and controlPlane.url is not`},
		{"too often", good + `, "heartbeatInterval": "100ms"`, `controlPlane.heartbeatInterval: "100ms" is not between 1s and 24h`},
		{"never", good + `, "heartbeatInterval": "25h"`, `controlPlane.heartbeatInterval: "25h0m0s" is not between`},
		{"a number", good + `, "heartbeatInterval": 60`, `controlPlane.heartbeatInterval: 60 is not a duration`},
		{"unknown", good + `, "proxy": "x"`, `unknown field "proxy"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse([]byte(`{"controlPlane": {` + c.block + `}}`))
			var bad *config.Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(bad.Error(), c.says) || bad.Hint == "" {
				t.Errorf("says %q, hint %q\nwant it to say %q", bad.Error(), bad.Hint, c.says)
			}
			if strings.Contains(bad.Error(), "secret") {
				t.Errorf("it repeats a password: %q", bad.Error())
			}
		})
	}
}

func TestCredentialsAreFoundWhereSystemdPutsThem(t *testing.T) {
	cfg, err := config.Parse([]byte(`{"controlPlane": {"url": "https://cp.example", "certificate": "$CREDENTIALS_DIRECTORY/host.pem",
		"key": "$CREDENTIALS_DIRECTORY/tls/host.key", "ca": "/etc/ca.pem"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.ControlPlane.Configured() || config.Default().ControlPlane.Configured() {
		t.Error("configured is what has a URL")
	}
	moved := cfg.WithRoot("/srv/host")
	found, err := moved.ControlPlane.WithCredentials("/run/credentials/nixfleet-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	want := cfg.ControlPlane
	want.Certificate, want.Key = "/run/credentials/nixfleet-agent.service/host.pem", "/run/credentials/nixfleet-agent.service/tls/host.key"
	want.CA = "/srv/host/etc/ca.pem"
	if found != want {
		t.Errorf("got %+v\nwant %+v", found, want)
	}
	var bad *config.Error
	if _, err := cfg.ControlPlane.WithCredentials(""); !errors.As(err, &bad) || bad.Field != "controlPlane.certificate" || bad.Hint == "" {
		t.Errorf("without a directory: %v", err)
	}
	if same, err := (config.ControlPlane{Key: "/k"}).WithCredentials(""); err != nil || same.Key != "/k" {
		t.Errorf("nothing to expand: %+v, %v", same, err)
	}
}
