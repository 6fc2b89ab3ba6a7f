// Package jobs runs rebuilds: the rows of a source become a new generation of a
// collection, beside the one that serves; it is checked, and the name is
// switched to it in one step. Jobs run one after another. Each is a JSON file,
// so that one that was killed goes on where its builder's durable rows end; a
// job that fails or is cancelled removes its generation, and the old one serves
// on.
//
// A Manager does not know what a source or a store is made of: Options.Open
// reads the one (package source, for the service), store.Builder is the other.
package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// A Source is a table of rows in a fixed order.
type Source interface {
	Dim() int  // values of a vector
	Rows() int // how many rows there are
	// Read returns the rows from at, at most n of them and at least one. They
	// may be broken (NaN, a wrong length): the caller checks them.
	Read(ctx context.Context, at, n int) ([]store.Row, error)
	Close() error
}

// A Noted is a Source that says what whoever uses its rows should know, as that
// they are not quite those that it was made of.
type Noted interface {
	Source
	Notes() []string
}

// A Made is a Source whose rows are made as they are read: embeddings of media.
type Made interface {
	Source
	Model() string      // the id of the model that makes them
	Hash() string       // of what they are made from; it differs once that did
	Why(row int) string // why a row that was read has no vector; "" where it has
}

// A Builds starts new generations. Stores are.
type Builds interface {
	Build(ctx context.Context, name string, spec store.Spec, job string) (store.Builder, error)
}

// Options of a Manager. Dir, Store and Open are needed.
type Options struct {
	Dir   string // of the job files, made when absent
	Store Builds
	// Open opens the source that a request named; it refuses paths that it must
	// not read, and runners that it must not ask. It may keep what it makes in the
	// file scratch, which is there again when the job goes on and goes with it.
	Open func(ctx context.Context, s retrieverapi.Source, scratch string) (Source, error)
	// Check, where set, is asked when a job is submitted: its error refuses the
	// job at once, where Open would fail it later.
	Check func(s retrieverapi.Source) error

	// Room, where set, refuses rows that are too many for a collection, before they are read.
	Room func(ctx context.Context, collection string, rows int) error

	MaxQueued  int           // jobs that wait; more are refused as Busy. Default 16
	Keep       int           // finished jobs that are remembered. Default 100
	Checkpoint time.Duration // between durable points of a copy. Default 2 s
	MinRecall  float64       // recall@10 that a new generation must reach. Default 0.9
	MaxBad     float64       // share of the rows that may be left out. Default 0.1
	Parallel   int           // jobs at once, each of another collection. Default 1
	Patience   time.Duration // without progress when the store or a runner is away, before a job fails. Default 10 min
	Backoff    time.Duration // before the second try, doubled up to 30 s. Default 1 s
}

const (
	maxRowErrors = 100     // listed in a job
	batchBytes   = 8 << 20 // of vectors in one Append
	maxBatch     = 2048    // rows in one Append
	checkQueries = 32      // at most; fewer when the source is large
	checkWork    = 5e10    // multiplications spent on brute force
	checkK       = 10
	progressTick = 200 * time.Millisecond
)

// A job is a Job with what only this package needs.
type job struct {
	retrieverapi.Job
	Point point  `json:"point"`                 // the last durable one; the copy may be further
	Hash  string `json:"source_hash,omitempty"` // of a Made
	// Cancelled says that a cancel was asked for, so that it holds through a restart.
	Cancelled bool `json:"cancel_asked,omitempty"`

	cancel  context.CancelFunc // set while it runs
	changed chan struct{}      // closed at each change
}

// A Manager holds the jobs.
type Manager struct {
	o     Options
	mu    sync.Mutex
	jobs  map[string]*job
	queue []string        // ids, first come first
	busy  map[string]bool // collections that a job is at
	wake  chan struct{}   // closed when queue or busy changed
}

// Open reads the jobs of o.Dir. Those that had not ended wait again.
func Open(o Options) (*Manager, error) {
	o.MaxQueued = cmp.Or(o.MaxQueued, 16)
	o.Keep = cmp.Or(o.Keep, 100)
	o.Checkpoint = cmp.Or(o.Checkpoint, 2*time.Second)
	o.MinRecall = cmp.Or(o.MinRecall, 0.9)
	o.MaxBad = cmp.Or(o.MaxBad, 0.1)
	o.Parallel = cmp.Or(o.Parallel, 1)
	o.Patience = cmp.Or(o.Patience, 10*time.Minute)
	o.Backoff = cmp.Or(o.Backoff, time.Second)
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("job folder: %w", err)
	}
	m := &Manager{o: o, jobs: map[string]*job{}, busy: map[string]bool{}, wake: make(chan struct{})}
	files, err := filepath.Glob(filepath.Join(o.Dir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("job file: %w", err)
		}
		j := &job{changed: make(chan struct{})}
		if err := json.Unmarshal(b, j); err != nil || j.ID+".json" != filepath.Base(f) {
			return nil, imagebind.Errorf(imagebind.Invalid, "%s is no job file; move it away", f)
		}
		m.jobs[j.ID] = j
	}
	for _, j := range m.sorted() {
		if j.Over() {
			continue
		}
		if j.State == retrieverapi.JobRunning {
			j.Resumed++
		}
		j.State, j.Phase, j.Rate, j.ETA = retrieverapi.JobQueued, "queued", 0, nil
		m.queue = append(m.queue, j.ID)
	}
	return m, m.sweep()
}

// scratch is the file of a job's source.
func (m *Manager) scratch(id string) string { return filepath.Join(m.o.Dir, id+".rows") }

// sweep removes the scratch files of jobs that are over: a kill may come
// between a job's end and that of its file.
func (m *Manager) sweep() error {
	files, err := filepath.Glob(m.scratch("*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if j := m.jobs[strings.TrimSuffix(filepath.Base(f), ".rows")]; j != nil && !j.Over() {
			continue
		}
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("job folder: %w", err)
		}
	}
	return nil
}

// sorted lists the jobs, oldest first. Their ids are in order of creation.
func (m *Manager) sorted() []*job {
	list := make([]*job, 0, len(m.jobs))
	for _, j := range m.jobs {
		list = append(list, j)
	}
	slices.SortFunc(list, func(a, b *job) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// save writes the job's file. m.mu is held.
func (m *Manager) save(j *job) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(m.o.Dir, j.ID+".json"), b, 0o644)
}

// update changes the job and tells those who watch it; durable says that its
// file must have the change too.
func (m *Manager) update(j *job, durable bool, change func(*job)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(j)
	close(j.changed)
	j.changed = make(chan struct{})
	if !durable {
		return nil
	}
	if err := m.save(j); err != nil {
		return imagebind.Errorf(imagebind.Unavailable, "job file: %w", err)
	}
	return nil
}

// Submit queues a job.
func (m *Manager) Submit(r retrieverapi.JobRequest) (retrieverapi.Job, error) {
	var none retrieverapi.Job
	switch {
	case r.Type != retrieverapi.JobRebuild:
		return none, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "type %q: the one type of job is %q", r.Type, retrieverapi.JobRebuild), "type")
	case r.Source.Path == "":
		return none, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "source.path is missing: a file or folder under --source-root, of features, or of media with source.runner"), "source.path")
	case r.Source.Runner == "" && (r.Source.Modality != "" || len(r.Source.Params) > 0):
		return none, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "source.modality and source.params are of media, which source.runner embeds; features have none"), "source.runner")
	}
	if !(r.MaxRate >= 0) || math.IsInf(r.MaxRate, 0) {
		return none, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "max_rows_per_second is %v; it is a number of rows, 0 for no bound", r.MaxRate), "max_rows_per_second")
	}
	if m.o.Check != nil {
		if err := m.o.Check(r.Source); err != nil {
			return none, imagebind.WithParam(err, "source.path")
		}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return none, err
	}
	j := &job{Job: retrieverapi.Job{ID: id.String(), Type: r.Type, Collection: r.Collection, Source: r.Source, Index: r.Index, Model: r.Model, MaxRate: r.MaxRate,
		State: retrieverapi.JobQueued, Phase: "queued", CreatedAt: time.Now().UTC()}, changed: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) >= m.o.MaxQueued {
		return none, imagebind.Errorf(imagebind.Busy, "%d jobs are waiting already; try again later", len(m.queue))
	}
	if err := m.save(j); err != nil {
		return none, fmt.Errorf("job file: %w", err)
	}
	m.jobs[j.ID] = j
	m.queue = append(m.queue, j.ID)
	m.forget()
	m.rouse()
	return j.copy(), nil
}

// forget removes the oldest finished jobs. m.mu is held.
func (m *Manager) forget() {
	var over []*job
	for _, j := range m.sorted() {
		if j.Over() {
			over = append(over, j)
		}
	}
	for _, j := range over[:max(0, len(over)-m.o.Keep)] {
		if os.Remove(filepath.Join(m.o.Dir, j.ID+".json")) == nil {
			delete(m.jobs, j.ID)
		}
	}
}

// copy returns the public part, free of shared memory.
func (j *job) copy() retrieverapi.Job {
	c := j.Job
	c.RowErrors, c.Notes = slices.Clone(c.RowErrors), slices.Clone(c.Notes)
	if c.Checks != nil {
		checks := *c.Checks
		c.Checks = &checks
	}
	return c
}

// List returns the jobs, newest first.
func (m *Manager) List() []retrieverapi.Job {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []retrieverapi.Job{}
	for _, j := range m.sorted() {
		out = append(out, j.copy())
	}
	slices.Reverse(out)
	return out
}

// Watch returns the job as it is, and a channel that closes when it changes.
func (m *Manager) Watch(id string) (retrieverapi.Job, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[id]
	if j == nil {
		return retrieverapi.Job{}, nil, imagebind.Errorf(imagebind.NotFound, "no job %q", id)
	}
	return j.copy(), j.changed, nil
}

// Cancel asks the job to stop and waits until it has, or ctx ends.
func (m *Manager) Cancel(ctx context.Context, id string) (retrieverapi.Job, error) {
	m.mu.Lock()
	j := m.jobs[id]
	if j == nil {
		m.mu.Unlock()
		return retrieverapi.Job{}, imagebind.Errorf(imagebind.NotFound, "no job %q", id)
	}
	if j.State == retrieverapi.JobDone || j.State == retrieverapi.JobFailed {
		defer m.mu.Unlock()
		return j.copy(), imagebind.Errorf(imagebind.Conflict, "job %s is over: %s", id, j.State)
	}
	if !j.Cancelled {
		j.Cancelled = true
		if err := m.save(j); err != nil {
			j.Cancelled = false
			m.mu.Unlock()
			return retrieverapi.Job{}, fmt.Errorf("job file: %w", err)
		}
	}
	if j.cancel != nil {
		j.cancel()
	}
	// A job that never ran has nothing to clean up; one that did is cleaned up
	// when its turn comes.
	if j.State == retrieverapi.JobQueued && j.Resumed == 0 {
		m.queue = slices.DeleteFunc(m.queue, func(q string) bool { return q == id })
		m.mu.Unlock()
		if err := m.end(j, retrieverapi.JobCancelled, nil); err != nil {
			return retrieverapi.Job{}, err
		}
	} else {
		m.mu.Unlock()
	}
	for {
		now, changed, err := m.Watch(id)
		if err != nil || now.Over() {
			return now, err
		}
		select {
		case <-ctx.Done():
			return now, nil
		case <-changed:
		}
	}
}
