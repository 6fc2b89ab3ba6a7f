package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
)

// A source that is broken, wholly or in one shard, fails its job, and what
// served before it does; a few broken rows are left out and counted; of two
// rebuilds of one collection the later serves, whole.
func TestBrokenSources(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	const n, dim = 100, 8
	for _, d := range []string{"dims", "cut"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		writeNPY(t, filepath.Join(dir, d, "0.npy"), n, dim)
	}
	first := writeNPY(t, filepath.Join(dir, "good.npy"), n, dim)
	writeNPY(t, filepath.Join(dir, "dims/1.npy"), n, 2*dim)
	writeNPY(t, filepath.Join(dir, "cut/1.npy"), n, dim)
	if err := os.Truncate(filepath.Join(dir, "cut/1.npy"), 1000); err != nil {
		t.Fatal(err)
	}
	all, few := make([]imagebind.Embedding, n), make([]imagebind.Embedding, n)
	for i := range n {
		all[i], few[i] = make(imagebind.Embedding, dim), make(imagebind.Embedding, dim)
		all[i][0], few[i][i%dim] = float32(math.NaN()), 1
	}
	few[7], few[70] = all[7], all[70]
	writeRows(t, filepath.Join(dir, "nan.npy"), all)
	writeRows(t, filepath.Join(dir, "few.npy"), few)
	_, c := serve(t, freeAddr(t), "--data", t.TempDir(), "--source-root", dir)
	begin := func(path string) (retrieverapi.Job, error) {
		return c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "pets", Source: retrieverapi.Source{Path: path}})
	}
	end := func(path string) retrieverapi.Job {
		t.Helper()
		j, err := begin(path)
		if err == nil {
			j, err = c.Wait(ctx, j.ID, time.Minute, nil)
		}
		if !j.Over() {
			t.Fatalf("%s: %+v, %v", path, j, err)
		}
		return j
	}
	if j := end("good.npy"); j.State != "done" {
		t.Fatalf("%+v", j)
	}
	for _, path := range []string{"dims", "cut", "nan.npy"} {
		if j := end(path); j.State != "failed" || j.Error == "" {
			t.Errorf("%s: %+v", path, j)
		}
		got, err := c.Search(ctx, "pets", []imagebind.Embedding{first}, 1, nil)
		if err != nil || len(got[0]) != 1 || math.Abs(float64(got[0][0].Similarity)-1) > 1e-5 {
			t.Errorf("after %s: %v, %v", path, got, err)
		}
	}
	if j := end("few.npy"); j.State != "done" || j.RowsFailed != 2 || len(j.RowErrors) != 2 || j.RowErrors[0].Row != 7 {
		t.Errorf("%+v", j)
	}
	if info, err := c.Collection(ctx, "pets"); err != nil || info.Count != n-2 {
		t.Errorf("%+v, %v", info, err)
	}
	a, errA := begin("few.npy")
	b, errB := begin("good.npy")
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	for _, id := range []string{a.ID, b.ID} {
		if j, err := c.Wait(ctx, id, time.Minute, nil); err != nil || j.State != "done" {
			t.Errorf("%+v, %v", j, err)
		}
	}
	if info, err := c.Collection(ctx, "pets"); err != nil || info.Count != n {
		t.Errorf("%+v, %v", info, err)
	}
}
