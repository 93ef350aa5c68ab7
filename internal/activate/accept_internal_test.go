package activate

import (
	"strings"
	"testing"
)

func TestCheckCommand(t *testing.T) {
	t.Parallel()
	service := func(lines ...string) string {
		return "[Unit]\nExecStart=/bin/no run\n[Service]\n" + strings.Join(lines, "\n") + "\n"
	}
	const agent = "/nix/store/a/bin/nixfleet-agent"
	tests := []struct {
		name, unit string
		want       string // the words, with | between them
		err        string
	}{
		{"as the module writes it", service("ExecStart=" + agent + " run --config /nix/store/c.json"), agent + "|check|--config|/nix/store/c.json", ""},
		{"blanks", service("ExecStart =  " + agent + "   run\t--config  /c "), agent + "|check|--config|/c", ""},
		{"flags before the verb", service("ExecStart=" + agent + " --config /c run"), agent + "|--config|/c|check", ""},
		{"only the first run is the verb", service("ExecStart=" + agent + " run --config run"), agent + "|check|--config|run", ""},
		{"the first of several", service("ExecStart="+agent+" run", "ExecStart=/bin/other run"), agent + "|check", ""},
		{"taken back and set anew", service("ExecStart=/bin/old run", "ExecStart=", "ExecStart="+agent+" run"), agent + "|check", ""},
		{"a comment and a line that goes on", service("# ExecStart=/x run", "ExecStart="+agent+` \`, "; not this", "  run"), agent + "|check", ""},
		{"may fail", service("ExecStart=-" + agent + " run"), agent + "|check", ""},
		{"privileges", service("ExecStart=!!" + agent + " run"), agent + "|check", ""},
		{"several prefixes", service("ExecStart=-+:" + agent + " run $HOME"), agent + "|check|$HOME", ""},
		{"another argv[0]", service("ExecStart=@" + agent + " nixfleet run"), agent + "|check", ""},
		{"quotes", service(`ExecStart="` + agent + `" 'run' --config "/a b.json" ''`), agent + "|check|--config|/a b.json|", ""},
		{"escapes", service(`ExecStart=` + agent + ` run --config /a\sb\t\"`), agent + "|check|--config|/a b\t\"", ""},
		{"per cent and dollar that are meant", service("ExecStart=" + agent + " run 100%% $$5"), agent + "|check|100%|$5", ""},

		{"no service", "[Unit]\nDescription=x\n", "", "no ExecStart"},
		{"no command", service("Type=notify"), "", "no ExecStart"},
		{"taken back", service("ExecStart="+agent+" run", "ExecStart="), "", "no ExecStart"},
		{"only a prefix", service("ExecStart=-"), "", "no program"},
		{"only a program's other name", service("ExecStart=@"), "", "no program"},
		{"empty program", service("ExecStart='' run"), "", "no program"},
		{"no verb", service("ExecStart=" + agent + " --config /c"), "", "not started with the verb run"},
		{"the program is called run", service("ExecStart=/bin/run"), "", "not started with the verb run"},
		{"a relative program", service("ExecStart=nixfleet-agent run"), "", "no absolute path"},
		{"an open quote", service(`ExecStart=` + agent + ` "run`), "", "a quote is not closed"},
		{"an escape that is not known", service(`ExecStart=` + agent + ` run \x41`), "", "an escape is not known"},
		{"a specifier", service("ExecStart=" + agent + " run --config %h/c"), "", "specifier"},
		{"a variable", service("ExecStart=" + agent + " run $ARGS"), "", "variable"},
		{"two commands", service("ExecStart=" + agent + " run ; /bin/true"), "", "several commands"},
		{"empty", "", "", "no ExecStart"},
	}
	for _, test := range tests {
		argv, err := checkCommand(test.unit)
		switch got := strings.Join(argv, "|"); {
		case test.err == "" && (err != nil || got != test.want):
			t.Errorf("%s: %q, %v; want %q", test.name, got, err, test.want)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err) || argv != nil):
			t.Errorf("%s: %q, %v; want an error with %q", test.name, got, err, test.err)
		}
	}
}

func FuzzCheckCommand(f *testing.F) {
	f.Add("[Service]\nExecStart=-/a run \"b c\" \\s$$%%\n")
	f.Add("[Service]\nExecStart=@/a b run\\\n c\n")
	f.Fuzz(func(t *testing.T, unit string) {
		argv, err := checkCommand(unit)
		if err == nil && (len(argv) < 2 || !strings.HasPrefix(argv[0], "/")) {
			t.Errorf("%q gives %q", unit, argv)
		}
	})
}

// What a cache says with an error is not Nix's word.
func TestOwnWords(t *testing.T) {
	t.Parallel()
	const body = "       response body:\n\n       <h1>No space left on device</h1>\n       not signed by any of the keys; retrying in 274 ms\n"
	tests := []struct{ name, tail, want string }{
		{"none", "warning: a\nerror: b\n", "warning: a\nerror: b\n"},
		{"one", "warning: a\n\n" + body + "error: b\n", "warning: a\n\nerror: b\n"},
		{"two", "warning: a\n" + body + "warning: b\n" + body + "error: c", "warning: a\nwarning: b\nerror: c"},
		{"the end of one", "       No space left on device\n       </html>\nerror: b\n", "error: b\n"},
		{"an error of several lines", "error:\n       … while\n\n       error: no space\n", "error:\n       … while\n\n       error: no space\n"},
		{"the list of paths", "don't know how to build these paths:\n  /nix/store/x\n", "don't know how to build these paths:\n  /nix/store/x\n"},
	}
	for _, test := range tests {
		if got := ownWords(test.tail); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
