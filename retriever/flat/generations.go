package flat

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// all are the generations that can serve, the one that does first.
func (m *manifest) all() []generation { return append([]generation{m.generation}, m.Kept...) }

// newest is the highest number of a generation that can serve.
func (m *manifest) newest() (n int) {
	for _, g := range m.all() {
		n = max(n, g.Generation)
	}
	return n
}

// values is how new generations store their rows.
func (s *Store) values() string {
	if s.o.Half {
		return float16Values
	}
	return float32Values
}

// half says how the rows that serve are stored.
func (c *collection) half() (bool, error) {
	p, _, err := c.use()
	if err != nil {
		return false, err
	}
	defer p.done()
	return p.half, nil
}

// succeed makes p, the rows of m, serve; what served is kept, and of the others
// as many as there is room for. It is part of an op.
func (c *collection) succeed(m manifest, p *part) (there bool, err error) {
	c.mu.Lock()
	before, was := c.man, c.live
	c.mu.Unlock()
	var kept []generation
	if was != nil {
		old := before.generation
		old.Count = was.now.count()
		kept = append(kept, old)
	}
	for _, g := range before.Kept {
		if g.Generation != m.Generation {
			kept = append(kept, g)
		}
	}
	n := min(len(kept), max(0, c.s.o.Keep))
	m.Format, m.Kept = formatVersion, kept[:n:n]
	if there, err = c.swap(m, p); err == nil {
		c.remove(kept[n:]...)
	}
	return there, err
}

// remove deletes folders that no manifest names any more. Searches that still
// are in one have it open and mapped.
func (c *collection) remove(old ...generation) {
	for _, g := range old {
		if err := os.RemoveAll(c.path(g.Rows)); err != nil {
			slog.Warn("flat: old rows stay until the next start", "folder", c.path(g.Rows), "err", err)
		}
	}
}

func (c *collection) infoOf(g generation, serves bool) store.Info {
	return store.Info{Name: c.name, Dim: g.Dim, Count: g.Count, Index: index, Backend: "embedded", Model: g.Model,
		Generation: g.Generation, BuiltAt: g.BuiltAt, Serves: serves}
}

// Generations lists the one that serves, and those that are kept.
func (s *Store) Generations(ctx context.Context, name string) ([]store.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := s.collection(name, false)
	if err != nil {
		return nil, err
	}
	p, m, err := c.use()
	if err != nil {
		return nil, err
	}
	defer p.done()
	m.Count = p.shown.Load().count()
	var list []store.Info
	for i, g := range m.all() {
		list = append(list, c.infoOf(g, i == 0))
	}
	return list, nil
}

// Switch makes a kept generation serve.
func (s *Store) Switch(ctx context.Context, name string, number int) (store.Info, error) {
	c, err := s.collection(name, false)
	if err != nil {
		return store.Info{}, err
	}
	if err := c.do(ctx, func() error { return c.switchTo(number) }); err != nil {
		return store.Info{}, err
	}
	return c.info()
}

// kept finds a generation by its number, 0 for the one that served last.
func (c *collection) kept(number int) (generation, manifest, error) {
	c.mu.Lock()
	m, serves := c.man, c.live != nil
	c.mu.Unlock()
	switch {
	case !serves:
		return generation{}, m, missing(c.name)
	case number == 0 && len(m.Kept) > 0:
		return m.Kept[0], m, nil
	}
	var there []int
	for _, g := range m.all() {
		if g.Generation == number {
			return g, m, nil
		}
		there = append(there, g.Generation)
	}
	what := fmt.Sprintf("generation %d of %q is not kept", number, c.name)
	if number == 0 {
		what = fmt.Sprintf("no generation of %q is kept", c.name)
	}
	return generation{}, m, imagebind.Errorf(imagebind.NotFound, "%s; there are %v", what, there)
}

// switchTo is an op.
func (c *collection) switchTo(number int) error {
	g, m, err := c.kept(number)
	if err != nil || g.Rows == m.Rows { // it serves already
		return err
	}
	p, err := openPart(c.path(g.Rows), g)
	if err != nil {
		return err
	}
	m.generation = g
	there, err := c.succeed(m, p)
	if !there {
		shut(p)
		return err
	}
	c.scrub(p)
	return err
}

// Forget removes a kept generation.
func (s *Store) Forget(ctx context.Context, name string, number int) error {
	c, err := s.collection(name, false)
	if err != nil {
		return err
	}
	return c.do(ctx, func() error { return c.forget(number) })
}

// forget is an op.
func (c *collection) forget(number int) error {
	if number < 1 {
		return imagebind.Errorf(imagebind.Invalid, "generation %d; they count from 1", number)
	}
	g, m, err := c.kept(number)
	if err != nil {
		return err
	}
	if g.Rows == m.Rows {
		return imagebind.Errorf(imagebind.Conflict, "generation %d of %q serves; switch to another first, or drop the collection", number, c.name)
	}
	m.Kept = slices.DeleteFunc(slices.Clone(m.Kept), func(k generation) bool { return k.Rows == g.Rows })
	there, err := m.write(c.path(manifestFile))
	if there {
		c.mu.Lock()
		c.man.Kept = m.Kept
		c.mu.Unlock()
	}
	if err == nil {
		c.remove(g)
	}
	return disk("forget a generation of "+c.name, err)
}

// Version names the rows that a search would see.
func (s *Store) Version(name string) string {
	c, err := s.collection(name, false)
	if err != nil {
		return ""
	}
	p, m, err := c.use()
	if err != nil {
		return ""
	}
	defer p.done()
	return fmt.Sprintf("%s@%d", m.Rows, p.shown.Load().end)
}
