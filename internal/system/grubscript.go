package system

import (
	"strings"
)

const (
	// maxGrubDepth bounds the nesting of blocks; NixOS nests two deep.
	maxGrubDepth = 32
	// grubExpansions bounds what the variables of one script expand to, in bytes.
	grubExpansions = 1 << 20
)

// grubMenu is a menu or submenu of GRUB.
type grubMenu struct{ entries []*grubEntry }

type grubEntry struct {
	title, id string
	// uncertain: the entry stands under a condition that only GRUB can decide.
	uncertain bool
	submenu   *grubMenu
	// init is what the line that loads the kernel passes as init=.
	init string
	// ambiguous: the entry loads one of several systems, or one that a variable names.
	ambiguous bool
}

// grubConfig is what a grub.cfg comes to on the next boot.
type grubConfig struct {
	menu *grubMenu
	// fallback is the value of the variable "default".
	fallback grubWord
	// troubled says why nothing about the menu is certain.
	troubled string
}

type grubBlock struct {
	kind grubBlockKind
	// outer is how certain it is that the commands around the block run, run how
	// certain it is for the current branch, and rest for the branches that follow.
	outer, run, rest certainty
	// condition is what the last command between "if" and "then" came to.
	condition  certainty
	evaluating bool
	// menu and entry are what the block stands in.
	menu  *grubMenu
	entry *grubEntry
}

type grubBlockKind int

const (
	grubIf grubBlockKind = iota
	grubLoop
	grubFunction
	grubSubmenu
	grubMenuEntry
	grubBrace
)

// certainty orders never < maybe < surely, so that min is "and".
type certainty int

const (
	never certainty = iota
	maybe
	surely
)

func (c certainty) not() certainty { return surely - c }

// grubRun interprets a grub.cfg far enough to know its menu and its default:
// variables, conditions on them, menu entries. What depends on the platform or
// on other files stays uncertain.
type grubRun struct {
	lexer   grubLexer
	saved   map[string]string // the environment block
	hasEnv  bool
	config  grubConfig
	menu    *grubMenu
	entry   *grubEntry // the menu entry whose body is being read
	blocks  []grubBlock
	running certainty
}

// runGrub interprets a script with the variables of its environment block, nil
// if there is none.
func runGrub(script string, saved map[string]string) grubConfig {
	menu := &grubMenu{}
	r := grubRun{
		lexer:   grubLexer{script: script, env: make(map[string]grubWord), budget: grubExpansions},
		saved:   saved,
		hasEnv:  saved != nil,
		config:  grubConfig{menu: menu},
		menu:    menu,
		running: surely,
	}
	for words := r.lexer.next(); words != nil; words = r.lexer.next() {
		r.command(words)
		if r.lexer.budget < 0 {
			r.config.troubled = "its variables grow without end"
			break
		}
		if len(r.blocks) > maxGrubDepth {
			r.config.troubled = "its blocks are nested too deeply"
			break
		}
	}
	r.config.fallback = r.lexer.value("default")
	return r.config
}

func (r *grubRun) command(words []grubWord) {
	first := words[0]
	switch {
	case first.is("if"):
		r.push(grubBlock{kind: grubIf, evaluating: true, rest: surely})
		r.running = maybe
	case first.is("elif"):
		if b := r.inside(grubIf); b != nil {
			b.evaluating, r.running = true, min(b.outer, maybe)
		}
	case first.is("then"):
		if b := r.inside(grubIf); b != nil {
			b.evaluating = false
			b.run = min(b.rest, b.condition)
			b.rest = min(b.rest, b.condition.not())
			r.running = min(b.outer, b.run)
		}
	case first.is("else"):
		if b := r.inside(grubIf); b != nil {
			r.running = min(b.outer, b.rest)
		}
	case first.is("fi"):
		r.pop(grubIf)
	case first.is("while"), first.is("until"), first.is("for"):
		r.push(grubBlock{kind: grubLoop})
		r.running = min(r.running, maybe)
	case first.is("do"):
	case first.is("done"):
		r.pop(grubLoop)
	case first.is("}"):
		if n := len(r.blocks); n > 0 && r.blocks[n-1].kind != grubIf && r.blocks[n-1].kind != grubLoop {
			r.pop(r.blocks[n-1].kind)
		}
	case words[len(words)-1].is("{"):
		r.open(words[:len(words)-1])
	default:
		r.simple(words)
	}
}

func (r *grubRun) push(b grubBlock) {
	b.outer, b.menu, b.entry = r.running, r.menu, r.entry
	r.blocks = append(r.blocks, b)
}

func (r *grubRun) inside(kind grubBlockKind) *grubBlock {
	if n := len(r.blocks); n > 0 && r.blocks[n-1].kind == kind {
		return &r.blocks[n-1]
	}
	return nil
}

func (r *grubRun) pop(kind grubBlockKind) {
	if b := r.inside(kind); b != nil {
		r.running, r.menu, r.entry = b.outer, b.menu, b.entry
		r.blocks = r.blocks[:len(r.blocks)-1]
	}
}

// open enters a block in braces: a function, a menu entry or a submenu.
func (r *grubRun) open(words []grubWord) {
	keyword := ""
	if len(words) > 0 && words[0].bare {
		keyword = words[0].text
	}
	switch keyword {
	case "function":
		r.push(grubBlock{kind: grubFunction})
		r.running = never
	case "menuentry", "submenu":
		entry := newGrubEntry(words[1:])
		entry.uncertain = r.running != surely
		if r.running != never {
			r.menu.entries = append(r.menu.entries, entry)
		}
		if keyword == "menuentry" {
			r.push(grubBlock{kind: grubMenuEntry})
			r.running, r.entry = never, entry
			return
		}
		r.push(grubBlock{kind: grubSubmenu})
		entry.submenu = &grubMenu{}
		r.menu = entry.submenu
	default:
		r.push(grubBlock{kind: grubBrace})
	}
}

// newGrubEntry reads the arguments of menuentry and submenu: a title, and
// options of which all but these take no value.
func newGrubEntry(args []grubWord) *grubEntry {
	e := &grubEntry{}
	titled := false
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg.text == "--id" || !arg.bare && len(arg.from) == 1 && arg.from[0] == "menuentry_id_option":
			if i++; i < len(args) {
				e.id = args[i].text
			}
		case arg.bare && (arg.text == "--class" || arg.text == "--users" || arg.text == "--hotkey" || arg.text == "--source"):
			i++
		case arg.bare && strings.HasPrefix(arg.text, "--id="):
			e.id = strings.TrimPrefix(arg.text, "--id=")
		case arg.bare && strings.HasPrefix(arg.text, "--"):
		case !titled:
			e.title, titled = arg.text, true
		}
	}
	return e
}

func (r *grubRun) simple(words []grubWord) {
	if b := r.inside(grubIf); b != nil && b.evaluating {
		b.condition = r.test(words)
		return
	}
	if r.entry != nil {
		r.entry.load(words)
		return
	}
	if r.running == never {
		return
	}
	switch name := words[0].text; name {
	case "set", "export":
		for _, word := range words[1:] {
			r.assign(word)
		}
	case "unset":
		for _, word := range words[1:] {
			r.put(word.text, grubWord{known: true})
		}
	case "load_env":
		r.loadEnv(words[1:])
	case "source", "configfile", ".", "normal", "extract_entries_source", "legacy_source", "blscfg":
		r.config.troubled = "it takes in another configuration by " + name
	default:
		if strings.Contains(name, "=") && len(words) == 1 {
			r.assign(words[0])
		}
	}
}

// load records the options of a line of a menu entry that loads a kernel, or
// the module that is one under Xen.
func (e *grubEntry) load(words []grubWord) {
	switch words[0].text {
	case "linux", "linux16", "linuxefi", "module", "module2", "kernel":
	default:
		return
	}
	var options []string
	for _, word := range words[min(2, len(words)):] {
		options = append(options, word.text)
		if strings.HasPrefix(word.text, "init=") && !word.known {
			e.ambiguous = true
		}
	}
	init := initOf(strings.Join(options, " "))
	if init == "" {
		return
	}
	e.ambiguous = e.ambiguous || e.init != "" && init != e.init
	e.init = init
}

func (r *grubRun) assign(word grubWord) {
	name, value, ok := strings.Cut(word.text, "=")
	if !ok {
		return
	}
	r.put(name, grubWord{text: value, known: word.known, from: word.from})
}

func (r *grubRun) put(name string, value grubWord) {
	if r.running != surely {
		if old := r.lexer.value(name); !old.known || old.text != value.text {
			value.known = false
		}
	}
	r.lexer.env[name] = value
}

func (r *grubRun) loadEnv(args []grubWord) {
	if len(args) > 0 && (args[0].text == "-f" || args[0].text == "--file" || strings.HasPrefix(args[0].text, "--file=")) {
		for _, name := range []string{"next_entry", "saved_entry", "default"} {
			r.put(name, grubWord{})
		}
		return
	}
	r.lexer.budget -= len(r.saved)
	for name, value := range r.saved {
		r.put(name, grubWord{text: value, known: true})
	}
}

// test decides a condition; whatever it cannot decide is "maybe".
func (r *grubRun) test(words []grubWord) certainty {
	switch {
	case words[0].is("true"):
		return surely
	case words[0].is("false"):
		return never
	case words[0].is("test"):
		return r.testArgs(words[1:])
	case words[0].is("[") && words[len(words)-1].is("]"):
		return r.testArgs(words[1 : len(words)-1])
	}
	return maybe
}

func (r *grubRun) testArgs(args []grubWord) certainty {
	if len(args) > 0 && args[0].is("!") {
		return r.testArgs(args[1:]).not()
	}
	switch len(args) {
	case 1:
		return decide(args[0].known, args[0].text != "")
	case 2:
		switch operand := args[1]; {
		case args[0].is("-n"):
			return decide(operand.known, operand.text != "")
		case args[0].is("-z"):
			return decide(operand.known, operand.text == "")
		case strings.HasSuffix(operand.text, "/grubenv") && (args[0].is("-s") || args[0].is("-e") || args[0].is("-f")):
			return decide(true, r.hasEnv)
		}
	case 3:
		known, equal := args[0].known && args[2].known, args[0].text == args[2].text
		switch {
		case args[1].is("="), args[1].is("=="):
			return decide(known, equal)
		case args[1].is("!="):
			return decide(known, !equal)
		}
	}
	return maybe
}

func decide(known, holds bool) certainty {
	switch {
	case !known:
		return maybe
	case holds:
		return surely
	}
	return never
}
