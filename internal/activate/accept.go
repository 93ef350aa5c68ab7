package activate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// agentUnit is where a closure has the unit of its agent.
	agentUnit = "etc/systemd/system/nixfleet-agent.service"
	// runVerb is what the unit has the agent do, checkVerb what it is asked instead.
	runVerb, checkVerb = "run", "check"

	// acceptPatience bounds what the target's agent takes for its answer: it reads two files.
	acceptPatience = 30 * time.Second
	// acceptGrace bounds the wait for an output that something else holds open.
	acceptGrace = time.Second
	// maxAnswer bounds what is read of its answer.
	maxAnswer = 4 << 10
	// answerLines of it are reported.
	answerLines = 10
)

// askAgent asks the target's own agent, if the target has one, whether it could work with the configuration and the database
// that it would find after the switch. It is started as its unit would start it, with another verb, and only reads.
//
// What the unit starts must be understood to be asked: a target whose agent cannot be asked is refused like one whose agent
// refuses. A host that nobody can reach any more is worse than one that stays what it is.
func (r *Runner) askAgent(ctx context.Context, target string) error {
	if r.masked(target) {
		return nil
	}
	unit, err := r.host.ReadFile(path.Join(target, agentUnit))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // a target without an agent has none to ask
	case err != nil:
		return fmt.Errorf("read the agent's unit of %s: %w", target, err)
	}
	argv, err := checkCommand(string(unit))
	if err == nil {
		err = r.below(argv)
	}
	if err != nil {
		return refusesAgent(target, -1, fmt.Sprintf("%s cannot be asked whether it could take over: %v", "its "+path.Base(agentUnit), err), "")
	}
	return r.ask(ctx, target, argv)
}

// masked reports a unit that NixOS has as a link to /dev/null: it is disabled, and nobody starts it.
func (r *Runner) masked(target string) bool {
	resolved, err := r.host.Resolve(path.Join(target, agentUnit))
	return err == nil && resolved == os.DevNull
}

// below takes a command to where its files are on this machine's file system, and looks whether its program can be run.
func (r *Runner) below(argv []string) error {
	program, err := r.host.Resolve(argv[0])
	if err != nil {
		return fmt.Errorf("its program %s is not there", argv[0])
	}
	program = r.host.Path(program)
	info, err := os.Stat(program)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("its program %s is not executable", argv[0])
	}
	argv[0] = program
	return nil
}

// ask runs the agent of a target with the verb check and takes its exit code for the answer.
func (r *Runner) ask(ctx context.Context, target string, argv []string) error {
	if root := r.host.Root(); root != "/" {
		argv = r.withRoot(argv, root)
	}
	bounded, cancel := context.WithTimeout(ctx, acceptPatience)
	defer cancel()
	said := &boundedBuffer{most: maxAnswer}
	agent := exec.CommandContext(bounded, argv[0], argv[1:]...)
	agent.Dir, agent.Env, agent.Stdout, agent.Stderr = "/", environment(), said, said
	agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	agent.Cancel = func() error { return unix.Kill(-agent.Process.Pid, unix.SIGKILL) }
	agent.WaitDelay = acceptGrace
	err := agent.Run()
	var exited *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return refusesAgent(target, -1, fmt.Sprintf("its agent was asked whether it could take over, and has not answered within %s", acceptPatience), said.String())
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.As(err, &exited):
		return refusesAgent(target, exited.ExitCode(), fmt.Sprintf("its agent could not take over%s", afterColon(said.String())), said.String())
	default:
		return refusesAgent(target, -1, fmt.Sprintf("its agent cannot be run: %v", err), "")
	}
}

// withRoot tells an agent of a root directory, and takes its configuration there.
func (r *Runner) withRoot(argv []string, root string) []string {
	const flag = "--config"
	argv = slices.Clone(argv)
	for i, arg := range argv {
		if file, ok := strings.CutPrefix(arg, flag+"="); ok {
			argv[i] = flag + "=" + r.host.Path(file)
		} else if i > 0 && argv[i-1] == flag {
			argv[i] = r.host.Path(arg)
		}
	}
	return append(argv, "--root", root)
}

func refusesAgent(target string, exit int, detail, said string) *Failure {
	return &Failure{
		Reason: ReasonAgentRefuses, ExitCode: exit, Tail: lastLines(said, answerLines, maxAnswer),
		Detail: fmt.Sprintf("%s would run without a working agent: %s", target, detail),
		Hint:   "mend services.nixfleet-agent in the target, or take an agent that can read what this host has stored",
	}
}

// afterColon is the first line of a text that says something, as the end of a sentence.
func afterColon(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return ": " + line
		}
	}
	return ""
}

// checkCommand is the command line of a unit's first ExecStart with the verb "check" in the place of "run".
func checkCommand(unit string) ([]string, error) {
	line, found := firstExecStart(unit)
	if !found {
		return nil, errors.New("it has no ExecStart")
	}
	argv, err := splitExec(line)
	if err != nil {
		return nil, fmt.Errorf("ExecStart=%s: %w", line, err)
	}
	verb := slices.Index(argv, runVerb)
	switch {
	case !path.IsAbs(argv[0]):
		return nil, fmt.Errorf("ExecStart=%s: the program is no absolute path", line)
	case verb < 1:
		return nil, fmt.Errorf("ExecStart=%s: it is not started with the verb %s", line, runVerb)
	}
	argv[verb] = checkVerb
	return argv, nil
}

// firstExecStart is the first command that the service of a unit is started with. An empty assignment takes back those before
// it (systemd.service(5)).
func firstExecStart(unit string) (line string, found bool) {
	section := ""
	for _, text := range unitLines(unit) {
		if strings.HasPrefix(text, "[") {
			section = text
			continue
		}
		key, value, ok := strings.Cut(text, "=")
		if !ok || section != "[Service]" || strings.TrimSpace(key) != "ExecStart" {
			continue
		}
		switch value = strings.TrimSpace(value); {
		case value == "":
			line, found = "", false
		case !found:
			line, found = value, true
		}
	}
	return line, found
}

// unitLines are the lines of a unit without comments; one that ends in a backslash goes on with the next (systemd.syntax(7)).
func unitLines(unit string) []string {
	var lines []string
	begun := ""
	for line := range strings.Lines(unit) {
		line = strings.TrimRight(line, "\r\n")
		if text := strings.TrimSpace(line); strings.HasPrefix(text, "#") || strings.HasPrefix(text, ";") {
			continue // also between the lines of one that goes on
		}
		if before, more := strings.CutSuffix(line, `\`); more {
			begun += before + " "
			continue
		}
		if text := strings.TrimSpace(begun + line); text != "" {
			lines = append(lines, text)
		}
		begun = ""
	}
	return lines
}

var (
	errQuote     = errors.New("a quote is not closed")
	errEscape    = errors.New("an escape is not known")
	errSpecifier = errors.New("a specifier (%) is in it, which only systemd can fill in")
	errVariable  = errors.New("a variable ($) is in it, which only systemd can fill in")
	errSeveral   = errors.New("several commands are on one line")
	errNoProgram = errors.New("there is no program")
)

// splitExec splits a command line as systemd does (systemd.service(5), "Command lines"): prefixes of the program, quotes,
// escapes. What only systemd could fill in is an error.
func splitExec(line string) ([]string, error) {
	rest := strings.TrimLeft(line, "@-:+!|")
	prefixes := line[:len(line)-len(rest)]
	words, err := splitWords(rest)
	if err != nil {
		return nil, err
	}
	argv := make([]string, 0, len(words))
	for _, word := range words {
		if word == ";" {
			return nil, errSeveral
		}
		if word, err = unescapeSpecifiers(word); err != nil {
			return nil, err
		}
		// ':' takes variables for what they are.
		if !strings.Contains(prefixes, ":") {
			if plain := strings.ReplaceAll(word, "$$", ""); strings.Contains(plain, "$") {
				return nil, errVariable
			}
			word = strings.ReplaceAll(word, "$$", "$")
		}
		argv = append(argv, word)
	}
	if len(argv) > 0 && strings.Contains(prefixes, "@") { // the second word is what the program is told to be called
		argv = slices.Delete(argv, 1, min(2, len(argv)))
	}
	if len(argv) == 0 || argv[0] == "" {
		return nil, errNoProgram
	}
	return argv, nil
}

func unescapeSpecifiers(word string) (string, error) {
	if strings.Contains(strings.ReplaceAll(word, "%%", ""), "%") {
		return "", errSpecifier
	}
	return strings.ReplaceAll(word, "%%", "%"), nil
}

// escapes of systemd.syntax(7) that stand for one character.
var escapes = map[byte]byte{'a': '\a', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v', '\\': '\\', '"': '"', '\'': '\'', 's': ' '}

func splitWords(line string) ([]string, error) {
	var words []string
	var word []byte
	inWord, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\':
			if i++; i == len(line) {
				return nil, errEscape
			}
			plain, known := escapes[line[i]]
			if !known {
				return nil, errEscape
			}
			word, inWord = append(word, plain), true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, inWord = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if inWord {
				words = append(words, string(word))
			}
			word, inWord = word[:0], false
		default:
			word, inWord = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, errQuote
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, nil
}
