package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// build makes rows the ones that serve, and returns them.
func (s *suite) build(name string, generation, from int) []store.Row {
	s.Helper()
	rows := Rows(from, 20, dim)
	b := s.builder(name, fmt.Sprint("job-", generation), store.Spec{Dim: dim, Model: fmt.Sprint("m", generation)})
	s.append(b, rows)
	if i := s.commit(b); i.Generation != generation {
		s.Errorf("generation %d, want %d", i.Generation, generation)
	}
	return rows
}

// generationsAre holds the list of generations to their numbers, the one that
// serves first.
func (s *suite) generationsAre(name string, want ...int) {
	s.Helper()
	list, err := s.Generations(s.Context(), name)
	if err != nil {
		s.Fatal(err)
	}
	var got []int
	for i, g := range list {
		got = append(got, g.Generation)
		if g.Serves != (i == 0) || g.Name != name || g.Dim != dim || g.Model != fmt.Sprint("m", g.Generation) || g.BuiltAt.IsZero() || g.Count < 20 {
			s.Errorf("generation %d: %+v", g.Generation, g)
		}
	}
	if !slices.Equal(got, want) {
		s.Errorf("generations %v, want %v", got, want)
	}
}

// The generation that served is kept, with what was written to it, and serves
// again when it is told to; so does the one before the switch.
func rollback(s *suite) {
	n, q := s.name("rollback"), vector(1, dim)
	first := s.build(n, 1, 0)
	s.generationsAre(n, 1)
	_, err := s.Switch(s.Context(), n, 0)
	s.kind("back from the first", err, imagebind.NotFound)
	s.upsert(n, Rows(700, 2, dim))
	first = append(first, Rows(700, 2, dim)...)
	second := s.build(n, 2, 100)
	s.generationsAre(n, 2, 1)
	s.reopen()
	s.generationsAre(n, 2, 1)

	i, err := s.Switch(s.Context(), n, 0)
	if err != nil || i.Generation != 1 || i.Count != 22 || !i.Serves || i.Model != "m1" {
		s.Errorf("back: %+v, %v", i, err)
	}
	s.same("back", s.search(n, 22, q)[0], best(first, q, 22))
	s.generationsAre(n, 1, 2)
	s.upsert(n, Rows(800, 1, dim)) // writes go where searches do
	first = append(first, Rows(800, 1, dim)...)
	s.reopen()
	s.same("back, after a restart", s.search(n, 23, q)[0], best(first, q, 23))
	if i, err = s.Switch(s.Context(), n, 1); err != nil || i.Generation != 1 {
		s.Errorf("to the one that serves: %+v, %v", i, err)
	}
	if i, err = s.Switch(s.Context(), n, 2); err != nil || i.Generation != 2 {
		s.Errorf("forward: %+v, %v", i, err)
	}
	s.same("forward", s.search(n, 20, q)[0], best(second, q, 20))
	s.generationsAre(n, 2, 1)
	if _, err = s.Switch(s.Context(), n, 1); err != nil {
		s.Fatal(err)
	}
	s.same("back again", s.search(n, 23, q)[0], best(first, q, 23))

	// A build after that has a number of its own, and the one that served before
	// it is kept, not the newest.
	third := s.build(n, 3, 200)
	s.generationsAre(n, 3, 1)
	s.same("third", s.search(n, 20, q)[0], best(third, q, 20))
	_, err = s.Switch(s.Context(), n, 2)
	s.kind("to one that was let go", err, imagebind.NotFound)
	s.reopen()
	s.generationsAre(n, 3, 1)
}

func forget(s *suite) {
	n := s.name("forget")
	s.build(n, 1, 0)
	second := s.build(n, 2, 100)
	s.kind("the one that serves", s.Forget(s.Context(), n, 2), imagebind.Conflict)
	s.kind("one that is not there", s.Forget(s.Context(), n, 7), imagebind.NotFound)
	if err := s.Forget(s.Context(), n, 1); err != nil {
		s.Fatal(err)
	}
	s.generationsAre(n, 2)
	_, err := s.Switch(s.Context(), n, 0)
	s.kind("back to it", err, imagebind.NotFound)
	s.reopen()
	s.generationsAre(n, 2)
	q := vector(1, dim)
	s.same("what serves", s.search(n, 20, q)[0], best(second, q, 20))
	missing := s.prefix + "none"
	_, err = s.Generations(s.Context(), missing)
	s.kind("generations of none", err, imagebind.NotFound)
	_, err = s.Switch(s.Context(), missing, 0)
	s.kind("switch of none", err, imagebind.NotFound)
	s.kind("forget of none", s.Forget(s.Context(), missing, 1), imagebind.NotFound)
}

// The version changes with whatever may change an answer, and not without.
func version(s *suite) {
	n := s.collection("version", dim, Rows(0, 5, dim))
	last := s.Version(n)
	if last == "" {
		s.Fatal("no version")
	}
	s.search(n, 3, vector(1, dim))
	if got := s.Version(n); got != last {
		s.Errorf("a search made %q of %q", got, last)
	}
	seen := map[string]bool{last: true}
	changed := func(what string) {
		s.Helper()
		if v := s.Version(n); v == "" || seen[v] {
			s.Errorf("%s: version %q was there before", what, v)
		} else {
			seen[v] = true
		}
	}
	s.upsert(n, Rows(9, 1, dim))
	changed("a row more")
	s.upsert(n, Rows(9, 1, dim))
	changed("a row again")
	if _, err := s.Delete(s.Context(), n, []string{Rows(9, 1, dim)[0].ID}); err != nil {
		s.Fatal(err)
	}
	changed("a row less")
	s.build(n, 2, 100)
	changed("another generation")
	if _, err := s.Switch(s.Context(), n, 1); err != nil {
		s.Fatal(err)
	}
	if s.Version(n) == "" {
		s.Error("no version after a switch")
	}
	if v := s.Version(s.prefix + "none"); v != "" {
		s.Errorf("what is not there has version %q", v)
	}
}

// A scan sees each row once, whole.
func scan(s *suite) {
	rows := Rows(0, 2500, dim)
	rows[7].Metadata, rows[7].URI = map[string]any{"a": 1.0, "b": "x"}, "file:x"
	n := s.collection("scan", dim, rows)
	s.upsert(n, rows[3:5])
	if _, err := s.Delete(s.Context(), n, []string{rows[0].ID, rows[2000].ID}); err != nil {
		s.Fatal(err)
	}
	rows = slices.Delete(slices.Delete(rows, 2000, 2001), 0, 1)
	var got []store.Row
	err := s.Scan(s.Context(), n, func(batch []store.Row) error {
		got = append(got, batch...)
		return nil
	})
	if err != nil || len(got) != len(rows) {
		s.Fatalf("%d rows of %d, %v", len(got), len(rows), err)
	}
	slices.SortFunc(got, func(a, b store.Row) int { return cmp.Compare(a.ID, b.ID) })
	for i, r := range got {
		w := rows[i]
		if r.ID != w.ID || !slices.Equal(r.Vector, w.Vector) || r.Caption != w.Caption || r.URI != w.URI || !maps.EqualFunc(r.Metadata, w.Metadata, func(a, b any) bool { return a == b }) {
			s.Fatalf("row %d is %+v, want %+v", i, r, w)
		}
	}
	enough, seen := errors.New("enough"), 0
	err = s.Scan(s.Context(), n, func(batch []store.Row) error { seen += len(batch); return enough })
	if !errors.Is(err, enough) || seen == 0 || seen == len(rows) {
		s.Errorf("a scan that was ended: %v after %d rows", err, seen)
	}
	s.kind("of none", s.Scan(s.Context(), s.prefix+"none", func([]store.Row) error { return nil }), imagebind.NotFound)
}
