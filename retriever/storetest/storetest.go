// Package storetest holds a store.Store to its contract. Every store runs the
// one suite, so that a collection answers alike wherever it is kept.
package storetest

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	conditions "imagebind-llm/retriever/filter"
	"imagebind-llm/retriever/store"
)

// goldens are the reference's neighbours, seen from the folder of a store.
const goldens = "../server/testdata/golden"

const dim = 16

// Run runs the suite, its tests side by side. open opens a test's store: another
// for each test (by its name), and the same again when a test asks again, having
// closed the one it had.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(s *suite)
	}{
		{"Golden", golds},
		{"Order", order},
		{"Ties", ties},
		{"FewRows", fewRows},
		{"Filter", filter},
		{"Metadata", metadata},
		{"UpsertAndDelete", upsertAndDelete},
		{"Refused", refused},
		{"Missing", missing},
		{"Create", create},
		{"Names", names},
		{"Drop", drop},
		{"Generations", generations},
		{"Resume", resume},
		{"Abort", abort},
		{"TwoBuilds", twoBuilds},
		{"Rollback", rollback},
		{"Forget", forget},
		{"Version", version},
		{"Scan", scan},
		{"SwitchUnderLoad", switchUnderLoad},
		{"ManyRows", manyRows},
		{"Writers", writers},
		{"Cancelled", cancelled},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &suite{T: t, open: open, prefix: fmt.Sprintf("t%08x_", rand.Uint32())}
			s.reopen()
			t.Cleanup(s.clean)
			test.run(s)
		})
	}
}

// A suite is a test with its store.
type suite struct {
	*testing.T
	store.Store
	open   func(t *testing.T) store.Store
	prefix string // of the names of collections
	names  []string
}

// reopen closes the store and opens it again.
func (s *suite) reopen() {
	s.Helper()
	if s.Store != nil {
		if err := s.Store.Close(); err != nil {
			s.Fatal(err)
		}
	}
	s.Store = s.open(s.T)
}

func (s *suite) clean() {
	ctx := context.WithoutCancel(s.T.Context())
	for _, n := range s.names {
		if err := s.Store.Drop(ctx, n); err != nil && imagebind.KindOf(err) != imagebind.NotFound {
			s.T.Errorf("drop %s: %v", n, err)
		}
	}
	if err := s.Store.Close(); err != nil {
		s.T.Error(err)
	}
}

// name is the name of a collection, which is dropped after the test.
func (s *suite) name(suffix string) string {
	n := s.prefix + suffix
	s.names = append(s.names, n)
	return n
}

// collection makes a collection of rows.
func (s *suite) collection(suffix string, dim int, rows []store.Row) string {
	s.Helper()
	n := s.name(suffix)
	if _, err := s.Create(s.Context(), n, store.Spec{Dim: dim}); err != nil {
		s.Fatal(err)
	}
	s.upsert(n, rows)
	return n
}

func (s *suite) upsert(name string, rows []store.Row) {
	s.Helper()
	if len(rows) == 0 {
		return
	}
	if err := s.Upsert(s.Context(), name, rows); err != nil {
		s.Fatal(err)
	}
}

func (s *suite) search(name string, k int, queries ...imagebind.Embedding) [][]imagebind.Neighbour {
	s.Helper()
	got, err := s.Search(s.Context(), name, store.Query{Vectors: queries, K: k})
	if err != nil {
		s.Fatal(err)
	}
	if len(got) != len(queries) {
		s.Fatalf("%d lists for %d queries", len(got), len(queries))
	}
	return got
}

func (s *suite) count(name string, want int) {
	s.Helper()
	if i, err := s.Info(s.Context(), name); err != nil || i.Count != want {
		s.Fatalf("count is %d, want %d (%v)", i.Count, want, err)
	}
}

// kind fails the test when err is not of a kind.
func (s *suite) kind(what string, err error, want imagebind.Kind) {
	s.Helper()
	if err == nil || imagebind.KindOf(err) != want {
		s.Errorf("%s: error %v is of kind %v, want %v", what, err, imagebind.KindOf(err), want)
	}
}

// Rows makes n rows of unit vectors, the same for the same arguments.
func Rows(from, n, dim int) []store.Row {
	rows := make([]store.Row, n)
	for i := range rows {
		rows[i] = store.Row{ID: fmt.Sprintf("r%06d", from+i), Vector: vector(uint64(from+i), dim), Caption: fmt.Sprintf("row %d", from+i)}
	}
	return rows
}

func vector(seed uint64, dim int) imagebind.Embedding {
	r := rand.New(rand.NewPCG(seed, 7))
	v := make(imagebind.Embedding, dim)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	v.Normalize()
	return v
}

func ids(list []imagebind.Neighbour) []string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = n.ID
	}
	return out
}

// best is what a search should return: float64 sums rounded to float32, ties by id.
func best(rows []store.Row, q imagebind.Embedding, k int) []imagebind.Neighbour {
	list := make([]imagebind.Neighbour, len(rows))
	for i, r := range rows {
		list[i] = imagebind.Neighbour{ID: r.ID, Similarity: float32(q.Dot(r.Vector)), Caption: r.Caption, URI: r.URI, Metadata: r.Metadata, Prototype: r.Vector}
	}
	slices.SortFunc(list, func(a, b imagebind.Neighbour) int {
		return cmp.Or(cmp.Compare(b.Similarity, a.Similarity), cmp.Compare(a.ID, b.ID))
	})
	return list[:min(k, len(list))]
}

// same fails the test when a list is not the one wanted: ids, order and
// vectors exactly, similarities within 1e-6 of the query's length.
func (s *suite) same(what string, got, want []imagebind.Neighbour) {
	s.Helper()
	if !slices.Equal(ids(got), ids(want)) {
		s.Errorf("%s: got %v\nwant %v", what, ids(got), ids(want))
		return
	}
	for i := range got {
		g, w := got[i], want[i]
		tol := 1e-6 * max(1, math.Abs(float64(w.Similarity)))
		if d := math.Abs(float64(g.Similarity - w.Similarity)); !(d <= tol) || !slices.Equal(g.Prototype, w.Prototype) ||
			g.Caption != w.Caption || g.URI != w.URI || !reflect.DeepEqual(g.Metadata, w.Metadata) {
			s.Errorf("%s, %d: got %+v\nwant %+v", what, i, g, w)
		}
	}
}

// golds finds the reference's neighbours with its similarities, so that
// enhancement over them is the same on every store.
func golds(s *suite) {
	const dim = 64
	file := golden.Bytes(s.T, goldens+"/prototypes.npy")
	raw := file[10+int(binary.LittleEndian.Uint16(file[8:])):]
	var rows []store.Row
	for i := range len(raw) / (4 * dim) {
		v := make(imagebind.Embedding, dim)
		for j := range v {
			v[j] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*(i*dim+j):]))
		}
		rows = append(rows, store.Row{ID: fmt.Sprint(i), Vector: v})
	}
	n := s.collection("golden", dim, rows)
	want := golden.Open(s.T, goldens+"/enhance.safetensors")
	for _, mix := range []string{"image", "audio", "point", "image_audio", "image_text_w", "all"} {
		q := want.Tensor(s.T, mix+"/off").Values
		for _, k := range []int{1, 10, 50} {
			refIDs := want.Tensor(s.T, fmt.Sprintf("%s/k%d_t20_w0.5/ids", mix, k)).Values
			sims := want.Tensor(s.T, fmt.Sprintf("%s/k%d_t20_w0.5/sims", mix, k)).Values
			for i, nb := range slices.Concat(s.search(n, k, q[:dim], q[dim:])...) {
				if nb.ID != fmt.Sprint(int(refIDs[i])) || math.Abs(float64(nb.Similarity-sims[i])) > 1e-6 {
					s.Errorf("%s, k %d, neighbour %d: %s at %v, want %v at %v", mix, k, i, nb.ID, nb.Similarity, refIDs[i], sims[i])
				}
			}
		}
	}
}

func order(s *suite) {
	rows := Rows(0, 300, dim)
	for i := range rows { // lengths differ: it is the inner product that counts
		for j := range rows[i].Vector {
			rows[i].Vector[j] *= float32(1 + i%3)
		}
	}
	n := s.collection("order", dim, rows)
	var queries []imagebind.Embedding
	for i := range 37 {
		q := vector(uint64(1e6+i), dim)
		for j := range q {
			q[j] *= float32(i) / 10 // the first is zero: all similarities are 0
		}
		queries = append(queries, q)
	}
	for i, got := range s.search(n, 20, queries...) {
		if i == 0 {
			if len(got) != 20 || got[0].Similarity != 0 {
				s.Errorf("a query of zeros: %v", got)
			}
			continue
		}
		s.same(fmt.Sprintf("query %d", i), got, best(rows, queries[i], 20))
	}
}

func ties(s *suite) {
	rows := Rows(0, 30, dim)
	rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	for i := range 9 { // nine rows are one point
		rows[i].Vector = rows[0].Vector
	}
	n := s.collection("ties", dim, rows)
	for _, k := range []int{1, 4, 9, 12} {
		s.same(fmt.Sprintf("k %d", k), s.search(n, k, rows[0].Vector)[0], best(rows, rows[0].Vector, k))
	}
}

func fewRows(s *suite) {
	n := s.collection("few", dim, nil)
	q := []imagebind.Embedding{vector(1, dim), vector(2, dim)}
	for _, list := range s.search(n, 10, q...) {
		if list == nil || len(list) != 0 {
			s.Errorf("an empty collection: %v", list)
		}
	}
	rows := Rows(0, 3, dim)
	s.upsert(n, rows)
	for i, list := range s.search(n, imagebind.MaxNeighbours, q...) {
		s.same("k over the rows there are", list, best(rows, q[i], 3))
	}
	if got := s.search(n, 10); len(got) != 0 {
		s.Errorf("no queries: %v", got)
	}
}

func filter(s *suite) {
	rows := Rows(0, 60, dim)
	for i := range rows {
		rows[i].Metadata = map[string]any{"third": float64(i % 3), "even": i%2 == 0, "name": fmt.Sprintf("näme \"%d\"", i%5),
			"nested": map[string]any{"third": float64((i + 1) % 3)}}
	}
	rows[7].Metadata = nil
	for i := 0; i < len(rows); i += 4 {
		rows[i].Metadata["sometimes"] = []any{nil, false, 0.0, "", []any{1.0}}[i/4%5]
	}
	n := s.collection("filter", dim, rows)
	thousand := make([]any, conditions.MaxIn) // of values that need escapes
	for i := range thousand {
		thousand[i] = fmt.Sprintf("näme \"%d\"", i+3)
	}
	q := vector(1, dim)
	for _, f := range []map[string]any{
		{"third": 1.0},
		{"third": 0.0},
		{"even": true, "third": 2.0},
		{"name": "näme \"3\""},
		{"name": "näme \"3\"", "even": false, "third": 1.0},
		{"third": "1"}, // a string is no number
		{"third": 10.0},
		{"nobody": true},
		{"third": map[string]any{"ne": 1.0}},
		{"third": map[string]any{"gte": 1.0, "lt": 2.0}},
		{"third": map[string]any{"gt": 0.0}, "even": map[string]any{"eq": true}},
		{"third": map[string]any{"lte": 1.0}},
		{"third": map[string]any{"in": []any{0.0, "1", 2.0}}},
		{"name": map[string]any{"in": []any{"näme \"3\"", "näme \"4\""}}},
		{"name": map[string]any{"gt": "näme \"3\"", "lte": "näme \"5\""}},
		{"nobody": map[string]any{"ne": true}},
		{"nobody": map[string]any{"lt": 1.0}},
		{"nobody": map[string]any{"exists": false}, "third": map[string]any{"exists": true}},
		{"sometimes": map[string]any{"exists": true}},
		{"sometimes": map[string]any{"exists": false}, "even": true},
		{"name": map[string]any{"in": thousand}},
	} {
		terms, err := conditions.Parse(f)
		if err != nil {
			s.Fatal(f, err)
		}
		var left []store.Row
		for _, r := range rows {
			ok := true
			for _, t := range terms {
				ok = ok && t.Pass(r.Metadata)
			}
			if ok {
				left = append(left, r)
			}
		}
		got, err := s.Search(s.Context(), n, store.Query{Vectors: []imagebind.Embedding{q}, K: 10, Filter: f})
		if err != nil {
			s.Fatal(f, err)
		}
		s.same(fmt.Sprint(f), got[0], best(left, q, 10))
	}
	for _, f := range []map[string]any{{"third": nil}, {"third": []any{1.0}}, {"third": map[string]any{}}} {
		_, err := s.Search(s.Context(), n, store.Query{Vectors: []imagebind.Embedding{q}, K: 10, Filter: f})
		s.kind(fmt.Sprint(f), err, imagebind.Invalid)
	}
}

func metadata(s *suite) {
	rows := Rows(0, 3, dim)
	rows[0].ID, rows[0].Caption, rows[0].URI = "id with ümlauts / \"quotes\" \\", "a <caption> & more\nlines 猫", "https://example.org/a?b=c&d=%20"
	rows[0].Metadata = map[string]any{"f": 0.1, "big": 1e300, "int": 12.0, "s": "<&>\u2028", "null": nil, "list": []any{1.0, "a", false}, "empty": map[string]any{}}
	rows[1].Caption = strings.Repeat("x", 8192)
	rows[1].ID = strings.Repeat("i", 256)
	n := s.collection("metadata", dim, rows)
	s.same("all fields", s.search(n, 3, rows[0].Vector)[0], best(rows, rows[0].Vector, 3))
}

func upsertAndDelete(s *suite) {
	rows := Rows(0, 50, dim)
	n := s.collection("upsert", dim, rows)
	s.count(n, 50)
	for i := range 20 { // replaced
		rows[i].Vector, rows[i].Caption = vector(uint64(1000+i), dim), "again"
	}
	s.upsert(n, rows[:20])
	s.count(n, 50)
	twice := slices.Clone(rows[20:22]) // one id two times in one call: the later stands
	twice[0].ID, twice[0].Caption, twice[0].Vector = rows[21].ID, "first", vector(5000, dim)
	s.upsert(n, twice)
	q := vector(1, dim)
	s.same("after upserts", s.search(n, 50, q)[0], best(rows, q, 50))
	for _, tt := range []struct {
		ids  []string
		want int
	}{
		{[]string{rows[3].ID, "nobody", rows[49].ID, rows[3].ID}, 2},
		{[]string{rows[3].ID}, 0},
		{nil, 0},
	} {
		if got, err := s.Delete(s.Context(), n, tt.ids); err != nil || got != tt.want {
			s.Errorf("delete %v: %d, %v; want %d", tt.ids, got, err, tt.want)
		}
	}
	left := slices.Concat(rows[:3], rows[4:49])
	s.count(n, 48)
	s.same("after deletes", s.search(n, 50, q)[0], best(left, q, 50))
	s.upsert(n, rows[3:4]) // it comes back
	left = rows[:49]
	s.same("after one came back", s.search(n, 50, q)[0], best(left, q, 50))
	s.upsert(n, nil)
	s.reopen()
	s.count(n, 49)
	s.same("after a restart", s.search(n, 50, q)[0], best(left, q, 50))
}

func refused(s *suite) {
	n := s.collection("refused", dim, Rows(0, 2, dim))
	row := func(change func(*store.Row)) []store.Row {
		rows := Rows(100, 2, dim) // the first is fine, and is not stored either
		change(&rows[1])
		return rows
	}
	for what, rows := range map[string][]store.Row{
		"NaN":          row(func(r *store.Row) { r.Vector[3] = float32(math.NaN()) }),
		"infinity":     row(func(r *store.Row) { r.Vector[3] = float32(math.Inf(-1)) }),
		"zeros":        row(func(r *store.Row) { r.Vector = make(imagebind.Embedding, dim) }),
		"short vector": row(func(r *store.Row) { r.Vector = r.Vector[:dim-1] }),
		"long vector":  row(func(r *store.Row) { r.Vector = append(r.Vector, 1) }),
		"no vector":    row(func(r *store.Row) { r.Vector = nil }),
		"no id":        row(func(r *store.Row) { r.ID = "" }),
		"long id":      row(func(r *store.Row) { r.ID = strings.Repeat("i", 257) }),
		"long caption": row(func(r *store.Row) { r.Caption = strings.Repeat("c", 8193) }),
		"metadata":     row(func(r *store.Row) { r.Metadata = map[string]any{"f": func() {}} }),
		"big metadata": row(func(r *store.Row) { r.Metadata = map[string]any{"f": strings.Repeat("m", 70000)} }),
	} {
		s.kind(what, s.Upsert(s.Context(), n, rows), imagebind.Invalid)
	}
	s.count(n, 2)
	nan, inf := vector(1, dim), vector(1, dim)
	nan[0], inf[0] = float32(math.NaN()), float32(math.Inf(1))
	for what, q := range map[string]store.Query{
		"query with NaN":      {Vectors: []imagebind.Embedding{vector(1, dim), nan}, K: 1},
		"query with infinity": {Vectors: []imagebind.Embedding{inf}, K: 1},
		"short query":         {Vectors: []imagebind.Embedding{vector(1, dim-1)}, K: 1},
		"k 0":                 {Vectors: []imagebind.Embedding{vector(1, dim)}},
		"k -1":                {Vectors: []imagebind.Embedding{vector(1, dim)}, K: -1},
		"k 1001":              {Vectors: []imagebind.Embedding{vector(1, dim)}, K: imagebind.MaxNeighbours + 1},
	} {
		_, err := s.Search(s.Context(), n, q)
		s.kind(what, err, imagebind.Invalid)
	}
	_, err := s.Delete(s.Context(), n, []string{""})
	s.kind("delete without an id", err, imagebind.Invalid)
	for _, spec := range []store.Spec{{Dim: 0}, {Dim: -1}, {Dim: 32769}, {Dim: dim, Index: "nonsense"}} {
		_, err := s.Create(s.Context(), s.name("no"), spec)
		s.kind(fmt.Sprintf("%+v", spec), err, imagebind.Invalid)
		_, err = s.Build(s.Context(), s.name("no"), spec, "job")
		s.kind(fmt.Sprintf("build of %+v", spec), err, imagebind.Invalid)
	}
}

func missing(s *suite) {
	n, ctx := s.prefix+"nobody", s.Context()
	_, err := s.Info(ctx, n)
	s.kind("info", err, imagebind.NotFound)
	s.kind("drop", s.Store.Drop(ctx, n), imagebind.NotFound)
	s.kind("upsert", s.Upsert(ctx, n, Rows(0, 1, dim)), imagebind.NotFound)
	_, err = s.Delete(ctx, n, []string{"a"})
	s.kind("delete", err, imagebind.NotFound)
	_, err = s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{vector(1, dim)}, K: 1})
	s.kind("search", err, imagebind.NotFound)
}

func create(s *suite) {
	n := s.name("create")
	start := time.Now().Add(-time.Minute)
	i, err := s.Create(s.Context(), n, store.Spec{Dim: dim, Model: "bundle-1"})
	if err != nil {
		s.Fatal(err)
	}
	if i.Name != n || i.Dim != dim || i.Count != 0 || i.Generation != 1 || i.Model != "bundle-1" || i.Index != "FLAT" || i.Backend == "" ||
		i.BuiltAt.Before(start) || i.BuiltAt.After(time.Now().Add(time.Minute)) {
		s.Errorf("created: %+v", i)
	}
	s.upsert(n, Rows(0, 2, dim))
	if again, err := s.Create(s.Context(), n, store.Spec{Dim: dim}); err != nil || again.Count != 2 {
		s.Errorf("created again: %+v, %v", again, err)
	}
	_, err = s.Create(s.Context(), n, store.Spec{Dim: dim + 1})
	s.kind("another dim", err, imagebind.Conflict)
	list, err := s.List(s.Context())
	if err != nil || !slices.IsSortedFunc(list, func(a, b store.Info) int { return cmp.Compare(a.Name, b.Name) }) {
		s.Errorf("list: %+v, %v", list, err)
	}
	at := slices.IndexFunc(list, func(i store.Info) bool { return i.Name == n })
	if at < 0 || list[at].Count != 2 || !list[at].BuiltAt.Equal(i.BuiltAt) {
		s.Errorf("%s is listed as %+v", n, list)
	}
	if err := s.Ready(s.Context()); err != nil {
		s.Error(err)
	}
}

// Names that differ are collections that differ.
func names(s *suite) {
	list := []string{"a-b", "a_b", "A_b", "a_0x2d_b", "a", "a_g1", strings.Repeat("x", 100-len(s.prefix))}
	for i, suffix := range list {
		s.collection(suffix, dim, Rows(i, 1, dim))
	}
	for i, n := range s.names {
		if got := s.search(n, 10, vector(1, dim))[0]; len(got) != 1 || got[0].ID != fmt.Sprintf("r%06d", i) {
			s.Errorf("%s holds %v, not row %d alone", n, ids(got), i)
		}
	}
	for _, bad := range []string{"", ".", "..", "../x", "a/b", "a b", "ä", "a\x00", "-a", "9a", strings.Repeat("x", 101)} {
		_, err := s.Create(s.Context(), bad, store.Spec{Dim: dim})
		s.kind(fmt.Sprintf("the name %q", bad), err, imagebind.Invalid)
	}
}

func drop(s *suite) {
	n := s.collection("drop", dim, Rows(0, 3, dim))
	if err := s.Store.Drop(s.Context(), n); err != nil {
		s.Fatal(err)
	}
	_, err := s.Info(s.Context(), n)
	s.kind("info", err, imagebind.NotFound)
	_, err = s.Search(s.Context(), n, store.Query{Vectors: []imagebind.Embedding{vector(1, dim)}, K: 1})
	s.kind("search", err, imagebind.NotFound)
	s.kind("dropped again", s.Store.Drop(s.Context(), n), imagebind.NotFound)
	if i, err := s.Create(s.Context(), n, store.Spec{Dim: dim + 1}); err != nil || i.Count != 0 || i.Dim != dim+1 {
		s.Errorf("created again with another dim: %+v, %v", i, err)
	}
	s.upsert(n, Rows(0, 1, dim+1))
	s.reopen()
	s.count(n, 1)
}

func row(id string) (n int) {
	fmt.Sscanf(id, "r%d", &n)
	return n
}

func manyRows(s *suite) {
	const n, dim = 20000, 24
	rows := Rows(0, n, dim)
	name := s.collection("many", dim, rows)
	s.count(name, n)
	var queries []imagebind.Embedding
	for i := range 20 {
		queries = append(queries, vector(uint64(1e6+i), dim))
	}
	for i, got := range s.search(name, 100, queries...) {
		s.same(fmt.Sprintf("query %d", i), got, best(rows, queries[i], 100))
	}
}

// Writes from many sides are all there, and each is seen when it returns.
func writers(s *suite) {
	const each = 5
	n := s.collection("writers", dim, nil)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range each {
				r := Rows(w*each+i, 1, dim)
				if err := s.Upsert(s.Context(), n, r); err != nil {
					s.Error(err)
					return
				}
				got, err := s.Search(s.Context(), n, store.Query{Vectors: []imagebind.Embedding{r[0].Vector}, K: 1})
				if err != nil || len(got[0]) != 1 || got[0][0].ID != r[0].ID {
					s.Errorf("%s is not seen after its write: %v, %v", r[0].ID, got, err)
				}
			}
		})
	}
	wg.Wait()
	s.count(n, 8*each)
	q := vector(1, dim)
	s.same("all", s.search(n, 50, q)[0], best(Rows(0, 8*each, dim), q, 50))
}

func cancelled(s *suite) {
	n := s.collection("cancelled", dim, Rows(0, 3, dim))
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	_, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{vector(1, dim)}, K: 1})
	s.kind("search", err, imagebind.Canceled)
	s.kind("upsert", s.Upsert(ctx, n, Rows(3, 1, dim)), imagebind.Canceled)
	_, err = s.Delete(ctx, n, []string{"r000000"})
	s.kind("delete", err, imagebind.Canceled)
	_, err = s.Create(ctx, s.name("not"), store.Spec{Dim: dim})
	s.kind("create", err, imagebind.Canceled)
	s.kind("drop", s.Store.Drop(ctx, n), imagebind.Canceled)
	_, err = s.Info(ctx, n)
	s.kind("info", err, imagebind.Canceled)
	_, err = s.Build(ctx, n, store.Spec{Dim: dim}, "job")
	s.kind("build", err, imagebind.Canceled)
	s.count(n, 3)
}
