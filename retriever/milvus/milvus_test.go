package milvus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/retriever/store"
)

// server returns the address of a running Milvus: the one IMAGEBIND_MILVUS
// names, or one that scripts/milvus.sh starts for this test binary when its
// files are in .cache/milvus ("scripts/milvus.sh install" puts them there).
var server = sync.OnceValues(func() (addr, why string) {
	if a := os.Getenv("IMAGEBIND_MILVUS"); a != "" {
		return a, ""
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err.Error()
	}
	if _, err := os.Stat(filepath.Join(root, ".cache/milvus/bin/milvus")); err != nil {
		return "", "no Milvus: set IMAGEBIND_MILVUS=HOST:PORT or run scripts/milvus.sh install"
	}
	if c, err := net.DialTimeout("tcp", "127.0.0.1:19530", time.Second); err == nil {
		c.Close()
		return "", "port 19530 is in use; set IMAGEBIND_MILVUS=127.0.0.1:19530 to test against what listens there"
	}
	dir, err := os.MkdirTemp("", "milvus-test-")
	if err != nil {
		return "", err.Error()
	}
	serverDir = dir
	out, err := exec.Command(filepath.Join(root, "scripts/milvus.sh"), "start", dir).Output()
	if err != nil {
		return "", fmt.Sprintf("scripts/milvus.sh start: %v", err)
	}
	return strings.TrimSpace(string(out)), ""
})

var serverDir string // to stop and remove after the tests

func TestMain(m *testing.M) {
	code := m.Run()
	if serverDir != "" {
		_ = exec.Command("../../scripts/milvus.sh", "stop", serverDir).Run()
		_ = os.RemoveAll(serverDir)
	}
	os.Exit(code)
}

func open(t *testing.T) *Store {
	t.Helper()
	addr, why := server()
	if addr == "" {
		golden.Need(t, "milvus", why)
	}
	s, err := Open(Options{Address: addr, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// name is a collection's name of this test, dropped after it.
func name(t *testing.T, s *Store) string {
	n := fmt.Sprintf("t%08x", rand.Uint32())
	t.Cleanup(func() { _ = s.Drop(context.Background(), n) })
	return n
}

func rows(from, n, dim int) []store.Row {
	r := rand.New(rand.NewPCG(uint64(from), 1))
	out := make([]store.Row, n)
	for i := range out {
		v := make(imagebind.Embedding, dim)
		for j := range v {
			v[j] = float32(r.NormFloat64())
		}
		v.Normalize()
		out[i] = store.Row{ID: fmt.Sprintf("r%06d", from+i), Vector: v, Caption: fmt.Sprintf("row %d", from+i), Metadata: map[string]any{"half": float64((from + i) % 2)}}
	}
	return out
}

func TestWritesAreSeenAtOnce(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 8}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		row := rows(i, 1, 8)
		if err := s.Upsert(ctx, n, row); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{row[0].Vector}, K: 10})
		if err != nil {
			t.Fatal(err)
		}
		if len(got[0]) != i+1 || got[0][0].ID != row[0].ID {
			t.Fatalf("after %d rows: %d hits, best %v", i+1, len(got[0]), got[0])
		}
		t.Logf("search after a write: %v", time.Since(start))
	}
	start := time.Now()
	if _, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{rows(1, 1, 8)[0].Vector}, K: 10}); err != nil {
		t.Fatal(err)
	}
	t.Logf("search later: %v", time.Since(start))
}

func TestBuildGoesOnAfterACrash(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	b, err := s.Build(ctx, n, store.Spec{Dim: 1024}, "job-1")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	all := rows(0, 8000, 1024)
	start = time.Now()
	if err := b.Append(ctx, all); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f rows/s", 8000/time.Since(start).Seconds())
	start = time.Now()
	got, err := b.Search(ctx, store.Query{Vectors: []imagebind.Embedding{all[7].Vector}, K: 1})
	if err != nil || got[0][0].ID != "r000007" {
		t.Fatal(got, err)
	}
	t.Logf("index, load and search %v", time.Since(start))
	// A crash: another process goes on where this one stopped.
	other := open(t)
	b2, err := other.Build(ctx, n, store.Spec{Dim: 1024}, "job-1")
	if err != nil || b2.Rows() != 8000 {
		t.Fatal(b2, err)
	}
	if err := b2.Append(ctx, rows(7000, 1000, 1024)); err != nil { // sent again
		t.Fatal(err)
	}
	i, err := b2.Commit(ctx)
	if err != nil || i.Count != 8000 || i.Generation != 1 {
		t.Fatal(i, err)
	}
	t.Log(i)
}
