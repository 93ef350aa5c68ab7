package importlaw_test

// reasons maps an import path to why the importer may have it.
type reasons map[string]string

// room is one row of the law: what a package is for, and every package of this
// module and of third parties that it may import, each with the reason.
type room struct {
	purpose string
	// pure rooms compute from values alone: their share of the standard
	// library is pureStandardLibrary and nothing else.
	pure bool
	// internal and external are imports of the product's own code.
	internal reasons
	external reasons
	// tests are imports of packages of this module by _test.go files, beyond
	// what the code itself has.
	tests reasons
	// testsExternal are imports of third-party packages by _test.go files, beyond
	// what the code itself has.
	testsExternal reasons
}

// Third-party packages, by the name that the table uses for them.
const (
	bbolt       = "go.etcd.io/bbolt"
	bboltErrors = "go.etcd.io/bbolt/errors"
	cobra       = "github.com/spf13/cobra"
	cobraDoc    = "github.com/spf13/cobra/doc"
	jetstream   = "github.com/nats-io/nats.go/jetstream"
	nats        = "github.com/nats-io/nats.go"
	natsServer  = "github.com/nats-io/nats-server/v2/server"
	godbus      = "github.com/godbus/dbus/v5"
	jsonSchema  = "github.com/santhosh-tekuri/jsonschema/v6"
	sdDaemon    = "github.com/coreos/go-systemd/v22/daemon"
	sdJournal   = "github.com/coreos/go-systemd/v22/journal"
	systemdDBus = "github.com/coreos/go-systemd/v22/dbus"
	tint        = "github.com/lmittmann/tint"
	unix        = "golang.org/x/sys/unix"
)

// law is the whole table. A package of this module that is not in it, an import
// that is not in its row, and a row or import that is no longer true all fail.
// A new edge is an edit here, with the reason that a reviewer will judge.
var law = map[string]room{
	"internal/fsm": {
		purpose: "the rules: state and event in, state and effects out",
		pure:    true,
		tests: reasons{
			"internal/schematest": "payloads and records are held against their published schemas",
		},
	},
	"internal/bootrecovery": {
		purpose: "the verdict on what a start of the agent finds",
		pure:    true,
		internal: reasons{
			"internal/fsm": "its input is a record, its output are events for Step",
		},
	},
	"internal/system": {
		purpose: "read-only facts of this host below a root directory",
		external: reasons{
			godbus: "the executable behind the live bus is known only to that bus, the soft-reboot count only to PID 1",
			unix:   "uname, readlink and their errors without a copy of the path",
		},
	},
	"internal/checksum": {
		purpose: "the CRC32C around a stored value and its place",
		pure:    true,
	},
	"internal/wire": {
		purpose: "the JSON shapes that an agent and a control plane speak; data only",
		pure:    true,
		tests: reasons{
			"internal/schematest": "the shapes, and the examples of the protocol's page, are held against their published schemas",
		},
	},
	"internal/mirror": {
		purpose: "what a control plane knows of a host: the fold of what it was told, and nothing else",
		pure:    true,
		internal: reasons{
			"internal/fsm":  "the mirror's half of the rules moves its records",
			"internal/wire": "what it folds are batches and heartbeats",
		},
	},
	"internal/fleetstore": {
		purpose: "the log, the mirrors and the targets of a fleet, on NATS JetStream",
		internal: reasons{
			"internal/mirror": "a batch is folded before it is appended",
			"internal/wire":   "what it stores are batches and dispatches",
		},
		external: reasons{
			nats:       "the connection to the cluster, or to the server in this process",
			jetstream:  "streams and buckets, with compare-and-swap on a subject",
			natsServer: "the server in this process, for a fleet of one machine",
		},
	},
	"internal/operator": {
		purpose: "what operators and a control plane say to each other, and the client of it",
		internal: reasons{
			"internal/wire": "heartbeats and dispatches are shown as they were sent",
		},
	},
	"internal/pki": {
		purpose: "the authority of a fleet and the certificates that it issues",
	},
	"internal/controlplane": {
		purpose: "answers agents and operators over HTTPS",
		internal: reasons{
			"internal/fleetstore": "an answer is given when the batch is stored",
			"internal/fsm":        "states are shown by their names",
			"internal/mirror":     "what is shown of a host is its mirror",
			"internal/operator":   "the shapes of what operators ask",
			"internal/pki":        "who asks is told by the certificate",
			"internal/wire":       "the shapes of what agents ask",
		},
	},
	"internal/control": {
		purpose: "the agent's side of the conversation with a control plane",
		internal: reasons{
			"internal/outbox": "it is the receiver that the sender of the outbox delivers to",
			"internal/wire":   "the shapes that are spoken",
		},
	},
	"internal/outbox": {
		purpose: "the durable queue of events that are owed to the control plane",
		internal: reasons{
			"internal/checksum": "bbolt's pages carry no checksum; every entry has its own",
		},
		external: reasons{
			bbolt: "an entry is appended in the caller's write transaction",
		},
	},
	"internal/store": {
		purpose: "the one database file: records, history, schema",
		internal: reasons{
			"internal/checksum": "bbolt's pages carry no checksum; every record has its own",
			"internal/fsm":      "what it keeps are the records of fsm",
			"internal/outbox":   "one Update holds a record and the entries that report it",
		},
		external: reasons{
			bbolt:       "it is the database",
			bboltErrors: "what bbolt refuses to open is moved aside, by its reason",
		},
	},
	"internal/activate": {
		purpose: "live or deferred, and the runner that touches the host",
		internal: reasons{
			"internal/system": "the classifier compares what system reads of closures and of the host",
		},
		external: reasons{
			godbus:      "properties of a transient unit are D-Bus variants, its errors D-Bus errors",
			systemdDBus: "the switch runs in a transient unit, outside the agent's cgroup",
			unix:        "flock, fsync of directories, free space of the boot partition",
		},
	},
	"internal/localapi": {
		purpose: "the unix socket and the stable shape of status",
		external: reasons{
			unix: "peer credentials of who asks for a change",
		},
	},
	"internal/config": {
		purpose: "the one configuration file, strict, with the default of every field",
	},
	"internal/agent": {
		purpose: "the loop; the only place where the rooms meet",
		internal: reasons{
			"internal/activate":     "effects that touch the host are carried out by the runner",
			"internal/bootrecovery": "a start asks it what the last life left behind",
			"internal/config":       "paths, policy and deadlines are the operator's",
			"internal/control":      "dispatches come in and heartbeats go out",
			"internal/fsm":          "the loop steps the state machine",
			"internal/localapi":     "requests come in and status goes out over the socket",
			"internal/outbox":       "the sender drains it, a turn of the loop appends to it",
			"internal/store":        "one turn of the loop is one Update",
			"internal/system":       "recovery and outcomes are judged by facts of the host",
			"internal/wire":         "a dispatch becomes a record, and the host a heartbeat",
		},
		external: reasons{
			unix: "time since boot without suspend, by which a soak is served",
		},
		tests: reasons{
			"internal/checksum":   "a store that only a newer agent may write is made by hand",
			"internal/schematest": "a host notice is held against its published schema",
			"internal/simhost":    "the loop is tested against a directory that looks like a host",
		},
		testsExternal: reasons{
			bbolt: "a store that only a newer agent may write is made by hand",
		},
	},
	"internal/simhost": {
		purpose: "lays out a directory that looks like a NixOS host; for tests and the demo only",
	},
	"internal/schematest": {
		purpose: "holds the published schemas against values and types; for tests only",
		external: reasons{
			jsonSchema: "it validates",
		},
	},
	"internal/testhost": {
		purpose: "boots a real systemd with a real Nix store; for the e2e suite only",
		internal: reasons{
			"internal/simhost": "the scripts and closures that it puts onto the host",
		},
		external: reasons{
			unix: "the namespace of its network",
		},
	},
	"cmd/nixfleet-agent": {
		purpose: "one file per verb; parses, calls, prints",
		internal: reasons{
			"internal/activate": "the body of an attempt is this binary, started again",
			"internal/agent":    "run is the agent",
			"internal/config":   "--config and the flags that override it",
			"internal/localapi": "every other verb is a client of the socket",
			"internal/store":    "the errors of a file that is read with the agent down have hints of their own",
		},
		external: reasons{
			cobra:     "verbs, flags, completions",
			cobraDoc:  "man pages come from the same commands as the help",
			sdDaemon:  "READY, STATUS and the watchdog, said by the loop, go to the service manager",
			sdJournal: "as a service, log fields are journal fields",
			tint:      "on a terminal, the log is for eyes",
		},
		tests: reasons{
			"internal/schematest": "the events of a session are held against their published schemas",
			"internal/simhost":    "scripts of the verbs run against a host-shaped directory",
		},
	},
	"cmd/nixfleet-control-plane": {
		purpose: "one file per verb; parses, calls, prints",
		internal: reasons{
			"internal/controlplane": "serve is the control plane",
			"internal/fleetstore":   "serve opens the log",
			"internal/mirror":       "show reads a mirror",
			"internal/operator":     "every other verb is a client of it",
			"internal/pki":          "certs is the authority",
			"internal/wire":         "a dispatch is made of its flags",
		},
		external: reasons{
			cobra: "verbs, flags, completions",
			nats:  "the credentials for an external cluster",
			unix:  "whether the output is a terminal",
		},
	},
	"demo": {
		purpose: "make demo: the real binary, unprivileged, through a reboot",
		internal: reasons{
			"internal/localapi": "it reads status as an operator's program would",
			"internal/simhost":  "the host that it shows",
		},
	},
	"bench": {
		purpose: "make bench: ratios and sizes with their anchor in the same run",
		internal: reasons{
			"internal/activate": "cost of a classification",
			"internal/fsm":      "a transition to commit",
			"internal/localapi": "when recovery is done is asked over the socket",
			"internal/outbox":   "the event that a transition appends",
			"internal/simhost":  "the host that the binary starts on",
			"internal/store":    "cost of a commit",
			"internal/system":   "components of a closure to classify",
		},
		external: reasons{
			bbolt: "counts the commits of a transition",
		},
	},
	"bench/fleet": {
		purpose: "make bench-fleet: a simulated fleet against the real control plane",
		internal: reasons{
			"internal/control":  "the real client drains the queue",
			"internal/fsm":      "what hosts report, and the record that a heartbeat carries",
			"internal/mirror":   "what has arrived is read from the mirror of the host",
			"internal/operator": "dispatches, and what became of them",
			"internal/outbox":   "the real sender drains the queue",
			"internal/pki":      "certificates of server and operator",
			"internal/wire":     "the shapes that the agents speak",
		},
		external: reasons{
			bbolt: "the file of the queue",
		},
	},
	"e2e": {
		purpose: "the service on a booted host; test files only",
		tests: reasons{
			"internal/testhost": "the machine that it boots",
			"internal/simhost":  "closures of both hosts have the same shape",
		},
	},
	"internal/importlaw": {
		purpose: "this law",
	},
}

// notInTheProduct are rooms that only tests and demonstrations may import.
var notInTheProduct = []string{"internal/schematest", "internal/simhost", "internal/testhost"}

// testOnly are third-party packages that any _test.go file may import and
// nothing of the product: they are no part of what runs on a host.
var testOnly = reasons{
	"github.com/rogpeppe/go-internal/testscript": "the verbs are tested by scripts that read like a shell session",
	jsonSchema:           "what --json prints is held against its published schema",
	"pgregory.net/rapid": "properties over random walks",
}

// pureStandardLibrary is what a room that does no I/O and reads no clock, no
// environment and no randomness may import. io is here for its errors and
// interfaces, time for its types: reading the clock is caught separately.
var pureStandardLibrary = []string{
	"bytes", "cmp", "crypto/sha256", "encoding", "encoding/base32", "encoding/binary", "encoding/hex", "encoding/json",
	"errors", "fmt", "hash", "hash/crc32", "hash/fnv", "io", "iter", "maps", "math", "math/bits",
	"path", "regexp", "slices", "sort", "strconv", "strings", "time",
	"unicode", "unicode/utf8",
}

// guarded are packages of the standard library that only some rooms of the
// product may import.
var guarded = map[string]struct {
	rooms  []string
	reason string
}{
	"log": {
		reason: "there is one log, slog, and it is handed down",
	},
	"net": {
		rooms:  []string{"internal/control", "internal/controlplane", "internal/localapi", "internal/pki", "cmd/nixfleet-control-plane"},
		reason: "whoever can open a socket must be easy to list",
	},
	"net/http": {
		rooms:  []string{"internal/control", "internal/controlplane", "internal/localapi", "internal/operator"},
		reason: "whoever can speak to others must be easy to list",
	},
	"os/exec": {
		rooms:  []string{"internal/activate"},
		reason: "a root agent's list of what starts processes must be short",
	},
	"unsafe": {
		reason: "nothing here needs it",
	},
	"testing": {
		reason: "a product does not carry its tests",
	},
}

// clockReads tell the time. Of the product's rooms only clockReaders may call
// them; everybody else is handed a time or a clock, so that tests and recovery
// decide what "now" is.
var (
	clockReads   = []string{"Now", "Since", "Until"}
	clockReaders = []string{"internal/agent", "cmd/nixfleet-agent", "cmd/nixfleet-control-plane"}
)

// clockWaits wait for the time. Rooms that are not pure may, but for sleep,
// which nothing can cancel.
var (
	clockWaits = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Tick"}
	sleep      = "Sleep"
)
