package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

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

// rebuild copies, checks and switches. It may be called again for the same job,
// and then goes on where the builder's rows end.
func (m *Manager) rebuild(ctx context.Context, j *job) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	src, err := m.o.Open(ctx, j.Source, m.scratch(j.ID))
	if err != nil {
		return fmt.Errorf("open %s: %w", j.Source.Path, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if src.Rows() == 0 {
		return imagebind.Errorf(imagebind.Invalid, "%s holds no rows", j.Source.Path)
	}
	if m.o.Room != nil {
		if err := m.o.Room(ctx, j.Collection, src.Rows()); err != nil {
			return err
		}
	}
	var notes []string
	if noted, ok := src.(Noted); ok {
		notes = noted.Notes()
	}
	hash, model := "", j.Model
	if made, ok := src.(Made); ok {
		hash, model = made.Hash(), cmp.Or(j.Model, made.Model())
	}
	if j.Checks != nil && (j.Checks.Dim != src.Dim() || j.Hash != hash) || j.RowsTotal != 0 && j.RowsTotal != src.Rows() {
		return imagebind.Errorf(imagebind.Conflict, "%s, or the model that embeds it, changed while the job was at it; start another", j.Source.Path)
	}
	// The dim stands in the file before the builder exists, so that abort finds it.
	if err := m.update(j, true, func(j *job) {
		j.RowsTotal, j.Hash, j.Model, j.Notes = src.Rows(), hash, model, notes
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
	if info, ok := b.Committed(); ok { // and then came the kill
		m.mu.Lock()
		j.Generation, j.Checks.Rows = info.Generation, info.Count
		m.mu.Unlock()
		return nil
	}
	p, err := m.copy(ctx, j, src, b)
	if err != nil {
		return err
	}
	if err := m.check(ctx, j, src, b, p); err != nil {
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

// fault says why a row cannot be stored, or "", and how long its vector is.
func fault(r store.Row, dim int) (why string, norm float64) {
	switch norm = math.Sqrt(kernel.SumSquares(r.Vector)); {
	case len(r.ID) == 0 || len(r.ID) > retrieverapi.MaxID:
		why = fmt.Sprintf("an id of %d bytes; it has 1 to %d", len(r.ID), retrieverapi.MaxID)
	case len(r.Vector) != dim:
		why = fmt.Sprintf("%d values; the source's dim is %d", len(r.Vector), dim)
	case math.IsNaN(norm) || math.IsInf(norm, 0):
		why = "NaN or infinity"
	case norm < 1e-6:
		why = "a vector of length 0"
	case len(r.Caption) > retrieverapi.MaxText || len(r.URI) > retrieverapi.MaxText:
		why = fmt.Sprintf("caption or uri over %d bytes", retrieverapi.MaxText)
	case len(r.Metadata) > 0:
		if b, err := json.Marshal(r.Metadata); err != nil || len(b) > retrieverapi.MaxText {
			why = fmt.Sprintf("metadata that is no JSON, or over %d bytes of it", retrieverapi.MaxText)
		}
	}
	return why, norm
}

// tooBad is an error once p's broken rows are more than may be left out: that
// share of them all, or the first 100 without a good one among them.
func (m *Manager) tooBad(p point, total int) error {
	if float64(p.Failed) > m.o.MaxBad*float64(total) {
		return imagebind.Errorf(imagebind.Invalid, "%d of %d rows are broken, the first: row %d, %s; at most %.0f %% may be left out",
			p.Failed, total, p.Errors[0].Row, p.Errors[0].Message, 100*m.o.MaxBad)
	}
	if p.Stored == 0 && p.Failed >= 100 {
		return imagebind.Errorf(imagebind.Invalid, "the first %d rows are all broken, the first: %s", p.Failed, p.Errors[0].Message)
	}
	return nil
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
		p.sift(src, rows, b.Rows()-p.Stored)
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

// sift moves p over rows of src, which begin at p.Position, as far as limit
// good ones; those it returns. It counts norms and lists the bad.
func (p *point) sift(src Source, rows []store.Row, limit int) []store.Row {
	made, _ := src.(Made)
	good := make([]store.Row, 0, min(limit, len(rows)))
	for _, r := range rows {
		if len(good) == limit {
			break
		}
		if why, n := fault(r, src.Dim()); why != "" {
			p.Failed++
			if len(p.Errors) < maxRowErrors {
				if made != nil {
					why = cmp.Or(made.Why(p.Position), why)
				}
				p.Errors = append(p.Errors, retrieverapi.RowError{Row: p.Position, Message: why})
			}
		} else {
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

// A shelf reads a source ahead: the next rows while the last are stored. Rows
// that are made it reads when they are asked for, as they have work of their own
// under way.
type shelf struct {
	src     Source
	at      int            // of the next rows, where there are no batches
	batches chan batchRead // nil: nothing is read ahead
	stop    context.CancelFunc
}

type batchRead struct {
	rows []store.Row
	err  error
}

func newShelf(ctx context.Context, src Source, at int) *shelf {
	s := &shelf{src: src, at: at, stop: func() {}}
	if _, ok := src.(Made); ok {
		return s
	}
	ctx, s.stop = context.WithCancel(ctx)
	s.batches = make(chan batchRead, 1)
	go func() {
		defer close(s.batches)
		for at < src.Rows() {
			rows, err := read(ctx, src, at)
			at += len(rows)
			select {
			case s.batches <- batchRead{rows, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

// next returns the next rows; none when ctx ended.
func (s *shelf) next(ctx context.Context) ([]store.Row, error) {
	if s.batches != nil {
		b := <-s.batches
		return b.rows, b.err
	}
	rows, err := read(ctx, s.src, s.at)
	s.at += len(rows)
	return rows, err
}

// close ends the reading; the source is nobody's then.
func (s *shelf) close() {
	s.stop()
	if s.batches != nil {
		for range s.batches {
		}
	}
}

// copy brings the source's rows to the builder. The probe it returns saw those of
// this run.
func (m *Manager) copy(ctx context.Context, j *job, src Source, b store.Builder) (*probe, error) {
	p, err := m.resume(ctx, j, src, b)
	if err != nil {
		return nil, err
	}
	phase := "copy"
	var probe *probe
	if _, ok := src.(Made); ok {
		phase = "embed"
	} else {
		if probe, err = newProbe(ctx, src); err != nil {
			return nil, err
		}
		probe.from = p.Position
	}
	if err := m.update(j, true, func(j *job) { j.Phase = phase; j.tell(p) }); err != nil {
		return nil, err
	}
	began, first := time.Now(), p.Position
	told, kept := began, began
	shelf := newShelf(ctx, src, p.Position)
	defer shelf.close()
	saving := (chan error)(nil) // of a checkpoint that runs beside the copy
	saved := func() error {
		if saving == nil {
			return nil
		}
		err := <-saving
		saving = nil
		return err
	}
	defer func() { _ = saved() }() // no builder is left with one
	for p.Position < src.Rows() {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, saved(), m.checkpoint(context.WithoutCancel(ctx), j, b, p))
		}
		rows, err := shelf.next(ctx)
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 { // ctx ended meanwhile
			continue
		}
		if p, err = m.store(ctx, src, b, p, rows, probe); err != nil {
			return nil, err
		}
		if err := m.tooBad(p, src.Rows()); err != nil {
			return nil, errors.Join(err, m.update(j, false, func(j *job) { j.tell(p) }))
		}
		if err := m.pace(ctx, j.MaxRate, began, p.Position-first); err != nil {
			continue // the loop sees why
		}
		now := time.Now()
		due := now.Sub(kept) >= m.o.Checkpoint
		if due || now.Sub(told) >= progressTick {
			told = now
			rate := float64(p.Position-first) / max(now.Sub(began).Seconds(), 1e-3)
			eta := float64(src.Rows()-p.Position) / max(rate, 1e-3)
			if err := m.update(j, false, func(j *job) { j.tell(p); j.Rate, j.ETA = rate, &eta }); err != nil {
				return nil, err
			}
		}
		if due {
			kept = now
			if err := saved(); err != nil {
				return nil, err
			}
			saving = make(chan error, 1)
			go func(done chan<- error, p point) { done <- m.checkpoint(ctx, j, b, p) }(saving, p)
		}
	}
	if err := saved(); err != nil {
		return nil, err
	}
	rate := float64(p.Position-first) / max(time.Since(began).Seconds(), 1e-3)
	if err := m.update(j, false, func(j *job) { j.tell(p); j.Rate = rate }); err != nil {
		return nil, err
	}
	return probe, m.checkpoint(ctx, j, b, p)
}

// pace waits until n rows since began are not over a rate; 0 is none.
func (m *Manager) pace(ctx context.Context, rate float64, began time.Time, n int) error {
	if rate <= 0 {
		return nil
	}
	wait := time.NewTimer(time.Until(began.Add(time.Duration(float64(n) / rate * float64(time.Second)))))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// store appends what is good of the source's next rows, while the probe sees it.
func (m *Manager) store(ctx context.Context, src Source, b store.Builder, p point, rows []store.Row, probe *probe) (point, error) {
	next := p
	good := next.sift(src, rows, len(rows))
	if len(good) == 0 {
		return next, nil
	}
	var seen sync.WaitGroup
	defer seen.Wait()
	if probe != nil {
		seen.Go(func() { probe.see(good) })
	}
	if err := b.Append(ctx, good); err != nil {
		return p, fmt.Errorf("store rows %d to %d: %w", p.Position, next.Position, err)
	}
	return next, nil
}

// checkpoint makes the rows durable, then says so in the job's file.
func (m *Manager) checkpoint(ctx context.Context, j *job, b store.Builder, p point) error {
	if err := b.Checkpoint(ctx); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return m.update(j, true, func(j *job) { j.Point = p })
}
