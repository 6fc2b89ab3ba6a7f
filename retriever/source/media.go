package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unicode/utf8"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// Media is a source whose rows a runner makes: each file of a list is sent to
// POST /v1/embeddings. Some requests are under way ahead of the row that is
// read; what they bring goes to a spool on the disk, which answers when a row is
// read again. In memory are the list's paths and, for each request under way,
// its body twice. Read is for one goroutine.
type Media struct {
	*list
	runner *runner
	model  model
	hash   string
	spool  *spool
	ctx    context.Context // of the requests, which go on between two Reads
	cancel context.CancelFunc
	ahead  []*flight // in the order of their rows
	next   int       // the first row behind them
}

// A flight is a request under way, for rows from up to to.
type flight struct {
	from, to int
	done     chan struct{}
	err      error // set before done is closed
}

// OpenMedia opens the media at name below the folder root, which links do not
// leave; s names the runner, one of rs. What is embedded is kept in the file
// scratch: a source of the same Hash may go on with it. ctx is that of the
// whole source.
func (rs *Runners) OpenMedia(ctx context.Context, root, name string, s retrieverapi.Source, scratch string) (*Media, error) {
	if err := rs.Check(s); err != nil {
		return nil, err
	}
	r, err := rs.find(s.Runner)
	if err != nil {
		return nil, err
	}
	m := &Media{runner: r}
	if m.model, err = r.model(ctx); err != nil {
		return nil, err
	}
	if _, err := m.model.part(s.Modality); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, invalid(err)
	}
	h := sha256.New()
	params, _ := json.Marshal(s.Params) // numbers and switches
	fmt.Fprintf(h, "%q %s %d %q %s\n", m.model.ID, m.model.Fingerprint, m.model.Dimensions, s.Modality, params)
	if m.list, err = openList(ctx, dir, filepath.ToSlash(name), s, h); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	m.hash = hex.EncodeToString(h.Sum(nil))
	if m.spool, err = openSpool(scratch, m.model.Dimensions); err != nil {
		return nil, errors.Join(err, m.list.close(), dir.Close())
	}
	m.ctx, m.cancel = context.WithCancel(ctx)
	return m, nil
}

// Dim returns the number of values of an embedding.
func (m *Media) Dim() int { return m.model.Dimensions }

// Rows returns the number of media.
func (m *Media) Rows() int { return len(m.media) }

// Model returns the id of the runner's model.
func (m *Media) Model() string { return m.model.ID }

// Hash is of the model and its weights, the settings, and the media's names and sizes.
func (m *Media) Hash() string { return m.hash }

// Why says why a row that was read has no vector.
func (m *Media) Why(row int) string {
	r, _, err := m.spool.get(row)
	if err != nil {
		return imagebind.MessageOf(err)
	}
	if r.why == "" || m.media[row].path == "" {
		return r.why
	}
	return m.media[row].name() + ": " + r.why
}

// Read returns the rows from at, at most n and at least one unless at is the
// end. One that could not be embedded has no vector.
func (m *Media) Read(ctx context.Context, at, n int) ([]store.Row, error) {
	if at < 0 || at > m.Rows() || n < 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "rows %d to %d of %d", at, at+n, m.Rows())
	}
	if n = min(n, m.Rows()-at); n == 0 {
		return nil, ctx.Err()
	}
	for range 2 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rows, err := m.kept(at, n)
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			m.advance(at + len(rows))
			return rows, nil
		}
		if err := m.await(ctx, at); err != nil {
			return nil, err
		}
	}
	return nil, imagebind.Errorf(imagebind.Unavailable, "what was embedded cannot be read again; the disk with the jobs is at fault")
}

// kept returns the rows from at that are in the spool, at most n, up to the
// first that is not.
func (m *Media) kept(at, n int) ([]store.Row, error) {
	var rows []store.Row
	for row := at; row < at+n; row++ {
		r, there, err := m.spool.get(row)
		if err != nil {
			return nil, err
		}
		if !there {
			break
		}
		e, err := m.entry(row)
		if err != nil {
			return nil, err
		}
		if e.wrong == nil {
			e.Vector = r.embedding
		}
		rows = append(rows, e.Row)
	}
	return rows, nil
}

// advance forgets the flights that ended before row, and where some are left
// starts others behind them.
func (m *Media) advance(row int) {
	for len(m.ahead) > 0 && m.ahead[0].to <= row {
		<-m.ahead[0].done // its rows are in the spool: it is about to end
		m.ahead = m.ahead[1:]
	}
	if len(m.ahead) > 0 {
		m.fill()
	}
}

// fill starts flights behind those under way.
func (m *Media) fill() {
	for len(m.ahead) < m.runner.o.Requests {
		for m.next < m.Rows() && m.has(m.next) { // what an earlier run of the job embedded
			m.next++
		}
		if m.next == m.Rows() {
			return
		}
		f := &flight{from: m.next, done: make(chan struct{})}
		var size int64
		for f.to = f.from; f.to < m.Rows() && f.to-f.from < m.runner.o.Batch; f.to++ {
			size += m.media[f.to].size/3*4 + 512
			if f.to > f.from && (size > m.runner.o.Bytes || m.has(f.to)) {
				break
			}
		}
		m.next = f.to
		m.ahead = append(m.ahead, f)
		go func() {
			defer close(f.done)
			f.err = m.embed(f.from, f.to)
		}()
	}
}

// has says whether the spool has a row.
func (m *Media) has(row int) bool {
	_, there, err := m.spool.get(row)
	return there && err == nil
}

// await waits for the flight that brings a row.
func (m *Media) await(ctx context.Context, row int) error {
	if len(m.ahead) == 0 || row < m.ahead[0].from || row >= m.ahead[0].to {
		m.land()
		if m.has(row) {
			return nil
		}
		m.next = row
	}
	m.fill()
	f := m.ahead[0] // of this row
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
	}
	m.ahead = m.ahead[1:]
	return f.err
}

// land waits for the flights, whose results the spool has.
func (m *Media) land() {
	for _, f := range m.ahead {
		<-f.done
	}
	m.ahead = nil
}

// embed fills the spool's rows from up to to.
func (m *Media) embed(from, to int) error {
	results := make([]result, to-from)
	var items []item
	var of []int // the result of each item
	for i := range results {
		it, err := m.item(from + i)
		if err != nil {
			if imagebind.KindOf(err) == imagebind.Internal {
				return err
			}
			results[i].why = imagebind.MessageOf(err)
			continue
		}
		items, of = append(items, it), append(of, i)
	}
	embedded, err := m.runner.embed(m.ctx, m.model, items)
	if err != nil {
		return err
	}
	for i, r := range embedded {
		results[of[i]] = r
	}
	for i, r := range results {
		if err := m.spool.put(from+i, r); err != nil {
			return err
		}
	}
	return nil
}

// item makes a row's part of a request. Errors other than Internal are the row's.
func (m *Media) item(row int) (item, error) {
	e, err := m.entry(row)
	if err != nil {
		return nil, err
	}
	if e.wrong != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "%w", e.wrong)
	}
	part, err := m.model.part(e.modality)
	if err != nil {
		return nil, err
	}
	if e.text != "" {
		return textItem(part, e.text), nil
	}
	data, err := m.load(row, m.runner.o.File)
	switch {
	case err != nil:
		return nil, err
	case e.modality != textModality:
		return fileItem(part, data, e.params), nil
	case !utf8.Valid(data):
		return nil, imagebind.Errorf(imagebind.Invalid, "it is no UTF-8 text")
	}
	return textItem(part, string(data)), nil
}

// Close ends the requests under way and closes the files; the spool stays.
func (m *Media) Close() error {
	m.cancel()
	m.land()
	return errors.Join(m.spool.close(), m.list.close(), m.root.Close())
}
