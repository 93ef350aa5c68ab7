package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// fleet is a control plane as small as one can be: an HTTPS server with real certificates that stores what it is told.
type fleet struct {
	t       *testing.T
	dir     string // of the certificates
	server  *httptest.Server
	address string
	cert    tls.Certificate
	pool    *x509.CertPool

	mu        sync.Mutex
	dispatch  wire.Dispatch
	changed   chan struct{}
	events    []wire.Event
	seen      map[string]bool
	beats     []wire.Heartbeat
	reply     wire.HeartbeatReply
	swallowed int // batches that are stored and whose answer gets lost
}

// newFleet makes its certificates, and reserves its address; it does not answer yet.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), changed: make(chan struct{}), seen: map[string]bool{}, pool: x509.NewCertPool()}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := func(serial int64, names ...string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	}
	ca := template(1)
	ca.IsCA, ca.KeyUsage, ca.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	sign := func(c *x509.Certificate, key *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		must(t, err)
		return der
	}
	caDER := sign(ca, caKey)
	ca, err = x509.ParseCertificate(caDER)
	must(t, err)
	f.pool.AddCert(ca)
	f.write("ca.pem", "CERTIFICATE", caDER)
	for serial, name := range map[int64]string{2: "server", 3: "web"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		f.write(name+".pem", "CERTIFICATE", sign(template(serial, name), key))
		f.write(name+".key", "PRIVATE KEY", der)
	}
	f.cert, err = tls.LoadX509KeyPair(f.file("server.pem"), f.file("server.key"))
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f.address = listener.Addr().String()
	must(t, listener.Close())
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) file(name string) string { return filepath.Join(f.dir, name) }

func (f *fleet) write(name, kind string, der []byte) {
	f.t.Helper()
	must(f.t, os.WriteFile(f.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// answer lets it be reached from now on.
func (f *fleet) answer() {
	f.t.Helper()
	listener, err := net.Listen("tcp", f.address)
	must(f.t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.DispatchPath, f.serveDispatch)
	mux.HandleFunc("POST "+wire.EventsPath, f.serveEvents)
	mux.HandleFunc("POST "+wire.HeartbeatPath, f.serveHeartbeat)
	f.server = httptest.NewUnstartedServer(mux)
	f.server.Listener = listener
	f.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{f.cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: f.pool}
	f.server.StartTLS()
	f.t.Cleanup(f.silence)
}

// silence ends it.
func (f *fleet) silence() {
	if f.server == nil {
		return
	}
	f.server.CloseClientConnections()
	f.send(wire.Dispatch{}) // ends what waits
	f.server.Close()
	f.server = nil
}

// send puts a dispatch in the place of the one before.
func (f *fleet) send(d wire.Dispatch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dispatch = d
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fleet) serveDispatch(w http.ResponseWriter, r *http.Request) {
	have, err := strconv.ParseUint(r.URL.Query().Get("have"), 10, 64)
	if err != nil {
		http.Error(w, "have", http.StatusBadRequest)
		return
	}
	for {
		f.mu.Lock()
		d, changed := f.dispatch, f.changed
		f.mu.Unlock()
		if d.Generation > have {
			w.Header().Set("Content-Type", wire.JSON)
			_ = json.NewEncoder(w).Encode(d)
			return
		}
		select {
		case <-changed:
			if d.Generation == 0 {
				continue
			}
		case <-r.Context().Done():
			return
		case <-time.After(2 * time.Second):
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
}

func (f *fleet) serveEvents(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var batch []wire.Event
	if err != nil || json.Unmarshal(body, &batch) != nil {
		http.Error(w, "no batch", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := wire.Answer{}
	for _, e := range batch {
		_, pos, err := wire.ParseEventID(e.ID)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer.Acked = pos
		if !f.seen[e.ID] {
			f.seen[e.ID] = true
			f.events = append(f.events, e)
		}
	}
	if f.swallowed > 0 {
		f.swallowed--
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", wire.JSON)
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *fleet) serveHeartbeat(w http.ResponseWriter, r *http.Request) {
	var hb wire.Heartbeat
	if err := json.NewDecoder(r.Body).Decode(&hb); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats = append(f.beats, hb)
	w.Header().Set("Content-Type", wire.JSON)
	_ = json.NewEncoder(w).Encode(f.reply)
}

// told gives the kinds of what was reported of a rollout, in the order in which it came.
func (f *fleet) told(rollout string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var kinds []string
	for _, e := range f.events {
		if kind, ok := wire.KindOf(e.Type); ok && e.Subject == rollout {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// member is a rig whose agent belongs to the fleet.
func (f *fleet) member(edits ...func(cfg *config.Config)) *rig {
	f.t.Helper()
	r := newRig(f.t, edits...)
	r.cfg.Hostname = "web"
	r.cfg.ControlPlane = config.ControlPlane{URL: "https://" + f.address, Certificate: f.file("web.pem"), Key: f.file("web.key"), CA: f.file("ca.pem"),
		HeartbeatInterval: config.Duration(time.Second)}
	return r
}

// hears waits until what was reported of a rollout is what is wanted.
func (f *fleet) hears(r *rig, rollout string, want ...string) {
	r.Helper()
	var got []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollPause) {
		if got = f.told(rollout); slices.Equal(got, want) {
			return
		}
	}
	r.Fatalf("of %s was reported %v, not %v", rollout, got, want)
}

func (r *rig) drained() localapi.Status {
	r.Helper()
	return r.until("everything is delivered", func(st localapi.Status) bool { return st.Outbox.Depth == 0 && st.Outbox.LastPos > 0 })
}

func dispatchOf(generation uint64, rollout, target string) wire.Dispatch {
	channel, _, _ := strings.Cut(rollout, "@")
	return wire.Dispatch{Generation: generation, Host: "web", RolloutID: rollout, Channel: channel, Target: target}
}

func TestADispatchIsBroughtAndReported(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.swallowed = 2
	f.answer()
	r := f.member()
	one, two := r.add(), r.add(withKernel("6.18.4"))
	r.start()
	f.send(dispatchOf(1, "stable@1", one))
	r.rests("stable@1", fsm.Converged)
	r.links(one, one, one)
	live := []string{"DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}
	f.hears(r, "stable@1", live...)
	if st := r.drained(); st.Outbox.Receiver != f.address || st.Outbox.AckedPos != st.Outbox.LastPos {
		t.Errorf("outbox %+v", st.Outbox)
	}

	// The same again does nothing again, also under a generation of its own: its outcome is the answer.
	f.send(dispatchOf(2, "stable@1", two))
	r.until("the generation is noted", func(localapi.Status) bool { return f.lastBeat().Generation == 2 })
	if got := f.told("stable@1"); !slices.Equal(got, live) {
		t.Errorf("reported %v", got)
	}

	// A deferral, its reboot, and the completion, over the same wire.
	f.send(dispatchOf(3, "stable@2", two))
	r.rests("stable@2", fsm.Deferred)
	r.reboot()
	r.start()
	r.rests("stable@2", fsm.Converged)
	f.hears(r, "stable@2", "DispatchAck", "ActivationStarted", "ActivationDeferred", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	r.drained()
	hb := f.lastBeat()
	if hb.Host != "web" || hb.Facts.Running == "" || hb.Cursor.Highest == 0 || len(hb.Records) != 1 || hb.AgentVersion != "test" {
		t.Errorf("heartbeat %+v", hb)
	}
}

func (f *fleet) lastBeat() wire.Heartbeat {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.beats) == 0 {
		return wire.Heartbeat{}
	}
	return f.beats[len(f.beats)-1]
}

func TestADispatchThatIsNotTakenIsAnswered(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.answer()
	r := f.member()
	good := r.add()
	r.start()
	past := time.Now().Add(-time.Hour)
	for i, c := range []struct {
		reason fsm.FailureReason
		edit   func(d *wire.Dispatch)
	}{
		{fsm.ReasonExpired, func(d *wire.Dispatch) { d.ExpiresAt = past }},
		{fsm.ReasonBadPath, func(d *wire.Dispatch) { d.Target = "/tmp/x" }},
		{fsm.ReasonNotNixOS, func(d *wire.Dispatch) { d.Target = r.add(func(c *simhost.Closure) { c.NotNixOS = true }) }},
		{fsm.ReasonWrongMachine, func(d *wire.Dispatch) { d.Target = r.add(func(c *simhost.Closure) { c.System = "riscv64-linux" }) }},
		{fsm.ReasonNotSwitchable, func(d *wire.Dispatch) { d.Specialisation = "nosuch" }},
	} {
		rollout := fmt.Sprintf("stable@%d", i)
		d := dispatchOf(uint64(i+1), rollout, good)
		c.edit(&d)
		f.send(d)
		f.hears(r, rollout, "DispatchRejected")
		f.mu.Lock()
		data := string(f.events[len(f.events)-1].Data)
		f.mu.Unlock()
		if !strings.Contains(data, `"reason":"`+string(c.reason)+`"`) {
			t.Errorf("%s: %s", c.reason, data)
		}
	}
	// Of these no record can be made: the host itself answers.
	for i, edit := range []func(d *wire.Dispatch){
		func(d *wire.Dispatch) { d.RolloutID = "" }, func(d *wire.Dispatch) { d.RolloutID = "local@x-1" }, func(d *wire.Dispatch) { d.Policy = "pray" },
		func(d *wire.Dispatch) { d.SoakMS = -1 }, func(d *wire.Dispatch) { d.RolloutID = strings.Repeat("x", 300) },
	} {
		d := dispatchOf(uint64(10+i), fmt.Sprintf("beta@%d", i), good)
		edit(&d)
		f.send(d)
		want := slices.Repeat([]string{"DispatchRefused"}, i+1)
		f.hears(r, "", want...)
	}
	r.links(r.first, r.first, r.first)
	r.expectSwitches()
	// A generation that leaves no room for later ones is refused, once, and does not stand in their way.
	f.send(dispatchOf(1<<63, "beta@absurd", good))
	f.hears(r, "", slices.Repeat([]string{"DispatchRefused"}, 6)...)

	// A held host takes it, and lets it wait.
	if _, err := r.client.Hold(ctxOf(r), localapi.HoldRequest{Reason: "audit"}); err != nil {
		t.Fatal(err)
	}
	f.send(dispatchOf(20, "stable@20", good))
	r.until("it waits", func(st localapi.Status) bool { return st.Next != nil && st.Next.ID == "stable@20" })
	if _, err := r.client.Resume(ctxOf(r)); err != nil {
		t.Fatal(err)
	}
	r.rests("stable@20", fsm.Converged)
}

func TestWithoutTheControlPlaneEverythingIsKept(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	r := f.member()
	target := r.add()
	r.start()
	id := r.activate(target).RolloutID
	r.rests(id, fsm.Converged)
	st := r.until("it is said that nobody answers", func(st localapi.Status) bool {
		return slices.ContainsFunc(st.Notes, func(n string) bool { return strings.Contains(n, "the control plane cannot be reached") })
	})
	if st.Verdict != localapi.AtTarget || st.Outbox.Depth != 5 {
		t.Errorf("%s, %d events wait", st.Verdict, st.Outbox.Depth)
	}
	f.answer()
	f.hears(r, id, "DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged")
	st = r.drained()
	if slices.ContainsFunc(st.Notes, func(n string) bool { return strings.Contains(n, "control plane") }) {
		t.Errorf("notes %v", st.Notes)
	}
}

// A store that was restored from a backup would give out positions again that the control plane knows: it begins a new epoch.
func TestARestoredStoreBeginsANewEpoch(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.answer()
	r := f.member()
	first := r.add()
	r.start()
	f.send(dispatchOf(1, "stable@1", first))
	r.rests("stable@1", fsm.Converged)
	r.drained()
	r.stop()
	backup, err := os.ReadFile(r.cfg.StorePath())
	r.must(err)
	r.start()
	id := r.activate(r.add()).RolloutID
	r.rests(id, fsm.Converged)
	st := r.drained()
	epoch, last := st.Agent.Epoch, st.Outbox.LastPos
	r.stop()
	r.must(os.WriteFile(r.cfg.StorePath(), backup, 0o600))
	f.mu.Lock()
	f.reply.Cursor = &wire.Cursor{Epoch: epoch, Highest: last, Acked: last}
	f.mu.Unlock()
	r.start()
	st = r.until("a new epoch begins", func(st localapi.Status) bool { return st.Agent.Epoch != "" && st.Agent.Epoch != epoch })
	f.hears(r, "", "Drift", "EpochRenewed") // the copy knows nothing of the rollout since
	again := r.activate(r.first).RolloutID
	if !strings.Contains(again, st.Agent.Epoch) {
		t.Errorf("rollout %s of epoch %s", again, st.Agent.Epoch)
	}
	r.rests(again, fsm.Converged)
	r.drained()
	if got := f.told(again); len(got) == 0 || got[len(got)-1] != "Converged" {
		t.Errorf("of the rollout after the restore was reported %v", got)
	}
}

// A host that lost its store adopts the outcome that the control plane knows, and does not start again what it has done.
func TestALostStoreIsAdopted(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.answer()
	r := f.member()
	target := r.add(withKernel("6.18.4"))
	r.start()
	f.send(dispatchOf(7, "stable@7", target))
	r.rests("stable@7", fsm.Deferred)
	r.drained()
	r.until("the heartbeat has the record", func(localapi.Status) bool {
		hb := f.lastBeat()
		return len(hb.Records) == 1 && strings.Contains(string(hb.Records[0]), `"Deferred"`)
	})
	hb := f.lastBeat()
	r.stop()
	r.must(os.WriteFile(r.cfg.StorePath(), []byte("no database"), 0o600))
	f.mu.Lock()
	f.reply = wire.HeartbeatReply{Cursor: &hb.Cursor, Snapshots: hb.Records, Generation: 7}
	f.mu.Unlock()
	r.start()
	r.rests("stable@7", fsm.Deferred)
	r.until("the generation is noted", func(localapi.Status) bool { return f.lastBeat().Generation == 7 })
	r.expectSwitches(ran("boot", target))
	r.reboot()
	r.start()
	r.rests("stable@7", fsm.Converged)
	r.drained()
	got := f.told("stable@7")
	if n := slices.Index(got, "ActivationCompleted"); n < 0 || slices.Contains(got[n+1:], "ActivationCompleted") || slices.Contains(got[n:], "DispatchAck") {
		t.Errorf("reported %v", got)
	}
}
