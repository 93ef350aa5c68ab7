package system

import (
	"encoding/binary"
	"errors"
	"path"
	"unicode/utf16"
)

const (
	efiVarsDir = "/sys/firmware/efi/efivars"
	// loaderVendor is the vendor UUID of the Boot Loader Interface
	// (https://systemd.io/BOOT_LOADER_INTERFACE).
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	// maxEFIVar bounds a variable; an entry id is a file name.
	maxEFIVar = 8 << 10
)

// efiVar reads a string variable of the Boot Loader Interface, "" if it is not
// set or there is no EFI.
func (w *walk) efiVar(name string) (string, error) {
	data, err := w.readFile(path.Join(efiVarsDir, name+"-"+loaderVendor), maxEFIVar)
	if err != nil {
		return "", ignoreAbsent(err)
	}
	return decodeEFIString(data)
}

// decodeEFIString decodes a file of efivarfs that holds a string: four bytes of
// attributes, then UTF-16LE up to a NUL or the end.
func decodeEFIString(data []byte) (string, error) {
	const attributes = 4
	if len(data) < attributes || len(data)%2 != 0 {
		return "", errors.New("not a string variable")
	}
	var units []uint16
	for data = data[attributes:]; len(data) > 0; data = data[2:] {
		unit := binary.LittleEndian.Uint16(data)
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units)), nil
}
