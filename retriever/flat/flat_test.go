package flat

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

const name = "pets"

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fill makes a collection of rows.
func fill(t testing.TB, s *Store, rows []store.Row) {
	t.Helper()
	if _, err := s.Create(t.Context(), name, store.Spec{Dim: len(rows[0].Vector)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Upsert(t.Context(), name, rows); err != nil {
		t.Fatal(err)
	}
}

func search(t testing.TB, s *Store, k int, queries ...imagebind.Embedding) [][]imagebind.Neighbour {
	t.Helper()
	got, err := s.Search(t.Context(), name, store.Query{Vectors: queries, K: k})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// all returns the ids in the collection, sorted.
func all(t testing.TB, s *Store, dim int) []string {
	t.Helper()
	var out []string
	for _, nb := range search(t, s, imagebind.MaxNeighbours, make(imagebind.Embedding, dim))[0] {
		out = append(out, nb.ID)
	}
	slices.Sort(out)
	return out
}

func names(rows []store.Row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.ID)
	}
	slices.Sort(out)
	return out
}

// folders lists the folders of rows of the collection.
func folders(t testing.TB, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, name, "rows-*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i] = filepath.Base(list[i])
	}
	return list
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	_, err := Open(dir, Options{})
	if imagebind.KindOf(err) != imagebind.Conflict || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
}

func TestClosed(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	fill(t, s, storetest.Rows(0, 3, 4))
	b, err := s.Build(t.Context(), name, store.Spec{Dim: 4}, "job")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, list := s.List(ctx)
	_, info := s.Info(ctx, name)
	_, find := s.Search(ctx, name, store.Query{})
	for what, err := range map[string]error{"list": list, "info": info, "search": find, "ready": s.Ready(ctx),
		"upsert": s.Upsert(ctx, name, storetest.Rows(0, 1, 4)), "drop": s.Drop(ctx, name)} {
		if imagebind.KindOf(err) != imagebind.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := b.Append(ctx, storetest.Rows(0, 1, 4)); imagebind.KindOf(err) != imagebind.Conflict {
		t.Errorf("append: %v", err)
	}
}

// Any of the queries that come together, and any of the rows, are as brute
// force finds them, also where rows are so alike that fp32 sums put them in
// another order.
func TestExact(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const n, dim, k = 5000, 200, 25
	base := storetest.Rows(0, 1, dim)[0].Vector
	rows := storetest.Rows(0, n, dim)
	for i := range rows {
		for j := range base {
			rows[i].Vector[j] = base[j] + float32(r.NormFloat64())*1e-7
		}
	}
	s := open(t, t.TempDir(), Options{})
	fill(t, s, rows)
	reordered := false
	for _, nq := range []int{1, 2, 3, 4, 5, 9} {
		var queries []imagebind.Embedding
		for i := range nq {
			q := slices.Clone(base)
			for j := range q {
				q[j] += float32(i) * float32(r.NormFloat64()) * 0.01
			}
			queries = append(queries, q)
		}
		for i, got := range search(t, s, k, queries...) {
			want := make([]imagebind.Neighbour, n)
			for j, row := range rows {
				want[j] = imagebind.Neighbour{ID: row.ID, Similarity: float32(queries[i].Dot(row.Vector))}
			}
			slices.SortFunc(want, func(a, b imagebind.Neighbour) int {
				if a.Similarity != b.Similarity {
					if a.Similarity > b.Similarity {
						return -1
					}
					return 1
				}
				return strings.Compare(a.ID, b.ID)
			})
			reordered = reordered || want[0].Similarity-want[k].Similarity < 1e-5
			for j, nb := range got {
				if nb.ID != want[j].ID || nb.Similarity != want[j].Similarity {
					t.Fatalf("%d queries, query %d, neighbour %d: %s at %v, want %s at %v", nq, i, j, nb.ID, nb.Similarity, want[j].ID, want[j].Similarity)
				}
			}
		}
	}
	if !reordered {
		t.Error("the rows are not alike enough for this test")
	}
}

// Sums that leave float32 are still ordered, and those that vanish in it.
func TestExtremes(t *testing.T) {
	rows := []store.Row{
		{ID: "huge", Vector: imagebind.Embedding{3e38, 3e38, 0, 0}},
		{ID: "large", Vector: imagebind.Embedding{1e30, 0, 0, 0}},
		{ID: "minus", Vector: imagebind.Embedding{-3e38, -3e38, -3e38, 0}},
		{ID: "tiny", Vector: imagebind.Embedding{1e-40, 0, 0, 0}},
		{ID: "tinier", Vector: imagebind.Embedding{1e-44, 0, 0, 0}},
	}
	s := open(t, t.TempDir(), Options{})
	fill(t, s, rows)
	for i, q := range []imagebind.Embedding{{1e20, 1e20, 0, 0}, {1, 1, 1, 0}, {1e-10, 1e-10, 0, 0}} {
		var got []string
		for _, nb := range search(t, s, 5, q)[0] {
			got = append(got, nb.ID)
			if f := float64(nb.Similarity); math.IsInf(f, 0) || math.IsNaN(f) {
				t.Errorf("%v: %s at %v", q, nb.ID, f)
			}
		}
		want := []string{"huge", "large", "tiny", "tinier", "minus"}
		if i == 2 { // both are 0 in float32
			want[2], want[3] = "tinier", "tiny"
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
}

// Equal rows, many more than k, come in the order of their ids.
func TestManyEqual(t *testing.T) {
	rows := storetest.Rows(0, 9000, 8)
	for i := range rows {
		rows[i].Vector = rows[0].Vector
		rows[i].ID = fmt.Sprintf("%04d", (i*7919)%9000)
	}
	s := open(t, t.TempDir(), Options{})
	fill(t, s, rows)
	for i, nb := range search(t, s, 1000, rows[0].Vector)[0] {
		if nb.ID != fmt.Sprintf("%04d", i) {
			t.Fatalf("neighbour %d is %s", i, nb.ID)
		}
	}
}

// Chunks are mapped as the file grows; rows in each are found.
func TestChunks(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	rows := storetest.Rows(0, 2*chunkRows+100, 3)
	fill(t, s, rows[:chunkRows-5])
	for at := chunkRows - 5; at < len(rows); at += 9000 {
		if err := s.Upsert(t.Context(), name, rows[at:min(at+9000, len(rows))]); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{0, chunkRows - 6, chunkRows - 5, chunkRows, 2*chunkRows - 1, 2 * chunkRows, len(rows) - 1} {
		got := search(t, s, 20, rows[i].Vector)[0]
		if !slices.ContainsFunc(got, func(nb imagebind.Neighbour) bool { return nb.ID == rows[i].ID }) {
			t.Errorf("row %d is not among its own neighbours", i)
		}
	}
}

// TestCompaction replaces rows until the dead outnumber the living, while
// others search and write: no search fails, nothing is lost, old files go.
func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{CompactAt: 50})
	const n, dim = 100, 8
	latest := make([]store.Row, n)
	copy(latest, storetest.Rows(0, n, dim))
	fill(t, s, latest)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			got, err := s.Search(t.Context(), name, store.Query{Vectors: []imagebind.Embedding{latest[0].Vector}, K: n})
			if err != nil || len(got[0]) < n {
				t.Errorf("%d rows of %d, %v", len(got[0]), n, err)
				return
			}
		}
	})
	extra := storetest.Rows(10000, 200, dim)
	wg.Go(func() {
		for i := range extra {
			if err := s.Upsert(t.Context(), name, extra[i:i+1]); err != nil {
				t.Error(err)
			}
			if i%2 == 1 {
				if got, err := s.Delete(t.Context(), name, []string{extra[i].ID}); got != 1 || err != nil {
					t.Errorf("delete: %d, %v", got, err)
				}
			}
		}
	})
	for round := range 30 {
		for i := 1 + round%7; i < n; i += 2 {
			latest[i].Vector, latest[i].Caption = storetest.Rows(n*round+i, 1, dim)[0].Vector, fmt.Sprint("round ", round)
		}
		if err := s.Upsert(t.Context(), name, latest); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	want := map[string]store.Row{}
	for _, r := range latest {
		want[r.ID] = r
	}
	for i := 0; i < len(extra); i += 2 {
		want[extra[i].ID] = extra[i]
	}
	check := func(s *Store) {
		t.Helper()
		got := search(t, s, imagebind.MaxNeighbours, latest[0].Vector)[0]
		if len(got) != len(want) {
			t.Errorf("%d rows, want %d", len(got), len(want))
		}
		for _, nb := range got {
			if w := want[nb.ID]; !slices.Equal(nb.Prototype, w.Vector) || nb.Caption != w.Caption {
				t.Errorf("%s is %q, want %q", nb.ID, nb.Caption, w.Caption)
			}
		}
	}
	check(s)
	i, err := s.Info(t.Context(), name)
	if err != nil || i.Generation != 1 {
		t.Errorf("%+v, %v: compaction is no new generation", i, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left := folders(t, dir)
	if len(left) != 1 || sequence(left[0]) < 3 {
		t.Errorf("folders %v: want one, and not the first", left)
	}
	rows, err := os.Stat(filepath.Join(dir, name, left[0], rowsFile))
	if err != nil || rows.Size() > int64(4*dim*(3*len(want)+2*n)) {
		t.Errorf("%d bytes of rows for %d rows, %v", rows.Size(), len(want), err)
	}
	check(open(t, dir, Options{}))
}

// damage changes a byte of a file.
func damage(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		at += int64(len(b))
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	rows := storetest.Rows(0, 30, 8)
	at := func(file string) string { return filepath.Join(name, "rows-000001", file) }
	for _, tt := range []struct {
		what   string
		change func(t *testing.T, dir string)
		says   string // by Open
	}{
		{"log header", func(t *testing.T, dir string) { damage(t, filepath.Join(dir, at(logFile)), 9) }, "does not begin"},
		{"log of another dim", func(t *testing.T, dir string) {
			path := filepath.Join(dir, name, manifestFile)
			b, _ := os.ReadFile(path)
			os.WriteFile(path, []byte(strings.Replace(string(b), `"dim": 8`, `"dim": 9`, 1)), 0o644)
		}, "dim 9"},
		{"a record with others behind it", func(t *testing.T, dir string) {
			damage(t, filepath.Join(dir, at(logFile)), headerBytes+groupHeader+30)
		}, "damaged at byte 24"},
		{"log gone", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, at(logFile))) }, "no such file"},
		{"rows cut short", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, at(rowsFile)), 100) }, "the log tells of 30 rows"},
		{"manifest", func(t *testing.T, dir string) { damage(t, filepath.Join(dir, name, manifestFile), 0) }, "no manifest"},
		{"manifest of a later format", func(t *testing.T, dir string) {
			path := filepath.Join(dir, name, manifestFile)
			b, _ := os.ReadFile(path)
			os.WriteFile(path, []byte(strings.Replace(string(b), `"format": 2`, `"format": 3`, 1)), 0o644)
		}, "format 3"},
		{"manifest that leads out", func(t *testing.T, dir string) {
			path := filepath.Join(dir, name, manifestFile)
			b, _ := os.ReadFile(path)
			os.WriteFile(path, []byte(strings.Replace(string(b), `"rows-000001"`, `"../../etc"`, 1)), 0o644)
		}, "no folder of rows"},
		{"folder renamed", func(t *testing.T, dir string) { os.Rename(filepath.Join(dir, name), filepath.Join(dir, "dogs")) }, "of the collection"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{})
			fill(t, s, rows[:10])
			for i := 10; i < 30; i++ {
				if err := s.Upsert(t.Context(), name, rows[i:i+1]); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tt.change(t, dir)
			again, err := Open(dir, Options{})
			if err == nil {
				again.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "collection ") {
				t.Errorf("%v; want it to say %q", err, tt.says)
			}
		})
	}
}

// A vector that changed on disk is not returned, and one that the disk no
// longer has ends the search and not the process.
func TestDamagedRows(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{CompactAt: 1})
	rows := storetest.Rows(0, 3000, 64)
	fill(t, s, rows)
	path := filepath.Join(dir, name, "rows-000001", rowsFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1, 2}, 7*4*64); err != nil {
		t.Fatal(err)
	}
	q := func(i int) error {
		_, err := s.Search(t.Context(), name, store.Query{Vectors: []imagebind.Embedding{rows[i].Vector}, K: 1})
		return err
	}
	if err := q(7); imagebind.KindOf(err) != imagebind.Internal || !strings.Contains(err.Error(), "row 7 ") {
		t.Errorf("a changed vector: %v", err)
	}
	if err := q(8); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	// Nothing is copied on top of that: the old files serve on.
	for range 2 {
		if err := s.Upsert(t.Context(), name, rows[1000:]); err != nil {
			t.Fatal(err)
		}
	}
	s.work.Wait()
	if list := folders(t, dir); !slices.Equal(list, []string{"rows-000001"}) {
		t.Errorf("folders %v", list)
	}
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if err := q(2999); imagebind.KindOf(err) != imagebind.Internal || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a file cut short: %v", err)
	}
	if err := os.Truncate(filepath.Join(filepath.Dir(path), codesFile), 4096); err != nil {
		t.Fatal(err)
	}
	if err := q(0); imagebind.KindOf(err) != imagebind.Internal || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("codes cut short: %v", err)
	}
}

// What crashes leave is removed at the next start, but for the builds of jobs.
func TestLeftovers(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	s := open(t, dir, Options{})
	fill(t, s, storetest.Rows(0, 5, 8))
	for _, job := range []string{"older", "newer", "waiting"} {
		b, err := s.Build(ctx, name, store.Spec{Dim: 8}, job)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Append(ctx, storetest.Rows(10, 4, 8)); err != nil {
			t.Fatal(err)
		}
		if err := b.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
		if job == "newer" {
			if _, err := b.Commit(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Build(ctx, "other", store.Spec{Dim: 8}, "job"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	put := func(path string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(name + "/rows-000099/rows.f32")     // a copy that was not finished
	put(name + "/rows-000097/rows.i8")      // a generation that was let go
	put(name + "/rows-000098/build.json")   // a build that had not begun
	put(name + "/rows-000003/build.json")   // a build that was committed: the note was to go
	put(name + "/.manifest.json123")        // a manifest that was not renamed
	put(name + "/notes.txt")                // not ours
	put("dropped/rows-000001/rows.f32")     // a collection whose manifest was removed
	put("not a collection/rows-000001/abc") // not ours
	s = open(t, dir, Options{})
	if got := all(t, s, 8); len(got) != 4 {
		t.Errorf("rows %v", got)
	}
	var left []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			left = append(left, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"LOCK", "not a collection/rows-000001/abc", "other/rows-000001/build.json"}
	files := func(folder string) {
		for _, f := range []string{rowsFile, codesFile, logFile} {
			want = append(want, folder+"/"+f)
		}
	}
	files("other/rows-000001")
	want = append(want, "pets/manifest.json", "pets/notes.txt")
	files("pets/rows-000001") // kept
	files("pets/rows-000003")
	want = append(want, "pets/rows-000004/build.json")
	files("pets/rows-000004")
	if !slices.Equal(left, want) {
		t.Errorf("left:\n%s\nwant:\n%s", strings.Join(left, "\n"), strings.Join(want, "\n"))
	}
	b, err := s.Build(ctx, name, store.Spec{Dim: 8}, "waiting")
	if err != nil || b.Rows() != 4 {
		t.Fatalf("%v, %v", b, err)
	}
	if i, err := b.Commit(ctx); err != nil || i.Count != 4 {
		t.Errorf("%+v, %v", i, err)
	}
}

// A second builder of a job that this process has takes over.
func TestBuilderTakesOver(t *testing.T) {
	s, ctx := open(t, t.TempDir(), Options{}), t.Context()
	rows := storetest.Rows(0, 20, 8)
	first, err := s.Build(ctx, name, store.Spec{Dim: 8}, "job")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Append(ctx, rows[:10]); err != nil {
		t.Fatal(err)
	}
	if err := first.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	if err := first.Append(ctx, rows[10:15]); err != nil {
		t.Fatal(err)
	}
	second, err := s.Build(ctx, name, store.Spec{Dim: 8}, "job")
	if err != nil || second.Rows() != 10 {
		t.Fatal(second, err)
	}
	if err := first.Append(ctx, rows[15:]); imagebind.KindOf(err) != imagebind.Conflict {
		t.Errorf("the first goes on: %v", err)
	}
	if err := second.Append(ctx, rows[10:]); err != nil {
		t.Fatal(err)
	}
	if i, err := second.Commit(ctx); err != nil || i.Count != 20 {
		t.Errorf("%+v, %v", i, err)
	}
}

// Metadata that JSON writes in other ways is found by its value.
func TestFilterValues(t *testing.T) {
	rows := storetest.Rows(0, 6, 8)
	rows[0].Metadata = map[string]any{"n": json.Number("4.0"), "tag": "a"}
	rows[1].Metadata = map[string]any{"n": 4, "tag": "\xff"}
	rows[2].Metadata = map[string]any{"n": math.Copysign(0, -1), "tag": "x\"n\":4"}
	rows[3].Metadata = map[string]any{"n": 42.0, "sub": map[string]any{"n": 4.0}}
	rows[4].Metadata = map[string]any{"n": json.RawMessage(`4e0`), "\x00\"": true}
	s := open(t, t.TempDir(), Options{})
	fill(t, s, rows)
	for _, tt := range []struct {
		filter map[string]any
		want   []string
	}{
		{map[string]any{"n": 4.0}, []string{"r000000", "r000001", "r000004"}},
		{map[string]any{"n": json.Number("4")}, []string{"r000000", "r000001", "r000004"}},
		{map[string]any{"n": 0}, []string{"r000002"}},
		{map[string]any{"tag": "\xff"}, []string{"r000001"}},
		{map[string]any{"\x00\"": true}, []string{"r000004"}},
		{map[string]any{"n": "4"}, nil},
	} {
		got, err := s.Search(t.Context(), name, store.Query{Vectors: []imagebind.Embedding{make(imagebind.Embedding, 8)}, K: 10, Filter: tt.filter})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, nb := range got[0] {
			ids = append(ids, nb.ID)
		}
		if !slices.Equal(ids, tt.want) {
			t.Errorf("%v: %v, want %v", tt.filter, ids, tt.want)
		}
	}
}

// A search that was left, and an answer that is too large, say so.
func TestSearchLimits(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	fill(t, s, storetest.Rows(0, 1000, 1024))
	queries := make([]imagebind.Embedding, 1024)
	for i := range queries {
		queries[i] = make(imagebind.Embedding, 1024)
	}
	if _, err := s.Search(t.Context(), name, store.Query{Vectors: queries, K: 1000}); imagebind.KindOf(err) != imagebind.TooLarge {
		t.Errorf("4 GB: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(nil)
	c := s.collections[name]
	v := c.live.shown.Load()
	if _, err := c.live.scan(ctx, v, 0, []query{newQuery(make(imagebind.Embedding, 1024), 1, 1024)}, nil); imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("a scan after its caller left: %v", err)
	}
}

// Rows that many write at once share the syncs, and each is told of its own fault.
func TestGroupCommit(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	fill(t, s, storetest.Rows(0, 1, 8))
	c := s.collections[name]
	hold := make(chan struct{})
	started := make(chan struct{})
	go c.do(context.Background(), func() error { close(started); <-hold; return nil })
	<-started // the writer is busy: what comes now waits
	var wg sync.WaitGroup
	left, cancel := context.WithCancel(t.Context())
	for i := range 50 {
		wg.Go(func() {
			ctx := t.Context()
			if i == 7 {
				ctx = left
			}
			err := s.Upsert(ctx, name, storetest.Rows(100+i, 1, 8))
			if i == 7 && imagebind.KindOf(err) != imagebind.Canceled || i != 7 && err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	for {
		c.queueMu.Lock()
		n := len(c.queue)
		c.queueMu.Unlock()
		if n == 50 {
			break
		}
	}
	cancel()
	before := c.live.end
	close(hold)
	wg.Wait()
	if got := all(t, s, 8); len(got) != 50 || slices.Contains(got, "r000107") {
		t.Errorf("%d rows: %v", len(got), got)
	}
	// They are one group in the log.
	b, _, err := readGroup(c.live.log, c.live.end, before, c.live.salt, nil)
	if err != nil || int64(len(b)) != c.live.end-before {
		t.Errorf("a group of %d bytes of the %d that were written, %v", len(b), c.live.end-before, err)
	}
}

// What a search has begun with does not change under it.
func TestSnapshot(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	rows := storetest.Rows(0, 200, 8)
	fill(t, s, rows)
	if _, err := s.Delete(t.Context(), name, []string{rows[3].ID}); err != nil {
		t.Fatal(err)
	}
	p := s.collections[name].live
	v := p.shown.Load()
	if _, err := s.Delete(t.Context(), name, []string{rows[4].ID, rows[150].ID}); err != nil {
		t.Fatal(err)
	}
	if err := s.Upsert(t.Context(), name, rows[:2]); err != nil {
		t.Fatal(err)
	}
	var dead []int
	for slot := range v.n {
		if !v.alive(slot) {
			dead = append(dead, slot)
		}
	}
	if v.n != 200 || v.count() != 199 || !slices.Equal(dead, []int{3}) {
		t.Errorf("%d slots, %d alive, %v dead", v.n, v.count(), dead)
	}
	if now := p.shown.Load(); now.n != 202 || now.count() != 197 {
		t.Errorf("afterwards %d slots, %d alive", now.n, now.count())
	}
}
