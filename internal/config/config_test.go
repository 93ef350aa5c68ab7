package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/config"
)

func TestEmptyObjectIsTheDefault(t *testing.T) {
	got, err := config.Parse([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, config.Default()) {
		t.Errorf("got %+v\nwant %+v", got, config.Default())
	}
	if err := got.Validate(); err != nil {
		t.Errorf("the default is not valid: %v", err)
	}
}

func TestEveryField(t *testing.T) {
	got, err := config.Parse([]byte(`{
		"stateDir": "/persist/nixfleet", "socketPath": "/run/nf.sock", "socketGroup": "wheel", "hostname": "web-1",
		"soak": "1h30m", "policy": "halt", "criticalComponents": {"kernel": "switch", "etc/fstab": "ignore"},
		"extraComponents": ["initrd", "etc/fstab"], "systemdIdentity": "path",
		"deadlines": {"realise": "3h", "switch": "30m", "boot": "5m"}, "logLevel": "debug",
		"verify": {"signatures": 1, "trustedKeys": ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]},
		"controlPlane": {"url": "https://cp.example:8443/fleet", "certificate": "/etc/nf/host.pem", "key": "$CREDENTIALS_DIRECTORY/host.key",
			"ca": "/etc/nf/ca.pem", "eventsUrl": "https://events.example/in?fleet=a", "heartbeatInterval": "30s"}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		StateDir: "/persist/nixfleet", SocketPath: "/run/nf.sock", SocketGroup: "wheel", Hostname: "web-1",
		Soak: config.Duration(90 * time.Minute), Policy: "halt",
		CriticalComponents: map[string]string{"kernel": "switch", "etc/fstab": "ignore"},
		ExtraComponents:    []string{"initrd", "etc/fstab"}, SystemdIdentity: "path",
		Deadlines: config.Deadlines{Realise: config.Duration(3 * time.Hour), Switch: config.Duration(30 * time.Minute), Boot: config.Duration(5 * time.Minute)},
		LogLevel:  "debug",
		Verify:    config.Verify{Signatures: 1, TrustedKeys: []string{"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="}},
		ControlPlane: config.ControlPlane{
			URL: "https://cp.example:8443/fleet", Certificate: "/etc/nf/host.pem", Key: "$CREDENTIALS_DIRECTORY/host.key",
			CA: "/etc/nf/ca.pem", EventsURL: "https://events.example/in?fleet=a", HeartbeatInterval: config.Duration(30 * time.Second),
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// Each mistake is one line that names the field or the line, and comes with what to do.
func TestMistakesAreNamed(t *testing.T) {
	for _, c := range []struct{ name, text, says string }{
		{"empty", "", "it is empty"},
		{"blank", " \n", "it is empty"},
		{"null", "null", "it is not a JSON object"},
		{"not JSON", "{\n\"soak\": 5m}", "line 2: not JSON"},
		{"comment", "{ // soak\n}", "line 1: not JSON"},
		{"cut off", "{\n\"soak\": \"5m\"", "line 2: it ends in the middle"},
		{"a list", "[]", "a JSON array is not what belongs here"},
		{"unknown field", "{\n\n\"soka\": \"5m\"}", "line 3: unknown field \"soka\""},
		{"unknown field inside", "{\"deadlines\": {\"reboot\": \"5m\"}}", "unknown field \"reboot\""},
		{"string for a list", "{\"extraComponents\": \"initrd\"}", "extraComponents: a JSON string is not what belongs here"},
		{"number for a string", "{\"policy\": 3}", "policy: a JSON number is not what belongs here"},
		{"number for a duration", "{\"soak\": 300}", "soak: 300 is not a duration"},
		{"no unit", "{\n\"logLevel\": \"300\",\n\"soak\": \"300\"}", "soak: \"300\" is not a duration"},
		{"no duration inside", "{\"soak\": \"1m\", \"deadlines\": {\"boot\": \"1m\", \"switch\": \"soon\"}}", "deadlines.switch: \"soon\" is not a duration"},
		{"negative soak", "{\"soak\": \"-1s\"}", "soak: \"-1s\" is too short"},
		{"no deadline", "{\"deadlines\": {\"switch\": \"0s\"}}", "deadlines.switch: \"0s\" is too short"},
		{"policy", "{\"policy\": \"shrug\"}", "policy: \"shrug\" is not known"},
		{"identity", "{\"systemdIdentity\": \"name\"}", "systemdIdentity: \"name\" is not known"},
		{"log level", "{\"logLevel\": \"loud\"}", "logLevel: \"loud\" is not known"},
		{"component", "{\"criticalComponents\": {\"kernle\": \"defer\"}}", "criticalComponents: \"kernle\" is not a component"},
		{"inhibitor", "{\"criticalComponents\": {\"inhibitor:dbus\": \"ignore\"}}", "is not a component"},
		{"treatment", "{\"criticalComponents\": {\"kernel\": \"maybe\"}}", "criticalComponents.kernel: \"maybe\" is not known"},
		{"extra outside", "{\"extraComponents\": [\"../etc\"]}", "\"../etc\" is neither a component nor a path within a closure"},
		{"extra absolute", "{\"extraComponents\": [\"/etc/fstab\"]}", "neither a component nor a path"},
		{"extra that is critical", "{\"extraComponents\": [\"kernel\"]}", "\"kernel\" is always compared"},
		{"relative state", "{\"stateDir\": \"state\"}", "stateDir: \"state\" is not an absolute path"},
		{"long socket", "{\"socketPath\": \"/run/" + strings.Repeat("x", 120) + "\"}", "bytes long"},
		{"negative signatures", "{\"verify\": {\"signatures\": -1}}", "verify.signatures: -1 is not a number of signatures"},
		{"too many signatures", "{\"verify\": {\"signatures\": 17}}", "verify.signatures: 17 is not"},
		{"half a signature", "{\"verify\": {\"signatures\": 0.5}}", "verify.signatures: a JSON number 0.5 is not what belongs here"},
		{"key without a name", "{\"verify\": {\"trustedKeys\": [\":6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\"]}}", "is not a public key"},
		{"short key", "{\"verify\": {\"trustedKeys\": [\"a-1:6NCHdD59\"]}}", "verify.trustedKeys: \"a-1:6NCHdD59\" is not a public key"},
		{"two keys in one", "{\"verify\": {\"trustedKeys\": [\"a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY= b-1:x\"]}}", "is not a public key"},
		{"two keys of one name", "{\"verify\": {\"trustedKeys\": [\"a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\", \"a-1:7NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\"]}}", "two keys are named \"a-1\""},
		{"more signatures than keys", "{\"verify\": {\"signatures\": 2, \"trustedKeys\": [\"a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\"]}}", "2 signatures are asked for and 1 keys are trusted"},
		{"two objects", "{}\n{}", "something follows the configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse([]byte(c.text))
			var bad *config.Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(bad.Error(), c.says) {
				t.Errorf("says %q\nwant it to say %q", bad.Error(), c.says)
			}
			if strings.ContainsRune(bad.Error(), '\n') {
				t.Errorf("more than one line: %q", bad.Error())
			}
			if bad.Hint == "" {
				t.Error("no hint")
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.json")
	if _, err := config.Load(file); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"policy": "shrug"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("bad file: %v", err)
	}
	if _, err := config.Load(filepath.Dir(file)); err == nil {
		t.Error("a directory was taken for a configuration")
	}
}

func TestRootMovesThePaths(t *testing.T) {
	moved := config.Default().WithRoot("/srv/host")
	if moved.StateDir != "/srv/host/var/lib/nixfleet-agent" || moved.SocketPath != "/srv/host/run/nixfleet-agent/agent.sock" {
		t.Errorf("got %s and %s", moved.StateDir, moved.SocketPath)
	}
	if same := config.Default().WithRoot("/"); !reflect.DeepEqual(same, config.Default()) {
		t.Errorf("the root of this machine moved the paths: %+v", same)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"{}", "", "null", `{"soak":"5m"}`, `{"deadlines":{"boot":"1s"}}`, `{"criticalComponents":{"kernel":"switch"}}`, "[", `{"soak":5}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := config.Parse(data)
		if err == nil {
			if err := cfg.Validate(); err != nil {
				t.Errorf("accepted what is not valid: %v", err)
			}
			return
		}
		var bad *config.Error
		if !errors.As(err, &bad) || bad.Hint == "" {
			t.Errorf("an error without a hint: %v", err)
		}
	})
}
