package activate

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// switchLock is what switch-to-configuration locks with flock(2) while it runs. The file stays; the lock goes with its process.
const switchLock = "/run/nixos/switch-to-configuration.lock"

// nixosLock looks at the lock without taking it: a switch that starts just then must not find it held.
type nixosLock struct{ host *system.Host }

// holder names who holds the lock, "" if nobody does.
func (l nixosLock) holder() string {
	f, err := os.Open(l.host.Path(switchLock))
	if err != nil {
		return ""
	}
	defer f.Close()
	file, err := identify(f)
	if err != nil {
		return ""
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer locks.Close()
	if pid, held := flockHolder(locks, file); held {
		if name := processName(pid); name != "" {
			return fmt.Sprintf("%s (pid %d)", name, pid)
		}
		// The process that took the lock has ended, and one that it left the descriptor to holds it.
		if heir, found := heirOf(f); found {
			return heir
		}
		return fmt.Sprintf("a process that pid %d left behind", pid)
	}
	// /proc/locks leaves out a lock whose taker is gone or in another PID namespace.
	heir, _ := heirOf(f)
	return heir
}

// lockedFile is a file as /proc/locks names it: the device of its file system, which is not always what stat(2) says, and its
// inode.
type lockedFile struct {
	major, minor uint32
	inode        uint64
}

func identify(f *os.File) (lockedFile, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return lockedFile{}, err
	}
	file := lockedFile{major: unix.Major(stat.Dev), minor: unix.Minor(stat.Dev), inode: stat.Ino}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return file, nil // without /proc the device of stat is as good as it gets
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return file, nil // as above
	}
	defer mounts.Close()
	if major, minor, found := deviceOfMount(mounts, mountID(string(info))); found {
		file.major, file.minor = major, minor
	}
	return file, nil
}

// mountID is the line "mnt_id:" of /proc/PID/fdinfo/FD, "" if there is none.
func mountID(fdinfo string) string {
	for line := range strings.Lines(fdinfo) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}

// deviceOfMount finds the device of a mount: the third field of its line in mountinfo, whose first is the id.
func deviceOfMount(mountinfo io.Reader, id string) (major, minor uint32, found bool) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || fields[0] != id {
			continue
		}
		return parseDevice(fields[2], 10)
	}
	return 0, 0, false
}

func parseDevice(text string, base int) (major, minor uint32, ok bool) {
	before, after, ok := strings.Cut(text, ":")
	if !ok {
		return 0, 0, false
	}
	hi, errHi := strconv.ParseUint(before, base, 32)
	lo, errLo := strconv.ParseUint(after, base, 32)
	return uint32(hi), uint32(lo), errHi == nil && errLo == nil
}

// flockHolder finds in /proc/locks (proc_locks(5)) who holds a flock on a file. Lines of those who wait have "->" in them.
//
//	1: FLOCK  ADVISORY  WRITE 4711 00:19:1234 0 EOF
func flockHolder(locks io.Reader, file lockedFile) (pid int, held bool) {
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" {
			continue
		}
		at := strings.LastIndexByte(fields[5], ':')
		if at < 0 {
			continue
		}
		major, minor, ok := parseDevice(fields[5][:at], 16)
		inode, err := strconv.ParseUint(fields[5][at+1:], 10, 64)
		if !ok || err != nil || (lockedFile{major, minor, inode}) != file {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		return pid, err == nil
	}
	return 0, false
}

// heirOf finds a process with a descriptor that the file is locked through. It sees the processes that this one may look at,
// which for root is all of them.
func heirOf(f *os.File) (string, bool) {
	want, err := f.Stat()
	if err != nil {
		return "", false
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "", false
	}
	for _, descriptor := range descriptors {
		info, err := os.Stat(descriptor)
		if err != nil || !os.SameFile(info, want) {
			continue
		}
		process := filepath.Dir(filepath.Dir(descriptor))
		fdinfo, err := os.ReadFile(filepath.Join(process, "fdinfo", filepath.Base(descriptor)))
		if err != nil || !locksFile(string(fdinfo)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(process))
		if name := processName(pid); err == nil && name != "" {
			return fmt.Sprintf("%s (pid %d)", name, pid), true
		}
	}
	return "", false
}

// locksFile reports whether a descriptor holds a flock, by its fdinfo.
func locksFile(fdinfo string) bool {
	for line := range strings.Lines(fdinfo) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "lock:" && fields[2] == "FLOCK" {
			return true
		}
	}
	return false
}
