package activate

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	// journalTimeout bounds one run of journalctl. On a slow disk with a large journal it takes seconds.
	journalTimeout = 20 * time.Second
	// maxJournal bounds what is read of one run.
	maxJournal = 1 << 20
	// endEntries are looked at for the end of a unit: PID 1 writes a handful about each run.
	endEntries = 50
)

// MESSAGE_IDs of PID 1 (systemd's sd-messages.h).
const (
	messageProcessExit = "98e322203f7a4ed290d09fe03c09fe15" // EXIT_CODE, EXIT_STATUS of a unit's process
	messageUnitFailed  = "d9b373ed55a64feb8242e02dbe79a49c" // UNIT_RESULT
	messageUnitStarted = "39f53479d3a045ac8e11786248231fbf" // JOB_RESULT; of a oneshot: it has succeeded
)

// journal runs journalctl with arguments and returns what it printed.
type journal func(ctx context.Context, args ...string) string

func runJournalctl(ctx context.Context, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	output := &boundedBuffer{most: maxJournal}
	journalctl := exec.CommandContext(ctx, "journalctl", append([]string{"--quiet", "--no-pager"}, args...)...)
	journalctl.Stdout = output
	if journalctl.Run() != nil && output.Len() == 0 {
		return ""
	}
	return output.String()
}

// boundedBuffer keeps the first bytes that are written to it and takes the rest without keeping it.
type boundedBuffer struct {
	bytes.Buffer
	most int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	keep := min(len(p), b.most-b.Len())
	b.Buffer.Write(p[:keep])
	return len(p), nil
}

// tail is the end of what an invocation wrote or, where none is known, of what was written by and about its unit.
//
// Of a process that has ended before the journal daemon looks at it, the invocation is not known any more, while its stream
// still tells the unit. A unit's name is that of one attempt.
func (j journal) tail(ctx context.Context, unit, invocation string, lines int) string {
	j(ctx, "--sync") // what was just written is read only after it has come through
	return lastLines(j(ctx, append([]string{"--output=cat", "--lines=" + strconv.Itoa(lines)}, matchOf(unit, invocation)...)...), lines, maxTail)
}

func matchOf(unit, invocation string) []string {
	if invocation == "" {
		return []string{"--unit", unit, "--boot"}
	}
	return []string{"_SYSTEMD_INVOCATION_ID=" + invocation, "+", "_SYSTEMD_UNIT=" + unit}
}

// after is what an invocation wrote after a cursor, "" for its beginning, and the cursor of the last line of it. What does not
// fit into one run of journalctl is left to the next: every entry bears its own cursor, so that none is lost. Nothing is
// synced for it; what is on its way is there at the next look.
func (j journal) after(ctx context.Context, unit, invocation, cursor string) (text, next string) {
	args := []string{"--output=json", "--output-fields=MESSAGE"}
	if cursor != "" {
		args = append(args, "--after-cursor="+cursor)
	}
	var said strings.Builder
	for line := range strings.Lines(j(ctx, append(args, matchOf(unit, invocation)...)...)) {
		var entry struct {
			Cursor  string `json:"__CURSOR"`
			Message any    `json:"MESSAGE"` // a list of bytes where it is no text
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Cursor == "" {
			break // cut off at the bound
		}
		cursor = entry.Cursor
		if message, ok := entry.Message.(string); ok {
			said.WriteString(message + "\n")
		}
	}
	return said.String(), cursor
}

// endOf finds in PID 1's own messages how an invocation ended.
func (j journal) endOf(ctx context.Context, invocation string) (unitEnd, bool) {
	j(ctx, "--sync")
	return endInJournal(j(ctx, "--output=json", "--lines="+strconv.Itoa(endEntries), "_PID=1", "INVOCATION_ID="+invocation))
}

// unitEnd is how the body of an attempt ended, as PID 1 saw it.
type unitEnd struct {
	result  string // as the property Result: "success", "exit-code", "signal", "core-dump", "timeout", …
	exited  bool
	status  int // exit code or signal
	unknown bool
}

// endOfUnit reads the end of a unit from its properties; known only if it has ended.
func endOfUnit(u unitState) (end unitEnd, known bool) {
	switch {
	case u.busy():
		return unitEnd{}, false
	case u.ActiveState == "active" && u.SubState == "exited" && u.Result == "success" && u.ExecMainCode == 1 && u.ExecMainStatus == 0:
		return unitEnd{result: "success", exited: true}, true
	case u.ActiveState == "failed" && u.Result != "success":
		return unitEnd{result: u.Result, exited: u.ExecMainCode == 1, status: u.ExecMainStatus, unknown: u.ExecMainCode == 0}, true
	default:
		return unitEnd{}, false
	}
}

// endInJournal reads the end of a oneshot from the messages of PID 1, one JSON object to a line.
func endInJournal(lines string) (end unitEnd, known bool) {
	end.unknown = true
	for line := range strings.Lines(lines) {
		// A field that is no text, or too long, is no string; it is not one of these then.
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil {
			continue
		}
		text := func(name string) string {
			s, _ := fields[name].(string)
			return s
		}
		switch text("MESSAGE_ID") {
		case messageProcessExit:
			end.readExit(text("EXIT_CODE"), text("EXIT_STATUS"))
		case messageUnitFailed:
			if result := text("UNIT_RESULT"); result != "" {
				end.result, known = result, true
			}
		case messageUnitStarted:
			if text("JOB_RESULT") == "done" && text("JOB_TYPE") == "start" {
				end, known = unitEnd{result: "success", exited: true}, true
			}
		}
	}
	return end, known
}

func (e *unitEnd) readExit(code, status string) {
	switch code {
	case "exited":
		n, err := strconv.Atoi(status)
		e.exited, e.status, e.unknown = true, n, err != nil
	case "killed", "dumped":
		n, err := strconv.Atoi(status)
		if err != nil {
			n = signalNumber(status)
		}
		e.exited, e.status, e.unknown = false, n, n == 0
	}
}

// fill says in a result what the end of the body tells of the program: the body exits as the program did.
func (e unitEnd) fill(r *Result) {
	r.Note = "from the unit, since the attempt left no result: " + e.result
	switch {
	case e.result == "timeout", e.exited && e.status == exitTimeout:
		r.Kind = KindTimeout
	case e.unknown, e.exited && e.status == ExitNotRun:
		r.Kind = KindLost
	case !e.exited:
		r.Kind, r.Signal = KindSignaled, e.status
	case e.status > exitSignaled && signalKnown(e.status-exitSignaled):
		r.Kind, r.Signal = KindSignaled, e.status-exitSignaled
	case e.result == "success" || e.result == "exit-code":
		r.Kind, r.ExitCode = KindExited, e.status
	default:
		r.Kind = KindLost
	}
}
