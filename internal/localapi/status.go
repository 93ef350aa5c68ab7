package localapi

import (
	_ "embed" // the schema
	"encoding/json"
	"time"
)

// SchemaVersion is the version of the JSON contract of Status. Fields are only ever added under one version.
const SchemaVersion = 1

// StatusSchema is the JSON Schema of Status, as it is published.
//
//go:embed status.schema.json
var StatusSchema string

// Status answers three questions about this host: what is, why, and what next. It is the stable contract of
// `status --json`; status.schema.json beside this file describes it.
//
// Times are RFC 3339 in UTC; absent means that the thing has not happened or is not known. Closures are store paths.
type Status struct {
	SchemaVersion int       `json:"schemaVersion"`
	Source        Source    `json:"source"`
	At            time.Time `json:"at"`
	Agent         Agent     `json:"agent"`
	Host          Host      `json:"host"`

	Running  Closure  `json:"running"`  // what runs
	NextBoot NextBoot `json:"nextBoot"` // what a reboot would boot
	Target   *Closure `json:"target"`   // what the host was last told to run; null if never told

	Rollout *Rollout `json:"rollout"` // the rollout that owns the host, or the last one; null if there was none
	Next    *Waiting `json:"next"`    // a rollout that waits its turn
	Hold    *Hold    `json:"hold"`    // the operator holds the host: nothing is started; null if not
	Verdict Verdict  `json:"verdict"`
	Summary string   `json:"summary"` // one line: the state in words
	Why     []string `json:"why"`     // each component from → to, or the reason and the tail of the error
	Then    string   `json:"then"`    // one sentence: what happens next and who has to do it
	Notes   []string `json:"notes"`   // what the operator should know besides: degraded conditions, frozen records
	Outbox  Outbox   `json:"outbox"`
}

// MarshalJSON writes lists that are empty as such: a consumer never meets null in the place of a list.
func (s Status) MarshalJSON() ([]byte, error) {
	type plain Status
	if s.Why == nil {
		s.Why = []string{}
	}
	if s.Notes == nil {
		s.Notes = []string{}
	}
	return json.Marshal(plain(s))
}

// Source says where the answer comes from.
type Source string

// The sources of a status: the running agent, or its file read while no agent answers.
const (
	FromAgent Source = "agent"
	FromFile  Source = "file"
)

// Agent is the state of the agent itself.
type Agent struct {
	Version   string    `json:"version"`
	Running   bool      `json:"running"`
	Ready     bool      `json:"ready"`              // false while it starts
	ReadOnly  string    `json:"readOnly,omitempty"` // why it may not write, if so
	StartedAt time.Time `json:"startedAt,omitzero"`
	Epoch     string    `json:"epoch,omitempty"`
}

// Host names the host and its boot.
type Host struct {
	Name        string `json:"name"`
	BootID      string `json:"bootId"`
	SoftReboots uint32 `json:"softReboots"`
}

// Closure is a system closure as shown to people.
type Closure struct {
	Path           string    `json:"path"`            // empty where it could not be read
	Label          string    `json:"label,omitempty"` // nixos-version
	Since          time.Time `json:"since,omitzero"`  // since when it is that, if known
	Specialisation string    `json:"specialisation,omitempty"`
}

// NextBoot is what a reboot would boot, as the boot loader would resolve it.
type NextBoot struct {
	Closure
	Loader string `json:"loader"` // systemd-boot, grub, none, unknown, …
	Entry  string `json:"entry,omitempty"`
	Reason string `json:"reason,omitempty"` // why the closure is not known
}

// Rollout is one rollout on this host.
type Rollout struct {
	ID            string      `json:"id"`
	State         string      `json:"state"`          // Pending, Activating, Deferred, Soaking, Converged, Failed, Reverted, Superseded, or what a newer agent wrote
	Since         time.Time   `json:"since,omitzero"` // of this state
	TargetClosure string      `json:"targetClosure"`
	Policy        string      `json:"policy"`
	Phase         string      `json:"phase,omitempty"` // of the work in progress
	Attempt       int         `json:"attempt,omitempty"`
	Progress      string      `json:"progress,omitempty"` // of the phase, in words
	Components    []Component `json:"components,omitempty"`
	SoakMS        int64       `json:"soakMs"`
	SoakServedMS  int64       `json:"soakServedMs"`
	FailureReason string      `json:"failureReason,omitempty"`
	FailureDetail string      `json:"failureDetail,omitempty"` // tail of the output
	WayBackFailed string      `json:"wayBackFailed,omitempty"` // reason why the last attempt to return did not succeed
	Degraded      []string    `json:"degraded,omitempty"`
	LastEventSeq  uint64      `json:"lastEventSeq"`
}

// Component is one component that differs between what runs and what is to run.
type Component struct {
	Name string `json:"name"`
	From string `json:"from"` // empty: absent
	To   string `json:"to"`
}

// Waiting is a newer rollout that waits its turn, is being prepared, or has failed to be prepared, while the older one still owns
// the host.
type Waiting struct {
	ID            string `json:"id"`
	State         string `json:"state"`
	TargetClosure string `json:"targetClosure"`
	Why           string `json:"why"`
	FailureReason string `json:"failureReason,omitempty"`
}

// Verdict is the status in one word; it decides the exit code.
type Verdict string

// The verdicts, and the exit code of `status` for each.
const (
	AtTarget     Verdict = "at-target"     // 0; also: never told to run anything
	InProgress   Verdict = "in-progress"   // 2
	RebootNeeded Verdict = "reboot-needed" // 3
	Unsuccessful Verdict = "unsuccessful"  // 4: failed or rolled back
	NoAgent      Verdict = "no-agent"      // 5: no agent answers and its file cannot be read
)

// Outbox is the state of the durable event queue.
type Outbox struct {
	Depth       int       `json:"depth"`
	OldestAt    time.Time `json:"oldestAt,omitzero"`
	LastPos     uint64    `json:"lastPos"` // of the last event ever appended; 0: none
	LastKind    string    `json:"lastKind,omitempty"`
	LastAt      time.Time `json:"lastAt,omitzero"`
	AckedPos    uint64    `json:"ackedPos"` // highest contiguous position that the receiver has stored
	DeadLetters int       `json:"deadLetters"`
	Receiver    string    `json:"receiver"` // where events go; "none" if kept until there is one
}
