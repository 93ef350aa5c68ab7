package fleetstore_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
)

// open starts JetStream in a directory and opens the fleet in it.
func open(t *testing.T, dir string) (*fleetstore.Store, func()) {
	t.Helper()
	server, err := fleetstore.StartServer(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	store, err := fleetstore.Open(context.Background(), nc, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return store, func() { store.Close(); server.Close() }
}
