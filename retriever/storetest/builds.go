package storetest

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// builder starts a build or goes on with it.
func (s *suite) builder(name, job string, spec store.Spec) store.Builder {
	s.Helper()
	b, err := s.Build(s.Context(), name, spec, job)
	if err != nil {
		s.Fatal(err)
	}
	return b
}

func (s *suite) append(b store.Builder, rows []store.Row) {
	s.Helper()
	if err := b.Append(s.Context(), rows); err != nil {
		s.Fatal(err)
	}
}

func (s *suite) commit(b store.Builder) store.Info {
	s.Helper()
	i, err := b.Commit(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return i
}

func generations(s *suite) {
	n := s.name("generations")
	b := s.builder(n, "job-1", store.Spec{Dim: dim, Model: "m1"}) // there is no such collection yet
	old := Rows(0, 40, dim)
	s.append(b, old[:25])
	s.append(b, old[25:])
	_, err := s.Info(s.Context(), n)
	s.kind("info before the commit", err, imagebind.NotFound)
	q := vector(1, dim)
	got, err := b.Search(s.Context(), store.Query{Vectors: []imagebind.Embedding{q}, K: 10})
	if err != nil {
		s.Fatal(err)
	}
	s.same("a look into the build", got[0], best(old, q, 10))
	if i := s.commit(b); i.Generation != 1 || i.Count != 40 || i.Model != "m1" || i.Name != n || i.Dim != dim {
		s.Errorf("first: %+v", i)
	}
	if err := b.Abort(s.Context()); err != nil { // does nothing
		s.Error(err)
	}
	s.same("first", s.search(n, 10, q)[0], best(old, q, 10))
	s.upsert(n, Rows(500, 3, dim)) // written to the old generation, gone with it

	fresh := Rows(100, 30, dim)
	fresh[29].ID = fresh[4].ID // the later stands
	b = s.builder(n, "job-2", store.Spec{Dim: dim, Model: "m2"})
	s.append(b, fresh)
	s.same("while it is built", s.search(n, 10, q)[0], best(slices.Concat(old, Rows(500, 3, dim)), q, 10))
	if i := s.commit(b); i.Generation != 2 || i.Count != 29 || i.Model != "m2" {
		s.Errorf("second: %+v", i)
	}
	want := slices.Concat(fresh[:4], fresh[5:])
	s.same("second", s.search(n, 10, q)[0], best(want, q, 10))
	s.upsert(n, Rows(900, 1, dim))
	want = append(want, Rows(900, 1, dim)...)
	s.reopen()
	if i, err := s.Info(s.Context(), n); err != nil || i.Generation != 2 || i.Model != "m2" {
		s.Errorf("after a restart: %+v, %v", i, err)
	}
	s.same("after a restart", s.search(n, 10, q)[0], best(want, q, 10))
	b = s.builder(n, "job-3", store.Spec{Dim: dim + 1})
	s.append(b, Rows(0, 5, dim+1))
	if i := s.commit(b); i.Generation != 3 || i.Dim != dim+1 {
		s.Errorf("with another dim: %+v", i)
	}
	s.search(n, 1, vector(1, dim+1))
}

func resume(s *suite) {
	n := s.collection("resume", dim, Rows(900, 2, dim))
	rows := Rows(0, 100, dim)
	b := s.builder(n, "job", store.Spec{Dim: dim})
	s.append(b, rows[:60])
	if err := b.Checkpoint(s.Context()); err != nil {
		s.Fatal(err)
	}
	if b.Rows() != 60 {
		s.Errorf("%d rows are durable, want 60", b.Rows())
	}
	s.append(b, rows[60:80]) // may be lost
	s.reopen()
	s.count(n, 2)
	_, err := s.Build(s.Context(), n, store.Spec{Dim: dim + 1}, "job")
	s.kind("resumed with another dim", err, imagebind.Conflict)
	b = s.builder(n, "job", store.Spec{Dim: dim})
	at := b.Rows()
	if at < 60 || at > 80 {
		s.Fatalf("it goes on at row %d of 60 that were durable and 80 that were sent", at)
	}
	s.append(b, rows[at:])
	if i := s.commit(b); i.Generation != 2 || i.Count != 100 {
		s.Errorf("committed: %+v", i)
	}
	s.kind("appended after the commit", b.Append(s.Context(), rows[:1]), imagebind.Conflict)
	_, err = b.Commit(s.Context())
	s.kind("committed again", err, imagebind.Conflict)
	// A job that was killed between its switch and its end asks once more.
	s.reopen()
	b = s.builder(n, "job", store.Spec{Dim: dim})
	if i, ok := b.Committed(); !ok || i.Generation != 2 || i.Count != 100 || !i.Serves {
		s.Errorf("after its commit: %+v, %v", i, ok)
	}
	s.kind("appended after all", b.Append(s.Context(), rows[:1]), imagebind.Conflict)
	if err := b.Abort(s.Context()); err != nil {
		s.Error(err)
	}
	s.count(n, 100)
	b = s.builder(n, "another", store.Spec{Dim: dim})
	if _, ok := b.Committed(); ok {
		s.Error("another job has made it too")
	}
	if err := b.Abort(s.Context()); err != nil {
		s.Error(err)
	}
	q := vector(1, dim)
	s.same("resumed", s.search(n, 20, q)[0], best(rows, q, 20))
}

func abort(s *suite) {
	rows := Rows(0, 10, dim)
	n := s.collection("abort", dim, rows)
	b := s.builder(n, "job", store.Spec{Dim: dim})
	s.append(b, Rows(100, 10, dim))
	if err := b.Abort(s.Context()); err != nil {
		s.Fatal(err)
	}
	if err := b.Abort(s.Context()); err != nil {
		s.Errorf("aborted again: %v", err)
	}
	q := vector(1, dim)
	s.same("aborted", s.search(n, 10, q)[0], best(rows, q, 10))
	b = s.builder(n, "job", store.Spec{Dim: dim})
	if b.Rows() != 0 {
		s.Errorf("a build after the abort begins at row %d", b.Rows())
	}
	// A cancelled job is aborted by a builder of its own, as after a restart.
	s.append(b, Rows(100, 10, dim))
	if err := b.Checkpoint(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.reopen()
	if err := s.builder(n, "job", store.Spec{Dim: dim}).Abort(s.Context()); err != nil {
		s.Fatal(err)
	}
	if b = s.builder(n, "job", store.Spec{Dim: dim}); b.Rows() != 0 {
		s.Errorf("a build after the abort begins at row %d", b.Rows())
	}
	if err := b.Abort(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.same("aborted", s.search(n, 10, q)[0], best(rows, q, 10))
}

func twoBuilds(s *suite) {
	n := s.collection("two", dim, nil)
	first, second := s.builder(n, "job-1", store.Spec{Dim: dim}), s.builder(n, "job-2", store.Spec{Dim: dim})
	s.append(first, Rows(0, 5, dim))
	s.append(second, Rows(5, 6, dim))
	if i := s.commit(second); i.Count != 6 {
		s.Errorf("%+v", i)
	}
	_, err := first.Commit(s.Context())
	s.kind("an older build that ends later", err, imagebind.Conflict)
	s.count(n, 6)
	if err := first.Abort(s.Context()); err != nil {
		s.Error(err)
	}
	s.count(n, 6)
}

// No search fails, or mixes generations, while the name is switched.
func switchUnderLoad(s *suite) {
	generation := func(g int) []store.Row {
		rows := Rows(0, 300, dim)
		for i := range rows {
			rows[i].Caption = fmt.Sprint(g)
		}
		return rows
	}
	first := generation(1)
	n := s.collection("switch", dim, first)
	var stop atomic.Bool
	var searches atomic.Int64
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := w; !stop.Load(); i++ {
				q := first[i%len(first)]
				got, err := s.Search(s.Context(), n, store.Query{Vectors: []imagebind.Embedding{q.Vector}, K: 10})
				if err != nil || len(got[0]) != 10 || got[0][0].ID != q.ID {
					s.Errorf("search: %v, %v", got, err)
					return
				}
				for _, nb := range got[0] {
					if nb.Caption != got[0][0].Caption || !slices.Equal(nb.Prototype, first[row(nb.ID)].Vector) {
						s.Errorf("generations %s and %s in one answer", nb.Caption, got[0][0].Caption)
						return
					}
				}
				searches.Add(1)
			}
		})
	}
	for g := 2; g <= 4; g++ {
		b := s.builder(n, fmt.Sprint("job", g), store.Spec{Dim: dim})
		s.append(b, generation(g))
		if i := s.commit(b); i.Generation != g || i.Count != len(first) {
			s.Errorf("%+v", i)
		}
		if got := s.search(n, 1, first[0].Vector)[0][0].Caption; got != fmt.Sprint(g) {
			s.Errorf("generation %s answers after the switch to %d", got, g)
		}
	}
	stop.Store(true)
	wg.Wait()
	s.Logf("%d searches over 3 switches", searches.Load())
}
