package milvus

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// A record is what a Milvus collection's description says about it.
type record struct {
	ImageBind  int       `json:"imagebind"` // version of this record
	Name       string    `json:"name"`
	Dim        int       `json:"dim"`
	Index      string    `json:"index"`
	Half       bool      `json:"half,omitempty"` // vectors in half precision
	Model      string    `json:"model,omitempty"`
	Generation int       `json:"generation"`
	Job        string    `json:"job,omitempty"` // of a rebuild
	CreatedAt  time.Time `json:"created_at"`
}

// physical is the Milvus collection's name.
func (r record) physical() string { return alias(r.Name) + "_g" + strconv.Itoa(r.Generation) }

// alias is a collection's name for Milvus, which allows letters, digits and
// underscores: a hyphen is written out, and so is an underscore that would make
// the name look like another one that was, or like a generation's.
func alias(name string) string {
	name = underscoreRE.ReplaceAllString(name, "_0x5f_$1")
	return strings.ReplaceAll(name, "-", "_0x2d_")
}

// A generation is a Milvus collection in use by this process.
type generation struct {
	record
	builtAt  time.Time
	servedAt time.Time // when it last began to serve; zero if it never did
	kept     int       // rows, counted when it was put aside; -1 if it was not

	idx    atomic.Pointer[built]     // nil where it is not indexed yet, or not by this version
	write  sync.Mutex                // one writer at a time, so that Delete counts right
	wrote  atomic.Pointer[time.Time] // the last write of this process; nil for none
	epoch  uint64                    // of this value in this process: a name may come again
	writes atomic.Uint64             // of this process, done or failed
	has    presence

	refs int  // operations under way; guarded by Store.mu
	gone bool // drop it after the last of them; guarded by Store.mu
}

// level is the consistency that a read needs to see what was written.
func (g *generation) level() entity.ConsistencyLevel {
	if t := g.wrote.Load(); t != nil && time.Since(*t) < sessionFor {
		return entity.ClSession
	}
	return entity.ClBounded
}

func (g *generation) written() {
	now := time.Now()
	g.wrote.Store(&now)
}

// changed makes a new Version, after a write that was done or may have been.
func (g *generation) changed() { g.writes.Add(1) }

// describe reads a Milvus collection, by its name or an alias. A collection
// that this package did not make gives nil and no error.
func (s *Store) describe(ctx context.Context, c client.Client, name string) (*generation, error) {
	try, cancel := s.call(ctx)
	defer cancel()
	d, err := c.DescribeCollection(try, name)
	if err != nil {
		return nil, err
	}
	g := s.generation(record{})
	if json.Unmarshal([]byte(d.Schema.Description), &g.record) != nil || g.ImageBind != 1 || g.physical() != d.Name {
		return nil, nil
	}
	g.builtAt = g.CreatedAt
	if t, err := time.Parse(time.RFC3339Nano, d.Properties[builtAtProperty]); err == nil {
		g.builtAt = t
	}
	if t, err := time.Parse(time.RFC3339Nano, d.Properties[servedAtProperty]); err == nil {
		g.servedAt = t
	}
	if b := (built{}); json.Unmarshal([]byte(d.Properties[indexProperty]), &b) == nil && b.Type != "" {
		g.idx.Store(&b)
	}
	if n, err := strconv.Atoi(d.Properties[rowsProperty]); err == nil {
		g.kept = n
	}
	return g, nil
}

// generation is one of this process.
func (s *Store) generation(r record) *generation {
	return &generation{record: r, kept: -1, epoch: s.epochs.Add(1)}
}

// Version names the rows that a search of this process would see.
func (s *Store) Version(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.live[name]
	if g == nil || s.c == nil {
		return ""
	}
	return fmt.Sprintf("%s@%d.%d", g.physical(), g.epoch, g.writes.Load())
}

// all lists the generations in the server, live or not.
func (s *Store) all(ctx context.Context, c client.Client) ([]*generation, error) {
	try, cancel := s.call(ctx)
	defer cancel()
	list, err := c.ListCollections(try)
	if err != nil {
		return nil, err
	}
	var out []*generation
	for _, l := range list {
		g, err := s.describe(ctx, c, l.Name)
		if missing(err) {
			continue // dropped just now
		}
		if err != nil {
			return nil, err
		}
		if g != nil {
			out = append(out, g)
		}
	}
	return out, nil
}

// discover reads which generations serve, loads them, and removes those that a
// crash left behind after a switch; kept ones stay.
func (s *Store) discover(ctx context.Context, c client.Client) (map[string]*generation, error) {
	all, err := s.all(ctx, c)
	if err != nil {
		return nil, err
	}
	live := map[string]*generation{}
	for _, g := range all {
		if live[g.Name] != nil {
			continue
		}
		l, err := s.describe(ctx, c, alias(g.Name))
		if missing(err) || err == nil && l == nil {
			continue // never committed
		}
		if err != nil {
			return nil, err
		}
		if err := s.load(ctx, c, l.physical()); err != nil {
			return nil, err
		}
		if _, err := s.count(ctx, c, l.physical(), entity.ClStrong); err != nil {
			return nil, err
		}
		live[l.Name] = l
	}
	for name, l := range live {
		s.tidy(ctx, c, name, l, all)
	}
	return live, nil
}

// load makes the Milvus collection searchable.
func (s *Store) load(ctx context.Context, c client.Client, physical string) error {
	try, cancel := s.call(ctx)
	state, err := c.GetLoadState(try, physical, nil)
	cancel()
	if err == nil && state == entity.LoadStateLoaded {
		return nil
	}
	try, cancel = context.WithTimeout(ctx, s.o.BuildTimeout)
	defer cancel()
	err = c.LoadCollection(try, physical, false, client.WithReplicaNumber(int32(s.o.Replicas)))
	if err != nil && s.o.Replicas > 1 {
		return fmt.Errorf("load %d copies, which want a query node each at least (milvus_replicas): %w", s.o.Replicas, err)
	}
	return err
}

// serving returns the generation that serves name. One that this process does
// not know may have been made by another.
func (s *Store) serving(ctx context.Context, c client.Client, name string) (*generation, error) {
	s.mu.Lock()
	g := s.live[name]
	s.mu.Unlock()
	if g != nil {
		return g, nil
	}
	g, err := s.describe(ctx, c, alias(name))
	if missing(err) || err == nil && g == nil {
		return nil, imagebind.Errorf(imagebind.NotFound, "no collection %q", name)
	}
	if err == nil {
		err = s.load(ctx, c, g.physical())
	}
	if err != nil {
		return nil, s.fail(ctx, "look for "+name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[name] == nil {
		s.live[name] = g
	}
	return s.live[name], nil
}

// use returns the generation that serves name; done must be called after.
func (s *Store) use(ctx context.Context, name string) (c client.Client, g *generation, done func(), err error) {
	c, err = s.conn(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	for {
		g, err := s.serving(ctx, c, name)
		if err != nil {
			return nil, nil, nil, err
		}
		s.mu.Lock()
		if g.gone { // switched since
			s.mu.Unlock()
			continue
		}
		g.refs++
		s.mu.Unlock()
		return c, g, func() { s.release(g, 1) }, nil //nolint:contextcheck // the removal outlives the last query
	}
}

// release gives back n uses of g, and puts a retired one aside after its last.
func (s *Store) release(g *generation, n int) {
	s.mu.Lock()
	g.refs -= n
	aside, c := g.gone && g.refs == 0, s.c
	if aside {
		delete(s.retired, g.physical())
		s.drop.Add(1)
	}
	s.mu.Unlock()
	if !aside {
		return
	}
	go func() {
		defer s.drop.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 2*s.o.Timeout)
		defer cancel()
		s.dial.Lock()
		defer s.dial.Unlock()
		s.mu.Lock()
		live := s.live[g.Name]
		s.mu.Unlock()
		if live == nil {
			return
		}
		all, err := s.all(ctx, c)
		if err != nil {
			slog.Warn("milvus: old generations stay in memory", "collection", g.Name, "err", err)
			return
		}
		s.tidy(ctx, c, g.Name, live, all)
	}()
}

// retire lets g be put aside once nothing uses it.
func (s *Store) retire(g *generation) {
	s.mu.Lock()
	g.refs++
	g.gone = true
	s.retired[g.physical()] = g
	s.mu.Unlock()
	s.release(g, 1)
}

// moved looks again which generation serves name, after a search found the one
// in use gone: another process may have switched or dropped it.
func (s *Store) moved(ctx context.Context, c client.Client, name string, from *generation, unloaded bool) bool {
	g, err := s.describe(ctx, c, alias(name))
	if err != nil && !missing(err) {
		return false
	}
	if g != nil && g.physical() == from.physical() { // the server let go of it, as some do after a restart
		return unloaded && s.load(ctx, c, g.physical()) == nil
	}
	if g != nil && s.load(ctx, c, g.physical()) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[name] == from {
		delete(s.live, name)
		if g != nil {
			s.live[name] = g
		}
	}
	return true
}

func (s *Store) newRecord(name string, spec store.Spec) (record, error) {
	if !nameRE.MatchString(name) {
		return record{}, imagebind.Errorf(imagebind.Invalid, "collection name %q: it is a letter or _, then up to 99 letters, digits, _ and -", name)
	}
	if len(alias(name)) > maxName-12 { // a generation's number comes behind it
		return record{}, imagebind.Errorf(imagebind.Invalid, "collection name %q: with so many hyphens it is too long for Milvus", name)
	}
	if spec.Dim < 1 || spec.Dim > 32768 {
		return record{}, imagebind.Errorf(imagebind.Invalid, "dim is %d; it is 1 to 32768", spec.Dim)
	}
	index, err := indexType(spec.Index, s.o.Index)
	return record{ImageBind: 1, Name: name, Dim: spec.Dim, Index: index, Half: s.o.Half, Model: spec.Model, CreatedAt: time.Now().UTC()}, err
}
