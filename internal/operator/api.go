// Package operator is how an operator's programs speak with the reference control plane: the shapes, and a client. It is not part of
// what agents speak. Fields are only ever added.
//
//	POST /v1/operator/dispatch          a Request; 200 with a Reply
//	POST /v1/operator/follow            a Follow; 200 with lines of Progress, one whenever a host's changes
//	GET  /v1/operator/hosts             200 with Hosts
//	GET  /v1/operator/hosts/{host}      200 with a Detail
//	GET  /v1/operator/accused           200 with Accused
//	POST /v1/operator/accused/clear     a Clear; 200 with the Clear
//	GET  /v1/operator/events            200 with lines of Line; ?host=, last=N, follow=1
//
// Who asks is told by the client certificate, which must be an operator's. What is no success is a wire.Problem.
package operator

import (
	"encoding/json"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Paths of the protocol.
const (
	DispatchPath = "/v1/operator/dispatch"
	FollowPath   = "/v1/operator/follow"
	HostsPath    = "/v1/operator/hosts"
	EventsPath   = "/v1/operator/events"
	AccusedPath  = "/v1/operator/accused"
	ClearPath    = "/v1/operator/accused/clear"
)

const (
	// MaxRequest bounds what an operator sends, in bytes: the names of ten thousand hosts, and room.
	MaxRequest = 8 << 20
	// MaxHosts bounds one dispatch.
	MaxHosts = 20_000
	// Lines is the content type of an answer of one JSON value per line.
	Lines = "application/x-ndjson"
)

// Request asks hosts to bring themselves to a target. The rollout is Channel@Ref; the same request again does nothing twice.
type Request struct {
	Hosts          []string  `json:"hosts"`
	Channel        string    `json:"channel"`
	Ref            string    `json:"ref"`
	Target         string    `json:"target"`
	Specialisation string    `json:"specialisation,omitempty"`
	SoakMS         int64     `json:"soakMs"`
	SoakDueAt      time.Time `json:"soakDueAt,omitzero"`
	Policy         string    `json:"policy,omitempty"`
	Force          bool      `json:"force,omitempty"`
	ExpiresAt      time.Time `json:"expiresAt,omitzero"`
}

// Reply says what became of a Request, host by host.
type Reply struct {
	RolloutID string       `json:"rolloutId"`
	Hosts     []Dispatched `json:"hosts"`
}

// Dispatched is the dispatch of one host.
type Dispatched struct {
	Host       string `json:"host"`
	Generation uint64 `json:"generation,omitempty"`
	New        bool   `json:"new,omitempty"`        // false: the same was asked for before
	NeverHeard bool   `json:"neverHeard,omitempty"` // nothing was ever heard of the host
	Error      string `json:"error,omitempty"`      // it was not dispatched to this host
	Hint       string `json:"hint,omitempty"`
}

// Follow asks for the progress of a rollout on hosts.
type Follow struct {
	RolloutID string   `json:"rolloutId"`
	Hosts     []string `json:"hosts"`
}

// Progress is where a rollout stands on a host.
type Progress struct {
	Host       string    `json:"host"`
	RolloutID  string    `json:"rolloutId"`
	Generation uint64    `json:"generation,omitempty"`
	State      string    `json:"state,omitempty"` // of package fsm; empty: nothing is known of it
	At         time.Time `json:"at,omitzero"`     // when the last entry of the host's log was received
	// Settled: it goes on by itself no further, as far as is known: it has converged, failed, waits for a reboot, or was replaced.
	Settled    bool   `json:"settled"`
	ReplacedBy uint64 `json:"replacedBy,omitempty"` // generation of the dispatch that replaced it before the host answered
	Inferred   bool   `json:"inferred,omitempty"`   // concluded from a heartbeat
	// GoneAt: since then the host is known not to have it any more. It has ended, how is not known here, and State is the last that
	// was heard.
	GoneAt  time.Time `json:"goneAt,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	Detail  string    `json:"detail,omitempty"`
	Waiting []string  `json:"waiting,omitempty"` // critical components for which it waits
	// Behind: the host has seen a later generation than this control plane has given out, so that it does not take the dispatch.
	Behind bool `json:"behind,omitempty"`
}

// Hosts is the fleet.
type Hosts struct {
	Hosts []Summary `json:"hosts"`
}

// Summary is one host in one line.
type Summary struct {
	Host         string    `json:"host"`
	SeenAt       time.Time `json:"seenAt,omitzero"` // last heartbeat since the control plane was started; zero: none
	AgentVersion string    `json:"agentVersion,omitempty"`
	Running      string    `json:"running,omitempty"`
	Rollout      *Progress `json:"rollout,omitempty"` // the last to change
	OutboxDepth  int       `json:"outboxDepth,omitempty"`
	Degraded     []string  `json:"degraded,omitempty"`
	Hold         string    `json:"hold,omitempty"`
	Refusals     int       `json:"refusals,omitempty"` // events that the rules refused, as far as they are kept
}

// Detail is all that is known of a host.
type Detail struct {
	Summary   Summary         `json:"summary"`
	Heartbeat *wire.Heartbeat `json:"heartbeat,omitempty"`
	Dispatch  *wire.Dispatch  `json:"dispatch,omitempty"` // the newest
	Mirror    json.RawMessage `json:"mirror"`             // as package mirror encodes it
}

// Accused are the targets that are dispatched on their channel only by force, since a host went back from them.
type Accused struct {
	Accused []Accusation `json:"accused"`
}

// Accusation is what speaks against a target on a channel: the first host that went back from it.
type Accusation struct {
	Channel   string    `json:"channel"`
	Target    string    `json:"target"`
	Host      string    `json:"host"`
	RolloutID string    `json:"rolloutId"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
}

// Clear takes an accusation away. What a host has quarantined itself it keeps away from until that is cleared there.
type Clear struct {
	Channel string `json:"channel"`
	Target  string `json:"target"`
}

// Line is one line of the log of the fleet.
type Line struct {
	Seq        uint64          `json:"seq"` // of its message in the log
	Host       string          `json:"host"`
	ReceivedAt time.Time       `json:"receivedAt"`
	Kind       string          `json:"kind"` // of the event, or one of the Line kinds
	ID         string          `json:"id,omitempty"`
	RolloutID  string          `json:"rolloutId,omitempty"`
	Time       time.Time       `json:"time,omitzero"` // when the host observed it
	Result     wire.Ruling     `json:"result,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
}

// Kinds of lines that are no event of a host.
const (
	LineDispatched = "Dispatched"     // an operator asks the host for something
	LineResynced   = "Resynced"       // a heartbeat told what no event had told
	LineGeneration = "GenerationSeen" // the host has seen a generation that is not known here
	// LineCheckpoint: what is known of the host was written down whole, so that older lines of it may be purged. Data says which:
	// {"through": sequence, "before": time}.
	LineCheckpoint = "Checkpoint"
	// LinePurged is the first line where what was asked for reaches back to lines that were purged. Of one host it has the same Data, of
	// the fleet neither Seq nor Host nor Data.
	LinePurged = "Purged"
)
