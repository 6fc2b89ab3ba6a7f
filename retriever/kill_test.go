package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
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
	want := make([]store.Row, len(rows))
	for i, v := range rows {
		want[i].Vector = v
	}
	storetest.Whole(t, b.Bytes(), want)
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

// TestSwitchesUnderLoad switches generations, by rebuilds and by going back, while
// many search over HTTP: none fails, and none sees two generations.
func TestSwitchesUnderLoad(t *testing.T) {
	const n, dim, switches = 2000, 32, 12
	dir, addr, ctx := t.TempDir(), freeAddr(t), t.Context()
	rows := tables(t, dir, n, dim)
	_, c := serve(t, addr, "--data", filepath.Join(dir, "data"), "--source-root", dir, "--log-level", "warn", "--cache-bytes", "0")
	rebuild := func(table int) {
		t.Helper()
		j, err := c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "default", Source: retrieverapi.Source{Path: fmt.Sprintf("%d.npy", table)}})
		if err == nil {
			j, err = c.Wait(ctx, j.ID, time.Minute, nil)
		}
		if err != nil || j.State != "done" {
			t.Fatalf("%+v, %v", j, err)
		}
	}
	rebuild(0)
	var stop atomic.Bool
	var searches atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for w := range 8 {
		wg.Go(func() {
			for i := w; !stop.Load(); i += 8 {
				got, err := c.Search(ctx, "default", []imagebind.Embedding{rows[0][i%n], rows[1][i%n]}, 3, nil, retrieverapi.IncludeVector)
				if err != nil {
					t.Errorf("a search failed: %v", err)
					return
				}
				of := map[int]bool{}
				for _, nb := range slices.Concat(got...) {
					id, _ := strconv.Atoi(nb.ID)
					for table := range rows {
						if slices.Equal(nb.Prototype, rows[table][id]) {
							of[table] = true
						}
					}
				}
				if len(of) != 1 || len(got[0]) != 3 || len(got[1]) != 3 {
					t.Errorf("an answer of generations of tables %v", of)
					return
				}
				searches.Add(1)
			}
		})
	}
	for i := range switches {
		if i%3 == 2 {
			if _, err := c.Rollback(ctx, "default", 0); err != nil {
				t.Error(err)
			}
			continue
		}
		rebuild(1 - i%2)
	}
	rate := float64(searches.Load()) / time.Since(start).Seconds()
	stop.Store(true)
	wg.Wait()
	t.Logf("%d searches, %.0f a second, over %d switches", searches.Load(), rate, switches)
}

// TestFullDisk fills the disk in the middle of a rebuild: the job ends and says
// why, what served before does, and once there is room another job succeeds.
func TestFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=12m"); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	const n, dim = 20000, 128 // 13 MB of rows and codes
	dir, addr, ctx := t.TempDir(), freeAddr(t), t.Context()
	rows := tables(t, dir, n, dim)
	writeRows(t, filepath.Join(dir, "small.npy"), rows[0][:1000])
	_, c := serve(t, addr, "--data", filepath.Join(disk, "data"), "--source-root", dir, "--keep", "0")
	rebuild := func(path string) retrieverapi.Job {
		t.Helper()
		j, err := c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "default", Source: retrieverapi.Source{Path: path}})
		if err == nil {
			j, err = c.Wait(ctx, j.ID, 2*time.Minute, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	if j := rebuild("small.npy"); j.State != "done" {
		t.Fatalf("%+v", j)
	}
	start := time.Now()
	j := rebuild("1.npy")
	if j.State != "failed" || !strings.Contains(j.Error, "no space left") {
		t.Errorf("on a full disk: %+v", j)
	}
	t.Logf("it ended after %v: %s", time.Since(start), j.Error)
	whole(t, c, rows[0][:1000])
	if left, err := filepath.Glob(filepath.Join(disk, "data", "collections", "default", "rows-*")); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if j := rebuild("1.npy"); j.State != "done" {
		t.Fatalf("with room: %+v", j)
	}
	whole(t, c, rows[1])
}
