package checksum_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

func TestSealedValueOpensInItsPlaceOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOf(rapid.Byte()).Draw(t, "payload")
		place := rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "place")
		other := rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "other")
		sealed := checksum.Seal(payload, place...)

		got, err := checksum.Open(sealed, place...)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("Open = %x, %v; want %x", got, err, payload)
		}
		same := len(place) == len(other)
		for i := range place {
			same = same && place[i] == other[i]
		}
		if _, err := checksum.Open(sealed, other...); same != (err == nil) {
			t.Fatalf("place %q opened as %q: %v", place, other, err)
		}
	})
}

func TestEveryFlippedBitIsSeen(t *testing.T) {
	sealed := checksum.Seal([]byte(`{"rollout_id":"stable@41"}`), "records", "stable@41")
	for i := range sealed {
		for bit := range 8 {
			damaged := bytes.Clone(sealed)
			damaged[i] ^= 1 << bit
			if _, err := checksum.Open(damaged, "records", "stable@41"); !checksum.IsDamaged(err) {
				t.Errorf("byte %d bit %d: %v", i, bit, err)
			}
		}
	}
}

func TestShortValueIsDamaged(t *testing.T) {
	sealed := checksum.Seal([]byte("x"))
	for n := range len(sealed) {
		if _, err := checksum.Open(sealed[:n]); !checksum.IsDamaged(err) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := checksum.Open(nil); !checksum.IsDamaged(err) {
		t.Errorf("nil: %v", err)
	}
}

// The form on disk must not change by accident. The CRC32C of 01 31 32 … 39 was computed bit by bit, by another program.
func TestFormOnDisk(t *testing.T) {
	got := checksum.Seal([]byte("123456789"))
	want := []byte{1, 0x70, 0x68, 0x71, 0xee, '1', '2', '3', '4', '5', '6', '7', '8', '9'}
	if !bytes.Equal(got, want) {
		t.Fatalf("sealed = %x, want %x", got, want)
	}
}
