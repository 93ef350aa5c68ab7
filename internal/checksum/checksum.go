// Package checksum seals values so that damage to them is seen when they are read back.
//
// The database's pages carry no checksum: a flipped bit in a value would be read as if it had been written. Seal therefore
// puts a CRC32C (Castagnoli) before every value, and Open checks it. It tells accidents, not attacks: whoever can write the
// file can also compute a checksum.
//
// A sealed value is one byte of format version, four bytes of CRC32C in big-endian order, and the payload. The CRC covers the
// version, the place of the value and the payload. The place, for example bucket and key, is not stored: the reader names it
// again, so that an intact value that is found in another place does not verify.
package checksum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// format is the version of the sealed form. A value in another form does not verify; a new form needs a newer reader.
const format = 1

// Overhead is the number of bytes that Seal adds to a payload.
const Overhead = 1 + crc32.Size

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Damaged says why a sealed value does not verify.
type Damaged struct {
	Reason string
}

func (d *Damaged) Error() string { return "verify value: " + d.Reason }

// IsDamaged reports whether err is or wraps a *Damaged.
func IsDamaged(err error) bool {
	var d *Damaged
	return errors.As(err, &d)
}

// Seal returns payload with its checksum before it. The result shares no memory with payload.
func Seal(payload []byte, place ...string) []byte {
	sealed := make([]byte, Overhead, Overhead+len(payload))
	sealed[0] = format
	binary.BigEndian.PutUint32(sealed[1:Overhead], sum(payload, place))
	return append(sealed, payload...)
}

// Open returns the payload of a sealed value, which is a part of sealed and not a copy. The place must be that of Seal.
// Every error is a *Damaged.
func Open(sealed []byte, place ...string) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, &Damaged{Reason: fmt.Sprintf("its %d bytes are shorter than a checksum", len(sealed))}
	}
	if sealed[0] != format {
		return nil, &Damaged{Reason: fmt.Sprintf("its format %d is not known", sealed[0])}
	}
	payload := sealed[Overhead:]
	if want, got := binary.BigEndian.Uint32(sealed[1:Overhead]), sum(payload, place); want != got {
		return nil, &Damaged{Reason: fmt.Sprintf("its checksum is %08x and should be %08x", got, want)}
	}
	return payload, nil
}

// sum is the checksum over format, place and payload. Each part of the place is preceded by its length, so that no two
// places have the same bytes.
func sum(payload []byte, place []string) uint32 {
	prefix := make([]byte, 0, 64)
	prefix = append(prefix, format)
	for _, part := range place {
		prefix = binary.BigEndian.AppendUint32(prefix, uint32(len(part)))
		prefix = append(prefix, part...)
	}
	return crc32.Update(crc32.Checksum(prefix, castagnoli), castagnoli, payload)
}
