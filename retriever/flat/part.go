package flat

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sys/unix"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/flat/kernel"
	"imagebind-llm/retriever/store"
)

const (
	rowsFile = "rows.f32"
	logFile  = "rows.log"
	// chunkRows is how many rows are mapped at a time; a multiple of the page
	// size whatever the dim.
	chunkRows = 16384
	maxSlots  = math.MaxUint32 - 1
)

// A place is where a slot's record is in the log: 40 bits of offset, 24 of length.
type place uint64

func newPlace(at int64, n int) place { return place(at)<<24 | place(n) }
func (p place) at() int64            { return int64(p >> 24) }
func (p place) len() int             { return int(p & (1<<24 - 1)) }

const maxLog = 1 << 40

// fsync is a variable for the tests alone.
var fsync = (*os.File).Sync

// A part is a folder of rows: one generation of a collection, or one that is
// being built. Rows have slots, in the order in which they came; a row that is
// replaced gets a new slot and its old one is dead.
//
// One goroutine at a time writes; any number search, each in the view that was
// there when it began.
type part struct {
	dir         string
	dim, stride int // stride is dim, padded

	rows, log *os.File
	salt      uint32
	end       int64 // of the log
	pending   int   // rows written behind the last slot that the log has
	ids       *ids
	now       view  // what the next publish shows
	owned     bool  // now.dead is not seen by any view yet
	broken    error // why nothing may be written any more
	shown     atomic.Pointer[view]

	mu      sync.Mutex
	refs    int
	retired func(*part) // what to do after the last use; nil while it may be used
}

// A view is the rows at a moment. It never changes.
type view struct {
	n       int // slots
	deaths  int
	chunks  [][]float32 // [chunkRows, stride] each, mapped
	places  []place     // [n]
	sums    []uint32    // [n], checksums of the vectors
	dead    []uint64    // a bit for each slot; slots behind its end live
	maxNorm float32     // no vector is longer
}

func (v *view) count() int { return v.n - v.deaths }

func (v *view) alive(slot int) bool {
	return slot>>6 >= len(v.dead) || v.dead[slot>>6]>>(slot&63)&1 == 0
}

// row returns the padded vector of a slot. It is only good while the part is in use.
func (v *view) row(slot, stride int) []float32 {
	at := slot % chunkRows * stride
	return v.chunks[slot/chunkRows][at : at+stride]
}

// raw is the memory of v.
func raw(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

// createPart makes an empty folder of rows.
func createPart(dir string, dim int) (*part, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	p := &part{dir: dir, dim: dim, stride: kernel.Pad(dim), ids: newIDs(), salt: rand.Uint32(), end: headerBytes}
	err := p.files(os.O_RDWR | os.O_CREATE | os.O_EXCL)
	if err == nil {
		_, err = p.log.Write(header(dim, p.salt))
	}
	if err == nil {
		err = errors.Join(p.log.Sync(), p.rows.Sync(), syncDir(dir), syncDir(filepath.Dir(dir)))
	}
	if err != nil {
		return nil, errors.Join(err, p.close(), os.RemoveAll(dir))
	}
	p.publish()
	return p, nil
}

func (p *part) files(flag int) (err error) {
	if p.rows, err = os.OpenFile(filepath.Join(p.dir, rowsFile), flag, 0o644); err != nil {
		return err
	}
	p.log, err = os.OpenFile(filepath.Join(p.dir, logFile), flag, 0o644)
	return err
}

// openPart reads a folder of rows. A group of records that was never whole is
// cut off the log.
func openPart(dir string, dim int) (*part, error) {
	p := &part{dir: dir, dim: dim, stride: kernel.Pad(dim), ids: newIDs()}
	if err := p.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), p.close())
	}
	return p, nil
}

func (p *part) open() error {
	if err := p.files(os.O_RDWR); err != nil {
		return err
	}
	info, err := p.log.Stat()
	if err != nil {
		return err
	}
	end := int64(headerBytes)
	if p.salt, err = readHeader(p.log, p.dim); err == nil {
		end, err = readLog(p.log, info.Size(), end, p.salt, p.apply)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", logFile, err)
	}
	if end < info.Size() {
		if err := errors.Join(p.log.Truncate(end), p.log.Sync()); err != nil {
			return err
		}
	}
	p.end = end
	if info, err = p.rows.Stat(); err != nil {
		return err
	}
	if want := int64(p.now.n) * int64(4*p.stride); info.Size() < want {
		return imagebind.Errorf(imagebind.Invalid, "%s: %d bytes; the log tells of %d rows, %d bytes", rowsFile, info.Size(), p.now.n, want)
	}
	if err := p.mapRows(p.now.n); err != nil {
		return err
	}
	p.publish()
	return nil
}

// mapRows maps the file as far as n rows go. What lies behind the file's end
// is mapped too, and read only after it was written.
func (p *part) mapRows(n int) error {
	for len(p.now.chunks)*chunkRows < n {
		size := 4 * chunkRows * p.stride
		b, err := unix.Mmap(int(p.rows.Fd()), int64(len(p.now.chunks))*int64(size), size, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map %s: %w", rowsFile, err)
		}
		p.now.chunks = append(p.now.chunks, unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), size/4))
	}
	return nil
}

// close gives files and memory back. Nothing may use the part any more.
func (p *part) close() error {
	var errs []error
	for _, c := range p.now.chunks {
		errs = append(errs, unix.Munmap(raw(c)))
	}
	p.now.chunks = nil
	for _, f := range []*os.File{p.rows, p.log} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// use keeps the part open until done; false when it is retired already.
func (p *part) use() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired != nil {
		return false
	}
	p.refs++
	return true
}

func (p *part) done() {
	p.mu.Lock()
	p.refs--
	last, then := p.refs == 0 && p.retired != nil, p.retired
	p.mu.Unlock()
	if last {
		then(p)
	}
}

// retire lets then happen once nobody uses the part; that may be now.
func (p *part) retire(then func(*part)) {
	p.mu.Lock()
	p.retired = then
	idle := p.refs == 0
	p.mu.Unlock()
	if idle {
		then(p)
	}
}

// publish shows searches what the writer has done.
func (p *part) publish() {
	v := p.now
	p.owned = false
	p.shown.Store(&v)
}

// kill marks a slot dead.
func (p *part) kill(slot int) {
	if !p.owned {
		p.now.dead = slices.Grow(slices.Clone(p.now.dead), 1)
		p.owned = true
	}
	for slot>>6 >= len(p.now.dead) {
		p.now.dead = append(p.now.dead, 0)
	}
	p.now.dead[slot>>6] |= 1 << (slot & 63)
	p.now.deaths++
}

// record reads the record of a slot into buf, which it returns, perhaps grown.
func (p *part) record(pl place, buf []byte) (record, []byte, error) {
	buf = slices.Grow(buf[:0], pl.len())[:pl.len()]
	if _, err := p.log.ReadAt(buf, pl.at()); err != nil {
		return record{}, buf, fmt.Errorf("%s at byte %d: %w", logFile, pl.at(), err)
	}
	r, _, err := readRecord(buf)
	return r, buf, err
}

// lookup returns the entry of an id; its slot may be dead.
func (p *part) lookup(id []byte) (*entry, error) {
	return p.ids.find(id, func(slot int) (bool, error) {
		r, _, err := p.record(p.now.places[slot], nil)
		return string(r.id) == string(id), err
	})
}

// apply takes over a record that the log has at a place.
func (p *part) apply(r record, at int64, n int) error {
	e, err := p.lookup(r.id)
	if err != nil {
		return err
	}
	if e.slot != 0 && p.now.alive(int(e.slot-1)) {
		p.kill(int(e.slot - 1))
	}
	if r.kind == kindDelete {
		return nil
	}
	if !(r.norm >= 0) {
		return fmt.Errorf("a vector of length %v", r.norm)
	}
	if p.now.n >= maxSlots || at+int64(n) > maxLog {
		return errors.New("no room for more rows")
	}
	p.ids.put(e, p.now.n)
	p.now.places = append(p.now.places, newPlace(at, n))
	p.now.sums = append(p.now.sums, r.sum)
	p.now.maxNorm = max(p.now.maxNorm, r.norm)
	p.now.n++
	return nil
}

// A batch is rows as they are stored.
type batch struct {
	n       int
	vectors []float32 // [n, stride]
	records []byte
	lens    []int // of the records
}

// encode checks rows and makes a batch of them.
func encode(rows []store.Row, dim int) (*batch, error) {
	stride := kernel.Pad(dim)
	b := &batch{n: len(rows), vectors: make([]float32, len(rows)*stride), lens: make([]int, 0, len(rows))}
	for i, r := range rows {
		metadata, err := check(i, r, dim)
		if err != nil {
			return nil, err
		}
		v := b.vectors[i*stride : (i+1)*stride]
		copy(v, r.Vector)
		before := len(b.records)
		b.records = appendPut(b.records, r, metadata, crc32.Checksum(raw(v), castagnoli), up(r.Vector.Norm()))
		b.lens = append(b.lens, len(b.records)-before)
	}
	return b, nil
}

// up rounds a length to float32, not down.
func up(x float64) float32 {
	f := float32(x)
	if float64(f) < x {
		f = math.Nextafter32(f, float32(math.Inf(1)))
	}
	return min(f, math.MaxFloat32)
}

// check returns the metadata of a row that may be stored, as JSON.
func check(i int, r store.Row, dim int) ([]byte, error) {
	switch {
	case len(r.ID) == 0 || len(r.ID) > maxID:
		return nil, imagebind.Errorf(imagebind.Invalid, "row %d: an id of %d bytes; it has 1 to %d", i, len(r.ID), maxID)
	case len(r.Vector) != dim:
		return nil, imagebind.Errorf(imagebind.Invalid, "row %d (%s): a vector of %d values; the collection's dim is %d", i, r.ID, len(r.Vector), dim)
	case !r.Vector.Finite():
		return nil, imagebind.Errorf(imagebind.Invalid, "row %d (%s): the vector holds NaN or infinity", i, r.ID)
	case r.Vector.Norm() == 0:
		return nil, imagebind.Errorf(imagebind.Invalid, "row %d (%s): the vector is zero", i, r.ID)
	case len(r.Caption) > maxText || len(r.URI) > maxText:
		return nil, imagebind.Errorf(imagebind.Invalid, "row %d (%s): caption and uri have at most %d bytes", i, r.ID, maxText)
	case len(r.Metadata) == 0:
		return nil, nil
	}
	m, err := canonical(r.Metadata)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "row %d (%s): metadata: %w", i, r.ID, err)
	}
	if len(m) > maxMetadata {
		return nil, imagebind.Errorf(imagebind.Invalid, "row %d (%s): %d bytes of metadata; at most %d are stored", i, r.ID, len(m), maxMetadata)
	}
	return m, nil
}

// canonical writes metadata so that equal values are equal bytes: as
// encoding/json writes what it reads.
func canonical(m map[string]any) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	for k, v := range m {
		ok := utf8.ValidString(k)
		switch v := v.(type) {
		case nil, bool, float64, []any, map[string]any:
		case string:
			ok = ok && utf8.ValidString(v)
		default:
			ok = false
		}
		if ok {
			continue
		}
		var again map[string]any
		if err := json.Unmarshal(b, &again); err != nil {
			return nil, err
		}
		return json.Marshal(again)
	}
	return b, nil
}

// add writes vectors [n, stride] behind the last row. They count, and are
// durable, after commit with their records.
func (p *part) add(vectors []float32) error {
	if p.broken != nil {
		return p.broken
	}
	n := len(vectors) / p.stride
	if p.now.n+p.pending+n > maxSlots {
		return imagebind.Errorf(imagebind.Invalid, "%s holds as many rows as it can", p.dir)
	}
	if err := p.mapRows(p.now.n + p.pending + n); err != nil {
		return err
	}
	if _, err := p.rows.WriteAt(raw(vectors), int64(p.now.n+p.pending)*int64(4*p.stride)); err != nil {
		return err
	}
	p.pending += n
	return nil
}

// commit makes the rows that were added durable, and then the groups of records
// that tell of them. When it returns nil, the part has them; the caller
// publishes. When it fails, they were never there.
func (p *part) commit(groups []byte) (err error) {
	rows := p.pending
	p.pending = 0
	if p.broken != nil || len(groups) == 0 {
		return p.broken
	}
	if p.end+int64(len(groups)) > maxLog {
		return imagebind.Errorf(imagebind.Invalid, "%s is as long as it can be", filepath.Join(p.dir, logFile))
	}
	// After a failed sync nobody knows what the disk has, and a second one may
	// well say that all is fine: nothing more is written until a restart.
	fail := func(what string, err error) error {
		p.broken = imagebind.Errorf(imagebind.Unavailable, "%s: %s: %w; restart the retriever when the disk is well", p.dir, what, err)
		return p.broken
	}
	if rows > 0 {
		if err := fsync(p.rows); err != nil {
			return fail("sync "+rowsFile, err)
		}
	}
	if _, err := p.log.WriteAt(groups, p.end); err != nil {
		if e := p.log.Truncate(p.end); e != nil {
			return fail("write "+logFile, errors.Join(err, e))
		}
		return err
	}
	if err := fsync(p.log); err != nil {
		return fail("sync "+logFile, err)
	}
	at := p.end
	p.end += int64(len(groups))
	if err := eachRecord(groups, at, p.apply); err != nil {
		return fail("take over what was written", err)
	}
	return nil
}

// A groups collects records into groups.
type groups struct {
	salt   uint32
	sealed []byte
	open   group
}

func (g *groups) add(record []byte) {
	g.open.add(record)
	if g.open.full() {
		g.flush()
	}
}

func (g *groups) flush() {
	if g.open.n > 0 {
		g.sealed = append(g.sealed, g.open.seal(g.salt)...)
		g.open.reset()
	}
}

// addBatch collects a batch's records.
func (g *groups) addBatch(b *batch) {
	at := 0
	for _, n := range b.lens {
		g.add(b.records[at : at+n])
		at += n
	}
}

// take returns the groups and starts again.
func (g *groups) take() []byte {
	g.flush()
	b := g.sealed
	g.sealed = nil
	return b
}
