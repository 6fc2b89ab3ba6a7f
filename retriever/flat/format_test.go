package flat

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

// testdata/format1 is a store that the first version wrote: 40 rows, one of them
// twice, one deleted.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/format1")); err != nil {
		t.Fatal(err)
	}
	rows := storetest.Rows(0, 40, 19)
	for range 2 { // rewritten, and as it is from then on
		s := open(t, dir, Options{})
		i, err := s.Info(t.Context(), name)
		if err != nil || i.Count != 39 || i.Model != "m1" || i.Generation != 1 {
			t.Fatalf("%+v, %v", i, err)
		}
		for _, want := range rows {
			nb := search(t, s, 1, want.Vector)[0][0]
			if found := nb.ID == want.ID && slices.Equal(nb.Prototype, want.Vector) && nb.Caption == want.Caption; found != (want.ID != rows[7].ID) {
				t.Errorf("%s: %+v", want.ID, nb)
			}
		}
		if nb := search(t, s, 1, rows[3].Vector)[0][0]; nb.URI != "file:x" || nb.Metadata["a"] != 1.0 {
			t.Errorf("%+v", nb)
		}
		if got := folders(t, dir); !slices.Equal(got, []string{"rows-000002"}) {
			t.Errorf("folders %v", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A row that is not what was stored is not carried over.
	if err := os.CopyFS(t.TempDir(), os.DirFS("testdata/format1")); err != nil {
		t.Fatal(err)
	}
	bad := t.TempDir()
	if err := os.CopyFS(bad, os.DirFS("testdata/format1")); err != nil {
		t.Fatal(err)
	}
	damage(t, filepath.Join(bad, name, "rows-000001", rowsFile), 5)
	if _, err := Open(bad, Options{}); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("damaged rows: %v", err)
	}
	if got := folders(t, bad); !slices.Equal(got, []string{"rows-000001"}) {
		t.Errorf("folders %v", got)
	}
}

// Half precision: what is found and returned is the rounded rows.
func TestHalf(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Half: true})
	rows := storetest.Rows(0, 3000, 40)
	fill(t, s, rows)
	rounded := slices.Clone(rows)
	for i, r := range rows {
		h := make([]uint16, 40)
		kernel.ToHalf(h, r.Vector)
		rounded[i].Vector = make(imagebind.Embedding, 40)
		kernel.FromHalf(rounded[i].Vector, h)
	}
	check := func(s *Store) {
		t.Helper()
		for _, q := range []imagebind.Embedding{rows[5].Vector, rows[77].Vector} {
			for i, nb := range search(t, s, 10, q)[0] {
				n := slices.IndexFunc(rounded, func(r store.Row) bool { return r.ID == nb.ID })
				if !slices.Equal(nb.Prototype, rounded[n].Vector) || nb.Similarity != float32(q.Dot(rounded[n].Vector)) {
					t.Errorf("neighbour %d is not a rounded row with its product", i)
				}
			}
		}
	}
	check(s)
	err := s.Upsert(t.Context(), name, []store.Row{{ID: "large", Vector: append(imagebind.Embedding{70000}, make(imagebind.Embedding, 39)...)}})
	if imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("a value that half precision does not have: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The files say how they are, whatever is asked for new ones.
	s = open(t, dir, Options{})
	check(s)
	info, err := os.Stat(filepath.Join(dir, name, "rows-000001", halfFile))
	if err != nil || info.Size() != 3000*80 {
		t.Errorf("%v, %v", info, err)
	}
	b, err := s.Build(t.Context(), name, store.Spec{Dim: 40}, "job")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if nb := search(t, s, 1, rows[5].Vector)[0][0]; !slices.Equal(nb.Prototype, rows[5].Vector) {
		t.Error("a generation in float32 returns other rows")
	}
}

// Codes that changed on the disk are made anew after the next start, so that
// searches find their rows again.
func TestScrub(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	rows := storetest.Rows(0, 300, 64)
	fill(t, s, rows)
	path := filepath.Join(dir, name, "rows-000001", codesFile)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b := slices.Clone(before)
	for i := range 64 {
		b[11*64+i] = ^b[11*64+i]
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	s.work.Wait()
	if nb := search(t, s, 1, rows[11].Vector)[0][0]; nb.ID != rows[11].ID {
		t.Errorf("row 11 finds %s", nb.ID)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
		t.Errorf("the codes are not what they were, %v", err)
	}
}

// A log that lost whole groups, which look like nothing is wrong, is found out
// by the manifest of its build.
func TestShortLog(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	b, err := s.Build(t.Context(), name, store.Spec{Dim: 8}, "job")
	if err != nil {
		t.Fatal(err)
	}
	var end int64
	for i := range 3 {
		if err := b.Append(t.Context(), storetest.Rows(10*i, 10, 8)); err != nil {
			t.Fatal(err)
		}
		if err := b.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			end = b.(*builder).p.end
		}
	}
	if _, err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Upsert(t.Context(), name, storetest.Rows(50, 1, 8)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, name, "rows-000001", logFile)
	whole, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(log, end); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("a short log: %v", err)
	}
	if err := os.WriteFile(log, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := all(t, open(t, dir, Options{}), 8); len(got) != 31 {
		t.Errorf("%d rows", len(got))
	}
}

// Many that ask at once for rows worth waiting for get what each would alone.
func TestTogether(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	const dim = 512
	rows := storetest.Rows(0, gateBytes/dim+100, dim)
	fill(t, s, rows)
	var wg sync.WaitGroup
	for w := range 40 {
		wg.Go(func() {
			for i := w; i < 400; i += 40 {
				r := rows[i*7]
				nb := search(t, s, 1+w%3, r.Vector)[0]
				if len(nb) != 1+w%3 || nb[0].ID != r.ID {
					t.Errorf("row %s finds %s", r.ID, nb[0].ID)
				}
			}
		})
	}
	wg.Wait()
}

// TestWidth holds the bound of a row's codes to what is seen: it is never
// passed, and it is not so wide that every row would be scored again.
func TestWidth(t *testing.T) {
	const dim = 1024
	rows := storetest.Rows(0, 2000, dim)
	queries := storetest.Rows(5000, 20, dim)
	codes := make([]int8, dim)
	worst, wide := 0.0, 0.0
	for _, r := range rows {
		scale, loss := kernel.Quantise(codes, r.Vector)
		w := float64(width(scale, loss))
		wide = max(wide, w/r.Vector.Norm())
		for _, q := range queries {
			dot := 0.0
			for i, c := range codes {
				dot += float64(scale) * float64(c) * float64(q.Vector[i])
			}
			worst = max(worst, math.Abs(q.Vector.Dot(r.Vector)-dot)/(w*q.Vector.Norm()))
		}
	}
	t.Logf("%.3f of the bound; it is %.2g of a row's length", worst, wide)
	if worst > 0.7 || wide > 0.01 {
		t.Errorf("%.3f of the bound was needed; it is %.2g of a row's length", worst, wide)
	}
}

// After a checkpoint that failed a builder takes no more: what was added beside it
// would stand where the lost rows were. Another goes on from what is durable.
func TestCheckpointFails(t *testing.T) {
	s, ctx := open(t, t.TempDir(), Options{}), t.Context()
	rows := storetest.Rows(0, 30, 8)
	b, err := s.Build(ctx, name, store.Spec{Dim: 8}, "job")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Append(ctx, rows[:10]), b.Checkpoint(ctx), b.Append(ctx, rows[10:15])); err != nil {
		t.Fatal(err)
	}
	t.Run("fails", func(t *testing.T) {
		hookSync(t, func(f *os.File) error {
			if filepath.Base(f.Name()) != logFile {
				return nil
			}
			if err := b.Append(ctx, rows[15:20]); err != nil { // as a copy does meanwhile
				t.Error(err)
			}
			return errors.New("the disk is ill")
		})
		if err := b.Checkpoint(ctx); imagebind.KindOf(err) != imagebind.Unavailable {
			t.Errorf("checkpoint: %v", err)
		}
	})
	if err := b.Append(ctx, rows[20:]); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("append: %v", err)
	}
	if err := b.Checkpoint(ctx); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("checkpoint: %v", err)
	}
	if _, err := b.Commit(ctx); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("commit: %v", err)
	}
	if b, err = s.Build(ctx, name, store.Spec{Dim: 8}, "job"); err != nil || b.Rows() < 10 {
		t.Fatal(b.Rows(), err)
	}
	if err := b.Append(ctx, rows[b.Rows():]); err != nil {
		t.Fatal(err)
	}
	if i, err := b.Commit(ctx); err != nil || i.Count != 30 {
		t.Errorf("%+v, %v", i, err)
	}
	for _, r := range rows {
		if nb := search(t, s, 1, r.Vector)[0][0]; nb.ID != r.ID {
			t.Errorf("%s finds %s", r.ID, nb.ID)
		}
	}
}

// Rows that are added while others are made durable are there after the next
// checkpoint, in their order.
func TestAppendBesideCheckpoint(t *testing.T) {
	dir := t.TempDir()
	s, ctx := open(t, dir, Options{}), t.Context()
	rows := storetest.Rows(0, 4000, 8)
	b, err := s.Build(ctx, name, store.Spec{Dim: 8}, "job")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := b.Checkpoint(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for at := 0; at < len(rows); at += 20 {
		if err := b.Append(ctx, rows[at:at+20]); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if _, err := b.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	at := 0
	err = s.Scan(ctx, name, func(batch []store.Row) error {
		for _, r := range batch {
			if r.ID != rows[at].ID || !slices.Equal(r.Vector, rows[at].Vector) {
				return fmt.Errorf("row %d is %s", at, r.ID)
			}
			at++
		}
		return nil
	})
	if err != nil || at != len(rows) {
		t.Errorf("%d rows, %v", at, err)
	}
}
