package system

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

const (
	// maxSections bounds the section table of a PE file: the Windows loader's own limit.
	maxSections = 96
	// maxSection bounds the text sections of a unified kernel image. The kernel
	// takes 2 to 4 KiB of command line.
	maxSection = 64 << 10
)

var errNotPE = errors.New("not a PE image")

// ukiText is the text that a unified kernel image carries in its sections of
// those names, for the base profile of the image. A section that is not there
// is absent from the map.
func ukiText(image io.ReaderAt, names ...string) (map[string]string, error) {
	sections, err := peSections(image)
	if err != nil {
		return nil, err
	}
	texts := make(map[string]string)
	for _, s := range sections {
		// What follows a .profile section belongs to an alternative profile.
		if s.name == ".profile" {
			break
		}
		for _, name := range names {
			if _, have := texts[name]; s.name != name || have {
				continue
			}
			if s.size > maxSection {
				return nil, ErrTooLarge
			}
			text := make([]byte, s.size)
			if _, err := io.ReadFull(io.NewSectionReader(image, s.offset, s.size), text); err != nil {
				return nil, errNotPE
			}
			texts[name] = strings.TrimRight(string(text), "\x00")
		}
	}
	return texts, nil
}

type peSection struct {
	name         string
	offset, size int64
}

// peSections reads the section table of a PE/COFF image (Microsoft's "PE
// Format"): the offset of the PE header at 0x3c, then the COFF header, the
// optional header and 40 bytes for each section.
func peSections(image io.ReaderAt) ([]peSection, error) {
	var dos [64]byte
	if !readAt(image, dos[:], 0) || dos[0] != 'M' || dos[1] != 'Z' {
		return nil, errNotPE
	}
	header := int64(binary.LittleEndian.Uint32(dos[0x3c:]))
	var coff [24]byte
	if !readAt(image, coff[:], header) || string(coff[:4]) != "PE\x00\x00" {
		return nil, errNotPE
	}
	count := int(binary.LittleEndian.Uint16(coff[6:]))
	optional := int64(binary.LittleEndian.Uint16(coff[20:]))
	if count > maxSections {
		return nil, errNotPE
	}
	table := make([]byte, count*40)
	if !readAt(image, table, header+int64(len(coff))+optional) {
		return nil, errNotPE
	}
	sections := make([]peSection, 0, count)
	for ; len(table) > 0; table = table[40:] {
		// The raw size is padded to the file's alignment, the virtual one is not.
		virtual := binary.LittleEndian.Uint32(table[8:])
		raw := binary.LittleEndian.Uint32(table[16:])
		sections = append(sections, peSection{
			name:   strings.TrimRight(string(table[:8]), "\x00"),
			offset: int64(binary.LittleEndian.Uint32(table[20:])),
			size:   int64(min(virtual, raw)),
		})
	}
	return sections, nil
}

func readAt(r io.ReaderAt, p []byte, offset int64) bool {
	n, _ := r.ReadAt(p, offset)
	return n == len(p)
}

// parseUKI makes the menu entry of a type #2 image of that file name.
func parseUKI(file string, image io.ReaderAt) bootEntry {
	e := newEntry(file, ".efi")
	texts, err := ukiText(image, ".osrel", ".cmdline")
	switch {
	case errors.Is(err, errNotPE):
		e.malformed = true
		return e
	case err != nil:
		e.unreadable = err
		return e
	}
	osRelease, ok := texts[".osrel"]
	if !ok {
		e.malformed = true
		return e
	}
	e.uki = true
	release := make(map[string]string)
	for key, value := range loaderLines([]byte(osRelease), "=") {
		release[key] = value
	}
	first := func(keys ...string) (string, bool) {
		for _, key := range keys {
			if value, ok := release[key]; ok {
				return value, true
			}
		}
		return "", false
	}
	if _, named := first("PRETTY_NAME", "IMAGE_ID", "NAME", "ID"); !named {
		e.malformed = true
	}
	e.version, _ = first("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")
	e.sortKey, e.hasSortKey = first("IMAGE_ID", "ID")
	e.options = texts[".cmdline"]
	return e
}
