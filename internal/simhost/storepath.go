package simhost

import (
	"crypto/sha256"
	"fmt"
)

const storeDirectory = "/nix/store"

// Nix's base 32: no e, o, t or u.
const base32Digits = "0123456789abcdfghijklmnpqrsvwxyz"

// hashBytes is the length of the hash in a store path, 32 digits of 5 bits each.
const hashBytes = 20

// storePathOf is the store path of a tree by its content. It is as long and as random as a real one, but not the one that Nix
// would compute.
func storePathOf(name string, t tree, salt string) string {
	sum := sha256.Sum256(fmt.Appendf(t.serialise(), "name=%q salt=%q", name, salt))
	return storeDirectory + "/" + base32(sum[:hashBytes]) + "-" + name
}

func base32(b []byte) string {
	digits := make([]byte, 0, len(b)*8/5)
	var window, bits uint
	for _, x := range b {
		window = window<<8 | uint(x)
		for bits += 8; bits >= 5; bits -= 5 {
			digits = append(digits, base32Digits[window>>(bits-5)&31])
		}
	}
	return string(digits)
}
