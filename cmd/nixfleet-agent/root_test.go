package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// nobody is the user that has no rights, on every Linux.
const nobody = 65534

func TestRunRefusesWithoutRoot(t *testing.T) {
	binary := buildAgent(t)
	cmd := exec.Command(binary, "run")
	if os.Geteuid() == 0 {
		if err := openTo(binary); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.Dir = "/"
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitError {
		t.Fatalf("it ended with %v: %s", err, said)
	}
	for _, want := range []string{"nixfleet-agent: the agent must run as root", "\nhint: run it as the service"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
}

// openTo lets everybody reach a file below the test's temporary directory.
func openTo(file string) error {
	for dir := file; dir != os.TempDir() && dir != "/"; dir = dir[:strings.LastIndexByte(dir, '/')] {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}
