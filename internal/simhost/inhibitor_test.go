package simhost

import "testing"

func TestSwitchInhibitors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		running, next    map[string]string
		rawNext          string
		action           string
		env              []string
		refused          bool
		line             string
		runningHasNoFile bool
	}{
		"equal":                       {running: map[string]string{"a": "1"}, next: map[string]string{"a": "1"}, line: "Checking switch inhibitors... done"},
		"differs":                     {running: map[string]string{"dbus-implementation": "dbus"}, next: map[string]string{"dbus-implementation": "broker"}, refused: true, line: "dbus-implementation : dbus -> broker"},
		"differs, test":               {running: map[string]string{"a": "1"}, next: map[string]string{"a": "2"}, action: "test", refused: true, line: "Pre-switch checks failed"},
		"differs, dry":                {running: map[string]string{"a": "1"}, next: map[string]string{"a": "2"}, action: "dry-activate", refused: true, line: "Pre-switch checks failed"},
		"differs, check":              {running: map[string]string{"a": "1"}, next: map[string]string{"a": "2"}, action: "check", refused: true, line: "Pre-switch checks failed"},
		"differs, boot":               {running: map[string]string{"a": "1"}, next: map[string]string{"a": "2"}, action: "boot", line: "Not checking switch inhibitors (action = boot)"},
		"differs, forced":             {running: map[string]string{"a": "1"}, next: map[string]string{"a": "2"}, env: []string{"NIXOS_NO_CHECK=1"}, line: "activating the configuration..."},
		"one of several":              {running: map[string]string{"a": "1", "b": "x y", "c": "3"}, next: map[string]string{"a": "1", "b": "x z", "d": "4"}, refused: true, line: "b : x y -> x z"},
		"new key":                     {running: map[string]string{"a": "1"}, next: map[string]string{"a": "1", "b": "2"}, line: "Checking switch inhibitors... done"},
		"vanished key":                {running: map[string]string{"a": "1", "b": "2"}, next: map[string]string{"a": "1"}, line: "Checking switch inhibitors... done"},
		"quotes, braces, backslashes": {running: map[string]string{`a"},{\`: `\"`}, next: map[string]string{`a"},{\`: `\"`}, line: "Checking switch inhibitors... done"},
		"no file in the running one":  {runningHasNoFile: true, next: map[string]string{"a": "1"}, line: "Checking switch inhibitors... done"},
		"no file in the new one":      {running: map[string]string{"a": "1"}, line: "activating the configuration..."},
		"text instead of JSON":        {running: map[string]string{"a": "1"}, rawNext: "/nix/store/x-a\n/nix/store/x-b\n", line: "Checking switch inhibitors... done"},
		"truncated JSON":              {running: map[string]string{"a": "1"}, rawNext: `{"a":"2"`, line: "Checking switch inhibitors... done"},
		"JSON with blanks":            {running: map[string]string{"a": "1"}, rawNext: " {\n  \"a\" : \"2\" }\n", refused: true, line: "a : 1 -> 2"},
		"JSON and more":               {running: map[string]string{"a": "1"}, rawNext: `{"a":"2"} x`, line: "Checking switch inhibitors... done"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := NixOS("web", "1")
			first.Inhibitors = test.running
			if test.runningHasNoFile {
				first.Inhibitors = nil
			}
			h := newHost(t, Options{First: first})
			next := NixOS("web", "2")
			next.Inhibitors, next.InhibitorsRaw = test.next, test.rawNext
			toplevel := h.addStaged(next)
			action := test.action
			if action == "" {
				action = "switch"
			}
			before := h.read("/boot/loader/loader.conf")
			code := 0
			if test.refused {
				code = 1
			}
			h.doSwitch(toplevel, action, test.env...).want(t, code, test.line)
			if test.refused {
				h.wantRunning(h.Booted())
				if h.read("/boot/loader/loader.conf") != before {
					t.Error("a refused switch changed the boot default")
				}
			} else if action == "switch" {
				h.wantRunning(toplevel)
			}
		})
	}
}
