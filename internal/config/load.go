package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
)

// maxFile bounds what is read of a configuration. A hundred probes are some ten kilobytes.
const maxFile = 1 << 20

// Error is what is wrong with a configuration and what to do about it.
type Error struct {
	File  string // empty: not read from a file
	Line  int    // 1-based; 0: not known
	Field string // as a path, such as deadlines.boot; empty: the file as a whole
	What  string
	Hint  string
	Err   error // underneath, if there is one
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("read configuration")
	if e.File != "" {
		b.WriteString(" " + e.File)
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, ", line %d", e.Line)
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.What)
	return b.String()
}

// Hints says what to do about it.
func (e *Error) Hints() string { return e.Hint }

func (e *Error) Unwrap() error { return e.Err }

func invalid(field, what, hint string) error { return &Error{Field: field, What: what, Hint: hint} }

// Load reads and validates a file. Errors are of type *Error; one that wraps fs.ErrNotExist says that there is no file.
func Load(file string) (Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return Config{}, &Error{File: file, What: reasonOf(err), Hint: "name the file with --config", Err: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, &Error{File: file, What: reasonOf(err), Hint: "name a file that holds the configuration", Err: err}
	}
	cfg, err := Parse(data)
	var bad *Error
	if errors.As(err, &bad) {
		bad.File = file
	}
	return cfg, err
}

func reasonOf(err error) string {
	var underneath *os.PathError
	if errors.As(err, &underneath) {
		return underneath.Err.Error()
	}
	return err.Error()
}

// Parse reads and validates a configuration. What is left out has its default. Errors are of type *Error.
func Parse(data []byte) (Config, error) {
	if len(data) > maxFile {
		return Config{}, invalid("", fmt.Sprintf("it is larger than %d bytes", maxFile), "name a file that holds the configuration")
	}
	cfg := Default()
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&cfg); err != nil {
		return Config{}, explain(err, data)
	}
	if bytes.TrimSpace(data)[0] != '{' {
		return Config{}, invalid("", "it is not a JSON object", "write one object, {…}")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Config{}, &Error{Line: lineAt(data, decoder.InputOffset()), What: "something follows the configuration", Hint: "the file is one JSON object and nothing else"}
	}
	if err := cfg.Validate(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// explain turns an error of encoding/json into one that says where and what to do.
func explain(err error, data []byte) error {
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	var duration *badDuration
	switch {
	case errors.Is(err, io.EOF):
		return invalid("", "it is empty", "write one JSON object; {} takes every default")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Line: lineAt(data, int64(len(data))), What: "it ends in the middle", Hint: "close every brace, bracket and quote", Err: err}
	case errors.As(err, &syntax):
		return &Error{Line: lineAt(data, syntax.Offset), What: "not JSON: " + syntax.Error(), Hint: "mend the syntax; comments and trailing commas are not JSON", Err: err}
	case errors.As(err, &mistyped):
		return &Error{Line: lineAt(data, mistyped.Offset), Field: mistyped.Field, What: "a JSON " + mistyped.Value + " is not what belongs here",
			Hint: "write " + wanted(mistyped.Type), Err: err}
	case errors.As(err, &duration):
		return &Error{Field: badDurationField(data, reflect.TypeFor[Config]()), What: duration.Error(), Hint: "write a duration as a string, as \"90s\", \"5m\" or \"1h30m\"", Err: err}
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &Error{Line: lineOf(data, field), What: "unknown field " + field, Hint: "see nixfleet-agent.json in the documentation; a newer agent may know it", Err: err}
	}
	return &Error{What: err.Error(), Hint: "see the documentation of the configuration", Err: err}
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Slice:
		return "a list"
	default:
		return "a " + t.Kind().String()
	}
}

// badDurationField names the first field that holds a value which is no duration: encoding/json does not tell where a value's own
// UnmarshalJSON failed.
func badDurationField(data []byte, of reflect.Type) string {
	var values map[string]json.RawMessage
	if json.Unmarshal(data, &values) != nil {
		return ""
	}
	for _, f := range reflect.VisibleFields(of) {
		name := f.Tag.Get("json")
		value, written := values[name]
		switch {
		case !written:
		case f.Type == reflect.TypeFor[Duration]():
			if new(Duration).UnmarshalJSON(value) != nil {
				return name
			}
		case f.Type.Kind() == reflect.Struct:
			if inner := badDurationField(value, f.Type); inner != "" {
				return name + "." + inner
			}
		}
	}
	return ""
}

// lineOf is where a quoted key is first written; 0 where it is spelled otherwise, with an escape.
func lineOf(data []byte, quoted string) int {
	at := bytes.Index(data, []byte(quoted))
	if at < 0 {
		return 0
	}
	return lineAt(data, int64(at))
}

func lineAt(data []byte, offset int64) int {
	offset = min(max(offset, 0), int64(len(data)))
	return 1 + bytes.Count(data[:offset], []byte{'\n'})
}
