// Package bare uses the Milvus SDK as its examples do, with nothing of ours
// around it: what the benchmarks compare package milvus with.
package bare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"
)

func dial(ctx context.Context, addr string) (client.Client, error) {
	try, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := client.NewClient(try, client.Config{Address: addr})
	if err != nil {
		return nil, fmt.Errorf("connect to Milvus at %s: %w", addr, err)
	}
	return c, nil
}

// Insert makes the collection name anew, with an id and a vector [dim] a row,
// and inserts what next returns (no ids: the end) in calls of batch rows. It
// returns how many rows that were and how long the calls took, without the time
// in next.
func Insert(ctx context.Context, addr, name string, dim, batch int, next func() ([]string, [][]float32)) (rows int, took time.Duration, err error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	if err := c.DropCollection(ctx, name); err != nil {
		return 0, 0, fmt.Errorf("drop %s: %w", name, err)
	}
	schema := entity.NewSchema().WithName(name).
		WithField(entity.NewField().WithName("id").WithDataType(entity.FieldTypeVarChar).WithMaxLength(256).WithIsPrimaryKey(true)).
		WithField(entity.NewField().WithName("vector").WithDataType(entity.FieldTypeFloatVector).WithDim(int64(dim)))
	if err := c.CreateCollection(ctx, schema, 1); err != nil {
		return 0, 0, fmt.Errorf("create %s: %w", name, err)
	}
	for {
		ids, vectors := next()
		if len(ids) == 0 {
			return rows, took, nil
		}
		for len(ids) > 0 {
			n := min(batch, len(ids))
			start := time.Now()
			_, err := c.Insert(ctx, name, "", entity.NewColumnVarChar("id", ids[:n]), entity.NewColumnFloatVector("vector", dim, vectors[:n]))
			took += time.Since(start)
			if err != nil {
				return rows, took, fmt.Errorf("insert into %s: %w", name, err)
			}
			rows += n
			ids, vectors = ids[n:], vectors[n:]
		}
	}
}

// Index flushes the collection, builds an index of the kind (an index type of
// Milvus with its parameters, as in {"nlist": "1024"}), and loads it.
func Index(ctx context.Context, addr, name, kind string, params map[string]string) (took time.Duration, err error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if err := c.Flush(ctx, name, false); err != nil {
		return 0, fmt.Errorf("flush %s: %w", name, err)
	}
	text, err := json.Marshal(params)
	if err != nil {
		return 0, err
	}
	all := map[string]string{"metric_type": "IP", "index_type": kind, "params": string(text)}
	if err := c.CreateIndex(ctx, name, "vector", entity.NewGenericIndex("", entity.IndexType(kind), all), false); err != nil {
		return 0, fmt.Errorf("index %s: %w", name, err)
	}
	if err := c.LoadCollection(ctx, name, false); err != nil {
		return 0, fmt.Errorf("load %s: %w", name, err)
	}
	return time.Since(start), nil
}

// Params are a search's: fields of the collection that come with the hits, and
// the index type's own numbers, as in {"nprobe": 128}.
type Params struct {
	Output []string
	Index  map[string]int
}

// numbers are entity.SearchParam.
type numbers map[string]any

func (n numbers) Params() map[string]any { return maps.Clone(n) } // the SDK writes to it
func (n numbers) AddRadius(float64)      {}
func (n numbers) AddRangeFilter(float64) {}

// Times are how long searches took, and how many came in a second.
type Times struct {
	P50, P95, P99 time.Duration
	PerSecond     float64
}

// Each times n calls of do, made by so many clients at once, each after its last.
func Each(n, clients int, do func(i int) error) (Times, error) {
	took := make([]time.Duration, n)
	errs := make([]error, clients)
	var wg sync.WaitGroup
	start := time.Now()
	for w := range clients {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += clients {
				began := time.Now()
				errs[w] = do(i)
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	all := time.Since(start)
	if err := errors.Join(errs...); err != nil || n == 0 {
		return Times{}, err
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[min(n-1, int(q*float64(n)))] }
	return Times{at(0.5), at(0.95), at(0.99), float64(n) / all.Seconds()}, nil
}

// A Searcher asks one collection for the k nearest by inner product.
type Searcher struct {
	c    client.Client
	name string
	k    int
	p    Params
}

// Open connects a Searcher.
func Open(ctx context.Context, addr, name string, k int, p Params) (*Searcher, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &Searcher{c, name, k, p}, nil
}

// Close ends the connection.
func (s *Searcher) Close() error { return s.c.Close() }

// Search asks for those of one query [dim].
func (s *Searcher) Search(ctx context.Context, q []float32) error {
	sp := numbers{}
	for k, v := range s.p.Index {
		sp[k] = v
	}
	res, err := s.c.Search(ctx, s.name, nil, "", s.p.Output, []entity.Vector{entity.FloatVector(q)}, "vector", entity.IP, s.k, sp)
	if err != nil {
		return fmt.Errorf("search %s: %w", s.name, err)
	}
	if len(res) != 1 || res[0].Err != nil || res[0].ResultCount == 0 {
		return fmt.Errorf("search %s: an answer of %d lists", s.name, len(res))
	}
	return nil
}
