package activate

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// storeReserve must be free where the store is: less does not hold what a switch writes beside the closure (links of the
	// profile, /etc, state of units), and a switch that runs out of room stops half way.
	storeReserve = 64 << 20
	// bootReserve must stay free on the boot partition beside the new kernel and initrd: entries, and the temporary copy of
	// a small file.
	bootReserve = 1 << 20
	// inodeReserve must be free where the file system counts inodes.
	inodeReserve = 256
)

// bootImages are the directories in which the boot loaders of NixOS keep copies of kernels and initrds, below a boot partition.
// Only systemd-boot's builder drops copies that no generation needs before it writes new ones.
var bootImages = []struct {
	dir         string
	suffix      string
	prunesFirst bool
}{
	{dir: "EFI/nixos", suffix: ".efi", prunesFirst: true}, // systemd-boot
	{dir: "kernels"}, // GRUB
	{dir: "nixos"},   // extlinux
}

// checkRoom refuses where a target would not find room: in the store, and on a boot partition for those of its images that
// are not there yet. A target that is not in the store yet has no known size.
func (r *Runner) checkRoom(target string) error {
	if free, inodes, err := freeAt(r.host.Path("/nix/store")); err == nil && (free < storeReserve || inodes < inodeReserve) {
		return noRoom("the file system of /nix/store has %s and %d files left", inWords(free), inodes)
	}
	return r.checkBootRoom(target)
}

func (r *Runner) checkBootRoom(target string) error {
	images := r.images(target)
	for _, partition := range []string{"/boot", "/efi", "/boot/efi"} {
		for _, kind := range bootImages {
			dir, err := r.host.Resolve(path.Join(partition, kind.dir))
			if err != nil {
				continue
			}
			need := missing(r.host.Path(dir), kind.suffix, images)
			if need == 0 {
				continue
			}
			free, _, err := freeAt(r.host.Path(dir))
			if err != nil {
				continue
			}
			if kind.prunesFirst {
				free += r.prunable(r.host.Path(dir), kind.suffix)
			}
			if free < need+bootReserve {
				return noRoom("%s has %s left, and the kernel and initrd of %s need %s", partition, inWords(free), target, inWords(need))
			}
		}
	}
	return nil
}

// images are the files of a closure that a boot loader copies, by the names of their copies without a suffix, with their sizes.
func (r *Runner) images(closure string) map[string]uint64 {
	images := make(map[string]uint64)
	for _, link := range []string{"kernel", "initrd"} {
		file, err := r.host.Resolve(path.Join(closure, link))
		if err != nil || !inStore(file) {
			continue
		}
		if info, err := os.Stat(r.host.Path(file)); err == nil {
			images[imageName(file)] = uint64(info.Size())
		}
	}
	return images
}

// imageName is how the builders name the copy of a file of the store: the store path's name, a dash, the file's.
func imageName(file string) string {
	return strings.ReplaceAll(strings.TrimPrefix(file, storePrefix), "/", "-")
}

func missing(dir, suffix string, images map[string]uint64) uint64 {
	var need uint64
	for name, size := range images {
		if _, err := os.Stat(filepath.Join(dir, name+suffix)); err != nil {
			need += size
		}
	}
	return need
}

// prunable is the size of the copies that no generation of the system profile needs any more.
func (r *Runner) prunable(dir, suffix string) uint64 {
	generations, err := filepath.Glob(r.host.Path(r.host.ProfilePath()) + "-*-link")
	if err != nil || len(generations) == 0 {
		return 0
	}
	needed := make(map[string]bool)
	for _, link := range generations {
		logical := path.Join(path.Dir(r.host.ProfilePath()), filepath.Base(link))
		for name := range r.images(logical) {
			needed[name+suffix] = true
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	var size uint64
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && !needed[entry.Name()] && strings.HasSuffix(entry.Name(), suffix) {
			size += uint64(info.Size())
		}
	}
	return size
}

// freeAt is the room and the number of inodes that are left in a file system. One that does not count inodes has plenty.
func freeAt(file string) (bytes, inodes uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(file, &fs); err != nil {
		return 0, 0, fmt.Errorf("read room at %s: %w", file, err)
	}
	inodes = fs.Ffree
	if fs.Files == 0 {
		inodes = ^uint64(0)
	}
	return fs.Bavail * uint64(fs.Bsize), inodes, nil
}

func inWords(bytes uint64) string {
	const mib = 1 << 20
	if bytes < mib {
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d MiB", bytes/mib)
}

func noRoom(format string, args ...any) error {
	return &Failure{
		Reason: ReasonDiskFull, Detail: fmt.Sprintf(format, args...), ExitCode: -1,
		Hint: "delete old generations with nix-collect-garbage --delete-older-than, then let the boot loader be installed once",
	}
}
