// Package config reads the agent's configuration: one JSON object in one file. It is strict: a field that it does not know, a
// value of the wrong type or out of range, and anything behind the object are errors that name the field and say what to write
// instead. A file that is half understood would be worse than none on a machine that nobody watches.
package config
