package milvus

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// A property is one of a Milvus collection, for AlterCollection.
type property struct{ key, value string }

func (p property) KeyValue() (string, string) { return p.key, p.value }
func (property) Valid() error                 { return nil }

func at(key string, t time.Time) property {
	return property{key, t.UTC().Format(time.RFC3339Nano)}
}

// lastServed is the highest number of a generation of name that has served.
func lastServed(all []*generation, name string) int {
	n := 0
	for _, g := range all {
		if g.Name == name && !g.servedAt.IsZero() {
			n = max(n, g.Generation)
		}
	}
	return n
}

// kept are the generations of name that served before live, the last first.
func kept(all []*generation, name string, live *generation) []*generation {
	var list []*generation
	for _, g := range all {
		if g.Name == name && !g.servedAt.IsZero() && (live == nil || g.Generation != live.Generation) {
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b *generation) int {
		return cmp.Or(b.servedAt.Compare(a.servedAt), cmp.Compare(b.Generation, a.Generation))
	})
	return list
}

// swap makes g the generation that serves. The alias moves first, which is the
// durable switch; that g has served is noted after it, so that a generation
// whose switch was cut off does not look like a kept one. Store.dial is held.
func (s *Store) swap(ctx context.Context, c client.Client, g *generation) error {
	if g.builtAt.IsZero() {
		g.builtAt = time.Now().UTC()
		try, cancel := s.call(ctx)
		err := c.AlterCollection(try, g.physical(), at(builtAtProperty, g.builtAt))
		cancel()
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	old := s.live[g.Name]
	s.mu.Unlock()
	try, cancel := s.call(ctx)
	defer cancel()
	var err error
	if old == nil {
		err = c.CreateAlias(try, g.physical(), alias(g.Name))
	} else {
		err = c.AlterAlias(try, g.physical(), alias(g.Name))
	}
	if err != nil { // the answer may be what was lost
		if yes, e := s.aliased(context.WithoutCancel(ctx), c, g); e != nil || !yes {
			return err
		}
	}
	s.mu.Lock()
	s.live[g.Name] = g
	s.mu.Unlock()
	s.noteServed(ctx, c, g)
	if old != nil {
		s.retire(old) //nolint:contextcheck // it is put aside after the switch
	}
	return nil
}

// aliased reports whether the alias leads to g.
func (s *Store) aliased(ctx context.Context, c client.Client, g *generation) (bool, error) {
	l, err := s.describe(ctx, c, alias(g.Name))
	if missing(err) {
		return false, nil
	}
	return l != nil && l.physical() == g.physical(), err
}

// undo removes a generation that was not committed. Milvus would also drop one
// that the alias leads to, as it does when the answer of a switch was lost, and
// with it what serves after the next start.
func (s *Store) undo(ctx context.Context, c client.Client, g *generation) error {
	yes, err := s.aliased(ctx, c, g)
	if err != nil {
		return s.fail(ctx, "look whether "+g.physical()+" serves", err)
	}
	if yes {
		return imagebind.Errorf(imagebind.Conflict, "generation %d of %q serves: the switch to it went through though it looked as if it had failed; restart the retriever to take it over", g.Generation, g.Name)
	}
	return s.fail(ctx, "drop "+g.physical(), s.dropOne(ctx, c, g))
}

// noteServed writes down that g serves since now. What fails here the next
// start mends.
func (s *Store) noteServed(ctx context.Context, c client.Client, g *generation) {
	g.servedAt = time.Now().UTC()
	try, cancel := s.call(context.WithoutCancel(ctx))
	defer cancel()
	if err := c.AlterCollection(try, g.physical(), at(servedAtProperty, g.servedAt)); err != nil {
		slog.WarnContext(ctx, "milvus: when a generation began to serve is not written down", "collection", g.physical(), "err", err)
	}
}

// tidy brings the generations of name to where they belong: those that are kept
// out of memory, older ones away, and builds that can no longer be committed
// too. Those in use stay until they are not. Store.dial is held.
func (s *Store) tidy(ctx context.Context, c client.Client, name string, live *generation, all []*generation) {
	if live.servedAt.IsZero() {
		s.noteServed(ctx, c, live)
	}
	used := func(g *generation) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.retired[g.physical()] != nil
	}
	for i, g := range kept(all, name, live) {
		if used(g) {
			continue
		}
		var err error
		if i < s.o.Keep {
			err = s.putAside(ctx, c, g)
		} else {
			err = s.dropOne(ctx, c, g)
		}
		if err != nil {
			slog.WarnContext(ctx, "milvus: an old generation stays", "collection", g.physical(), "err", err)
		}
	}
	last := max(lastServed(all, name), live.Generation)
	for _, g := range all {
		if g.Name != name || !g.servedAt.IsZero() || g.Generation >= last || used(g) {
			continue
		}
		if err := s.dropOne(ctx, c, g); err != nil {
			slog.WarnContext(ctx, "milvus: a build that was overtaken stays", "collection", g.physical(), "err", err)
		}
	}
}

func (s *Store) dropOne(ctx context.Context, c client.Client, g *generation) error {
	try, cancel := s.call(ctx)
	defer cancel()
	return c.DropCollection(try, g.physical())
}

// putAside counts the rows of a kept generation and takes it out of the server's memory.
func (s *Store) putAside(ctx context.Context, c client.Client, g *generation) error {
	try, cancel := s.call(ctx)
	defer cancel()
	state, err := c.GetLoadState(try, g.physical(), nil)
	if err != nil || state == entity.LoadStateNotLoad {
		return err
	}
	if n, err := s.count(try, c, g.physical(), entity.ClStrong); err == nil { // it may be half loaded
		g.kept = n
		if err := c.AlterCollection(try, g.physical(), property{rowsProperty, strconv.Itoa(n)}); err != nil {
			return err
		}
	}
	return c.ReleaseCollection(try, g.physical())
}

// Generations lists those that can serve: the one that does, then those kept.
func (s *Store) Generations(ctx context.Context, name string) ([]store.Info, error) {
	c, live, done, err := s.use(ctx, name)
	if err != nil {
		return nil, err
	}
	defer done()
	info, err := s.info(ctx, c, live)
	if err != nil {
		return nil, err
	}
	all, err := s.all(ctx, c)
	if err != nil {
		return nil, s.fail(ctx, "list the collections", err)
	}
	list := []store.Info{info}
	old := kept(all, name, live)
	for _, g := range old[:min(s.o.Keep, len(old))] { // the others are on their way out
		i := g.info(g.kept, false)
		if g.kept < 0 { // it is just being put aside, or was left in a crash
			if i.Count, err = s.statistics(ctx, c, g); missing(err) {
				continue
			} else if err != nil {
				return nil, s.fail(ctx, "count "+g.physical(), err)
			}
		}
		list = append(list, i)
	}
	return list, nil
}

// statistics is how many rows are in a generation that is not loaded, deleted
// ones among them.
func (s *Store) statistics(ctx context.Context, c client.Client, g *generation) (int, error) {
	try, cancel := s.call(ctx)
	defer cancel()
	if n, err := s.count(try, c, g.physical(), entity.ClStrong); err == nil {
		return n, nil
	}
	st, err := c.GetCollectionStatistics(try, g.physical())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(st["row_count"])
}

// Switch loads a kept generation and makes it serve, 0 for the one that served
// last.
func (s *Store) Switch(ctx context.Context, name string, number int) (store.Info, error) {
	if number < 0 {
		return store.Info{}, imagebind.Errorf(imagebind.Invalid, "generation %d; they count from 1", number)
	}
	c, err := s.conn(ctx)
	if err != nil {
		return store.Info{}, err
	}
	s.dial.Lock()
	defer s.dial.Unlock()
	g, live, err := s.keptOne(ctx, c, name, number)
	if err != nil {
		return store.Info{}, err
	}
	if g != live {
		if err := s.load(ctx, c, g.physical()); err != nil {
			return store.Info{}, s.fail(ctx, "load "+g.physical(), err)
		}
		if _, err := s.count(ctx, c, g.physical(), entity.ClStrong); err != nil { // it answers before searches come
			return store.Info{}, s.fail(ctx, "count "+g.physical(), err)
		}
		if err := s.swap(ctx, c, g); err != nil {
			return store.Info{}, s.fail(ctx, "switch "+name, err)
		}
	}
	return s.info(ctx, c, g)
}

// keptOne finds a generation by its number, 0 for the kept one that served
// last, beside the one that serves.
func (s *Store) keptOne(ctx context.Context, c client.Client, name string, number int) (g, live *generation, err error) {
	if live, err = s.serving(ctx, c, name); err != nil {
		return nil, nil, err
	}
	if number == live.Generation {
		return live, live, nil
	}
	all, err := s.all(ctx, c)
	if err != nil {
		return nil, nil, s.fail(ctx, "list the collections", err)
	}
	list := kept(all, name, live)
	list = list[:min(s.o.Keep, len(list))]
	there := []int{live.Generation}
	for _, g := range list {
		if number == 0 || g.Generation == number {
			return g, live, nil
		}
		there = append(there, g.Generation)
	}
	if number == 0 {
		return nil, nil, imagebind.Errorf(imagebind.NotFound, "no generation of %q is kept; there are %v", name, there)
	}
	return nil, nil, imagebind.Errorf(imagebind.NotFound, "generation %d of %q is not kept; there are %v", number, name, there)
}

// Forget removes a kept generation.
func (s *Store) Forget(ctx context.Context, name string, number int) error {
	if number < 1 {
		return imagebind.Errorf(imagebind.Invalid, "generation %d; they count from 1", number)
	}
	c, err := s.conn(ctx)
	if err != nil {
		return err
	}
	s.dial.Lock()
	defer s.dial.Unlock()
	g, live, err := s.keptOne(ctx, c, name, number)
	if err != nil {
		return err
	}
	if g == live {
		return imagebind.Errorf(imagebind.Conflict, "generation %d of %q serves; switch to another first, or drop the collection", number, name)
	}
	return s.fail(ctx, "drop "+g.physical(), s.dropOne(ctx, c, g))
}

// Drop removes the collection with the generations that are kept. A build under
// way is its job's to abort.
func (s *Store) Drop(ctx context.Context, name string) error {
	c, err := s.conn(ctx)
	if err != nil {
		return err
	}
	s.dial.Lock()
	defer s.dial.Unlock()
	live, err := s.serving(ctx, c, name)
	if err != nil && imagebind.KindOf(err) != imagebind.NotFound {
		return err
	}
	all, err2 := s.all(ctx, c)
	if err2 != nil {
		return s.fail(ctx, "list the collections", err2)
	}
	old := kept(all, name, live)
	if live == nil && len(old) == 0 { // kept ones alone are what a cut off Drop left
		return err
	}
	try, cancel := s.call(ctx)
	err = c.DropAlias(try, alias(name))
	cancel()
	if err != nil && !missing(err) {
		return s.fail(ctx, "drop "+name, err)
	}
	s.mu.Lock()
	delete(s.live, name)
	s.mu.Unlock()
	if live != nil {
		old = append(old, live)
	}
	for _, g := range old {
		if err := s.dropOne(ctx, c, g); err != nil {
			return s.fail(ctx, "drop "+name, err)
		}
	}
	return nil
}
