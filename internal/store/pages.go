package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The form of a bbolt file, version 2, as far as it is needed to look one over. Numbers are in the byte order of the machine.
// Source: go.etcd.io/bbolt v1.5.0, internal/common.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader  = 16 // id u64, flags u16, count u16, overflow u32
	pageElement = 16 // leaf: flags, pos, ksize, vsize u32; branch: pos, ksize u32, page u64
	bucketValue = 16 // root page u64, sequence u64; a root of 0: an inline page follows
	metaSize    = 64 // magic, version, page size, flags u32; root, sequence, freelist, high, txid, checksum u64

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf element

	noFreelist       = ^uint64(0)
	longFreelist     = 0xFFFF // count of a freelist whose length is its first element
	smallestPage     = 1 << 10
	largestPage      = 1 << 24
	maxBucketNesting = 16
)

// inspection is what a look over a file has found besides its cells.
type inspection struct {
	pageSize int
	used     int64 // bytes up to the highest page in use
	// tornMeta: one of the two meta pages is not valid. Either a power cut tore the last commit, which was never
	// confirmed; or the page was damaged later, and the last confirmed commit is lost with it.
	tornMeta bool
	buckets  []string // at the top level
}

// inspect looks a bbolt file over by reading it: every reachable page is there once, is what it says, and has its keys in
// order and within its bounds; no free page is in use. It calls visit for every value of a top-level bucket. The slices are
// valid during the call.
//
// bbolt itself trusts its file: it maps it and follows the offsets in it, wherever they lead. Some of what a damaged page then
// causes cannot be recovered from, such as endless recursion or an allocation of any size. What has passed here is safe.
//
// It is stricter than what bbolt could read: it asks for what bbolt writes. A page is its elements, then their keys and values
// without a gap, in order; only the page at the top may be empty. Else a lower count of elements would silently hide some.
//
// Errors are an *unreadable, or an error of reading.
func inspect(file io.ReaderAt, size int64, visit func(bucket string, key, value []byte)) (inspection, error) {
	m, found, err := readMetas(file, size)
	if err != nil {
		return found, err
	}
	p := &pager{file: file, pageSize: found.pageSize, high: m.high, top: m.root, seen: make([]bool, m.high)}
	p.seen[0], p.seen[1] = true, true
	err = p.bucket(m.root, nil, visit)
	found.buckets = p.buckets
	if err != nil {
		return found, err
	}
	return found, p.freelist(m.freelist)
}

type meta struct {
	root, freelist, high, txid uint64
	pageSize                   uint32
}

// readMetas finds the valid meta page of the last commit, as bbolt does.
func readMetas(file io.ReaderAt, size int64) (meta, inspection, error) {
	var metas []meta
	var reasons []error
	first, err := readMeta(file, 0)
	switch {
	case err == nil:
		metas = append(metas, first)
		second, err := readMeta(file, int64(first.pageSize))
		if isIOError(err) {
			return meta{}, inspection{}, err
		}
		if err == nil && second.pageSize == first.pageSize {
			metas = append(metas, second)
		}
	case isIOError(err):
		return meta{}, inspection{}, err
	default:
		reasons = append(reasons, err)
		for at := int64(smallestPage); at <= largestPage && at < size; at *= 2 {
			second, err := readMeta(file, at)
			if isIOError(err) {
				return meta{}, inspection{}, err
			}
			if err == nil && int64(second.pageSize) == at {
				metas = append(metas, second)
				break
			}
		}
	}
	if len(metas) == 0 {
		return meta{}, inspection{}, &unreadable{fmt.Sprintf("neither of its meta pages is valid: %v", errors.Join(reasons...))}
	}
	last := metas[0]
	for _, m := range metas {
		if m.txid > last.txid {
			last = m
		}
	}
	found := inspection{pageSize: int(last.pageSize), used: int64(last.high) * int64(last.pageSize), tornMeta: len(metas) < 2}
	if last.high < 4 || last.high > uint64(size)/uint64(last.pageSize) {
		return meta{}, found, &unreadable{fmt.Sprintf("it is cut off: %d bytes, and its last page is %d of %d bytes", size, last.high, last.pageSize)}
	}
	return last, found, nil
}

func readMeta(file io.ReaderAt, at int64) (meta, error) {
	buf := make([]byte, pageHeader+metaSize)
	if _, err := file.ReadAt(buf, at); errors.Is(err, io.EOF) {
		return meta{}, &unreadable{"it is too short"}
	} else if err != nil {
		return meta{}, err
	}
	b := buf[pageHeader:]
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	switch {
	case u32(0) != boltMagic:
		return meta{}, &unreadable{"it is not a database"}
	case u64(metaSize-8) != sum.Sum64():
		return meta{}, &unreadable{"a meta page does not verify"}
	case u32(4) != boltVersion:
		return meta{}, &unreadable{fmt.Sprintf("it has version %d of the database's form, and this is version %d", u32(4), boltVersion)}
	}
	m := meta{pageSize: u32(8), root: u64(16), freelist: u64(32), high: u64(40), txid: u64(48)}
	if m.pageSize < smallestPage || m.pageSize > largestPage || m.pageSize&(m.pageSize-1) != 0 {
		return meta{}, &unreadable{fmt.Sprintf("its page size is %d", m.pageSize)}
	}
	return m, nil
}

func isIOError(err error) bool { return err != nil && !errors.Is(err, ErrUnreadable) }

// pager reads pages, each at most once.
type pager struct {
	file     io.ReaderAt
	pageSize int
	high     uint64
	top      uint64 // root page of the root bucket
	seen     []bool
	buckets  []string
}

type page struct {
	id    uint64
	flags uint16
	count int
	data  []byte // with header and overflow
}

func (p *pager) damaged(id uint64, format string, args ...any) error {
	return &unreadable{fmt.Sprintf("page %d: %s", id, fmt.Sprintf(format, args...))}
}

// load reads a page with its overflow and marks it as seen.
func (p *pager) load(id uint64) (page, error) {
	if id < 2 || id >= p.high {
		return page{}, p.damaged(id, "it is referred to, and the pages in use are 2 to %d", p.high-1)
	}
	head := make([]byte, p.pageSize)
	if err := p.read(head, id); err != nil {
		return page{}, err
	}
	overflow := uint64(binary.NativeEndian.Uint32(head[12:]))
	switch {
	case binary.NativeEndian.Uint64(head) != id:
		return page{}, p.damaged(id, "it says that it is page %d", binary.NativeEndian.Uint64(head))
	case overflow >= p.high-id:
		return page{}, p.damaged(id, "its %d further pages are beyond the end", overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if p.seen[i] {
			return page{}, p.damaged(i, "it is in use twice")
		}
		p.seen[i] = true
	}
	data := head
	if overflow > 0 {
		data = make([]byte, int(overflow+1)*p.pageSize)
		if err := p.read(data, id); err != nil {
			return page{}, err
		}
	}
	return page{id: id, flags: binary.NativeEndian.Uint16(head[8:]), count: int(binary.NativeEndian.Uint16(head[10:])), data: data}, nil
}

func (p *pager) read(into []byte, id uint64) error {
	_, err := p.file.ReadAt(into, int64(id)*int64(p.pageSize))
	if errors.Is(err, io.EOF) {
		return p.damaged(id, "it is cut off")
	}
	return err
}

// bucket walks the tree of a bucket. path names it from the top; visit is called for values one level below the top.
func (p *pager) bucket(root uint64, path []string, visit func(bucket string, key, value []byte)) error {
	return p.tree(root, span{}, func(pg page) error { return p.leaf(pg, path, visit) })
}

// span bounds the keys of a page: from its low key on, and below its high key, where there are such.
type span struct{ low, high []byte }

func (s span) holds(key []byte) bool {
	return (s.low == nil || bytes.Compare(key, s.low) >= 0) && (s.high == nil || bytes.Compare(key, s.high) < 0)
}

// tree walks a tree of pages down to its leaves. That no page is seen twice bounds it.
func (p *pager) tree(id uint64, within span, leaf func(page) error) error {
	pg, err := p.load(id)
	if err != nil {
		return err
	}
	if pg.flags != branchFlag && pg.flags != leafFlag {
		return p.damaged(id, "its flags are %#x where a branch or a leaf should be", pg.flags)
	}
	if pg.count == 0 && id != p.top {
		return p.damaged(id, "it is empty")
	}
	if _, err := p.inOrder(pg, within); err != nil {
		return err
	}
	if pg.flags == leafFlag {
		return leaf(pg)
	}
	for i := range pg.count {
		e, err := p.element(pg, i)
		if err != nil {
			return err
		}
		below := span{low: e.key, high: within.high}
		if i+1 < pg.count {
			after, err := p.element(pg, i+1)
			if err != nil {
				return err
			}
			below.high = after.key
		}
		if err := p.tree(e.child, below, leaf); err != nil {
			return err
		}
	}
	return nil
}

// element is one of a page: a key with a value in a leaf, a key with a child in a branch.
type element struct {
	start, end uint64 // of key and value in the page
	flags      uint32
	key, value []byte
	child      uint64
}

// inOrder checks the elements of a page: the keys rise and are within the bounds of the page, and their bytes follow the list of
// elements and each other without a gap. It gives the end of the last one.
func (p *pager) inOrder(pg page, within span) (end uint64, err error) {
	end = uint64(pageHeader + pg.count*pageElement)
	var before []byte
	for i := range pg.count {
		e, err := p.element(pg, i)
		switch {
		case err != nil:
			return 0, err
		case e.start != end:
			return 0, p.damaged(pg.id, "its element %d begins at %d where %d would follow", i, e.start, end)
		case i > 0 && bytes.Compare(before, e.key) >= 0:
			return 0, p.damaged(pg.id, "its keys %d and %d are not in order", i-1, i)
		case !within.holds(e.key):
			return 0, p.damaged(pg.id, "its key %d belongs to another page", i)
		}
		before, end = e.key, e.end
	}
	return end, nil
}

func (p *pager) element(pg page, i int) (element, error) {
	at := pageHeader + i*pageElement
	if at+pageElement > len(pg.data) {
		return element{}, p.damaged(pg.id, "its %d elements do not fit", pg.count)
	}
	head := pg.data[at : at+pageElement]
	u32 := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(head[at:])) }
	var e element
	var pos, keySize, valueSize uint64
	if pg.flags == branchFlag {
		pos, keySize, e.child = u32(0), u32(4), binary.NativeEndian.Uint64(head[8:])
	} else {
		e.flags, pos, keySize, valueSize = uint32(u32(0)), u32(4), u32(8), u32(12)
	}
	e.start = uint64(at) + pos
	e.end = e.start + keySize + valueSize
	if e.start < pageHeader || e.end > uint64(len(pg.data)) {
		return element{}, p.damaged(pg.id, "its element %d is outside of it", i)
	}
	split := e.start + keySize
	e.key, e.value = pg.data[e.start:split:split], pg.data[split:e.end:e.end]
	return e, nil
}

func (p *pager) leaf(pg page, path []string, visit func(bucket string, key, value []byte)) error {
	for i := range pg.count {
		e, err := p.element(pg, i)
		switch {
		case err != nil:
			return err
		case len(e.key) == 0:
			return p.damaged(pg.id, "its element %d has no key", i)
		case e.flags == bucketFlag:
			if err := p.nested(pg, e.key, e.value, path, visit); err != nil {
				return err
			}
		case e.flags != 0:
			return p.damaged(pg.id, "its element %d has the flags %#x", i, e.flags)
		case len(path) == 1:
			visit(path[0], e.key, e.value)
		}
	}
	return nil
}

// nested walks a bucket that is a value of another: a tree of its own, or a page inside of the value.
func (p *pager) nested(pg page, name, value []byte, path []string, visit func(bucket string, key, value []byte)) error {
	if len(value) < bucketValue {
		return p.damaged(pg.id, "the bucket %q is cut off", name)
	}
	if len(path) >= maxBucketNesting {
		return p.damaged(pg.id, "the bucket %q is nested too deep", name)
	}
	below := append(path[:len(path):len(path)], string(name))
	if len(path) == 0 {
		p.buckets = append(p.buckets, string(name))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return p.bucket(root, below, visit)
	}
	data := value[bucketValue:]
	if len(data) < pageHeader {
		return p.damaged(pg.id, "the bucket %q is cut off", name)
	}
	inline := page{id: pg.id, flags: binary.NativeEndian.Uint16(data[8:]), count: int(binary.NativeEndian.Uint16(data[10:])), data: data}
	if inline.flags != leafFlag {
		return p.damaged(pg.id, "the bucket %q has the flags %#x", name, inline.flags)
	}
	end, err := p.inOrder(inline, span{})
	if err != nil {
		return err
	}
	if end != uint64(len(data)) {
		return p.damaged(pg.id, "the bucket %q has %d bytes more than its elements", name, uint64(len(data))-end)
	}
	return p.leaf(inline, below, visit)
}

// freelist checks that every free page is within the file, free once, and not in use. It comes after the trees.
func (p *pager) freelist(id uint64) error {
	if id == noFreelist {
		return nil
	}
	pg, err := p.load(id)
	if err != nil {
		return err
	}
	if pg.flags != freelistFlag {
		return p.damaged(id, "its flags are %#x where the list of free pages should be", pg.flags)
	}
	ids := pg.data[pageHeader:]
	count := uint64(pg.count)
	if pg.count == longFreelist {
		if len(ids) < 8 {
			return p.damaged(id, "the list of free pages is cut off")
		}
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return p.damaged(id, "its %d free pages do not fit", count)
	}
	for i := range count {
		free := binary.NativeEndian.Uint64(ids[i*8:])
		if free < 2 || free >= p.high {
			return p.damaged(id, "the free page %d is not in the file", free)
		}
		if p.seen[free] {
			return p.damaged(id, "the free page %d is in use", free)
		}
		p.seen[free] = true
	}
	return nil
}
