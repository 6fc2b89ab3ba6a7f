// Package flat keeps the feature cache in files of its own, memory-mapped, and
// searches it exactly. It is the store for one process: no server, no index to
// build.
//
// # Files
//
//	LOCK                     held by the process that has the store open
//	pets/                    a collection
//	  manifest.json          name, model, index; which folder of rows serves, its counts and checksum; which are kept
//	  rows-000003/           the rows that serve
//	    rows.i8              [slots, dim] int8, dim padded with zeros to 64: codes, which a search reads
//	    rows.f32             [slots, dim] float32, little-endian: what it answers (rows.f16: float16)
//	    rows.log             which row a slot is, the scale of its codes, and what was deleted
//	  rows-000002/           the rows that served before, kept
//	  rows-000004/           the rows of a build that was not committed
//	    build.json           its job; else as above
//
// A log is a header and then groups of records, each of which counts whole or
// not at all. Numbers are little-endian; checksums are CRC-32C.
//
//	header  "IBROWS2\n"  u32 dim  u32 bytes of a value  u32 salt  u32 checksum
//	group   "ROWS"  u32 bytes of records  u32 number of records  u32 checksum (of salt, the numbers and the records)
//	put     u8 1  u32 checksum of the row  f32 its length  u32 checksum of the codes  f32 their scale  f32 their loss
//	        u16 bytes of id, caption, URI, metadata; these; metadata is JSON
//	delete  u8 2  u16 bytes of id; the id
//
// The n-th put is slot n. It replaces an earlier one of the same id, whose slot
// is dead from then on. When more slots are dead than alive, the living are
// copied to a new folder, and the manifest switches to it. Stores of an older
// format are rewritten when they are opened.
//
// # What survives
//
// Rows and codes are synced before the records that tell of them, records
// before a write returns. So whatever a write or a checkpoint said yes to is
// there after kill -9 or a power cut; a group that was under way is not, and is
// cut off at the next Open. Writes that come together share the syncs. Folders
// appear in a manifest only when they are complete, and a manifest is replaced
// by a rename: every crash leaves the old state or the new one. What a crash
// leaves besides is removed by Open, except for the builds of jobs, which go on.
//
// A group that is broken with whole ones behind it is no crash but damage, and
// so is a log that is shorter than its build left it: Open refuses it and says
// where. A row is held to its checksum when a search returns it. Codes are held
// to theirs in the background after Open, and made anew from the row where they
// are damaged.
//
// # Searches
//
// A search sees the rows of the moment at which it began, whatever is written
// or switched meanwhile: slots are only added, the bits of dead ones are copied
// before they change, and a folder that was replaced is unmapped after the last
// search in it. Searches that come while one runs go together in the next scan.
//
// A scan multiplies codes with queries of 16 bits, exactly, in int32. By how
// much a row's true score may differ from what its codes say is bounded (see
// width and lens); every row that may be among the k best by that bound is
// scored again from its stored values, summed in float64. So the result is that
// of an exhaustive search in float64 over the stored rows, rounded to float32,
// ties by id, but for odds of about 1 in 10^13 for a row.
package flat

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// index is the one type of index here.
const index = "FLAT"

// Options of a Store. Zero values take the defaults.
type Options struct {
	// CompactAt is how many dead rows a collection has before they are cleared
	// away, once they outnumber the living; default 4096.
	CompactAt int
	// Keep is how many generations that served are kept beside the one that does;
	// default 1, negative for none.
	Keep int
	// Half stores the rows of new generations in half precision: half the disk,
	// and values rounded to 11 bits. Searches find what is stored.
	Half bool
	// Load, where set, copies rows that serve to a device, which then finds the
	// candidates of a search without a filter; nil: the codes do.
	Load Loader
	// LoadRows are fewer than what that is worth for, whole collections or rows
	// since the last load; default 4096.
	LoadRows int
}

// A Store is a store.Store in a folder.
type Store struct {
	dir  string
	o    Options
	lock *os.File

	ctx  context.Context // ends when the store closes
	stop context.CancelFunc

	mu          sync.Mutex
	collections map[string]*collection // those with a folder
	closed      bool
	work        sync.WaitGroup // goroutines that write
	loading     sync.Mutex     // held by the one load to a device
}

var _ store.Store = (*Store)(nil)

// Open opens the store in dir, made when absent. One process at a time may
// have it open.
func Open(dir string, o Options) (*Store, error) {
	if o.CompactAt <= 0 {
		o.CompactAt = 4096
	}
	if o.Keep == 0 {
		o.Keep = 1
	}
	if o.LoadRows == 0 {
		o.LoadRows = 4096
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &Store{dir: dir, o: o, collections: map[string]*collection{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	err := s.hold()
	if err == nil {
		err = s.load()
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// hold takes the lock of the folder. It is the kernel's, so it never outlives
// the process.
func (s *Store) hold() error {
	path := filepath.Join(s.dir, "LOCK")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		who := make([]byte, 20)
		n, _ := f.Read(who)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return imagebind.Errorf(imagebind.Conflict, "%s is in use by process %s; stop that one, or give this one another folder", s.dir, strings.TrimSpace(string(who[:n])))
		}
		return fmt.Errorf("lock %s: %w", path, err)
	}
	s.lock = f
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func (s *Store) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || checkName(e.Name()) != nil {
			continue
		}
		c, err := s.loadCollection(e.Name())
		if err != nil {
			return fmt.Errorf("collection %s: %w", e.Name(), err)
		}
		if c != nil {
			s.collections[e.Name()] = c
		}
	}
	return nil
}

// loadCollection opens the rows that serve and removes what no crash-free run
// would have left. Nil is a folder that held nothing.
func (s *Store) loadCollection(name string) (*collection, error) {
	c := &collection{s: s, name: name, dir: filepath.Join(s.dir, name), builds: map[string]*builder{}}
	m, err := readManifest(c.path(manifestFile), name)
	serves := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	left := 0
	kept := map[string]bool{}
	for _, g := range m.Kept {
		kept[g.Rows] = true
	}
	for _, e := range entries {
		path := c.path(e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."): // a manifest that was never renamed
			err = os.Remove(path)
		case !rowsRE.MatchString(e.Name()):
			left++
		case kept[e.Name()]:
			c.seq = max(c.seq, sequence(e.Name()))
		case serves && e.Name() == m.Rows:
			c.seq = max(c.seq, sequence(e.Name()))
			left++
			if err = os.Remove(filepath.Join(path, buildFile)); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		default:
			c.seq = max(c.seq, sequence(e.Name()))
			b, bad := readManifest(filepath.Join(path, buildFile), name)
			if bad == nil && b.Format == formatVersion && b.Job != "" && b.Rows == e.Name() && (!serves || b.Generation > m.newest()) {
				left++
				continue
			}
			slog.Info("flat: removing what a crash left", "folder", path)
			err = os.RemoveAll(path)
		}
		if err != nil {
			return nil, err
		}
	}
	if left == 0 {
		return nil, os.Remove(c.dir)
	}
	if serves && m.Format == 1 {
		if err := c.upgrade(m); err != nil {
			return nil, err
		}
		c.fasten(c.live)
		return c, nil
	}
	if serves {
		p, err := openPart(c.path(m.Rows), m.generation)
		if err != nil {
			return nil, err
		}
		c.man, c.live = m, p
		c.scrub(p)
		c.fasten(p)
	}
	return c, nil
}

// Close waits for writes under way. Searches under way end well; their files
// are closed after them. Builds that were not committed stay, for their jobs.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
	for _, c := range s.collections {
		c.mu.Lock()
		live, builds := c.live, c.builds
		c.live, c.builds = nil, nil
		c.mu.Unlock()
		for _, b := range builds {
			b.leave()
		}
		if live != nil {
			live.retire(func(p *part) { _ = p.close() })
		}
	}
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

var errClosed = imagebind.Errorf(imagebind.Unavailable, "the store is closed")

// begin counts a goroutine that writes; s.work.Done ends it.
func (s *Store) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.work.Add(1)
	return nil
}

// collection returns the collection of a name; one that has no folder yet is
// made when asked for.
func (s *Store) collection(name string, create bool) (*collection, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	c := s.collections[name]
	if c == nil && !create {
		return nil, missing(name)
	}
	if c == nil {
		c = &collection{s: s, name: name, dir: filepath.Join(s.dir, name), builds: map[string]*builder{}}
		if err := os.Mkdir(c.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := syncDir(s.dir); err != nil {
			return nil, err
		}
		s.collections[name] = c
	}
	return c, nil
}

func missing(name string) error {
	return imagebind.Errorf(imagebind.NotFound, "no collection %q", name)
}

// List describes all collections, by name.
func (s *Store) List(ctx context.Context) ([]store.Info, error) {
	if err := s.Ready(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	all := make([]*collection, 0, len(s.collections))
	for _, c := range s.collections {
		all = append(all, c)
	}
	s.mu.Unlock()
	infos := []store.Info{}
	for _, c := range all {
		if i, err := c.info(); err == nil {
			infos = append(infos, i)
		}
	}
	slices.SortFunc(infos, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// Info describes one collection.
func (s *Store) Info(ctx context.Context, name string) (store.Info, error) {
	if err := ctx.Err(); err != nil {
		return store.Info{}, err
	}
	c, err := s.collection(name, false)
	if err != nil {
		return store.Info{}, err
	}
	return c.info()
}

// Create makes an empty collection, or finds it when it exists with that dim.
func (s *Store) Create(ctx context.Context, name string, spec store.Spec) (store.Info, error) {
	m, err := newManifest(name, spec)
	if err != nil {
		return store.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Info{}, err
	}
	c, err := s.collection(name, true)
	if err != nil {
		return store.Info{}, err
	}
	if err := c.do(ctx, func() error { return c.create(m) }); err != nil {
		return store.Info{}, err
	}
	return c.info()
}

// Drop removes the collection. Builds that are under way go on.
func (s *Store) Drop(ctx context.Context, name string) error {
	c, err := s.collection(name, false)
	if err != nil {
		return err
	}
	return c.do(ctx, c.drop)
}

// Upsert stores rows, replacing those of the same id.
func (s *Store) Upsert(ctx context.Context, name string, rows []store.Row) error {
	i, err := s.Info(ctx, name)
	if err != nil || len(rows) == 0 {
		return err
	}
	c, err := s.collection(name, false)
	if err != nil {
		return err
	}
	half, err := c.half()
	if err != nil {
		return err
	}
	b := &batch{}
	if err := encode(b, unique(rows), i.Dim, half); err != nil {
		return err
	}
	return c.submit(&op{ctx: ctx, put: b, dim: i.Dim, half: half})
}

// unique returns the rows without those that a later one of the same id replaces.
func unique(rows []store.Row) []store.Row {
	last := make(map[string]int, len(rows))
	for i, r := range rows {
		last[r.ID] = i
	}
	if len(last) == len(rows) {
		return rows
	}
	out := make([]store.Row, 0, len(last))
	for i, r := range rows {
		if last[r.ID] == i {
			out = append(out, r)
		}
	}
	return out
}

// Delete removes rows and returns how many there were.
func (s *Store) Delete(ctx context.Context, name string, ids []string) (int, error) {
	c, err := s.collection(name, false)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if len(id) == 0 || len(id) > maxID {
			return 0, imagebind.Errorf(imagebind.Invalid, "an id of %d bytes; it has 1 to %d", len(id), maxID)
		}
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	n := 0
	err = c.do(ctx, func() (err error) { n, err = c.delete(ids); return err })
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Search returns the K rows of the largest inner product for each query.
func (s *Store) Search(ctx context.Context, name string, q store.Query) ([][]imagebind.Neighbour, error) {
	c, err := s.collection(name, false)
	if err != nil {
		return nil, err
	}
	p, _, err := c.use()
	if err != nil {
		return nil, err
	}
	defer p.done()
	return p.search(ctx, q)
}

// Ready is nil while the store is open: its rows are in memory's reach.
func (s *Store) Ready(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return ctx.Err()
}
