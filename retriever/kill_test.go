package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/source"
)

// tables are two sources of as many rows, which differ in each.
func tables(t *testing.T, dir string, n, dim int) (rows [2][]imagebind.Embedding) {
	t.Helper()
	for i := range rows {
		r := rand.New(rand.NewPCG(uint64(i), 9))
		for range n {
			v := make(imagebind.Embedding, dim)
			for j := range v {
				v[j] = r.Float32() - 0.5
			}
			v.Normalize()
			rows[i] = append(rows[i], v)
		}
		writeRows(t, filepath.Join(dir, fmt.Sprintf("%d.npy", i)), rows[i])
	}
	return rows
}

// whole holds all that serves to rows: each once, whole, and nothing else.
func whole(t *testing.T, c *retrieverapi.Client, rows []imagebind.Embedding) {
	t.Helper()
	var b bytes.Buffer
	if err := c.Export(t.Context(), "default", &b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "all.parquet")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
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
			if err != nil || i >= len(rows) || seen[i] || !slices.Equal(r.Vector, rows[i]) {
				t.Fatalf("row %q is there twice, or not as in the source", r.ID)
			}
			seen[i] = true
		}
		at += len(batch)
	}
}

// TestKilledAtRandom kills the retriever at random points of rebuilds. Each goes
// on after the restart, loses and doubles nothing, and until its switch the
// generation before it serves, whole.
func TestKilledAtRandom(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 3
	}
	const n, dim = 20000, 128
	dir, addr, ctx := t.TempDir(), freeAddr(t), t.Context()
	rows := tables(t, dir, n, dim)
	args := []string{"--data", filepath.Join(dir, "data"), "--source-root", dir}
	cmd, c := serve(t, addr, args...)
	rebuild := func(table int) string {
		j, err := c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "default", Source: retrieverapi.Source{Path: fmt.Sprintf("%d.npy", table)}})
		if err != nil {
			t.Fatal(err)
		}
		return j.ID
	}
	first, err := c.Wait(ctx, rebuild(0), time.Minute, nil)
	if err != nil || first.State != "done" {
		t.Fatalf("%+v, %v", first, err)
	}
	took := first.FinishedAt.Sub(*first.StartedAt)
	serves := 0
	phases := map[string]int{}
	for round := 1; round <= rounds; round++ {
		id := rebuild(1 - serves)
		time.Sleep(time.Duration(rand.Int64N(int64(took) * 5 / 4)))
		at, err := c.Job(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		phases[at.Phase]++
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		cmd, c = serve(t, addr, args...)
		// Whichever serves now does so whole: a row of each finds itself or not.
		i := rand.IntN(n)
		got, err := c.Search(ctx, "default", []imagebind.Embedding{rows[0][i], rows[1][i]}, 1, nil)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if a, b := got[0][0].Similarity > 0.999, got[1][0].Similarity > 0.999; a == b {
			t.Fatalf("round %d: of two generations %v and %v serve", round, a, b)
		}
		j, err := c.Wait(ctx, id, time.Minute, nil)
		if err != nil || j.State != "done" || j.RowsDone != n || j.RowsFailed != 0 || j.Checks == nil || j.Checks.Rows != n {
			t.Fatalf("round %d, killed in phase %s at row %d: %+v, %v", round, at.Phase, at.RowsDone, j, err)
		}
		serves = 1 - serves
		info, err := c.Collection(ctx, "default")
		if err != nil || info.Count != n || info.Generation != round+1 {
			t.Fatalf("round %d: %+v, %v", round, info, err)
		}
		if round%5 == 0 || round == rounds {
			whole(t, c, rows[serves])
		}
	}
	list, err := c.Generations(ctx, "default")
	if err != nil || len(list) != 2 {
		t.Errorf("%d generations are kept, %v", len(list), err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "data", "collections", "default", "rows-*"))
	if err != nil || len(left) != 2 {
		t.Errorf("folders %v, %v", left, err)
	}
	t.Logf("%d kills, by phase: %v; a rebuild takes %v", rounds, phases, took)
}
