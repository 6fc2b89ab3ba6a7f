package jobs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// Run works through the queue until ctx ends: up to Parallel jobs at once, those
// of one collection one after another. Jobs under way then keep their state, and
// go on after the next Open.
func (m *Manager) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range m.o.Parallel {
		wg.Go(func() {
			for ctx.Err() == nil {
				j, wake := m.next()
				if j == nil {
					select {
					case <-ctx.Done():
					case <-wake:
					}
					continue
				}
				m.run(ctx, j)
				m.mu.Lock()
				delete(m.busy, j.Collection)
				m.rouse()
				m.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// next takes the first job whose collection is free from the queue. Where there
// is none, wake is closed when it is worth asking again.
func (m *Manager) next() (j *job, wake <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.queue, func(id string) bool { return !m.busy[m.jobs[id].Collection] })
	if i < 0 {
		return nil, m.wake
	}
	j = m.jobs[m.queue[i]]
	m.queue = slices.Delete(m.queue, i, i+1)
	m.busy[j.Collection] = true
	return j, nil
}

// rouse has the workers look at the queue. m.mu is held.
func (m *Manager) rouse() {
	close(m.wake)
	m.wake = make(chan struct{})
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
	since := time.Now() // of the last progress
	for try := 0; err == nil; try++ {
		before := j.Point.Position
		err = m.rebuild(work, j)
		if j.Point.Position > before {
			try, since = 0, time.Now()
		}
		// A full disk is full of the job's own rows: ending it makes room.
		if err == nil || work.Err() != nil || time.Since(since) > m.o.Patience || imagebind.KindOf(err) != imagebind.Unavailable || errors.Is(err, syscall.ENOSPC) {
			break
		}
		log.Warn("the store or the runner is away; the job goes on later", "try", try+1, "err", err)
		pause := min(m.o.Backoff<<min(try, 16), 30*time.Second)
		select {
		case <-work.Done():
		case <-time.After(pause/2 + rand.N(pause)): // many jobs may wait for the same server
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

// end records how the job came out.
func (m *Manager) end(j *job, state string, cause error) error {
	err := os.Remove(m.scratch(j.ID))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, m.update(j, true, func(j *job) {
		now := time.Now().UTC()
		j.State, j.FinishedAt, j.ETA = state, &now, nil
		if state == retrieverapi.JobDone {
			j.Phase = "done"
		}
		if cause != nil {
			j.Error = imagebind.MessageOf(cause)
		}
	}))
}
