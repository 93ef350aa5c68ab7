package fsm

import (
	"encoding/json"
	"fmt"
)

// shape names the keys that this version knows in an object; a nested shape also those of the object below. Where there
// is none, the value is read and replaced whole.
type shape map[string]shape

var recordShape = shape{
	"hostname":                nil,
	"rollout_id":              nil,
	"channel":                 nil,
	"generation":              nil,
	"target_closure":          nil,
	"specialisation":          nil,
	"state":                   nil,
	"policy":                  nil,
	"soak_ms":                 nil,
	"soak_due_at":             nil,
	"force":                   nil,
	"expires_at":              nil,
	"created_at":              nil,
	"received_at":             nil,
	"activation_started_at":   nil,
	"activation_completed_at": nil,
	"activation_failed_at":    nil,
	"deferred_at":             nil,
	"failed_at":               nil,
	"converged_at":            nil,
	"ended_at":                nil,
	"prior":                   {"running": nil, "profile": nil, "boot_default": nil},
	"current_closure":         nil,
	"degraded":                nil,
	"components":              nil,
	"staged_boot":             nil,
	"probes":                  nil,
	"topology_declared_at":    nil,
	"probe_observed_first_at": nil,
	"probe_failure_first_at":  nil,
	"soak_served_ms":          nil,
	"soak_mark":               nil,
	"failure_reason":          nil,
	"failure_detail":          nil,
	"policy_applied":          nil,
	"rollback_failure_reason": nil,
	"rollback_failure_detail": nil,
	"reverted_to":             nil,
	"superseded_by":           nil,
	"work":                    {"kind": nil, "phase": nil, "attempt": nil, "touched": nil, "boot": nil, "starts": nil, "retries": nil, "returns": nil, "failed_before": nil, "left": nil},
	"attempts":                nil,
	"last_event_seq":          nil,
}

// takeUnknown moves out of an object what the shape does not name. Below a nested shape, what is left over stays under the
// key of its object.
func (s shape) takeUnknown(fields map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	unknown := map[string]json.RawMessage{}
	for key, value := range fields {
		nested, known := s[key]
		switch {
		case !known:
			unknown[key] = value
			delete(fields, key)
		case nested != nil && isObject(value):
			var below map[string]json.RawMessage
			if err := json.Unmarshal(value, &below); err != nil {
				return nil, fmt.Errorf("read %s: %w", key, err)
			}
			left, err := nested.takeUnknown(below)
			if err != nil {
				return nil, err
			}
			if len(left) == 0 {
				continue
			}
			if fields[key], err = json.Marshal(below); err != nil {
				return nil, err
			}
			if unknown[key], err = json.Marshal(left); err != nil {
				return nil, err
			}
		}
	}
	if len(unknown) == 0 {
		return nil, nil
	}
	return unknown, nil
}

// putUnknown is the way back of takeUnknown into an object that was written by this version. What this version wrote wins.
func (s shape) putUnknown(object []byte, unknown map[string]json.RawMessage) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return nil, err
	}
	for key, value := range unknown {
		nested, known := s[key]
		written, present := fields[key]
		if !known || nested != nil && !present {
			fields[key] = value
			continue
		}
		if nested == nil || !isObject(written) {
			continue
		}
		var left map[string]json.RawMessage
		if err := json.Unmarshal(value, &left); err != nil {
			return nil, fmt.Errorf("read what is left over of %s: %w", key, err)
		}
		merged, err := nested.putUnknown(written, left)
		if err != nil {
			return nil, err
		}
		fields[key] = merged
	}
	return json.Marshal(fields)
}

func isObject(value json.RawMessage) bool { return len(value) > 0 && value[0] == '{' }
