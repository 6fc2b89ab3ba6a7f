package storetest

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"imagebind-llm/retriever/source"
	"imagebind-llm/retriever/store"
)

// Whole holds an exported .parquet file to rows, whose ids are their numbers:
// each is there once, as it is, and nothing else.
func Whole(t testing.TB, export []byte, rows []store.Row) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "all.parquet")
	if err := os.WriteFile(path, export, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := source.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Rows() != len(rows) {
		t.Fatalf("%d rows serve, want %d", s.Rows(), len(rows))
	}
	seen := make([]bool, len(rows))
	for at := 0; at < s.Rows(); {
		batch, err := s.Read(t.Context(), at, 4096)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch {
			i, err := strconv.Atoi(r.ID)
			if err != nil || i >= len(rows) || seen[i] || !slices.Equal(r.Vector, rows[i].Vector) || r.Caption != rows[i].Caption {
				t.Fatalf("row %q is there twice, or not as in the source", r.ID)
			}
			seen[i] = true
		}
		at += len(batch)
	}
}
