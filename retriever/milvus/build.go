package milvus

import (
	"context"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// A builder fills a generation that no alias points to yet.
type builder struct {
	s    *Store
	c    client.Client
	g    *generation
	rows int
	made *store.Info // by the job, before
	// indexed says that all rows so far are indexed and loaded; over, that
	// Commit or Abort was done.
	indexed, over bool
}

// Build starts a new generation of name, or goes on with the one that job began.
func (s *Store) Build(ctx context.Context, name string, spec store.Spec, job string) (store.Builder, error) {
	r, err := s.newRecord(name, spec)
	if err != nil {
		return nil, err
	}
	c, err := s.conn(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.allowed(ctx, c, r); err != nil {
		return nil, err
	}
	s.dial.Lock()
	defer s.dial.Unlock()
	all, err := s.all(ctx, c)
	if err != nil {
		return nil, s.fail(ctx, "list the collections", err)
	}
	served := lastServed(all, name)
	r.Job, r.Generation = job, 1
	for _, g := range all {
		if g.Name != name {
			continue
		}
		if g.Job == job && g.Generation > served {
			if g.Dim != r.Dim {
				return nil, imagebind.Errorf(imagebind.Conflict, "job %s began a generation of dim %d, not %d", job, g.Dim, r.Dim)
			}
			n, err := s.count(ctx, c, g.physical(), entity.ClStrong)
			if err != nil && !notLoaded(err) {
				return nil, s.fail(ctx, "count "+g.physical(), err)
			}
			if err != nil { // a collection is counted only when loaded
				if err := s.index(ctx, c, g, sealFrom); err != nil {
					return nil, s.fail(ctx, "load "+g.physical(), err)
				}
				if n, err = s.count(ctx, c, g.physical(), entity.ClStrong); err != nil {
					return nil, s.fail(ctx, "count "+g.physical(), err)
				}
			}
			return &builder{s: s, c: c, g: g, rows: n}, nil
		}
		if g.Job == job && !g.servedAt.IsZero() {
			s.mu.Lock()
			live := s.live[name]
			s.mu.Unlock()
			info := g.info(max(0, g.kept), live != nil && live.Generation == g.Generation)
			if info.Serves {
				if info, err = s.info(ctx, c, live); err != nil {
					return nil, err
				}
			}
			return &builder{s: s, c: c, g: g, over: true, made: &info}, nil
		}
		r.Generation = max(r.Generation, g.Generation+1)
	}
	if err := s.make(ctx, c, r); err != nil {
		return nil, s.fail(ctx, "create "+r.physical(), err)
	}
	return &builder{s: s, c: c, g: s.generation(r)}, nil
}

// Committed returns what the job made.
func (b *builder) Committed() (store.Info, bool) {
	if b.made == nil {
		return store.Info{}, false
	}
	return *b.made, true
}

// Rows is how many rows the generation holds.
func (b *builder) Rows() int { return b.rows }

// Append stores rows. Those that a crash made the caller send again replace
// themselves.
func (b *builder) Append(ctx context.Context, rows []store.Row) error {
	if b.over {
		return imagebind.Errorf(imagebind.Conflict, "the build of %s is over", b.g.physical())
	}
	if err := b.s.put(ctx, b.c, b.g, rows); err != nil {
		return err
	}
	b.rows += len(rows)
	b.indexed = false
	return nil
}

// Checkpoint does nothing: Milvus answers a write when its log has it.
func (b *builder) Checkpoint(context.Context) error { return nil }

// prepare makes what is stored searchable.
func (b *builder) prepare(ctx context.Context) error {
	if b.indexed {
		return nil
	}
	if err := b.s.index(ctx, b.c, b.g, b.rows); err != nil {
		return b.s.fail(ctx, "index "+b.g.physical(), err)
	}
	b.indexed = true
	return nil
}

// Search looks through all rows; with HNSW, as well as the index can.
func (b *builder) Search(ctx context.Context, q store.Query) ([][]imagebind.Neighbour, error) {
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	return b.s.search(ctx, b.c, b.g, q, true)
}

// Commit indexes the generation and switches the name to it.
func (b *builder) Commit(ctx context.Context) (store.Info, error) {
	if b.over {
		return store.Info{}, imagebind.Errorf(imagebind.Conflict, "the build of %s is over", b.g.physical())
	}
	if err := b.prepare(ctx); err != nil {
		if late := b.overtaken(ctx); late != nil { // and then it may be gone
			return store.Info{}, late
		}
		return store.Info{}, err
	}
	b.s.dial.Lock()
	defer b.s.dial.Unlock()
	if err := b.overtaken(ctx); err != nil {
		return store.Info{}, err
	}
	if err := b.s.swap(ctx, b.c, b.g); err != nil {
		return store.Info{}, b.s.fail(ctx, "switch "+b.g.Name, err)
	}
	b.over = true
	return b.s.Info(ctx, b.g.Name)
}

// overtaken is a Conflict when a later generation has served.
func (b *builder) overtaken(ctx context.Context) error {
	all, err := b.s.all(ctx, b.c)
	if err != nil {
		return b.s.fail(ctx, "list the collections", err)
	}
	if served := lastServed(all, b.g.Name); served > b.g.Generation {
		return imagebind.Errorf(imagebind.Conflict, "generation %d of %q was built meanwhile; this one is %d", served, b.g.Name, b.g.Generation)
	}
	return nil
}

// Abort removes the generation.
func (b *builder) Abort(ctx context.Context) error {
	if b.over {
		return nil
	}
	if err := b.s.undo(ctx, b.c, b.g); err != nil {
		return err
	}
	b.over = true
	return nil
}
