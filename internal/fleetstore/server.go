package fleetstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Server is JetStream in this process and one directory. It listens on no port.
type Server struct {
	nats *server.Server
}

// StartServer starts JetStream in dir, which is made if it is missing. Every write is synced: there is no replica to have it
// otherwise. The caller closes it after every Store that is connected to it.
func StartServer(dir string, log *slog.Logger) (*Server, error) {
	ns, err := server.NewServer(&server.Options{
		ServerName: "nixfleet-control-plane",
		DontListen: true,
		JetStream:  true, StoreDir: dir, SyncAlways: true,
		JetStreamMaxMemory:     memoryLimit,
		MaxPayload:             maxPayload,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("start JetStream in %s: %w", dir, err)
	}
	ns.SetLoggerV2(serverLog{log}, false, false, false)
	ns.Start()
	if !ns.ReadyForConnections(startTimeout) || !ns.JetStreamEnabled() {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("start JetStream in %s: it did not come up", dir)
	}
	return &Server{nats: ns}, nil
}

// Close stops the server when everything that was accepted is on disk.
func (s *Server) Close() {
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
}

// Connect connects to the server in this process.
func (s *Server) Connect() (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(s.nats), nats.Name("nixfleet-control-plane"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to JetStream: %w", err)
	}
	return nc, nil
}

// Cluster is how an external cluster is reached. Its files are read again whenever a connection is made.
type Cluster struct {
	URL         string // of one server or, with commas, of several
	Credentials string // file of a user's credentials; empty: none
	// CA is the file of the authority by which the servers' certificates are verified; Cert and Key are those of a client certificate. With
	// any of them TLS 1.3 is required. Empty: the authorities that this machine trusts, and no certificate.
	CA, Cert, Key string
}

// Dial connects to an external cluster and goes on trying when it is away.
func Dial(c Cluster, log *slog.Logger) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("nixfleet-control-plane"), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected from NATS", slog.Any("err", err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connected to NATS again", slog.String("server", nc.ConnectedUrlRedacted()))
		}),
	}
	if c.Credentials != "" {
		opts = append(opts, nats.UserCredentials(c.Credentials))
	}
	if c.CA != "" || c.Cert != "" || c.Key != "" {
		opts = append(opts, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS13}))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" || c.Key != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	nc, err := nats.Connect(c.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", errors.Join(ErrUnavailable, err))
	}
	return nc, nil
}

// serverLog hands what the embedded server has to say to the program's own log.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v) }
func (l serverLog) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v) }
func (l serverLog) Fatalf(format string, v ...any)  { l.say(slog.LevelError, format, v) }
func (l serverLog) Debugf(format string, v ...any)  { l.say(slog.LevelDebug, format, v) }
func (l serverLog) Tracef(format string, v ...any)  { l.say(slog.LevelDebug, format, v) }

func (l serverLog) say(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "jetstream", slog.String("said", fmt.Sprintf(format, v...)))
}
