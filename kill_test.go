package imagebind_test

import (
	"cmp"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestKilledPeers kills the exporter, the runner and the retriever, in turns, at
// random points of rebuilds from media. The rebuild goes on, whoever died, and
// every picture is there once, as an undisturbed one embeds it. IMAGEBIND_KILLS
// is the number of kills. (Package retriever kills itself 50 times, package
// milvus the server.)
func TestKilledPeers(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds for each kill")
	}
	kills, err := strconv.Atoi(cmp.Or(os.Getenv("IMAGEBIND_KILLS"), "3"))
	if err != nil {
		t.Fatal(err)
	}
	s := build(t, demoModel)
	retriever := func() *program {
		return s.serveRetriever(t, "--source-root", "demo", "--runners", s.runner)
	}
	servers := map[string]*program{"retriever": retriever(), "runner": s.serveRunner(t)}
	const rate = 12 // a second: slow enough to be met while it copies
	rebuild := func(ctx context.Context, collection string) *exec.Cmd {
		return exec.CommandContext(ctx, filepath.Join(s.bin, "exporter"), "cache", "--retriever", s.retriever, "--runner", s.runner,
			"--collection", collection, "--path", "samples", "--max-rate", strconv.Itoa(rate))
	}
	start := time.Now()
	if out, err := rebuild(t.Context(), "undisturbed").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	took := time.Since(start)
	rows := s.pictures(t, "undisturbed")
	for round := range kills {
		who := []string{"exporter", "runner", "retriever"}[round%3]
		cmd := rebuild(t.Context(), "killed")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := rand.N(took)
		time.Sleep(after)
		switch who {
		case "exporter":
			_ = cmd.Process.Kill() // it may be done
		case "runner":
			_ = servers[who].cmd.Process.Kill()
			servers[who] = s.serveRunner(t)
		case "retriever":
			_ = servers[who].cmd.Process.Kill()
			servers[who] = retriever()
		}
		if err := cmd.Wait(); err != nil && who == "runner" {
			t.Errorf("round %d: the exporter ended with %v after the runner was killed", round, err)
		}
		// The job goes on without whoever followed it.
		if j := s.lastJob(t); j.State != "done" || j.RowsDone != len(rows) || j.RowsFailed != 0 {
			t.Fatalf("round %d, %s killed after %v: %+v", round, who, after, j)
		}
		got := s.pictures(t, "killed")
		if len(got) != len(rows) {
			t.Fatalf("round %d, %s killed after %v: %d pictures, want %d", round, who, after, len(got), len(rows))
		}
		for id, want := range rows {
			if !near(got[id], want, 1e-5) { // in another batch the last bits differ
				t.Fatalf("round %d, %s killed after %v: %s is missing or another", round, who, after, id)
			}
		}
		t.Logf("round %d: %s killed after %v of %v", round, who, after.Round(time.Millisecond), took.Round(time.Millisecond))
	}
}

type jobState struct {
	State      string `json:"state"`
	RowsDone   int    `json:"rows_done"`
	RowsFailed int    `json:"rows_failed"`
	Error      string `json:"error"`
}

// lastJob waits for the end of the latest job.
func (s *system) lastJob(t *testing.T) (last jobState) {
	t.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(50 * time.Millisecond) {
		status, b := get(t.Context(), s.retriever+"/v1/jobs")
		var list struct{ Jobs []jobState }
		if status != http.StatusOK || json.Unmarshal(b, &list) != nil || len(list.Jobs) == 0 {
			continue
		}
		if last = list.Jobs[0]; last.State == "done" || last.State == "failed" || last.State == "cancelled" {
			return last
		}
	}
	return last
}

// pictures are the embeddings of a collection of the demo's samples, by id.
func (s *system) pictures(t *testing.T, collection string) map[string][]float64 {
	t.Helper()
	status, b := get(t.Context(), s.retriever+"/v1/collections/"+collection)
	var info struct{ Dim int }
	if status != http.StatusOK || json.Unmarshal(b, &info) != nil {
		t.Fatalf("%s: %d: %s", collection, status, b)
	}
	one := make([]float64, info.Dim)
	one[0] = 1
	var found struct {
		Neighbours [][]struct {
			ID     string    `json:"id"`
			Vector []float64 `json:"vector"`
		} `json:"neighbours"`
	}
	if err := s.search(t, collection, map[string]any{"vectors": [][]float64{one}, "k": 1000, "include": []string{"vector"}}, &found); err != nil {
		t.Fatal(err)
	}
	all := map[string][]float64{}
	for _, n := range found.Neighbours[0] {
		if _, twice := all[n.ID]; twice || len(n.Vector) != info.Dim || strings.TrimSpace(n.ID) == "" {
			t.Fatalf("%s: %q is there twice, or without a vector", collection, n.ID)
		}
		all[n.ID] = n.Vector
	}
	return all
}
