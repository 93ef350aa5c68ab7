// Command jetstream is a NATS server as a program of its own, for tests of a control plane on a cluster.
//
// Usage: jetstream CONFIGURATION-FILE, which is that of any NATS server. It ends by a signal.
package main

import (
	"log"
	"os"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: jetstream CONFIGURATION-FILE")
	}
	opts, err := server.ProcessConfigFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		log.Fatal(err)
	}
	ns.ConfigureLogger()
	ns.Start()
	ns.WaitForShutdown()
}
