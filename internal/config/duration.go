package config

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration, in JSON a string such as "5m".
type Duration time.Duration

// Std gives d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalJSON reads a string such as "90s".
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return &badDuration{text: string(data)}
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return &badDuration{text: fmt.Sprintf("%q", text)}
	}
	*d = Duration(parsed)
	return nil
}

// badDuration is a value that is no duration.
type badDuration struct{ text string }

func (e *badDuration) Error() string { return e.text + " is not a duration" }
