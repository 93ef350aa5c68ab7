package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	generate := exec.Command("go", "run", "-buildvcs=false", "-tags", "man", ".", "man", dir)
	if said, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("write man pages: %v\n%s", err, said)
	}
	top, err := os.ReadFile(filepath.Join(dir, "nixfleet-agent.8"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`.TH "NIXFLEET-AGENT" "8"`, "Exit codes", "a reboot is needed"} {
		if !bytes.Contains(top, []byte(want)) {
			t.Errorf("nixfleet-agent.8 has no %q", want)
		}
	}
	for _, verb := range newRoot().Commands() {
		_, err := os.Stat(filepath.Join(dir, "nixfleet-agent-"+verb.Name()+".8"))
		if verb.Hidden != os.IsNotExist(err) {
			t.Errorf("verb %s, hidden: %v; its page: %v", verb.Name(), verb.Hidden, err)
		}
	}
}
