package flat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

// TestMain also is the child of TestKilled.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FLAT_TEST_WRITE"); dir != "" {
		seed, _ := strconv.ParseUint(os.Getenv("FLAT_TEST_SEED"), 10, 64)
		fmt.Fprintln(os.Stderr, write(dir, seed))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const killDim = 24

// version is the row of an id in one of its versions.
func version(id string, v int) store.Row {
	n, _ := strconv.Atoi(id[1:])
	r := storetest.Rows(n*1000+v, 1, killDim)[0]
	r.ID, r.Caption = id, fmt.Sprint(v)
	return r
}

// write changes a store for ever. It prints what it is about to do, and then
// that it is done, one line each: "put id version", "delete id", "job rows name"
// (durable in the build) and "generation n".
func write(dir string, seed uint64) error {
	ctx := context.Background()
	s, err := Open(dir, Options{CompactAt: 40})
	if err != nil {
		return err
	}
	if _, err := s.Create(ctx, name, store.Spec{Dim: killDim}); err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...) // one write to the pipe
	}
	errs := make(chan error)
	for w := range 3 { // each has ids of its own
		r := rand.New(rand.NewPCG(seed, uint64(w)))
		go func() {
			for v := int(seed) * 10; ; v++ {
				id := fmt.Sprintf("%c%d", 'a'+w, r.IntN(30))
				if r.IntN(5) == 0 {
					say("begin delete %s", id)
					if _, err := s.Delete(ctx, name, []string{id}); err != nil {
						errs <- err
					}
					say("done delete %s", id)
					continue
				}
				say("begin put %s %d", id, v)
				if err := s.Upsert(ctx, name, []store.Row{version(id, v)}); err != nil {
					errs <- err
				}
				say("done put %s %d", id, v)
			}
		}()
	}
	go func() { // builds of another collection
		for g := 0; ; g++ {
			job := fmt.Sprintf("job-%d-%d", seed, g)
			b, err := s.Build(ctx, "built", store.Spec{Dim: killDim}, job)
			if err != nil {
				errs <- err
				return
			}
			for at := b.Rows(); at < 200; at = b.Rows() {
				if err := b.Append(ctx, storetest.Rows(at, 20, killDim)); err != nil {
					errs <- err
				}
				if err := b.Checkpoint(ctx); err != nil {
					errs <- err
				}
				say("done job %d %s", b.Rows(), job)
			}
			i, err := b.Commit(ctx)
			if err != nil {
				errs <- err
			}
			say("done generation %d", i.Generation)
		}
	}()
	return <-errs
}

// TestKilled kills a process that writes, at random moments, and holds what the
// next one finds to what the killed one had said. The page cache outlives the
// process, so this is about the order of writes and not about syncs; those
// TestPowerCut is about.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	type state struct{ versions []int } // that an id may have now; -1 for deleted
	rows := map[string]state{}
	generation, durable, acked, compactions := 0, 0, 0, 0
	job := "none" // whose rows are durable
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := 1; round <= rounds; round++ {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "FLAT_TEST_WRITE="+dir, fmt.Sprintf("FLAT_TEST_SEED=%d", round))
		var complaint strings.Builder
		cmd.Stderr = &complaint
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		after := time.Duration(20+rand.IntN(300)) * time.Millisecond
		if !lines.Scan() { // it is at work
			t.Fatal(complaint.String())
		}
		killer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		for ok := true; ok; ok = lines.Scan() {
			f := strings.Fields(lines.Text())
			if len(f) < 3 {
				break // cut off
			}
			switch f[0] + " " + f[1] {
			case "begin put", "begin delete", "done put", "done delete":
				v := -1
				if f[1] == "put" {
					if len(f) < 4 {
						continue
					}
					v, _ = strconv.Atoi(f[3])
				}
				if f[0] == "done" {
					rows[f[2]] = state{[]int{v}}
					acked++
				} else {
					old := rows[f[2]].versions
					if old == nil {
						old = []int{-1}
					}
					rows[f[2]] = state{append(slices.Clone(old), v)}
				}
			case "done job":
				if len(f) < 4 {
					continue
				}
				durable, _ = strconv.Atoi(f[2])
				job = f[3]
			case "done generation":
				generation, _ = strconv.Atoi(f[2])
				durable = 0
			}
		}
		killer.Stop()
		_ = cmd.Wait()
		if complaint.Len() > 0 {
			t.Fatalf("round %d: the writer failed: %s", round, complaint.String())
		}
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		found := map[string]imagebind.Neighbour{}
		for _, nb := range search(t, s, imagebind.MaxNeighbours, make(imagebind.Embedding, killDim))[0] {
			found[nb.ID] = nb
		}
		for id, want := range rows {
			v := -1
			if nb, ok := found[id]; ok {
				v, _ = strconv.Atoi(nb.Caption)
				if !slices.Equal(nb.Prototype, version(id, v).Vector) {
					t.Errorf("round %d: %s has a vector that is not its version %d", round, id, v)
				}
			}
			if !slices.Contains(want.versions, v) {
				t.Errorf("round %d: %s is at version %d; the writer had said %v", round, id, v, want.versions)
			}
			rows[id] = state{[]int{v}}
			delete(found, id)
		}
		if len(found) > 0 {
			t.Errorf("round %d: rows that nobody wrote: %v", round, found)
		}
		i, err := s.Info(t.Context(), "built")
		if generation > 0 && (err != nil || i.Count != 200) || i.Generation < generation {
			t.Errorf("round %d: generation %d was committed; %+v, %v", round, generation, i, err)
		}
		// Committed, and not said yet. It may be more than one further: the
		// builds of earlier rounds have numbers too.
		if i.Generation > generation {
			generation, durable = i.Generation, 0
		}
		b, err := s.Build(t.Context(), "built", store.Spec{Dim: killDim}, job)
		if err != nil {
			t.Fatal(err)
		}
		if n := b.Rows(); n < durable {
			t.Errorf("round %d: the build has %d rows; %d were durable", round, n, durable)
		}
		durable = 0 // the next round has another job
		list, err := filepath.Glob(filepath.Join(dir, name, "rows-*"))
		if err != nil || len(list) != 1 {
			t.Errorf("round %d: folders %v, %v", round, list, err)
		}
		compactions = sequence(filepath.Base(list[0])) - 1
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d acknowledged writes, %d compactions, %d generations", rounds, acked, compactions, generation)
	if acked < 10*rounds {
		t.Errorf("only %d acknowledged writes", acked)
	}
}

// TestPowerCut cuts the log at every byte of its last group, and zeroes or
// scrambles what follows, as a disk may that lost power: the rows before it are
// all there, and it is there as a whole or not at all.
func TestPowerCut(t *testing.T) {
	dir := t.TempDir()
	rows := storetest.Rows(0, 10, 5)
	s := open(t, dir, Options{})
	fill(t, s, rows[:6])
	log := filepath.Join(dir, name, "rows-000001", logFile)
	before := s.collections[name].live.end
	if err := s.Upsert(t.Context(), name, rows[6:]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][]byte{}
	for _, f := range []string{rowsFile, codesFile} {
		if tables[f], err = os.ReadFile(filepath.Join(filepath.Dir(log), f)); err != nil {
			t.Fatal(err)
		}
	}
	for cut := before; cut <= int64(len(whole)); cut++ {
		for what, tail := range map[string][]byte{"cut": nil, "zeros": make([]byte, int64(len(whole))-cut+100), "noise": []byte("ROWS noise ROWS\x10\x00\x00\x00\x01\x00\x00\x00abcdROWS")} {
			if err := os.WriteFile(log, append(slices.Clone(whole[:cut]), tail...), 0o644); err != nil {
				t.Fatal(err)
			}
			for f, b := range tables {
				if err := os.WriteFile(filepath.Join(filepath.Dir(log), f), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Open(dir, Options{})
			if err != nil {
				t.Fatalf("%s at %d: %v", what, cut, err)
			}
			want := rows[:6]
			if cut == int64(len(whole)) {
				want = rows
			}
			if got := all(t, s, 5); !slices.Equal(got, names(want)) {
				t.Fatalf("%s at %d: %v", what, cut, got)
			}
			if cut%7 == 0 { // it takes writes again, and keeps them
				if err := s.Upsert(t.Context(), name, rows[9:]); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(dir, Options{}); err != nil {
					t.Fatal(err)
				}
				if got := all(t, s, 5); !slices.Contains(got, rows[9].ID) {
					t.Fatalf("%s at %d, after a write: %v", what, cut, got)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// hookSync sees every sync for the length of the test; an error it returns is
// the sync's.
func hookSync(t *testing.T, hook func(f *os.File) error) {
	was := fsync
	fsync = func(f *os.File) error {
		if err := hook(f); err != nil {
			return err
		}
		return was(f)
	}
	t.Cleanup(func() { fsync = was })
}

// Vectors are durable before a record tells of them, and the record before the
// write returns.
func TestSyncOrder(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	rows := storetest.Rows(0, 4, 8)
	fill(t, s, rows[:1])
	log := filepath.Join(dir, name, "rows-000001", logFile)
	size := func() int64 {
		info, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var mu sync.Mutex
	var seen []string
	before := size()
	hookSync(t, func(f *os.File) error {
		file := filepath.Base(f.Name())
		if (file == rowsFile || file == codesFile) && size() != before {
			t.Error("the log told of vectors before they were durable")
		}
		if file == logFile && size() == before {
			t.Error("the log was synced before it was written")
		}
		mu.Lock()
		seen = append(seen, file)
		mu.Unlock()
		return nil
	})
	if err := s.Upsert(t.Context(), name, rows[1:]); err != nil {
		t.Fatal(err)
	}
	before = size()
	if _, err := s.Delete(t.Context(), name, []string{rows[0].ID}); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(seen[:2]); !slices.Equal(seen, []string{rowsFile, codesFile, logFile, logFile}) {
		t.Errorf("synced %v", seen)
	}
}

// After a sync that failed nothing more is written, what was said before
// stands, and a restart begins with what the disk has.
func TestSyncFails(t *testing.T) {
	for _, bad := range []string{rowsFile, codesFile, logFile} {
		t.Run(bad, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{})
			rows := storetest.Rows(0, 4, 8)
			fill(t, s, rows[:2])
			t.Run("fails", func(t *testing.T) {
				hookSync(t, func(f *os.File) error {
					if filepath.Base(f.Name()) == bad {
						return errors.New("the disk is ill")
					}
					return nil
				})
				if err := s.Upsert(t.Context(), name, rows[2:3]); imagebind.KindOf(err) != imagebind.Unavailable {
					t.Errorf("upsert: %v", err)
				}
			})
			if err := s.Upsert(t.Context(), name, rows[3:]); imagebind.KindOf(err) != imagebind.Unavailable {
				t.Errorf("the next upsert: %v", err)
			}
			if _, err := s.Delete(t.Context(), name, []string{rows[0].ID}); imagebind.KindOf(err) != imagebind.Unavailable {
				t.Errorf("delete: %v", err)
			}
			if got := all(t, s, 8); !slices.Equal(got, names(rows[:2])) {
				t.Errorf("rows %v", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, Options{})
			if err := s.Upsert(t.Context(), name, rows[3:]); err != nil {
				t.Fatal(err)
			}
			got := all(t, s, 8)
			for _, r := range []store.Row{rows[0], rows[1], rows[3]} {
				if !slices.Contains(got, r.ID) {
					t.Errorf("%s is not among %v", r.ID, got)
				}
			}
		})
	}
}

// A switch that may not be durable keeps the files of both generations, so that
// the manifest leads to rows whichever the disk brings back.
func TestSwitchNotDurable(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	s := open(t, dir, Options{})
	fill(t, s, storetest.Rows(0, 2, 8))
	old, err := os.ReadFile(filepath.Join(dir, name, manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Build(ctx, name, store.Spec{Dim: 8}, "job")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, storetest.Rows(10, 5, 8)); err != nil {
		t.Fatal(err)
	}
	t.Run("fails", func(t *testing.T) {
		hookSync(t, func(f *os.File) error {
			if filepath.Base(f.Name()) == name {
				return errors.New("the disk is ill")
			}
			return nil
		})
		if _, err := b.Commit(ctx); imagebind.KindOf(err) != imagebind.Unavailable {
			t.Errorf("commit: %v", err)
		}
	})
	if got := all(t, s, 8); len(got) != 5 {
		t.Errorf("rows %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := folders(t, dir); len(got) != 2 {
		t.Fatalf("folders %v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, name, manifestFile), old, 0o644); err != nil { // as the disk may
		t.Fatal(err)
	}
	if got := all(t, open(t, dir, Options{}), 8); len(got) != 2 {
		t.Errorf("rows %v", got)
	}
}
