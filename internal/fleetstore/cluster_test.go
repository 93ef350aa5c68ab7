package fleetstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// patience bounds every wait. An election takes seconds.
const patience = 90 * time.Second

// cluster starts three JetStream servers that replicate to each other, and gives them with the URL of all.
func cluster(t *testing.T) ([]*server.Server, string) {
	t.Helper()
	var routes []string
	ports := make([]int, 3)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = l.Addr().(*net.TCPAddr).Port
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var servers []*server.Server
	var urls []string
	for i, port := range ports {
		ns, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port}, Routes: server.RoutesFromStr(strings.Join(routes, ",")),
		})
		if err != nil {
			t.Fatal(err)
		}
		ns.Start()
		t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
		servers = append(servers, ns)
	}
	for _, ns := range servers {
		if !ns.ReadyForConnections(patience) {
			t.Fatal("a server of the cluster does not come up")
		}
		urls = append(urls, ns.ClientURL())
	}
	return servers, strings.Join(urls, ",")
}

// Two instances on a cluster of three, one server of which goes away under way, and then comes the whole of what each of them sent
// once more. Every event is in the log once, and both instances tell the same.
func TestClusterThatLosesAServer(t *testing.T) {
	servers, url := cluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Both make everything at the same moment, on a cluster that has only just elected, where answers get lost.
	var opened [2]*fleetstore.Store
	var opening sync.WaitGroup
	for i := range opened {
		nc, err := fleetstore.Dial(fleetstore.Cluster{URL: url}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		opening.Go(func() {
			store, err := fleetstore.Open(ctx, nc, 3, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Errorf("open: %v", err)
				nc.Close()
				return
			}
			t.Cleanup(store.Close)
			opened[i] = store
		})
	}
	opening.Wait()
	if t.Failed() {
		return
	}
	a, b := opened[0], opened[1]
	const events = 60
	half := make(chan struct{})
	var once sync.Once
	send := func(s *fleetstore.Store, watch bool) {
		for pos := uint64(1); pos <= events; pos++ {
			for { // as a sender does: until there is an answer
				_, results, err := s.Change(ctx, "h", func(mirror.State) (mirror.Entry, error) {
					return mirror.Entry{At: epochStart, Batch: []wire.Event{notice("h", pos)}}, nil
				})
				if err == nil && len(results) == 1 {
					break
				}
				if ctx.Err() != nil {
					t.Errorf("event %d: %v", pos, err)
					return
				}
			}
			if watch && pos == events/2 {
				once.Do(func() { close(half) })
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { send(a, true) })
	wg.Go(func() { send(b, false) })
	select {
	case <-half:
	case <-ctx.Done():
		t.Fatal("the instances do not get on")
	}
	for _, ns := range servers {
		if ns.JetStreamIsStreamLeader("$G", "NIXFLEET_LOG") {
			ns.Shutdown() // the one that all depends on
			ns.WaitForShutdown()
			break
		}
	}
	wg.Wait()
	send(a, false)
	applied := map[uint64]int{}
	for {
		clear(applied)
		if err := b.Range(ctx, "h", 1, 1<<62, func(l fleetstore.Logged) error {
			for _, r := range l.Entry.Results {
				if r.Result == wire.Applied {
					applied[r.Pos]++
				}
			}
			return nil
		}); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	for pos := uint64(1); pos <= events; pos++ {
		if applied[pos] != 1 {
			t.Errorf("event %d was applied %d times", pos, applied[pos])
		}
	}
	one, err := a.State(ctx, "h")
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.State(ctx, "h")
	if err != nil || encoded(t, one) != encoded(t, other) {
		t.Errorf("the instances differ: %+v, %+v, %v", one, other, err)
	}
	for purged := uint64(0); purged == 0; { // with a server missing, the log is trimmed as well
		if purged, err = a.Trim(ctx, fleetstore.Retention{Messages: 10}, epochStart); ctx.Err() != nil {
			t.Fatalf("nothing is purged: %v", err)
		}
	}
	if _, results := appendBatch(t, b, "h", notice("h", events), notice("h", events+1)); results[0].Result != wire.Duplicate || results[1].Result != wire.Applied {
		t.Errorf("after a trim: %+v", results)
	}
}

// BenchmarkDrain is the way of ten thousand events of one host into the log, in batches as the sender makes them.
func BenchmarkDrain(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		ns, err := fleetstore.StartServer(b.TempDir(), slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		nc, err := ns.Connect()
		if err != nil {
			b.Fatal(err)
		}
		store, err := fleetstore.Open(context.Background(), nc, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for from := uint64(1); from <= 10_000; from += wire.MaxEvents {
			var batch []wire.Event
			for pos := from; pos < from+wire.MaxEvents; pos++ {
				batch = append(batch, notice("h", pos))
			}
			if _, _, err := store.Change(context.Background(), "h", func(mirror.State) (mirror.Entry, error) {
				return mirror.Entry{At: epochStart, Batch: batch}, nil
			}); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		store.Close()
		ns.Close()
		b.StartTimer()
	}
}
