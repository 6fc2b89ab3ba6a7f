package flat

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// maxShared is how many bytes of vectors one pair of syncs makes durable.
const maxShared = 64 << 20

// A collection is a folder. Whatever changes it is an op, and these run one
// after another in a goroutine that lives as long as there are any.
type collection struct {
	s    *Store
	name string
	dir  string

	queueMu sync.Mutex
	queue   []*op
	running bool

	mu         sync.Mutex
	man        manifest // of live
	live       *part    // nil for none
	builds     map[string]*builder
	seq        int // the highest number of a folder of rows
	compacting bool
	unfit      *part // its dead rows could not be cleared away
}

// An op is rows to put, or something else to do.
type op struct {
	ctx  context.Context
	put  *batch
	dim  int  // of put
	half bool // of put
	run  func() error
	done chan error // holds one
}

func (c *collection) path(name string) string { return filepath.Join(c.dir, name) }

func sequence(folder string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(folder, "rows-"))
	return n
}

// newFolder returns the name of a folder of rows that there never was.
func (c *collection) newFolder() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	return fmt.Sprintf("rows-%06d", c.seq)
}

// use returns the rows that serve; p.done must be called after.
func (c *collection) use() (*part, manifest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil || !c.live.use() {
		return nil, manifest{}, missing(c.name)
	}
	return c.live, c.man, nil
}

func (c *collection) info() (store.Info, error) {
	p, m, err := c.use()
	if err != nil {
		return store.Info{}, err
	}
	defer p.done()
	m.Count = p.shown.Load().count()
	i := c.infoOf(m.generation, true)
	if f := p.fast.Load(); f != nil {
		i.Device = store.Device{Rows: f.n, Queries: f.asked.Load(), Scanned: f.unsure.Load()}
	}
	return i, nil
}

// do runs f when the ops before it are done.
func (c *collection) do(ctx context.Context, f func() error) error {
	return c.submit(&op{ctx: ctx, run: f})
}

// submit waits for an op. When ctx ends first, the op is left out if it has not
// begun; otherwise it may be done or not.
func (c *collection) submit(o *op) error {
	if err := o.ctx.Err(); err != nil {
		return err
	}
	o.done = make(chan error, 1)
	c.queueMu.Lock()
	if !c.running {
		if err := c.s.begin(); err != nil {
			c.queueMu.Unlock()
			return err
		}
		c.running = true
		go c.work()
	}
	c.queue = append(c.queue, o)
	c.queueMu.Unlock()
	select {
	case err := <-o.done:
		return err
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}

// work runs ops until there are none. Puts that wait together are one write.
func (c *collection) work() {
	defer c.s.work.Done()
	for {
		c.queueMu.Lock()
		ops := c.queue
		if len(ops) == 0 {
			c.running = false
			c.queueMu.Unlock()
			return
		}
		n, size := 1, 0
		if ops[0].put != nil {
			for n, size = 0, 0; n < len(ops) && ops[n].put != nil && size < maxShared; n++ {
				size += ops[n].put.size()
			}
		}
		ops, c.queue = ops[:n:n], ops[n:]
		c.queueMu.Unlock()
		if ops[0].put != nil {
			c.put(ops)
			continue
		}
		o := ops[0]
		err := o.ctx.Err()
		if err == nil {
			err = o.run()
		}
		o.done <- err
	}
}

// put stores the rows of several ops with one pair of syncs. It answers each.
func (c *collection) put(ops []*op) {
	c.mu.Lock()
	p := c.live
	c.mu.Unlock()
	var g groups
	var wait []*op
	var err error
	for _, o := range ops {
		switch {
		case o.ctx.Err() != nil:
			o.done <- o.ctx.Err()
		case p == nil: // dropped meanwhile
			o.done <- missing(c.name)
		case p.dim != o.dim || p.half != o.half:
			o.done <- imagebind.Errorf(imagebind.Conflict, "collection %q was replaced meanwhile by one of dim %d and other values; send the rows again", c.name, p.dim)
		case err != nil:
			o.done <- err
		default:
			wait = append(wait, o)
			g.salt = p.salt
			g.addBatch(o.put)
			err = p.add(o.put)
		}
	}
	if len(wait) == 0 {
		return
	}
	if err != nil {
		p.pending = 0
	} else if err = p.commit(g.take()); err == nil {
		p.publish()
	}
	for _, o := range wait {
		o.done <- disk("store rows of "+c.name, err)
	}
	c.compact(p)
	c.fasten(p)
}

// delete removes rows of the ids, each named once.
func (c *collection) delete(ids []string) (int, error) {
	c.mu.Lock()
	p := c.live
	c.mu.Unlock()
	if p == nil {
		return 0, missing(c.name)
	}
	g := groups{salt: p.salt}
	n := 0
	var buf []byte
	for _, id := range ids {
		e, err := p.lookup([]byte(id))
		if err != nil {
			return 0, err
		}
		if e.slot == 0 || !p.now.alive(int(e.slot-1)) {
			continue
		}
		buf = appendDelete(buf[:0], id)
		g.add(buf)
		n++
	}
	if err := p.commit(g.take()); err != nil {
		return 0, disk("delete rows of "+c.name, err)
	}
	p.publish()
	c.compact(p)
	return n, nil
}

// create makes the collection m, or finds it. It is an op.
func (c *collection) create(m manifest) error {
	c.mu.Lock()
	live, have := c.live, c.man
	c.mu.Unlock()
	if live != nil {
		if have.Dim != m.Dim {
			return imagebind.Errorf(imagebind.Conflict, "collection %q exists with dim %d, not %d", c.name, have.Dim, m.Dim)
		}
		return nil
	}
	builds, err := c.unfinished() // a first rebuild may be under way
	if err != nil {
		return err
	}
	for _, b := range builds {
		m.Generation = max(m.Generation, b.Generation+1)
	}
	m.Rows, m.Values = c.newFolder(), c.s.values()
	p, err := createPart(c.path(m.Rows), m.Dim, c.s.o.Half)
	if err != nil {
		return disk("create "+c.name, err)
	}
	m.BuiltAt = now()
	there, err := c.swap(m, p)
	if !there {
		discard(p)
	}
	return err
}

// swap makes p, which is durable, the rows that serve: on disk, then here. It
// is part of an op. It may fail when p is there already but a power cut may
// still bring the old rows back. Those stay either way, closed after the last
// search in them; after a switch that did not fail they may be removed.
func (c *collection) swap(m manifest, p *part) (there bool, err error) {
	there, err = m.write(c.path(manifestFile))
	if !there {
		return false, disk("switch "+c.name, err)
	}
	c.mu.Lock()
	old := c.live
	c.live, c.man = p, m
	c.mu.Unlock()
	if old != nil {
		old.unload() // now: the new rows may want its memory
		old.retire(shut)
	}
	c.fasten(p)
	return true, disk("switch "+c.name, err)
}

// disk says that a failure is the disk's and not the caller's.
func disk(doing string, err error) error {
	if err == nil || imagebind.KindOf(err) != imagebind.Internal {
		return err
	}
	return imagebind.Errorf(imagebind.Unavailable, "%s: %w", doing, err)
}

// shut closes rows whose folder stays.
func shut(p *part) {
	if err := p.close(); err != nil {
		slog.Warn("flat: close rows that do not serve any more", "folder", p.dir, "err", err)
	}
}

// discard closes rows that nobody will need and removes their folder.
func discard(p *part) {
	if err := errors.Join(p.close(), os.RemoveAll(p.dir)); err != nil {
		slog.Warn("flat: old rows stay until the next start", "folder", p.dir, "err", err)
	}
}

// drop removes the rows that serve. It is an op.
func (c *collection) drop() error {
	c.mu.Lock()
	live, all := c.live, c.man.all()
	c.mu.Unlock()
	if live == nil {
		return missing(c.name)
	}
	if err := os.Remove(c.path(manifestFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return disk("drop "+c.name, err)
	}
	err := syncDir(c.dir)
	c.mu.Lock()
	c.live, c.man = nil, manifest{}
	c.mu.Unlock()
	live.unload()
	live.retire(shut)
	if err == nil {
		c.remove(all...)
	}
	return disk("drop "+c.name, err)
}

// compact starts to copy the living rows of p to a new folder when the dead
// outnumber them.
func (c *collection) compact(p *part) {
	if p.broken != nil || p.now.deaths < c.s.o.CompactAt || p.now.deaths < p.now.count() {
		return
	}
	c.mu.Lock()
	busy := c.compacting || c.unfit == p || c.live != p || !p.use()
	c.compacting = c.compacting || !busy
	c.mu.Unlock()
	if busy {
		return
	}
	v, end := *p.shown.Load(), p.end
	done := func() {
		p.done()
		c.mu.Lock()
		c.compacting = false
		c.mu.Unlock()
	}
	if c.s.begin() != nil {
		done()
		return
	}
	go func() {
		defer c.s.work.Done()
		defer done()
		if err := c.copyLiving(p, &v, end); err != nil && !errors.Is(err, errMoved) && c.s.ctx.Err() == nil {
			slog.Warn("flat: dead rows stay until the next start", "collection", c.name, "dead", v.deaths, "err", err)
			c.mu.Lock()
			c.unfit = p
			c.mu.Unlock()
		}
	}()
}

// copyLiving copies the rows of v, a view of p whose log ended at end, to new
// rows; then, as an op, what was written since, and makes those the ones that
// serve.
func (c *collection) copyLiving(p *part, v *view, end int64) error {
	rows := c.newFolder()
	to, err := createPart(c.path(rows), p.dim, p.half)
	if err != nil {
		return err
	}
	w := copier{from: p, to: to, g: groups{salt: to.salt}}
	for slot := 0; slot < v.n && err == nil; slot++ {
		if !v.alive(slot) {
			continue
		}
		if err = c.s.ctx.Err(); err == nil {
			err = w.row(v.places[slot], slot)
		}
	}
	if err == nil {
		err = w.flush()
	}
	there := false
	if err == nil {
		err = c.submit(&op{ctx: context.Background(), run: func() (err error) {
			there, err = c.finishCopy(&w, v.n, end, rows)
			return err
		}})
	}
	if !there {
		discard(to)
	}
	return err
}

var errMoved = errors.New("other rows serve meanwhile")

// finishCopy is an op.
func (c *collection) finishCopy(w *copier, slot int, end int64, rows string) (there bool, err error) {
	c.mu.Lock()
	live, m := c.live, c.man
	c.mu.Unlock()
	if live != w.from {
		return false, errMoved
	}
	now := w.from.shown.Load()
	var buf []byte
	_, err = readLog(w.from.log, w.from.end, end, w.from.salt, readRecord, func(r record, at int64, n int) error {
		if r.kind == kindDelete {
			buf = appendDelete(buf[:0], string(r.id))
			w.g.add(buf)
			return nil
		}
		slot++
		return w.row(now.places[slot-1], slot-1)
	}, nil)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return false, err
	}
	w.to.publish()
	old := m.generation
	m.Rows, m.LogBytes, m.LogSum, m.Count = rows, w.to.end, w.to.sum, w.to.now.count()
	if there, err = c.swap(m, w.to); err == nil {
		c.remove(old)
	}
	return there, err
}

// A copier writes rows of one part to another.
type copier struct {
	from, to *part
	g        groups
	batch    batch // the rows that were not added yet
	added    int   // bytes that were added since the last commit
	buf      []byte
}

// copyRows of them are read and written at a time.
const copyRows = 256

// row copies a slot. A row that is damaged ends the copy: those that have it
// serve on.
func (w *copier) row(pl place, slot int) error {
	r, buf, err := w.from.record(pl, w.buf)
	if err != nil {
		return err
	}
	w.buf = buf
	b := &w.batch
	b.rows = slices.Grow(b.rows, w.from.rows.size)[:len(b.rows)+w.from.rows.size]
	b.codes = slices.Grow(b.codes, w.from.stride)[:len(b.codes)+w.from.stride]
	row, codes := b.rows[len(b.rows)-w.from.rows.size:], b.codes[len(b.codes)-w.from.stride:]
	if err := errors.Join(w.from.rows.read(row, slot), w.from.codes.read(bytesOf(codes), slot)); err != nil {
		return err
	}
	if crc32.Checksum(row, castagnoli) != r.sum || crc32.Checksum(bytesOf(codes), castagnoli) != r.codesSum {
		return imagebind.Errorf(imagebind.Internal, "row %d of %s is damaged", slot, w.from.dir)
	}
	w.g.add(buf)
	if b.n++; b.n >= copyRows {
		return w.add()
	}
	return nil
}

// add writes the rows that were read.
func (w *copier) add() error {
	b := &w.batch
	if err := w.to.add(b); err != nil {
		return err
	}
	w.added += b.size()
	b.n, b.rows, b.codes = 0, b.rows[:0], b.codes[:0]
	if w.added >= maxShared {
		w.added = 0
		return w.to.commit(w.g.take())
	}
	return nil
}

func (w *copier) flush() error {
	if err := w.add(); err != nil {
		return err
	}
	return w.to.commit(w.g.take())
}
