package activate

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Progress is how far nix-store has come with fetching, as far as its output tells. It is for people; nothing is decided by it.
type Progress struct {
	// Begun counts the paths that Nix has begun to fetch. The last few of them may still be on their way: Nix does not say
	// when it has one.
	Begun int
	// Total is how many paths it fetches in all, 0 if it has not said so.
	Total int
	// Download is how much that is, in Nix's own words, such as "120.31 MiB"; "" if it has not said so.
	Download string
}

// String is the progress in words, "" if there is none to tell.
func (p Progress) String() string {
	var words string
	switch {
	case p.Total == 1:
		words = fmt.Sprintf("%d of 1 path", p.Begun)
	case p.Total > 1:
		words = fmt.Sprintf("%d of %d paths", p.Begun, p.Total)
	case p.Begun == 1:
		words = "1 path so far"
	case p.Begun > 1:
		words = fmt.Sprintf("%d paths so far", p.Begun)
	default:
		return ""
	}
	if p.Download != "" {
		words += ", " + p.Download + " download"
	}
	return words
}

// Texts of Nix, 2.3 to the newest: "these 40 paths will be fetched (120.31 MiB download, 512.00 MiB unpacked):", "this path
// will be…", and before 2.4 "these paths will be…" whatever their number; then one path to a line. Then one line for each
// path that it begins to fetch: "copying path '…' from '…'...".
const (
	willBeFetched = " will be fetched ("
	copyingPath   = "copying path '"
	storeListed   = "  /nix/store/"
)

// progressReader reads progress from an output, piece by piece.
type progressReader struct {
	seen    Progress
	listing bool                // the lines are those of paths to fetch, which have not been counted
	begun   map[string]struct{} // a path that one cache failed to give is begun again with the next
}

// read takes the next lines of the output.
func (p *progressReader) read(text string) Progress {
	for line := range strings.Lines(text) {
		p.line(strings.TrimRight(line, "\r\n"))
	}
	if p.seen.Total > 0 {
		p.seen.Begun = min(p.seen.Begun, p.seen.Total)
	}
	return p.seen
}

func (p *progressReader) line(line string) {
	if p.listing && strings.HasPrefix(line, storeListed) {
		p.seen.Total++
		return
	}
	p.listing = false
	if what, sizes, ok := strings.Cut(line, willBeFetched); ok {
		p.header(what, sizes)
		return
	}
	rest, ok := strings.CutPrefix(line, copyingPath)
	path, _, whole := strings.Cut(rest, "' from '")
	if !ok || !whole {
		return
	}
	if p.begun == nil {
		p.begun = make(map[string]struct{})
	}
	p.begun[path] = struct{}{}
	p.seen.Begun = len(p.begun)
}

func (p *progressReader) header(what, sizes string) {
	switch {
	case what == "this path":
		p.seen.Total = 1
	case what == "these paths":
		p.seen.Total, p.listing = 0, true
	default:
		number, ok := strings.CutPrefix(what, "these ")
		number, paths := strings.CutSuffix(number, " paths")
		total, err := strconv.Atoi(number)
		if !ok || !paths || err != nil || total < 0 {
			return
		}
		p.seen.Total = total
	}
	if size, _, ok := strings.Cut(sizes, " download"); ok {
		p.seen.Download = size
	}
}

// fetching is a watch that reads how far a fetch has come and tells it when it has changed. It reads from the beginning, so an
// agent that was started anew knows all of it as well.
func (r *Runner) fetching(id JobID, told func(Progress)) func(context.Context) {
	if told == nil {
		return nil
	}
	var reader progressReader
	var at string
	var last Progress
	return func(ctx context.Context) {
		text, next := r.launcher.Output(ctx, id, at)
		at = next
		if now := reader.read(text); now != last {
			last = now
			told(now)
		}
	}
}
