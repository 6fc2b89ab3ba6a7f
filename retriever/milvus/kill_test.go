package milvus

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/source"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

// TestKilledWhileBuilding kills Milvus and the retriever, in turns, at random
// points of rebuilds. Each goes on by itself, and every row is there once, as in
// its source. IMAGEBIND_KILLS is the number of kills; Milvus takes up to a minute
// to come back after one.
func TestKilledWhileBuilding(t *testing.T) {
	if testing.Short() {
		t.Skip("Milvus takes a minute to recover")
	}
	milvus := open(t).o.Address
	if serverDir == "" {
		t.Skip("only a server that this test started may be killed")
	}
	kills, err := strconv.Atoi(cmp.Or(os.Getenv("IMAGEBIND_KILLS"), "2"))
	if err != nil {
		t.Fatal(err)
	}
	const n, dim = 20000, 64
	work, ctx := t.TempDir(), t.Context()
	var tables [2][]store.Row
	for i := range tables {
		tables[i] = rows((i+1)<<32, n, dim) // other vectors in each
		for j := range tables[i] {
			tables[i][j].ID = strconv.Itoa(j)
		}
		f, err := os.Create(filepath.Join(work, strconv.Itoa(i)+".parquet"))
		if err != nil {
			t.Fatal(err)
		}
		err = source.WriteParquet(f, dim, func(do func([]store.Row) error) error { return do(tables[i]) })
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(work, "retriever")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "imagebind-llm/retriever").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c, err := retrieverapi.NewClient("http://"+addr, retrieverapi.Options{BreakAfter: 1 << 20, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	serve := func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, bin, "serve", "--listen", addr, "--data", filepath.Join(work, "data"), "--source-root", work, "--store", "milvus", "--milvus", milvus)
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	ready := func() {
		t.Helper()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for start := time.Now(); c.Ready(ctx) != nil; <-tick.C {
			if time.Since(start) > 3*time.Minute {
				t.Fatalf("not ready: %v\n%s", c.Ready(ctx), &log)
			}
		}
	}
	name := "kills" + strconv.Itoa(rand.IntN(1e6))
	rebuild := func(table int) string {
		t.Helper()
		j, err := c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: name, MaxRate: n / 3, Source: retrieverapi.Source{Path: strconv.Itoa(table) + ".parquet"}})
		if err != nil {
			t.Fatal(err)
		}
		return j.ID
	}
	cmd := serve()
	ready()
	t.Cleanup(func() {
		_ = c.Drop(context.WithoutCancel(ctx), name)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	first, err := c.Wait(ctx, rebuild(0), time.Minute, nil)
	if err != nil || first.State != "done" {
		t.Fatalf("%+v, %v", first, err)
	}
	took := first.FinishedAt.Sub(*first.StartedAt)
	phases := map[string]int{}
	for round := range kills {
		table, id := (round+1)%2, rebuild((round+1)%2)
		time.Sleep(rand.N(took * 9 / 8))
		at, err := c.Job(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		who := "milvus"
		killed := time.Now()
		if round%2 == 0 {
			killServer(t)
			if out, err := exec.Command("../../scripts/milvus.sh", "start", serverDir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		} else {
			who = "retriever"
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			cmd = serve()
		}
		phases[who+" "+at.Phase]++
		ready()
		j, err := c.Wait(ctx, id, 5*time.Minute, nil)
		if err != nil || j.State != "done" || j.RowsDone != n || j.RowsFailed != 0 || j.Checks == nil || j.Checks.Rows != n {
			t.Fatalf("round %d, %s killed in phase %s at row %d: %+v, %v\n%s", round, who, at.Phase, at.RowsDone, j, err, &log)
		}
		t.Logf("round %d: %s killed in phase %s at row %d, done %.0f s later", round, who, at.Phase, at.RowsDone, time.Since(killed).Seconds())
		var b bytes.Buffer
		if err := c.Export(ctx, name, &b); err != nil {
			t.Fatal(err)
		}
		storetest.Whole(t, b.Bytes(), tables[table])
	}
	t.Logf("%d kills: %v; an undisturbed rebuild takes %v", kills, phases, took)
}
