// Package milvus keeps the feature cache in a Milvus server, through
// milvus-sdk-go v2.4.2; no other package imports that.
//
// A generation of the collection "pets" is the Milvus collection "pets_g7".
// Which one serves is a pointer in this process, so that a switch is one
// assignment and no search meets two generations; the Milvus alias "pets" is
// its durable record, read at the start. (Searching through the alias would
// not do: a search that returns vectors resolves it twice, and fails when it
// moves in between.) What a generation is stands as JSON in its description.
//
// Reads see the writes of this process at once. For a while after a write,
// reads are at consistency level Session: they wait until the query node has
// applied this client's last write to the collection, about 200 ms after it,
// and not at all later. From then on they are at Bounded, which promises
// everything older than 5 s (Milvus' gracefulTime), also while a node that was
// killed replays its log; Session alone would not, since a client that wrote
// nothing itself may then read half the log. At the first connection a Strong
// count waits for what an earlier process wrote just before.
//
// Similarities are computed here, in float64 from the stored fp32 values that
// come back with the hits, so that enhancement is exact whatever the server's
// arithmetic; with all index types but FLAT the set of neighbours is
// approximate. Types without raw vectors (IVF_SQ8, DISKANN) are refused where
// Milvus 2.3 on local storage would lose data when their vectors are asked for.
package milvus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// Options of a Store. Zero values take the defaults.
type Options struct {
	Address  string // host:port
	Username string
	Password string
	Database string // default: Milvus' own

	// Index of collections created without one: FLAT (default, exact), IVF_FLAT,
	// IVF_SQ8, SCANN, HNSW, DISKANN, or AUTO: by the rows (see choose).
	Index         string
	NList, NProbe int // of the IVF types and SCANN: cells, and how many are searched; 0: 4·√rows of a segment, and an eighth
	// ObjectStorage says that the server keeps its data in object storage, so that
	// index types without vectors of their own are safe before Milvus 2.4 too.
	ObjectStorage bool
	// Half stores the vectors of new generations in half precision: half the disk
	// and memory, rounded. Milvus has it from 2.4 on.
	Half           bool
	M, EfConstruct int // HNSW: links a node and build effort; default 16 and 200
	Ef             int // HNSW: search effort; default 256, never below k

	// Replicas is how many copies of a generation are loaded, each in query nodes
	// of its own: more searches at a time, and no gap of half a minute when a node
	// dies. What is loaded already keeps its number. Default 1.
	Replicas int

	// Keep is how many previous generations of a collection are kept, out of
	// memory, for a rollback; default 1, negative for none.
	Keep int

	Timeout      time.Duration // of a search or a write; default 10 s
	BuildTimeout time.Duration // of flush, index and load; default 2 h
}

func (o *Options) defaults() error {
	if o.Address == "" {
		return imagebind.Errorf(imagebind.Invalid, "no address of a Milvus server; give --milvus HOST:PORT")
	}
	for _, d := range []struct {
		v *int
		d int
	}{{&o.M, 16}, {&o.EfConstruct, 200}, {&o.Ef, 256}, {&o.Replicas, 1}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	switch {
	case o.Keep == 0:
		o.Keep = 1
	case o.Keep < 0:
		o.Keep = 0
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.BuildTimeout <= 0 {
		o.BuildTimeout = 2 * time.Hour
	}
	var err error
	o.Index, err = indexType(o.Index, "FLAT")
	return err
}

// Fields of a Milvus collection.
const (
	fieldID, fieldVector, fieldCaption, fieldURI, fieldMetadata = "id", "vector", "caption", "uri", "metadata"
	maxID, maxText, maxMetadata                                 = 256, 8192, 65535 // bytes
)

// outputs are asked for with every hit.
var outputs = []string{fieldVector, fieldCaption, fieldURI, fieldMetadata}

// Properties of a Milvus collection.
const (
	builtAtProperty  = "imagebind.built_at"  // when its build ended
	servedAtProperty = "imagebind.served_at" // when it last began to serve; one that never did has none
	rowsProperty     = "imagebind.rows"      // how many there were when it was put aside
)

var (
	nameRE       = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,99}$`)
	underscoreRE = regexp.MustCompile(`_(0x|g[0-9]+$)`)
)

const maxName = 255 // bytes of a name in Milvus

// sessionFor is how long after a write reads are at Session; it must be longer
// than Milvus' gracefulTime (5 s by default).
const sessionFor = time.Minute

// A Store is a store.Store in a Milvus server. It connects on first use, so it
// can be made before the server is there.
type Store struct {
	o Options

	dial sync.Mutex // one connection attempt at a time
	mu   sync.Mutex
	c    client.Client          // nil until connected
	live map[string]*generation // by collection name
	// retired are no longer live and still in use, by physical name.
	retired map[string]*generation
	drop    sync.WaitGroup // old generations being put aside
	epochs  atomic.Uint64
}

var _ store.Store = (*Store)(nil)

// Open makes a store of the Milvus server at o.Address. It does not wait for
// the server: Ready says whether it is there.
func Open(o Options) (*Store, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	return &Store{o: o, live: map[string]*generation{}, retired: map[string]*generation{}}, nil
}

// Close ends the connection after old generations are removed.
func (s *Store) Close() error {
	s.drop.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		return nil
	}
	err := s.c.Close()
	s.c = nil
	return err
}

// fail gives err its kind. The SDK's errors are strings without codes.
func (s *Store) fail(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	var typed *imagebind.Error
	if errors.As(err, &typed) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("milvus: %s: %w", doing, ctx.Err())
	}
	text := err.Error()
	switch {
	case missing(err):
		return imagebind.Errorf(imagebind.NotFound, "milvus has no such collection: %s: %w", doing, err)
	case strings.Contains(text, "already exist"):
		return imagebind.Errorf(imagebind.Conflict, "milvus: %s: %w", doing, err)
	case status.Code(err) == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded):
		return imagebind.Errorf(imagebind.Unavailable, "milvus at %s took too long: %s: %w", s.o.Address, doing, err)
	case strings.Contains(text, "invalid expression"), strings.Contains(text, "cannot parse expression"):
		return imagebind.Errorf(imagebind.Invalid, "milvus: %s: %w", doing, err)
	}
	return imagebind.Errorf(imagebind.Unavailable, "milvus at %s: %s: %w", s.o.Address, doing, err)
}

// missing reports whether err says that a collection or alias does not exist.
func missing(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "collection not found") || strings.Contains(text, "can't find collection") ||
		strings.Contains(text, "not exist")
}

// call bounds one call to the server.
func (s *Store) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.o.Timeout)
}

// conn returns the connection, made and the live generations read on first use.
// Later breaks of it grpc mends by itself.
func (s *Store) conn(ctx context.Context) (client.Client, error) {
	s.mu.Lock()
	c := s.c
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	s.dial.Lock()
	defer s.dial.Unlock()
	s.mu.Lock()
	c = s.c
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	try, cancel := context.WithTimeout(ctx, min(s.o.Timeout, 5*time.Second)) // NewClient blocks for ever without one
	defer cancel()
	c, err := client.NewClient(try, client.Config{
		Address: s.o.Address, Username: s.o.Username, Password: s.o.Password, DBName: s.o.Database,
		DialOptions: dialOptions(), RetryRateLimit: rateLimit,
	})
	if err != nil {
		return nil, s.fail(ctx, "connect", err)
	}
	live, err := s.discover(ctx, c)
	if err != nil {
		_ = c.Close()
		return nil, s.fail(ctx, "read the collections", err)
	}
	s.mu.Lock()
	s.c, s.live = c, live
	s.mu.Unlock()
	return c, nil
}

func (s *Store) count(ctx context.Context, c client.Client, physical string, level entity.ConsistencyLevel) (int, error) {
	try, cancel := s.call(ctx)
	defer cancel()
	rs, err := c.Query(try, physical, nil, "", []string{"count(*)"}, client.WithSearchQueryConsistencyLevel(level))
	if err != nil {
		return 0, err
	}
	col, ok := rs.GetColumn("count(*)").(*entity.ColumnInt64)
	if !ok || col.Len() != 1 {
		return 0, fmt.Errorf("count of %s came as %d columns", physical, rs.Len())
	}
	return int(col.Data()[0]), nil
}

// info describes a generation in use.
func (s *Store) info(ctx context.Context, c client.Client, g *generation) (store.Info, error) {
	n, err := s.count(ctx, c, g.physical(), g.level())
	if err != nil {
		return store.Info{}, s.fail(ctx, "count "+g.physical(), err)
	}
	return g.info(n, true), nil
}

// info describes a generation of n rows.
func (g *generation) info(n int, serves bool) store.Info {
	return store.Info{Name: g.Name, Dim: g.Dim, Count: n, Index: g.indexed().Type, Backend: "milvus", Model: g.Model,
		Generation: g.Generation, BuiltAt: g.builtAt, Serves: serves}
}

// List describes all collections, by name.
func (s *Store) List(ctx context.Context) ([]store.Info, error) {
	if _, err := s.conn(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	names := make([]string, 0, len(s.live))
	for n := range s.live {
		names = append(names, n)
	}
	s.mu.Unlock()
	slices.Sort(names)
	infos := []store.Info{}
	for _, n := range names {
		i, err := s.Info(ctx, n)
		if imagebind.KindOf(err) == imagebind.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, i)
	}
	return infos, nil
}

// Info describes one collection.
func (s *Store) Info(ctx context.Context, name string) (store.Info, error) {
	c, g, done, err := s.use(ctx, name)
	if err != nil {
		return store.Info{}, err
	}
	defer done()
	return s.info(ctx, c, g)
}

// make creates the Milvus collection of r, empty and without an index.
func (s *Store) make(ctx context.Context, c client.Client, r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	vector := entity.FieldTypeFloatVector
	if r.Half {
		vector = entity.FieldTypeFloat16Vector
	}
	schema := entity.NewSchema().WithName(r.physical()).WithDescription(string(text)).
		WithField(entity.NewField().WithName(fieldID).WithDataType(entity.FieldTypeVarChar).WithMaxLength(maxID).WithIsPrimaryKey(true)).
		WithField(entity.NewField().WithName(fieldVector).WithDataType(vector).WithDim(int64(r.Dim))).
		WithField(entity.NewField().WithName(fieldCaption).WithDataType(entity.FieldTypeVarChar).WithMaxLength(maxText)).
		WithField(entity.NewField().WithName(fieldURI).WithDataType(entity.FieldTypeVarChar).WithMaxLength(maxText)).
		WithField(entity.NewField().WithName(fieldMetadata).WithDataType(entity.FieldTypeJSON))
	try, cancel := s.call(ctx)
	defer cancel()
	// One shard: a batch of rows is then one message, stored whole or not at all.
	return c.CreateCollection(try, schema, 1, client.WithConsistencyLevel(entity.ClSession))
}

// Create makes an empty collection, or finds it when it exists with that dim.
func (s *Store) Create(ctx context.Context, name string, spec store.Spec) (store.Info, error) {
	r, err := s.newRecord(name, spec)
	if err != nil {
		return store.Info{}, err
	}
	c, err := s.conn(ctx)
	if err != nil {
		return store.Info{}, err
	}
	if err := s.allowed(ctx, c, r); err != nil {
		return store.Info{}, err
	}
	s.dial.Lock() // one creation at a time
	defer s.dial.Unlock()
	if i, err := s.Info(ctx, name); imagebind.KindOf(err) != imagebind.NotFound || err == nil {
		if err == nil && i.Dim != spec.Dim {
			err = imagebind.Errorf(imagebind.Conflict, "collection %q exists with dim %d, not %d", name, i.Dim, spec.Dim)
		}
		return i, err
	}
	r.Generation = 1
	all, err := s.all(ctx, c)
	if err != nil {
		return store.Info{}, s.fail(ctx, "list the collections", err)
	}
	for _, g := range all { // a first rebuild may be under way
		if g.Name == name {
			r.Generation = max(r.Generation, g.Generation+1)
		}
	}
	if err := s.make(ctx, c, r); err != nil {
		return store.Info{}, s.fail(ctx, "create "+r.physical(), err)
	}
	g := s.generation(r)
	if err = s.index(ctx, c, g, 0); err == nil {
		err = s.swap(ctx, c, g)
	}
	if err != nil {
		return store.Info{}, errors.Join(s.fail(ctx, "create "+name, err), s.undo(context.WithoutCancel(ctx), c, g))
	}
	return s.Info(ctx, name)
}

// Ready runs a search over every collection: Milvus says that it is healthy
// long before it can answer one.
func (s *Store) Ready(ctx context.Context) error {
	c, err := s.conn(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var dims = map[string]int{}
	for n, g := range s.live {
		dims[n] = g.Dim
	}
	s.mu.Unlock()
	for n, dim := range dims {
		q := make(imagebind.Embedding, dim)
		q[0] = 1
		if _, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{q}, K: 1}); err != nil && imagebind.KindOf(err) != imagebind.NotFound {
			return err
		}
	}
	if len(dims) > 0 {
		return nil
	}
	try, cancel := s.call(ctx)
	defer cancel()
	_, err = c.ListCollections(try)
	return s.fail(ctx, "list the collections", err)
}

// notLoaded reports whether err says that a collection is not in memory yet.
func notLoaded(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "not loaded") || strings.Contains(err.Error(), "not been loaded"))
}
