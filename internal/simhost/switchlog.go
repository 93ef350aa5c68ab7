package simhost

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// SwitchLog is the file, below the root, that every run of switch-to-configuration appends to: "started ACTION TOPLEVEL PID
// EPOCH-SECONDS" and, unless it was killed, "ended ACTION TOPLEVEL PID EXIT-CODE".
const SwitchLog = "/var/log/sim-switch.log"

// SwitchRecord is one run of switch-to-configuration.
type SwitchRecord struct {
	Action   string
	Toplevel string
	PID      int
	Start    time.Time // to the second
	Ended    bool      // false: it runs, or was killed
	ExitCode int       // if it ended
}

// Switches reads the switch log, oldest first.
func (h *Host) Switches() ([]SwitchRecord, error) {
	text, err := os.ReadFile(h.Path(SwitchLog))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read switch log: %w", err)
	}
	return ParseSwitches(string(text))
}

// ParseSwitches parses the text of a switch log.
func ParseSwitches(text string) ([]SwitchRecord, error) {
	var records []SwitchRecord
	for line := range strings.Lines(text) {
		if err := parseSwitchLine(&records, strings.TrimSuffix(line, "\n")); err != nil {
			return nil, fmt.Errorf("parse switch log line %q: %w", line, err)
		}
	}
	return records, nil
}

func parseSwitchLine(records *[]SwitchRecord, line string) error {
	words := strings.Split(line, " ")
	if len(words) != 5 {
		return fmt.Errorf("%d words instead of 5", len(words))
	}
	pid, err := strconv.Atoi(words[3])
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(words[4], 10, 64)
	if err != nil {
		return err
	}
	switch words[0] {
	case "started":
		*records = append(*records, SwitchRecord{Action: words[1], Toplevel: words[2], PID: pid, Start: time.Unix(number, 0)})
		return nil
	case "ended":
		for i := len(*records) - 1; i >= 0; i-- {
			r := &(*records)[i]
			if r.PID == pid && r.Action == words[1] && r.Toplevel == words[2] && !r.Ended {
				r.Ended, r.ExitCode = true, int(number)
				return nil
			}
		}
		return fmt.Errorf("an end without a start")
	}
	return fmt.Errorf("neither a start nor an end")
}
