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

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
)

const (
	codesFile = "rows.i8"
	rowsFile  = "rows.f32"
	halfFile  = "rows.f16"
	logFile   = "rows.log"
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
	dir    string
	dim    int
	stride int  // of the codes: dim, padded
	half   bool // rows are float16

	codes, rows table // what is searched, what is answered
	log         *os.File
	salt        uint32
	end         int64  // of the log
	sum         uint32 // checksum of the log up to there
	pending     int    // rows written behind the last slot that the log has
	eager       bool   // much is written: the disk begins with it at once
	ids         *ids
	now         view  // what the next publish shows
	owned       bool  // now.dead is not seen by any view yet
	broken      error // why nothing may be written any more
	shown       atomic.Pointer[view]
	gate        gate                 // of its searches
	fast        atomic.Pointer[fast] // nil: no row is on a device
	loading     atomic.Bool          // in the background
	unloadable  atomic.Bool          // the device did not take the rows, or failed

	mu      sync.Mutex
	refs    int
	retired func(*part) // what to do after the last use; nil while it may be used
}

// A view is the rows at a moment. It never changes.
type view struct {
	n      int // slots
	deaths int
	end    int64     // of the log
	codes  [][]byte  // [chunkRows, stride] int8 each, mapped
	rows   [][]byte  // [chunkRows, dim] float32 or float16 each, mapped
	places []place   // [n]
	sums   []uint32  // [n], checksums of the rows
	scales []float32 // [n], of the codes: row ≈ scale·codes
	widths []float32 // [n], how far a row may be from that, seen from a unit query (see width)
	dead   []uint64  // a bit for each slot; slots behind its end live
	// maxNorm: no row is longer.
	maxNorm float32
}

func (v *view) count() int { return v.n - v.deaths }

func (v *view) alive(slot int) bool {
	return slot>>6 >= len(v.dead) || v.dead[slot>>6]>>(slot&63)&1 == 0
}

// stored is the memory of a slot's row. It is only good while the part is in use.
func (p *part) stored(v *view, slot int) []byte {
	at := slot % chunkRows * p.rows.size
	return v.rows[slot/chunkRows][at : at+p.rows.size]
}

// vector returns stored bytes of a row as its values: those themselves, or
// buf [dim] filled with them.
func (p *part) vector(stored []byte, buf []float32) []float32 {
	if !p.half {
		return valuesOf[float32](stored)
	}
	kernel.FromHalf(buf, valuesOf[uint16](stored))
	return buf
}

func newPart(dir string, dim int, half bool) *part {
	return &part{dir: dir, dim: dim, stride: kernel.Pad8(dim), half: half, ids: newIDs()}
}

// createPart makes an empty folder of rows.
func createPart(dir string, dim int, half bool) (*part, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	p := newPart(dir, dim, half)
	p.salt, p.end = rand.Uint32(), headerBytes
	head := header(dim, half, p.salt)
	p.sum = crc32.Checksum(head, castagnoli)
	err := p.files(os.O_RDWR | os.O_CREATE | os.O_EXCL)
	if err == nil {
		_, err = p.log.Write(head)
	}
	if err == nil {
		err = errors.Join(p.log.Sync(), p.rows.f.Sync(), p.codes.f.Sync(), syncDir(dir), syncDir(filepath.Dir(dir)))
	}
	if err != nil {
		return nil, errors.Join(err, p.close(), os.RemoveAll(dir))
	}
	p.publish()
	return p, nil
}

func (p *part) files(flag int) (err error) {
	name, size := rowsFile, 4*p.dim
	if p.half {
		name, size = halfFile, 2*p.dim
	}
	if p.codes, err = openTable(p.dir, codesFile, p.stride, flag, unix.MADV_SEQUENTIAL); err != nil {
		return err
	}
	if p.rows, err = openTable(p.dir, name, size, flag, unix.MADV_RANDOM); err != nil {
		return err
	}
	p.log, err = os.OpenFile(filepath.Join(p.dir, logFile), flag, 0o644)
	return err
}

// openPart reads the folder of g's rows. A group of records that was never
// whole is cut off the log.
func openPart(dir string, g generation) (*part, error) {
	p := newPart(dir, g.Dim, g.Values == float16Values)
	if err := p.open(g); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), p.close())
	}
	return p, nil
}

func (p *part) open(g generation) error {
	if err := p.files(os.O_RDWR); err != nil {
		return err
	}
	info, err := p.log.Stat()
	if err != nil {
		return err
	}
	var head []byte
	if p.salt, head, err = readHeader(p.log, p.dim, p.half); err != nil {
		return fmt.Errorf("%s: %w", logFile, err)
	}
	p.sum = crc32.Checksum(head, castagnoli)
	if n := min(g.Count, int(info.Size()/putHeader)); n > 0 {
		v := &p.now
		v.places, v.sums = make([]place, 0, n), make([]uint32, 0, n)
		v.scales, v.widths = make([]float32, 0, n), make([]float32, 0, n)
	}
	end, err := readLog(p.log, info.Size(), headerBytes, p.salt, readRecord, p.apply, func(group []byte, end int64) error {
		p.sum = crc32.Update(p.sum, castagnoli, group)
		if end == g.LogBytes && p.sum != g.LogSum {
			return imagebind.Errorf(imagebind.Invalid, "its first %d bytes are not those of generation %d", end, g.Generation)
		}
		return nil
	})
	if err == nil && end < g.LogBytes {
		err = imagebind.Errorf(imagebind.Invalid, "it ends at byte %d; generation %d was %d bytes when it was built", end, g.Generation, g.LogBytes)
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
	for _, t := range []*table{&p.codes, &p.rows} {
		if err := t.holds(p.now.n); err != nil {
			return imagebind.Errorf(imagebind.Invalid, "%w", err)
		}
		if err := t.grow(p.now.n); err != nil {
			return err
		}
	}
	p.publish()
	return nil
}

// close gives files and memory back. Nothing may use the part any more.
func (p *part) close() error {
	p.unload()
	err := errors.Join(p.codes.close(), p.rows.close())
	if p.log != nil {
		err = errors.Join(err, p.log.Close())
	}
	return err
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

// hold is one more use, for who has one already.
func (p *part) hold() {
	p.mu.Lock()
	p.refs++
	p.mu.Unlock()
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
	v.end, v.codes, v.rows = p.end, p.codes.chunks, p.rows.chunks
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

// metadata reads a record's metadata; nil for none.
func (r record) fields() (m map[string]any, err error) {
	if len(r.metadata) > 0 {
		if err := json.Unmarshal(r.metadata, &m); err != nil {
			return nil, fmt.Errorf("metadata of %s: %w", r.id, err)
		}
	}
	return m, nil
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
	if !(r.norm >= 0 && r.scale >= 0 && r.loss >= 0) {
		return fmt.Errorf("a vector of length %v, scale %v, loss %v", r.norm, r.scale, r.loss)
	}
	if p.now.n >= maxSlots || at+int64(n) > maxLog {
		return errors.New("no room for more rows")
	}
	p.ids.put(e, p.now.n)
	v := &p.now
	v.places = append(v.places, newPlace(at, n))
	v.sums = append(v.sums, r.sum)
	v.scales = append(v.scales, r.scale)
	v.widths = append(v.widths, width(r.scale, r.loss))
	v.maxNorm = max(v.maxNorm, r.norm)
	v.n++
	return nil
}

// add writes a batch behind the last row. Its rows count, and are durable,
// after commit with their records.
func (p *part) add(b *batch) error {
	if p.broken != nil {
		return p.broken
	}
	slot := p.now.n + p.pending
	if slot+b.n > maxSlots {
		return imagebind.Errorf(imagebind.Invalid, "%s holds as many rows as it can", p.dir)
	}
	for _, w := range []struct {
		t *table
		b []byte
	}{{&p.codes, bytesOf(b.codes)}, {&p.rows, b.rows}} {
		if err := w.t.grow(slot + b.n); err != nil {
			return err
		}
		if err := w.t.write(w.b, slot); err != nil {
			return err
		}
		if p.eager {
			startWriting(w.t.f, int64(slot)*int64(w.t.size), int64(len(w.b)))
		}
	}
	p.pending += b.n
	return nil
}

// commit makes the rows that were added durable, and then the groups of records
// that tell of them. When it returns nil, the part has them; the caller
// publishes. When it fails, they were never there.
func (p *part) commit(groups []byte) error {
	rows := p.pending
	err := p.secure(rows, groups)
	return p.accept(rows, groups, err)
}

// secure is the part of commit that takes time. Rows may be added meanwhile;
// nothing else may be done to the part.
func (p *part) secure(rows int, groups []byte) error {
	if p.broken != nil || len(groups) == 0 {
		return p.broken
	}
	if p.end+int64(len(groups)) > maxLog {
		return imagebind.Errorf(imagebind.Invalid, "%s is as long as it can be", filepath.Join(p.dir, logFile))
	}
	if rows > 0 {
		var both errgroup.Group
		both.Go(func() error { return fsync(p.codes.f) })
		both.Go(func() error { return fsync(p.rows.f) })
		if err := both.Wait(); err != nil {
			return &broken{"sync the rows", err}
		}
	}
	if _, err := p.log.WriteAt(groups, p.end); err != nil {
		if e := p.log.Truncate(p.end); e != nil {
			return &broken{"write " + logFile, errors.Join(err, e)}
		}
		return err
	}
	if err := fsync(p.log); err != nil {
		return &broken{"sync " + logFile, err}
	}
	return nil
}

// accept ends a commit of the first rows that were added, which secure returned
// err for.
func (p *part) accept(rows int, groups []byte, err error) error {
	if err != nil { // what was added behind them goes with them
		p.pending = 0
	} else {
		p.pending -= rows
		if len(groups) > 0 {
			at := p.end
			p.end += int64(len(groups))
			p.sum = crc32.Update(p.sum, castagnoli, groups)
			if e := eachRecord(groups, at, readRecord, p.apply); e != nil {
				err = &broken{"take over what was written", e}
			}
		}
	}
	// After a failed sync nobody knows what the disk has, and a second one may
	// well say that all is fine: nothing more is written until a restart.
	if b := (*broken)(nil); errors.As(err, &b) {
		p.broken = imagebind.Errorf(imagebind.Unavailable, "%s: %w; restart the retriever when the disk is well", p.dir, err)
		return p.broken
	}
	return err
}

// A broken error leaves the disk in a state that nobody knows.
type broken struct {
	what string
	err  error
}

func (b *broken) Error() string { return b.what + ": " + b.err.Error() }
func (b *broken) Unwrap() error { return b.err }
