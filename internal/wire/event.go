package wire

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SpecVersion is the version of CloudEvents that is spoken.
const SpecVersion = "1.0"

// Event is one event of a host as a CloudEvent (CloudEvents 1.0, JSON Event Format).
type Event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`                // EventID: epoch:pos, unique for the source for ever
	Source          string          `json:"source"`            // SourceOf the host
	Type            string          `json:"type"`              // TypeOf the kind
	Subject         string          `json:"subject,omitempty"` // the rollout; absent for a notice of the host
	Time            time.Time       `json:"time"`              // when it was observed, UTC
	DataContentType string          `json:"datacontenttype"`   // JSON
	Data            json.RawMessage `json:"data"`              // the payload, as docs/schema describes it for each kind
}

const (
	typePrefix = "dev.nixfleet.agent."
	typeSuffix = ".v1"
	hostPrefix = "/hosts/"
)

// TypeOf is the CloudEvents type of a kind of event: dev.nixfleet.agent.<Kind>.v1.
func TypeOf(kind string) string { return typePrefix + kind + typeSuffix }

// KindOf is the kind of event in a CloudEvents type.
func KindOf(eventType string) (kind string, ok bool) {
	kind, ok = strings.CutPrefix(eventType, typePrefix)
	if !ok {
		return "", false
	}
	kind, ok = strings.CutSuffix(kind, typeSuffix)
	return kind, ok && kind != ""
}

// SourceOf is the CloudEvents source of a host: /hosts/<name>.
func SourceOf(host string) string { return hostPrefix + host }

// HostOf is the host in a CloudEvents source.
func HostOf(source string) (host string, ok bool) {
	host, ok = strings.CutPrefix(source, hostPrefix)
	return host, ok && host != ""
}

// EventID is the id of an event: epoch:pos.
func EventID(epoch string, pos uint64) string { return epoch + ":" + strconv.FormatUint(pos, 10) }

// ParseEventID is the way back of EventID.
func ParseEventID(id string) (epoch string, pos uint64, err error) {
	at := strings.LastIndexByte(id, ':')
	if at <= 0 {
		return "", 0, fmt.Errorf("read event id %q: it is not epoch:pos", id)
	}
	pos, err = strconv.ParseUint(id[at+1:], 10, 64)
	if err != nil || pos == 0 || strconv.FormatUint(pos, 10) != id[at+1:] {
		return "", 0, fmt.Errorf("read event id %q: %q is not a position", id, id[at+1:])
	}
	return id[:at], pos, nil
}

// Answer is what a receiver says of a batch that it has stored. A 2xx without one acknowledges the whole batch.
type Answer struct {
	// Acked is the highest position up to which everything of this epoch is stored or refused for good.
	Acked   uint64   `json:"acked"`
	Results []Result `json:"results,omitempty"`
}

// Result is what became of one event.
type Result struct {
	Pos    uint64 `json:"pos"`
	Result Ruling `json:"result"`
	Reason string `json:"reason,omitempty"` // why it was refused
}

// Ruling is what a receiver did with an event. A refused event is stored and acknowledged: the host is the authority on the host.
type Ruling string

// The rulings.
const (
	Applied   Ruling = "applied"
	Duplicate Ruling = "duplicate"
	Refused   Ruling = "refused"
)

// Problem is the body of an answer that is no success.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Pos names the event of a batch that will never be taken. The sender sets it aside and goes on with the others.
	Pos uint64 `json:"pos,omitempty"`
}

func (p *Problem) Error() string { return p.Message }
