package flat

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// now is the time of a manifest.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// unfinished lists the builds in the collection's folder, resumable or under way.
func (c *collection) unfinished() ([]manifest, error) {
	files, err := filepath.Glob(c.path(filepath.Join("rows-*", buildFile)))
	if err != nil {
		return nil, err
	}
	var list []manifest
	for _, f := range files {
		m, err := readManifest(f, c.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // committed or aborted just now
		}
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// A builder fills a folder of rows that no manifest names yet.
type builder struct {
	c    *collection
	made *store.Info // by the job, before

	// syncing is held while rows are made durable; rows may be added meanwhile. It
	// is taken before mu.
	syncing sync.Mutex

	mu     sync.Mutex
	m      manifest
	p      *part // nil when it is over
	failed error // of a checkpoint: rows are missing, and another builder of the job is wanted
	g      groups
	batch  batch // its memory, for the next Append
	size   int   // bytes that were added since the last checkpoint
}

// Build starts a new generation of name, or goes on with the one that job
// began. A builder that this process has of that job already is over then.
func (s *Store) Build(ctx context.Context, name string, spec store.Spec, job string) (store.Builder, error) {
	m, err := newManifest(name, spec)
	if err != nil {
		return nil, err
	}
	if len(job) == 0 || len(job) > maxID {
		return nil, imagebind.Errorf(imagebind.Invalid, "a job id of %d bytes; it has 1 to %d", len(job), maxID)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := s.collection(name, true)
	if err != nil {
		return nil, err
	}
	m.Job = job
	var b *builder
	if err := c.do(ctx, func() (err error) { b, err = c.build(m); return err }); err != nil {
		return nil, err
	}
	return b, nil
}

// build is an op.
func (c *collection) build(m manifest) (*builder, error) {
	c.mu.Lock()
	before, serves, newest, man := c.builds[m.Job], c.live != nil, c.man.newest(), c.man
	c.mu.Unlock()
	for i, g := range man.all() {
		if serves && g.By == m.Job {
			info := c.infoOf(g, i == 0)
			return &builder{c: c, m: manifest{Name: c.name, generation: g}, made: &info}, nil
		}
	}
	if before != nil {
		before.leave()
	}
	if serves {
		m.Generation = newest + 1
	}
	list, err := c.unfinished()
	if err != nil {
		return nil, err
	}
	var p *part
	for _, u := range list {
		if u.Job != m.Job || serves && u.Generation <= newest {
			m.Generation = max(m.Generation, u.Generation+1)
			continue
		}
		if u.Dim != m.Dim {
			return nil, imagebind.Errorf(imagebind.Conflict, "job %s began a generation of dim %d, not %d", m.Job, u.Dim, m.Dim)
		}
		if p, err = openPart(c.path(u.Rows), u.generation); err != nil {
			return nil, err
		}
		m = u
		break
	}
	if p == nil {
		m.Rows, m.Values = c.newFolder(), c.s.values()
		if p, err = createPart(c.path(m.Rows), m.Dim, c.s.o.Half); err != nil {
			return nil, disk("begin a build of "+c.name, err)
		}
		m.BuiltAt = now()
		if _, err := m.write(filepath.Join(p.dir, buildFile)); err != nil {
			discard(p)
			return nil, disk("begin a build of "+c.name, err)
		}
	}
	p.eager = true
	b := &builder{c: c, m: m, p: p, g: groups{salt: p.salt}}
	c.mu.Lock()
	c.builds[m.Job] = b
	c.mu.Unlock()
	return b, nil
}

// Committed returns what the job made.
func (b *builder) Committed() (store.Info, bool) {
	if b.made == nil {
		return store.Info{}, false
	}
	return *b.made, true
}

// leave ends the builder's use of its files. What was not made durable is lost.
func (b *builder) leave() {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.p == nil {
		return
	}
	if err := b.p.close(); err != nil {
		slog.Warn("flat: close an unfinished build", "folder", b.p.dir, "err", err)
	}
	b.p = nil
}

// usable is why nothing may be added any more. b.mu is held.
func (b *builder) usable() error {
	if b.p == nil {
		return b.over()
	}
	return b.failed
}

func (b *builder) over() error {
	return imagebind.Errorf(imagebind.Conflict, "the build of generation %d of %q is over", b.m.Generation, b.m.Name)
}

// Rows is how many rows are durable. It counts rows of one id as often as they
// came.
func (b *builder) Rows() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.p == nil {
		return 0
	}
	return b.p.now.n
}

// Append adds rows.
func (b *builder) Append(ctx context.Context, rows []store.Row) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	full, err := b.add(rows)
	if err != nil || !full {
		return err
	}
	return b.Checkpoint(ctx)
}

// add appends rows; full says that many are waiting to be made durable.
func (b *builder) add(rows []store.Row) (full bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.usable(); err != nil {
		return false, err
	}
	if err := encode(&b.batch, rows, b.m.Dim, b.p.half); err != nil {
		return false, err
	}
	if err := b.p.add(&b.batch); err != nil {
		return false, disk("store rows of "+b.m.Name, err)
	}
	b.g.addBatch(&b.batch)
	b.size += b.batch.size()
	return b.size >= 16*maxShared, nil
}

// Checkpoint makes the rows that were appended before it durable.
func (b *builder) Checkpoint(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.mu.Lock()
	p := b.p
	if err := b.usable(); err != nil {
		b.mu.Unlock()
		return err
	}
	rows, groups := p.pending, b.g.take()
	b.size = 0
	b.mu.Unlock()
	err := p.secure(rows, groups)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accept(rows, groups, err)
}

// checkpoint makes all rows durable. Both locks are held.
func (b *builder) checkpoint() error {
	rows, groups := b.p.pending, b.g.take()
	b.size = 0
	return b.accept(rows, groups, b.p.secure(rows, groups))
}

func (b *builder) accept(rows int, groups []byte, err error) error {
	if err = b.p.accept(rows, groups, err); err != nil {
		b.failed = disk("store rows of "+b.m.Name, err)
		return b.failed
	}
	b.p.publish()
	return nil
}

// lock takes both locks.
func (b *builder) lock() (unlock func()) {
	b.syncing.Lock()
	b.mu.Lock()
	return func() {
		b.mu.Unlock()
		b.syncing.Unlock()
	}
}

// Search looks through all rows that were appended.
func (b *builder) Search(ctx context.Context, q store.Query) ([][]imagebind.Neighbour, error) {
	defer b.lock()()
	if err := b.usable(); err != nil {
		return nil, err
	}
	if err := b.checkpoint(); err != nil {
		return nil, err
	}
	return b.p.search(ctx, q)
}

// Commit makes the rows durable and the ones that serve.
func (b *builder) Commit(ctx context.Context) (store.Info, error) {
	if err := b.c.do(ctx, b.commit); err != nil {
		return store.Info{}, err
	}
	return b.c.info()
}

// commit is an op.
func (b *builder) commit() error {
	defer b.lock()()
	if err := b.usable(); err != nil {
		return err
	}
	if err := b.checkpoint(); err != nil {
		return err
	}
	b.c.mu.Lock()
	serves, newest := b.c.live != nil, b.c.man.newest()
	b.c.mu.Unlock()
	if serves && newest >= b.m.Generation {
		return imagebind.Errorf(imagebind.Conflict, "generation %d of %q was built meanwhile; this one is %d", newest, b.m.Name, b.m.Generation)
	}
	m, p := b.m, b.p
	p.eager = false
	m.BuiltAt, m.By, m.Job = now(), m.Job, ""
	m.LogBytes, m.LogSum, m.Count = p.end, p.sum, p.now.count()
	there, err := b.c.succeed(m, p)
	if !there {
		return err
	}
	b.p = nil
	b.forget()
	for _, c := range p.codes.chunks { // searches will want them all
		fetch(c)
	}
	if err := os.Remove(filepath.Join(p.dir, buildFile)); err != nil {
		slog.Warn("flat: a build's note stays until the next start", "folder", p.dir, "err", err)
	}
	b.c.compact(p)
	return err
}

// forget takes the builder off the list of those under way.
func (b *builder) forget() {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.c.builds[b.m.Job] == b {
		delete(b.c.builds, b.m.Job)
	}
}

// Abort removes the rows. After Commit it does nothing.
func (b *builder) Abort(context.Context) error {
	defer b.lock()()
	if b.p == nil {
		return nil
	}
	p := b.p
	b.p = nil
	b.forget()
	return errors.Join(p.close(), os.RemoveAll(p.dir))
}
