package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/controlplane"
	"github.com/nixfleet/nixfleet-agent/internal/fleetstore"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
)

type serveOptions struct {
	dir         string
	listen      string
	cluster     fleetstore.Cluster
	replicas    int
	retention   fleetstore.Retention
	verbose     bool
	certificate pki.Files
}

const (
	// keepAge is longer than anybody asks what a host did, and than a backup of the control plane is of use.
	keepAge = 90 * 24 * time.Hour
	// keepMessages is above what a host has to say in that time: some thirty batches a day, of a kilobyte or two. Ten thousand hosts
	// that say as much as they can stay below 100 GB.
	keepMessages = 5000
	// trimEvery is how often that is seen to. It costs a look at the oldest message of each host.
	trimEvery = time.Hour
)

// openTimeout bounds how long a start waits for JetStream. A cluster that was just started elects first.
const openTimeout = 2 * time.Minute

func serveVerb(g *globals) *cobra.Command {
	var opt serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer agents and operators",
		Long: `Answer agents and operators over HTTPS. Everything that is known is kept by NATS JetStream: in this process and --dir,
which one process uses at a time and where every write is synced, or in the cluster at --nats-url, before which any number of
instances may stand.

What hosts reported is kept for --keep-age and up to --keep-messages; what is known of a host does not need what is older.

Certificates are read again when their files change.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opt.certificate, err = g.files(pki.Server); err != nil {
				return err
			}
			if (opt.dir == "") == (opt.cluster.URL == "") {
				return hinted("one of --dir and --nats-url is needed", "--dir /var/lib/nixfleet keeps everything in one directory")
			}
			if (opt.cluster.Cert == "") != (opt.cluster.Key == "") {
				return hinted("--nats-cert and --nats-key belong together", "name both")
			}
			if opt.retention.Age < 0 {
				return hinted("--keep-age is not a duration from now", "2160h are 90 days, 0 keeps everything")
			}
			return opt.run(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opt.dir, "dir", "", "keep everything in this `directory`, which is made if it is missing")
	flags.StringVar(&opt.cluster.URL, "nats-url", "", "keep everything in the NATS JetStream at this `URL`, with commas between several")
	flags.StringVar(&opt.cluster.Credentials, "nats-creds", "", "credentials `file` for --nats-url")
	flags.StringVar(&opt.cluster.CA, "nats-ca", "", "certificate `file` of the authority of --nats-url, which then has to speak TLS")
	flags.StringVar(&opt.cluster.Cert, "nats-cert", "", "client certificate `file` for --nats-url")
	flags.StringVar(&opt.cluster.Key, "nats-key", "", "key `file` of --nats-cert")
	flags.IntVar(&opt.replicas, "replicas", 1, "`number` of replicas in the cluster at --nats-url")
	flags.DurationVar(&opt.retention.Age, "keep-age", keepAge, "keep what was reported for this `duration`; 0: for ever")
	flags.Uint64Var(&opt.retention.Messages, "keep-messages", keepMessages, "keep at most this `number` of messages of each host, a batch of events each; 0: all")
	flags.StringVar(&opt.listen, "listen", ":8443", "`address` to listen on")
	flags.BoolVarP(&opt.verbose, "verbose", "v", false, "log more")
	return cmd
}

func (o *serveOptions) run(ctx context.Context, stderr io.Writer) (err error) {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	identity, err := pki.Load(o.certificate, func(err error) { log.Warn("certificate", slog.Any("err", err)) })
	if err != nil {
		return err
	}
	nc, closeNATS, err := o.connect(log)
	if err != nil {
		return err
	}
	defer closeNATS()
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	store, err := fleetstore.Open(opening, nc, o.replicas, log)
	if err != nil {
		return err
	}
	targets, err := store.WatchTargets(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if closing := targets.Close(); closing != nil && !errors.Is(closing, nats.ErrConnectionClosed) && ctx.Err() == nil {
			err = errors.Join(err, closing)
		}
	}()
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", o.listen, err)
	}
	log.Info("serving", slog.String("address", listener.Addr().String()), slog.String("version", version))
	return controlplane.New(controlplane.Config{Store: store, Targets: targets, TLS: identity.ServerConfig(), Now: time.Now, Log: log, Retention: o.retention, TrimEvery: trimEvery}).Serve(ctx, listener)
}

// connect reaches JetStream, in this process or outside. What it gives closes both in their order.
func (o *serveOptions) connect(log *slog.Logger) (*nats.Conn, func(), error) {
	if o.cluster.URL != "" {
		nc, err := fleetstore.Dial(o.cluster, log)
		if err != nil {
			return nil, nil, err
		}
		return nc, nc.Close, nil
	}
	if o.cluster != (fleetstore.Cluster{}) {
		return nil, nil, hinted("--nats-creds, --nats-ca, --nats-cert and --nats-key are for a cluster", "name it with --nats-url instead of --dir")
	}
	if o.replicas != 1 {
		return nil, nil, hinted("--replicas is for a cluster", "an embedded JetStream is one server, which syncs every write")
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make --dir: %w", err)
	}
	unlock, err := lock(filepath.Join(o.dir, "lock"))
	if err != nil {
		return nil, nil, err
	}
	server, err := fleetstore.StartServer(filepath.Join(o.dir, "jetstream"), log)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	nc, err := server.Connect()
	if err != nil {
		server.Close()
		unlock()
		return nil, nil, err
	}
	return nc, func() { nc.Close(); server.Close(); unlock() }, nil
}

// lock keeps a second process out of the directory: JetStream itself would not notice it.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock --dir: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = errors.Join(err, f.Close())
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, hinted("another control plane works in "+filepath.Dir(path), "stop it, or name another --dir")
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil // the lock goes with the file
}
