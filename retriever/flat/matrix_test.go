package flat

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

// ready is a store whose rows are on the device before they are searched.
type ready struct{ *Store }

func (s ready) Search(ctx context.Context, name string, q store.Query) ([][]imagebind.Neighbour, error) {
	s.load(name)
	return s.Store.Search(ctx, name, q)
}

func (s ready) load(name string) {
	c, err := s.collection(name, false)
	if err != nil {
		return
	}
	if p, _, err := c.use(); err == nil {
		c.load(p)
		p.done()
	}
}

// suite runs the stores' suite on one whose candidates a device finds.
func suite(t *testing.T, load Loader) {
	dir := t.TempDir()
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := Open(filepath.Join(dir, filepath.Base(t.Name())), Options{Load: load, LoadRows: 1})
		if err != nil {
			t.Fatal(err)
		}
		return ready{s}
	})
}

func TestStoreRounded(t *testing.T) {
	var l loads
	t.Run("suite", func(t *testing.T) { suite(t, l.load) })
	if l.searches.Load() == 0 || l.open.Load() != 0 {
		t.Errorf("%d searches, %d matrices are left", l.searches.Load(), l.open.Load())
	}
}

// TestDevice holds a store with a device against one without, over rows and
// queries of many lengths, before and after writes.
func TestDevice(t *testing.T) {
	for _, half := range []bool{false, true} {
		for _, dim := range []int{3, 48, 200} {
			t.Run(fmt.Sprintf("half=%v/dim=%d", half, dim), func(t *testing.T) {
				t.Parallel()
				var l loads
				rng := rand.New(rand.NewPCG(uint64(dim), 5))
				long := math.Pow(10, 4*rng.Float64()-2)
				vector := func(length float64) imagebind.Embedding {
					v := make(imagebind.Embedding, dim)
					for i := range v {
						v[i] = float32(rng.NormFloat64() * length / math.Sqrt(float64(dim)))
					}
					return v
				}
				row := func(id int) store.Row {
					return store.Row{ID: fmt.Sprint(id), Vector: vector(long * (0.01 + rng.Float64()))}
				}
				var rows []store.Row
				for i := range 2000 {
					rows = append(rows, row(i))
				}
				for i := range 300 { // equal ones, and as good as equal ones: more than a device is asked for
					v := slices.Clone(rows[i%2].Vector)
					for j := range v {
						v[j] *= 1 + float32(i%2)*float32(rng.NormFloat64())*1e-3
					}
					rows[2*i+2].Vector = v
				}
				plain, fast := open(t, t.TempDir(), Options{Half: half}), open(t, t.TempDir(), Options{Half: half, Load: l.load, LoadRows: 500})
				fill(t, plain, rows)
				fill(t, fast, rows)
				ready{fast}.load(name)
				same := func(what string) {
					t.Helper()
					queries := []imagebind.Embedding{make(imagebind.Embedding, dim), rows[0].Vector, rows[1].Vector}
					for i := range 20 {
						queries = append(queries, vector(math.Pow(10, float64(i-10))))
					}
					for _, k := range []int{1, 10, 200} {
						if want, got := search(t, plain, k, queries...), search(t, fast, k, queries...); !reflect.DeepEqual(got, want) {
							t.Errorf("%s, k=%d: the device's neighbours differ", what, k)
						}
					}
				}
				both := func(do func(s *Store) error) {
					t.Helper()
					if err := errors.Join(do(plain), do(fast)); err != nil {
						t.Fatal(err)
					}
				}
				same("all rows")
				more := make([]store.Row, 0, 300)
				for i := range 300 { // some are new, some replace
					more = append(more, row(1900+i))
				}
				both(func(s *Store) error { return s.Upsert(t.Context(), name, more) })
				same("written since")
				var gone []string
				for range 500 {
					gone = append(gone, fmt.Sprint(rng.IntN(2200)))
				}
				both(func(s *Store) error { _, err := s.Delete(t.Context(), name, gone); return err })
				same("deleted since")
				info, err := fast.Info(t.Context(), name)
				if d := info.Device; err != nil || d.Rows != 2000 || d.Queries != 3*3*23 || d.Scanned == 0 || d.Scanned*2 > d.Queries {
					t.Errorf("the device was not asked as it should be: %+v, %v", d, err)
				}
			})
		}
	}
}

func units(n, dim int) []store.Row {
	rng := rand.New(rand.NewPCG(7, uint64(dim)))
	rows := make([]store.Row, n)
	for i := range rows {
		v := make(imagebind.Embedding, dim)
		for j := range v {
			v[j] = float32(rng.NormFloat64())
		}
		v.Normalize()
		rows[i] = store.Row{ID: fmt.Sprintf("%04d", i), Vector: v}
	}
	return rows
}

// TestDeviceFails: a device that does not take the rows, does not answer or
// answers nonsense is left alone, and nobody who searches sees it.
func TestDeviceFails(t *testing.T) {
	broken := errors.New("broken")
	for what, tt := range map[string]struct {
		setUp    func(*rounded) error
		searches int64
	}{
		"at the load":  {func(*rounded) error { return broken }, 0},
		"at a search":  {func(m *rounded) error { m.fail = func() error { return broken }; return nil }, 0},
		"wrong scores": {func(m *rounded) error { m.wrong = 0.01; return nil }, 1},
		"no numbers":   {func(m *rounded) error { m.wrong = float32(math.NaN()); return nil }, 1},
	} {
		t.Run(what, func(t *testing.T) {
			l := loads{setUp: tt.setUp}
			rows := units(300, 32)
			s := open(t, t.TempDir(), Options{Load: l.load, LoadRows: 100})
			fill(t, s, rows)
			ready{s}.load(name)
			for range 2 {
				if got := search(t, s, 1, rows[7].Vector)[0]; got[0].ID != rows[7].ID {
					t.Errorf("found %v", got)
				}
			}
			if err := s.Upsert(t.Context(), name, rows); err != nil { // enough for another load
				t.Fatal(err)
			}
			ready{s}.load(name)
			if l.all.Load() != 1 || l.searches.Load() != tt.searches || l.open.Load() != 0 {
				t.Errorf("%d loads, %d searches, %d matrices are left", l.all.Load(), l.searches.Load(), l.open.Load())
			}
		})
	}
}

// TestDeviceLeft: a search whose caller leaves says so, and the device is asked again.
func TestDeviceLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := loads{setUp: func(m *rounded) error {
		m.fail = func() error { cancel(); return ctx.Err() }
		return nil
	}}
	s, rows := open(t, t.TempDir(), Options{Load: l.load, LoadRows: 1}), units(300, 32)
	fill(t, s, rows)
	ready{s}.load(name)
	if _, err := s.Search(ctx, name, store.Query{Vectors: []imagebind.Embedding{rows[0].Vector}, K: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s.collections[name].live.fast.Load() == nil {
		t.Error("the device is not used any more")
	}
}

// TestDeviceGenerations: the rows that serve are on the device, one generation at
// a time, whoever switches, and a load for rows that do not serve any more ends.
func TestDeviceGenerations(t *testing.T) {
	loading, goOn := make(chan struct{}), make(chan struct{})
	var l loads
	l.setUp = func(*rounded) error {
		if l.open.Load() != 0 {
			t.Error("two generations are on the device")
		}
		if l.all.Load() == 1 {
			close(loading)
			<-goOn
		}
		return nil
	}
	s, rows := open(t, t.TempDir(), Options{Load: l.load, LoadRows: 1}), units(300, 32)
	fill(t, s, rows)
	<-loading // of what was filled
	commit := func(job string) {
		t.Helper()
		b, err := s.Build(t.Context(), name, store.Spec{Dim: 32}, job)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Append(t.Context(), rows[:200]); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	commit("a")
	close(goOn)
	check := func(what string, n int) {
		t.Helper()
		ready{s}.load(name)
		if f := s.collections[name].live.fast.Load(); f == nil || f.n != n || l.open.Load() != 1 {
			t.Errorf("%s: %+v on the device, %d matrices; want %d rows", what, f, l.open.Load(), n)
		}
	}
	check("a build", 200)
	if _, err := s.Switch(t.Context(), name, 0); err != nil {
		t.Fatal(err)
	}
	check("back", 300)
	if err := s.Upsert(t.Context(), name, rows[:50]); err != nil { // less than a quarter
		t.Fatal(err)
	}
	check("a few more", 300)
	if err := s.Upsert(t.Context(), name, rows[:50]); err != nil {
		t.Fatal(err)
	}
	check("more", 400)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range 100 {
				if got := search(t, s, 1, rows[i].Vector)[0]; len(got) != 1 || got[0].ID != rows[i].ID {
					t.Errorf("row %d: %v", i, got)
				}
			}
		})
	}
	for i := range 5 {
		commit(fmt.Sprint(i))
	}
	wg.Wait()
	check("many builds", 200)
	if err := s.Drop(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if l.open.Load() != 0 {
		t.Errorf("%d matrices of what was dropped", l.open.Load())
	}
}
