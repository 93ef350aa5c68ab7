package controlplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/controlplane"
	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// patience bounds every wait of a test. What is waited for takes milliseconds.
const patience = 60 * time.Second

// fleet is a certificate authority and one JetStream, on which any number of instances may run.
type fleet struct {
	t      *testing.T
	certs  string
	ca     *pki.Authority
	data   string
	server *fleetstore.Server

	retention fleetstore.Retention // of the instances that are started
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, certs: t.TempDir(), data: t.TempDir()}
	if _, err := pki.Create(f.certs, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.ca, err = pki.Open(f.certs); err != nil {
		t.Fatal(err)
	}
	f.issue(pki.Server, "localhost", "127.0.0.1")
	f.issue(pki.Operator, "me")
	f.start()
	t.Cleanup(func() { f.server.Close() })
	return f
}

func (f *fleet) start() {
	f.t.Helper()
	var err error
	if f.server, err = fleetstore.StartServer(f.data, slog.New(slog.DiscardHandler)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) issue(role pki.Role, name string, names ...string) pki.Files {
	f.t.Helper()
	issued, err := f.ca.Issue(role, name, names, time.Now(), false)
	if err != nil {
		f.t.Fatal(err)
	}
	return pki.Files{Cert: issued.Cert, Key: issued.Key, CA: filepath.Join(f.certs, "ca.crt")}
}

func (f *fleet) files(name string) pki.Files {
	return pki.Files{Cert: filepath.Join(f.certs, name+".crt"), Key: filepath.Join(f.certs, name+".key"), CA: filepath.Join(f.certs, "ca.crt")}
}

// instance is a running control plane.
type instance struct {
	fleet *fleet
	url   string
	stop  func()
}

// serve starts an instance, which is stopped with the test if not before.
func (f *fleet) serve() *instance {
	f.t.Helper()
	log := slog.New(slog.DiscardHandler)
	nc, err := f.server.Connect()
	if err != nil {
		f.t.Fatal(err)
	}
	store, err := fleetstore.Open(context.Background(), nc, 1, log)
	if err != nil {
		f.t.Fatal(err)
	}
	targets, err := store.WatchTargets(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	identity, err := pki.Load(f.files("server-localhost"), func(err error) { f.t.Errorf("reload: %v", err) })
	if err != nil {
		f.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	server := controlplane.New(controlplane.Config{Store: store, Targets: targets, TLS: identity.ServerConfig(), Now: time.Now, Log: log,
		Retention: f.retention, TrimEvery: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener) }()
	i := &instance{fleet: f, url: "https://" + listener.Addr().String()}
	i.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("serve: %v", err)
		}
		if err := targets.Close(); err != nil {
			f.t.Errorf("close targets: %v", err)
		}
		store.Close()
	})
	f.t.Cleanup(i.stop)
	return i
}

// client speaks as the holder of a certificate.
type client struct {
	t    *testing.T
	url  string
	host string
	http *http.Client
}

func (i *instance) as(name string, change func(*tls.Config)) *client {
	t := i.fleet.t
	t.Helper()
	identity, err := pki.Load(i.fleet.files(name), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	config := identity.ClientConfig()
	if change != nil {
		change(config)
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, url: i.url, host: name, http: &http.Client{Transport: transport, Timeout: patience}}
}

func (i *instance) host(name string) *client { return i.as(name, nil) }

func (i *instance) operator() *operator.Client {
	t := i.fleet.t
	t.Helper()
	identity, err := pki.Load(i.fleet.files("operator-me"), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	c, err := operator.NewClient(i.url, identity.ClientConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *client) try(method, path, contentType string, body []byte) (answer, error) {
	req, err := http.NewRequest(method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	data, err := io.ReadAll(resp.Body)
	if closing := resp.Body.Close(); err == nil {
		err = closing
	}
	return answer{resp.StatusCode, resp.Header, data}, err
}

func (c *client) do(method, path, contentType string, body []byte) answer {
	c.t.Helper()
	a, err := c.try(method, path, contentType, body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// send posts a batch and gives the answer, which must be a success.
func (c *client) send(events ...wire.Event) wire.Answer {
	c.t.Helper()
	body, err := json.Marshal(events)
	if err != nil {
		c.t.Fatal(err)
	}
	a := c.do(http.MethodPost, wire.EventsPath, wire.Batch, body)
	var got wire.Answer
	if a.status != http.StatusOK || json.Unmarshal(a.body, &got) != nil {
		c.t.Fatalf("events: %d %s", a.status, a.body)
	}
	return got
}

func (c *client) beat(hb wire.Heartbeat) wire.HeartbeatReply {
	c.t.Helper()
	body, err := json.Marshal(hb)
	if err != nil {
		c.t.Fatal(err)
	}
	a := c.do(http.MethodPost, wire.HeartbeatPath, wire.JSON, body)
	var got wire.HeartbeatReply
	if a.status != http.StatusOK || json.Unmarshal(a.body, &got) != nil {
		c.t.Fatalf("heartbeat: %d %s", a.status, a.body)
	}
	return got
}

// poll asks for a dispatch; none gives nil.
func (c *client) poll(wait int, have uint64) *wire.Dispatch {
	c.t.Helper()
	a := c.do(http.MethodGet, fmt.Sprintf("%s?wait=%d&have=%d", wire.DispatchPath, wait, have), "", nil)
	var d wire.Dispatch
	switch {
	case a.status == http.StatusNoContent:
		return nil
	case a.status != http.StatusOK || json.Unmarshal(a.body, &d) != nil:
		c.t.Fatalf("dispatch: %d %s", a.status, a.body)
	}
	return &d
}

const (
	toplevel = "/nix/store/00000000000000000000000000000001-nixos-system-web-1"
	repaired = "/nix/store/00000000000000000000000000000002-nixos-system-web-1"
	before   = "/nix/store/00000000000000000000000000000000-nixos-system-web-1"
)

var moment = time.Date(2026, 11, 24, 20, 0, 0, 0, time.UTC)

// event is an event of a host, with the fields of its payload.
func event(host string, pos uint64, rollout, kind string, fields map[string]any) wire.Event {
	data := map[string]any{"kind": kind}
	for k, v := range fields {
		data[k] = v
	}
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	return wire.Event{SpecVersion: wire.SpecVersion, ID: wire.EventID("e1", pos), Source: wire.SourceOf(host), Type: wire.TypeOf(kind), Subject: rollout,
		Time: moment.Add(time.Duration(pos) * time.Second), DataContentType: wire.JSON, Data: raw}
}

func acked(host string, pos uint64, rollout, target string, seq int) wire.Event {
	return event(host, pos, rollout, "DispatchAck", map[string]any{"target_closure": target, "prior": map[string]string{"running": before}, "received_at": moment, "seq": seq})
}

func (f *fleet) clientPool() *x509.CertPool {
	f.t.Helper()
	pem, err := os.ReadFile(filepath.Join(f.certs, "ca.crt"))
	if err != nil {
		f.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}
