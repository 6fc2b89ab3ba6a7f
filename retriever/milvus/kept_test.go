package milvus

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// build makes a generation of n rows from row from on.
func build(t *testing.T, s *Store, name, job string, from, n int) store.Info {
	t.Helper()
	b, err := s.Build(t.Context(), name, store.Spec{Dim: 8}, job)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(t.Context(), rows(from, n, 8)); err != nil {
		t.Fatal(err)
	}
	i, err := b.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func numbers(t *testing.T, s *Store, name string) []int {
	t.Helper()
	list, err := s.Generations(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for i, g := range list {
		if g.Serves != (i == 0) {
			t.Errorf("generation %d: serves %v at place %d", g.Generation, g.Serves, i)
		}
		if g.Count != 100+g.Generation {
			t.Errorf("generation %d has %d rows, want %d", g.Generation, g.Count, 100+g.Generation)
		}
		out = append(out, g.Generation)
	}
	return out
}

// A kept generation takes no memory of the server, survives a restart of this
// process, and serves again when it is told to; older ones go.
func TestRollback(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	for g := 1; g <= 3; g++ {
		if i := build(t, s, n, fmt.Sprint("job", g), 1000*g, 100+g); i.Generation != g {
			t.Fatalf("%+v", i)
		}
		s.drop.Wait() // what is put aside is
	}
	if got := numbers(t, s, n); !slices.Equal(got, []int{3, 2}) {
		t.Fatalf("generations %v, want 3 and 2 kept", got)
	}
	loaded := func(g int, want entity.LoadState) {
		t.Helper()
		if got, err := s.c.GetLoadState(ctx, fmt.Sprintf("%s_g%d", n, g), nil); err != nil || got != want {
			t.Errorf("generation %d: load state %v, %v, want %v", g, got, err, want)
		}
	}
	loaded(2, entity.LoadStateNotLoad)
	loaded(1, entity.LoadStateNotExist)
	other := open(t)
	if got := numbers(t, other, n); !slices.Equal(got, []int{3, 2}) { // discovering removed none
		t.Fatalf("another process sees generations %v", got)
	}
	v := s.Version(n)
	if i, err := s.Switch(ctx, n, 0); err != nil || i.Generation != 2 || i.Count != 102 || !i.Serves {
		t.Fatal(i, err)
	}
	s.drop.Wait()
	if s.Version(n) == v {
		t.Error("the version is the same after a switch")
	}
	loaded(3, entity.LoadStateNotLoad)
	first := rows(2000, 1, 8)[0]
	for who, st := range map[string]*Store{"this process": s, "another": other} {
		got, err := st.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{first.Vector}, K: 1})
		if err != nil || got[0][0].ID != first.ID {
			t.Errorf("%s, after the rollback: %v, %v", who, got, err)
		}
	}
	if got := numbers(t, s, n); !slices.Equal(got, []int{2, 3}) {
		t.Fatalf("generations %v after a rollback", got)
	}
	if i := build(t, s, n, "job4", 4000, 104); i.Generation != 4 {
		t.Fatalf("built after a rollback: %+v", i)
	}
	s.drop.Wait()
	if got := numbers(t, s, n); !slices.Equal(got, []int{4, 2}) {
		t.Fatalf("generations %v after a build", got)
	}
	for _, g := range []int{3, 1, 9} {
		if _, err := s.Switch(ctx, n, g); imagebind.KindOf(err) != imagebind.NotFound {
			t.Errorf("switch to %d: %v", g, err)
		}
	}
	if err := s.Forget(ctx, n, 4); imagebind.KindOf(err) != imagebind.Conflict {
		t.Errorf("forget the one that serves: %v", err)
	}
	if err := s.Forget(ctx, n, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Switch(ctx, n, 0); imagebind.KindOf(err) != imagebind.NotFound {
		t.Errorf("none is kept: %v", err)
	}
	loaded(2, entity.LoadStateNotExist)
}

// A switch back at once, while the one before is still being put aside.
func TestSwitchToAndFro(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	build(t, s, n, "a", 0, 101)
	build(t, s, n, "b", 0, 102)
	q := store.Query{Vectors: []imagebind.Embedding{rows(0, 1, 8)[0].Vector}, K: 3}
	for i := range 6 {
		info, err := s.Switch(ctx, n, 0)
		if err != nil || info.Generation != 1+i%2 {
			t.Fatal(info, err)
		}
		if got, err := s.Search(ctx, n, q); err != nil || len(got[0]) != 3 {
			t.Fatal(got, err)
		}
	}
}

func TestScan(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 8}); err != nil {
		t.Fatal(err)
	}
	if err := s.Scan(ctx, n, func([]store.Row) error { t.Error("a batch of nothing"); return nil }); err != nil {
		t.Fatal(err)
	}
	want := rows(0, 9000, 8)
	for i, odd := range []string{`quote " in it`, `back\slash`, `both \" x`, "line\nbreak", "ümlaut €", `"`, `\`, "tab\t."} {
		want[i*700].ID = odd
		want[i*700].URI = "u" + odd
		want[i*700].Metadata = map[string]any{"odd": odd}
	}
	if err := s.Upsert(ctx, n, want); err != nil {
		t.Fatal(err)
	}
	byID := map[string]store.Row{}
	for _, r := range want {
		byID[r.ID] = r
	}
	seen, last, batches := 0, "", 0
	start := time.Now()
	err := s.Scan(ctx, n, func(rows []store.Row) error {
		batches++
		for _, r := range rows {
			w := byID[r.ID]
			if r.ID <= last || !slices.Equal(r.Vector, w.Vector) || r.Caption != w.Caption || r.URI != w.URI || fmt.Sprint(r.Metadata) != fmt.Sprint(w.Metadata) {
				t.Fatalf("after %q: %+v\nwant %+v", last, r, w)
			}
			last = r.ID
			seen++
		}
		return nil
	})
	if err != nil || seen != len(want) {
		t.Fatalf("%d rows of %d: %v", seen, len(want), err)
	}
	t.Logf("%d rows in %d batches, %v", seen, batches, time.Since(start))
	stop := fmt.Errorf("enough")
	if err := s.Scan(ctx, n, func([]store.Row) error { return stop }); err != stop { //nolint:errorlint // itself
		t.Errorf("do's error came as %v", err)
	}
	short, cancel := context.WithCancel(ctx)
	if err := s.Scan(short, n, func([]store.Row) error { cancel(); return nil }); imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	// And deletes of such ids remove just them.
	if d, err := s.Delete(ctx, n, []string{`"`, `back\slash`, `x"] or id not in ["`}); err != nil || d != 2 {
		t.Errorf("deleted %d, %v", d, err)
	}
	if i, err := s.Info(ctx, n); err != nil || i.Count != len(want)-2 {
		t.Errorf("%+v, %v", i, err)
	}
}
