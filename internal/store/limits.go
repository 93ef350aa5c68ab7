package store

import "time"

const (
	// defaultMaxSize is the hard cap of the file. A busy year of one host is a few megabytes; the cap keeps a fault from
	// filling the disk.
	defaultMaxSize = 64 << 20

	// growStep is the step in which the file gets disk space. The first one is taken at creation: a host that runs
	// out of disk still has room for the events of the work in progress.
	growStep = 1 << 20

	// wantedRoom is the space inside of the file that is kept ready. It holds some hundred commits.
	wantedRoom = 256 << 10

	// defaultTimeout bounds the wait for another process's lock. A status that reads the file holds it for milliseconds.
	defaultTimeout = 5 * time.Second

	// lockRetry is the time between two attempts to take a lock.
	lockRetry = 5 * time.Millisecond

	// maxRecords and maxRecordBytes bound the records of rollouts at rest; the oldest go first. What owes work, waits or
	// owns the host stays, whatever its size.
	maxRecords     = 1000
	maxRecordBytes = 16 << 20

	// maxHistory is the number of transitions that are kept; historySlack those by which it may be exceeded, so that most
	// appends delete nothing.
	maxHistory   = 10000
	historySlack = 250

	// maxBoots is the number of boots that are kept: years of a host that reboots every other day.
	maxBoots = 500

	// maxDamaged and maxDamagedBytes bound the damaged values that are kept for whoever looks into the damage.
	maxDamaged      = 256
	maxDamagedBytes = 4 << 20

	// maxAside is the number of unreadable files that are kept. With one more, the oldest but one goes: the oldest has what
	// the host knew before the trouble began, the newest are what the trouble is about.
	maxAside = 5

	// defaultRows is the number of rows that a reader gets who names no limit.
	defaultRows = 100
)
