package store

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
)

func appendEvent(tx *Tx, n int) error {
	body, err := json.Marshal(map[string]int{"n": n})
	if err != nil {
		return err
	}
	_, err = outbox.Append(tx.Bolt(), outbox.Entry{Epoch: tx.Epoch(), Kind: "DispatchAck", At: testTime, Body: body})
	return err
}

func died(err error) bool {
	exit, ok := err.(*exec.ExitError) //nolint:errorlint // as exec returns it
	return ok && !exit.Exited()
}

func TestKilledAtEveryStepOfCreation(t *testing.T) {
	for _, step := range []string{"opened", "laid out", "initialised", "prepared", "renamed"} {
		t.Run(step, func(t *testing.T) {
			path := storePath(t)
			if out, err := role(t, "die at", path, step).CombinedOutput(); !died(err) {
				t.Fatalf("child: %v, %s", err, out)
			}
			s, opening := mustOpen(t, path)
			if opening.MovedAside != "" || opening.Created != (step != "renamed") {
				t.Errorf("opening = %+v", opening)
			}
			update(t, s, func(tx *Tx) error { return tx.PutRecord(record("a@1", fsm.Pending)) })
			onlyThese(t, path)
		})
	}
}

// Whatever stood in the place of the store: at no step is it lost, and none keeps the news of it from being told.
func TestKilledAtEveryStepOfReplacement(t *testing.T) {
	stands := map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("the operator's data"), 0o600) },
		"directory": func(path string) error { return os.MkdirAll(filepath.Join(path, "the operator's data"), 0o700) },
	}
	for name, lay := range stands {
		for _, step := range []string{"opened", "laid out", "initialised", "prepared", "kept", "renamed"} {
			t.Run(name+" "+step, func(t *testing.T) {
				path := storePath(t)
				if err := lay(path); err != nil {
					t.Fatal(err)
				}
				if out, err := role(t, "die at", path, step).CombinedOutput(); !died(err) {
					t.Fatalf("child: %v, %s", err, out)
				}
				_, opening := mustOpen(t, path)
				if opening.MovedAside == "" || opening.Reason == "" {
					t.Fatalf("opening = %+v", opening)
				}
				found := false
				names, err := filepath.Glob(path + asideSuffix + "*")
				if err != nil {
					t.Fatal(err)
				}
				for _, aside := range names {
					content, _ := os.ReadFile(aside)
					_, err := os.Stat(filepath.Join(aside, "the operator's data"))
					found = found || err == nil || string(content) == "the operator's data"
				}
				if _, err := os.Stat(opening.MovedAside); !found || err != nil {
					t.Errorf("kept %v; said %s, %v", names, opening.MovedAside, err)
				}
			})
		}
	}
}

// A power cut can leave any part of what was not synced yet: the store's own name never has a part of a file.
func TestAnyPartOfAPreparedFileIsHarmless(t *testing.T) {
	whole := wholeFile(t)
	for size := 0; size <= len(whole); size += 40_000 {
		path := storePath(t)
		for _, part := range [][]byte{whole[:size], append(bytes.Clone(whole[:size]), make([]byte, len(whole)-size)...)} {
			if err := os.WriteFile(path+newSuffix, part, 0o600); err != nil {
				t.Fatal(err)
			}
			s, opening := mustOpen(t, path)
			if !opening.Created || opening.MovedAside != "" {
				t.Errorf("%d bytes: opening = %+v", size, opening)
			}
			mustClose(t, s)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func onlyThese(t *testing.T, paths ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(paths[0]))
	if err != nil || len(entries) != len(paths) {
		t.Errorf("there is %v, %v; want %v", entries, err, paths)
	}
}
