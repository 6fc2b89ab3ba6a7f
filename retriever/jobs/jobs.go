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
	"errors"
	"fmt"
	"log/slog"
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

// A Builds starts new generations. Stores are.
type Builds interface {
	Build(ctx context.Context, name string, spec store.Spec, job string) (store.Builder, error)
}

// Options of a Manager. Dir, Store and Open are needed.
type Options struct {
	Dir   string // of the job files, made when absent
	Store Builds
	// Open opens the source at a path that a request named; it refuses paths
	// that it must not read.
	Open func(ctx context.Context, path string) (Source, error)
	// Check, where set, is asked when a job is submitted: its error refuses the
	// job at once, where Open would fail it later.
	Check func(path string) error

	MaxQueued  int           // jobs that wait; more are refused as Busy. Default 16
	Keep       int           // finished jobs that are remembered. Default 100
	Checkpoint time.Duration // between durable points of a copy. Default 2 s
	MinRecall  float64       // recall@10 that a new generation must reach. Default 0.9
	MaxBad     float64       // share of the rows that may be left out. Default 0.1
	Attempts   int           // tries when the store is away. Default 5
	Backoff    time.Duration // before the second try, doubled each time. Default 2 s
}

const (
	maxRowErrors = 100     // listed in a job
	batchBytes   = 8 << 20 // of vectors in one Append
	maxBatch     = 2048    // rows in one Append
	checkQueries = 32      // at most; fewer when the source is large
	checkWork    = 2e10    // multiplications spent on brute force
	checkK       = 10
	progressTick = 200 * time.Millisecond
)

// A job is a Job with what only this package needs.
type job struct {
	retrieverapi.Job
	Point point `json:"point"` // the last durable one; the copy may be further
	// Cancelled says that a cancel was asked for, so that it holds through a restart.
	Cancelled bool `json:"cancel_asked,omitempty"`

	cancel  context.CancelFunc // set while it runs
	changed chan struct{}      // closed at each change
}

// A point of a copy: of the source's rows before Position, Stored were good,
// and the others were left out.
type point struct {
	Position int                     `json:"position"`
	Stored   int                     `json:"stored"`
	Failed   int                     `json:"failed"`
	Errors   []retrieverapi.RowError `json:"errors,omitempty"` // the first of the failed
	NormMin  float64                 `json:"norm_min"`
	NormMax  float64                 `json:"norm_max"`
}

// A Manager holds the jobs.
type Manager struct {
	o     Options
	mu    sync.Mutex
	jobs  map[string]*job
	queue []string // ids, first come first
	wake  chan struct{}
}

// Open reads the jobs of o.Dir. Those that had not ended wait again.
func Open(o Options) (*Manager, error) {
	o.MaxQueued = cmp.Or(o.MaxQueued, 16)
	o.Keep = cmp.Or(o.Keep, 100)
	o.Checkpoint = cmp.Or(o.Checkpoint, 2*time.Second)
	o.MinRecall = cmp.Or(o.MinRecall, 0.9)
	o.MaxBad = cmp.Or(o.MaxBad, 0.1)
	o.Attempts = cmp.Or(o.Attempts, 5)
	o.Backoff = cmp.Or(o.Backoff, 2*time.Second)
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("job folder: %w", err)
	}
	m := &Manager{o: o, jobs: map[string]*job{}, wake: make(chan struct{}, 1)}
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
	return m, nil
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
		return fmt.Errorf("job file: %w", err)
	}
	return nil
}

// Submit queues a job.
func (m *Manager) Submit(r retrieverapi.JobRequest) (retrieverapi.Job, error) {
	var none retrieverapi.Job
	switch {
	case r.Type != retrieverapi.JobRebuild:
		return none, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "type %q: the one type of job is %q", r.Type, retrieverapi.JobRebuild), "type")
	case r.Source.Runner != "":
		return none, imagebind.WithParam(imagebind.Errorf(imagebind.Unsupported, "this retriever does not embed media through a runner yet; give a source of ready features, {\"path\": P}"), "source.runner")
	case r.Source.Path == "":
		return none, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "source.path is missing: a file or folder of features under --source-root"), "source.path")
	}
	if m.o.Check != nil {
		if err := m.o.Check(r.Source.Path); err != nil {
			return none, imagebind.WithParam(err, "source.path")
		}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return none, err
	}
	j := &job{Job: retrieverapi.Job{ID: id.String(), Type: r.Type, Collection: r.Collection, Source: r.Source, Index: r.Index, Model: r.Model,
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
	select {
	case m.wake <- struct{}{}:
	default:
	}
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
	c.RowErrors = slices.Clone(c.RowErrors)
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

// end records how the job came out.
func (m *Manager) end(j *job, state string, cause error) error {
	return m.update(j, true, func(j *job) {
		now := time.Now().UTC()
		j.State, j.FinishedAt, j.ETA = state, &now, nil
		if state == retrieverapi.JobDone {
			j.Phase = "done"
		}
		if cause != nil {
			j.Error = imagebind.MessageOf(cause)
		}
	})
}

// Run works through the queue until ctx ends. A job under way then keeps its
// state, and goes on after the next Open.
func (m *Manager) Run(ctx context.Context) {
	for ctx.Err() == nil {
		m.mu.Lock()
		var j *job
		if len(m.queue) > 0 {
			j, m.queue = m.jobs[m.queue[0]], m.queue[1:]
		}
		m.mu.Unlock()
		if j == nil {
			select {
			case <-ctx.Done():
			case <-m.wake:
			}
			continue
		}
		m.run(ctx, j)
	}
}

// run takes one job to its end, or to the process's.
func (m *Manager) run(ctx context.Context, j *job) {
	log := slog.With("job", j.ID, "collection", j.Collection, "source", j.Source.Path)
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	skip := false
	err := m.update(j, true, func(j *job) {
		if j.Over() { // cancelled while it waited
			skip = true
			return
		}
		j.State, j.Phase, j.cancel = retrieverapi.JobRunning, "open", cancel
		if j.StartedAt == nil {
			now := time.Now().UTC()
			j.StartedAt = &now
		}
		if j.Cancelled {
			cancel()
		}
	})
	if skip {
		return
	}
	log.Info("job starts", "resumed", j.Resumed)
	for try := 1; err == nil; try++ {
		err = m.rebuild(work, j)
		if err == nil || work.Err() != nil || try >= m.o.Attempts || imagebind.KindOf(err) != imagebind.Unavailable {
			break
		}
		log.Warn("the store is away; the job goes on later", "try", try, "err", err)
		select {
		case <-work.Done():
		case <-time.After(m.o.Backoff << (try - 1)):
			err = nil
		}
	}
	state := retrieverapi.JobFailed
	m.mu.Lock()
	j.cancel = nil
	asked := j.Cancelled
	m.mu.Unlock()
	switch {
	case err == nil:
		state = retrieverapi.JobDone
	case asked && work.Err() != nil:
		state, err = retrieverapi.JobCancelled, nil
	case ctx.Err() != nil:
		log.Info("job stops; it goes on after the next start")
		return
	}
	if state != retrieverapi.JobDone {
		if err := m.abort(context.WithoutCancel(ctx), j); err != nil {
			log.Warn("the unfinished generation stays", "err", err)
		}
	}
	if e := m.end(j, state, err); e != nil {
		log.Error("job file", "err", e)
	}
	log.Info("job ends", "state", state, "rows", j.RowsDone, "err", err)
}

// abort removes the job's generation, where there is one.
func (m *Manager) abort(ctx context.Context, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m.mu.Lock()
	dim := 0
	if j.Checks != nil {
		dim = j.Checks.Dim
	}
	m.mu.Unlock()
	if dim == 0 {
		return nil // Build was never reached
	}
	b, err := m.o.Store.Build(ctx, j.Collection, store.Spec{Dim: dim, Index: j.Index, Model: j.Model}, j.ID)
	if err != nil {
		return err
	}
	return b.Abort(ctx)
}

// rebuild copies, checks and switches. It may be called again for the same job,
// and then goes on where the builder's rows end.
func (m *Manager) rebuild(ctx context.Context, j *job) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	src, err := m.o.Open(ctx, j.Source.Path)
	if err != nil {
		return fmt.Errorf("open %s: %w", j.Source.Path, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if src.Rows() == 0 {
		return imagebind.Errorf(imagebind.Invalid, "%s holds no rows", j.Source.Path)
	}
	if j.Checks != nil && j.Checks.Dim != src.Dim() || j.RowsTotal != 0 && j.RowsTotal != src.Rows() {
		return imagebind.Errorf(imagebind.Conflict, "%s changed while the job was at it", j.Source.Path)
	}
	// The dim stands in the file before the builder exists, so that abort finds it.
	if err := m.update(j, true, func(j *job) {
		j.RowsTotal = src.Rows()
		if j.Checks == nil {
			j.Checks = &retrieverapi.Checks{Dim: src.Dim()}
		}
	}); err != nil {
		return err
	}
	b, err := m.o.Store.Build(ctx, j.Collection, store.Spec{Dim: src.Dim(), Index: j.Index, Model: j.Model}, j.ID)
	if err != nil {
		return err
	}
	if err := m.copy(ctx, j, src, b); err != nil {
		return err
	}
	if err := m.check(ctx, j, src, b); err != nil {
		return err
	}
	if err := m.update(j, true, func(j *job) { j.Phase = "switch" }); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // the last moment to cancel
		return err
	}
	info, err := b.Commit(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	if twice := j.Point.Stored - info.Count; twice > 0 {
		slog.WarnContext(ctx, "rows were replaced by later ones of the same id", "job", j.ID, "rows", twice)
	}
	m.mu.Lock()
	j.Generation, j.Checks.Rows = info.Generation, info.Count
	m.mu.Unlock()
	return nil
}

// fault says why a row cannot be stored, or "".
func fault(r store.Row, dim int) string {
	switch n := r.Vector.Norm(); {
	case len(r.ID) == 0 || len(r.ID) > retrieverapi.MaxID:
		return fmt.Sprintf("an id of %d bytes; it has 1 to %d", len(r.ID), retrieverapi.MaxID)
	case len(r.Vector) != dim:
		return fmt.Sprintf("%d values; the source's dim is %d", len(r.Vector), dim)
	case !r.Vector.Finite():
		return "NaN or infinity"
	case n < 1e-6:
		return "a vector of length 0"
	case len(r.Caption) > retrieverapi.MaxText || len(r.URI) > retrieverapi.MaxText:
		return fmt.Sprintf("caption or uri over %d bytes", retrieverapi.MaxText)
	}
	if len(r.Metadata) > 0 {
		if b, err := json.Marshal(r.Metadata); err != nil || len(b) > retrieverapi.MaxText {
			return fmt.Sprintf("metadata that is no JSON, or over %d bytes of it", retrieverapi.MaxText)
		}
	}
	return ""
}

// resume finds where in the source the copy goes on: behind the b.Rows() first
// good rows. The job's durable point is at or before it, unless the builder
// lost rows; then the search begins at the source's first row.
func (m *Manager) resume(ctx context.Context, j *job, src Source, b store.Builder) (point, error) {
	p := j.Point
	if b.Rows() < p.Stored {
		p = point{}
	}
	p.Errors = slices.Clone(p.Errors)
	for p.Stored < b.Rows() {
		if p.Position >= src.Rows() {
			return p, imagebind.Errorf(imagebind.Conflict, "the generation holds %d rows, %s only %d good ones", b.Rows(), j.Source.Path, p.Stored)
		}
		rows, err := read(ctx, src, p.Position)
		if err != nil {
			return p, err
		}
		p.sift(rows, src.Dim(), b.Rows()-p.Stored)
	}
	return p, nil
}

func batch(dim int) int { return max(1, min(maxBatch, batchBytes/(4*dim))) }

// read returns the next rows of the source, at least one.
func read(ctx context.Context, src Source, at int) ([]store.Row, error) {
	rows, err := src.Read(ctx, at, min(batch(src.Dim()), src.Rows()-at))
	if err != nil {
		return nil, fmt.Errorf("read the source at row %d: %w", at, err)
	}
	if len(rows) == 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "the source ends at row %d of %d", at, src.Rows())
	}
	return rows, nil
}

// sift moves p over rows, which begin at p.Position, as far as limit good
// ones; those it returns. It counts norms and lists the bad.
func (p *point) sift(rows []store.Row, dim, limit int) []store.Row {
	good := make([]store.Row, 0, min(limit, len(rows)))
	for _, r := range rows {
		if len(good) == limit {
			break
		}
		if why := fault(r, dim); why != "" {
			p.Failed++
			if len(p.Errors) < maxRowErrors {
				p.Errors = append(p.Errors, retrieverapi.RowError{Row: p.Position, Message: why})
			}
		} else {
			n := r.Vector.Norm()
			if p.NormMax == 0 {
				p.NormMin = n
			}
			p.NormMin, p.NormMax = min(p.NormMin, n), max(p.NormMax, n)
			good = append(good, r)
		}
		p.Position++
	}
	p.Stored += len(good)
	return good
}

// tell shows how far the copy is.
func (j *job) tell(p point) {
	j.RowsDone, j.RowsFailed, j.RowErrors = p.Position, p.Failed, slices.Clone(p.Errors)
	j.Checks.NormMin, j.Checks.NormMax = p.NormMin, p.NormMax
}

func (m *Manager) copy(ctx context.Context, j *job, src Source, b store.Builder) error {
	p, err := m.resume(ctx, j, src, b)
	if err != nil {
		return err
	}
	if err := m.update(j, true, func(j *job) { j.Phase = "copy"; j.tell(p) }); err != nil {
		return err
	}
	began, first := time.Now(), p.Position
	told, kept := began, began
	for p.Position < src.Rows() {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, m.checkpoint(context.WithoutCancel(ctx), j, b, p))
		}
		rows, err := read(ctx, src, p.Position)
		if err != nil {
			return err
		}
		next := p
		good := next.sift(rows, src.Dim(), len(rows))
		if len(good) > 0 {
			if err := b.Append(ctx, good); err != nil {
				return fmt.Errorf("store rows %d to %d: %w", p.Position, next.Position, err)
			}
		}
		p = next
		now := time.Now()
		if now.Sub(told) >= progressTick {
			told = now
			rate := float64(p.Position-first) / max(now.Sub(began).Seconds(), 1e-3)
			eta := float64(src.Rows()-p.Position) / max(rate, 1e-3)
			if err := m.update(j, false, func(j *job) { j.tell(p); j.Rate, j.ETA = rate, &eta }); err != nil {
				return err
			}
		}
		if now.Sub(kept) >= m.o.Checkpoint {
			kept = now
			if err := m.checkpoint(ctx, j, b, p); err != nil {
				return err
			}
		}
	}
	rate := float64(p.Position-first) / max(time.Since(began).Seconds(), 1e-3)
	m.mu.Lock()
	j.Rate = rate
	m.mu.Unlock()
	return m.checkpoint(ctx, j, b, p)
}

// checkpoint makes the rows durable, then says so in the job's file.
func (m *Manager) checkpoint(ctx context.Context, j *job, b store.Builder, p point) error {
	if err := b.Checkpoint(ctx); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return m.update(j, true, func(j *job) { j.Point = p; j.tell(p) })
}

// A hit is a row of the source near a check's query.
type hit struct {
	row   int
	score float64
}

// check holds the new generation to its source: as many rows, few left out,
// and searches for rows of the source that find what brute force finds.
func (m *Manager) check(ctx context.Context, j *job, src Source, b store.Builder) error {
	if err := m.update(j, true, func(j *job) { j.Phase, j.ETA = "check", nil }); err != nil {
		return err
	}
	total, dim := src.Rows(), src.Dim()
	if bad := j.RowsFailed; float64(bad) > m.o.MaxBad*float64(total) {
		return imagebind.Errorf(imagebind.Invalid, "%d of %d rows are broken, the first: row %d, %s; at most %.0f %% may be left out",
			bad, total, j.RowErrors[0].Row, j.RowErrors[0].Message, 100*m.o.MaxBad)
	}
	if b.Rows() != j.Point.Stored {
		return imagebind.Errorf(imagebind.Internal, "the generation holds %d rows, %d were stored", b.Rows(), j.Point.Stored)
	}
	n := max(1, min(checkQueries, total, int(checkWork/(float64(total)*float64(dim)))))
	var queries []imagebind.Embedding
	for i := range n {
		rows, err := src.Read(ctx, i*total/n, 1)
		if err != nil {
			return fmt.Errorf("read %s: %w", j.Source.Path, err)
		}
		if len(rows) > 0 && fault(rows[0], dim) == "" {
			queries = append(queries, rows[0].Vector)
		}
	}
	best := make([][]hit, len(queries))
	for at := 0; at < total && len(queries) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows, err := read(ctx, src, at)
		if err != nil {
			return err
		}
		for i, r := range rows {
			if fault(r, dim) != "" {
				continue
			}
			for q := range queries {
				keep(&best[q], hit{at + i, queries[q].Dot(r.Vector)})
			}
		}
		at += len(rows)
	}
	found, wanted := 0, 0
	if len(queries) > 0 {
		got, err := b.Search(ctx, store.Query{Vectors: queries, K: checkK})
		if err != nil {
			return fmt.Errorf("search the new generation: %w", err)
		}
		for q, list := range got {
			wanted += len(best[q])
			floor := best[q][len(best[q])-1].score - 1e-5 // fp32 rounding; ties may fall either way
			for _, nb := range list[:min(len(list), len(best[q]))] {
				if float64(nb.Similarity) >= floor {
					found++
				}
			}
		}
	}
	recall := 1.0
	if wanted > 0 {
		recall = float64(found) / float64(wanted)
	}
	if err := m.update(j, true, func(j *job) {
		j.Checks.Rows, j.Checks.Queries, j.Checks.Recall = b.Rows(), len(queries), recall
	}); err != nil {
		return err
	}
	if recall < m.o.MinRecall {
		return imagebind.Errorf(imagebind.Invalid, "recall@%d of the new generation is %.3f over %d searches, under %.3f; another index or other parameters are needed", checkK, recall, len(queries), m.o.MinRecall)
	}
	return nil
}

// keep puts h among the checkK best, best first.
func keep(best *[]hit, h hit) {
	if len(*best) == checkK && h.score <= (*best)[checkK-1].score {
		return
	}
	i, _ := slices.BinarySearchFunc(*best, h, func(a, b hit) int { return cmp.Compare(b.score, a.score) })
	*best = slices.Insert(*best, i, h)
	if len(*best) > checkK {
		*best = (*best)[:checkK]
	}
}

// A Root is the one folder that jobs may read; "" is none.
type Root string

// Open returns an Options.Open that hands paths below the root to open.
func (r Root) Open(open func(ctx context.Context, path string) (Source, error)) func(context.Context, string) (Source, error) {
	return func(ctx context.Context, path string) (Source, error) {
		real, err := r.find(path)
		if err != nil {
			return nil, err
		}
		return open(ctx, real)
	}
}

// Check is an Options.Check.
func (r Root) Check(path string) error {
	_, err := r.find(path)
	return err
}

// find returns where path, relative to the root or absolute, really is. Links
// must not lead out of the root.
func (r Root) find(path string) (string, error) {
	if r == "" {
		return "", imagebind.Errorf(imagebind.Invalid, "this retriever reads no files: start it with --source-root DIR")
	}
	base, err := filepath.EvalSymlinks(string(r))
	if err == nil {
		base, err = filepath.Abs(base)
	}
	if err != nil {
		return "", imagebind.Errorf(imagebind.Unavailable, "the source root cannot be read: %w", err)
	}
	full := path
	if !filepath.IsAbs(path) {
		full = filepath.Join(base, path)
	}
	real, err := filepath.EvalSymlinks(full)
	outside := func(p string) bool {
		rel, err := filepath.Rel(base, p)
		return err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator))
	}
	if err != nil && !outside(filepath.Clean(full)) {
		return "", imagebind.Errorf(imagebind.NotFound, "source %q is not there under the source root", path)
	}
	if err != nil || outside(real) {
		return "", imagebind.Errorf(imagebind.Invalid, "source %q is outside the source root", path)
	}
	return real, nil
}
