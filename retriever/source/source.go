// Package source reads rows for rebuild jobs: tables of image features in NumPy
// .npy, faiss .index, .safetensors and .parquet files, and folders of them. A
// table stays on disk: rows are read where they are asked for, in memory that
// depends on the rows of one read alone. What the rows hold is the caller's to
// judge; package jobs leaves out those with NaN, a wrong length or no direction.
//
// Captions, URIs and metadata come from a .parquet file's other columns, and
// for files of bare vectors from a sidecar beside them: features.jsonl for
// features.npy (sidecar.go). A row that is given no id has its number, from 0,
// as its id, or the one that a faiss map of ids gives it.
//
// Media are the other kind of source: a folder, a list (list.go) or archives of
// samples (tar.go), whose files a runner embeds (runner.go). Their rows are made when they are first read
// (media.go) and then kept on the disk (spool.go).
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/faiss"
	"imagebind-llm/internal/format/npy"
	"imagebind-llm/internal/format/safetensors"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// A table is one file of rows.
type table interface {
	dim() int
	rows() int
	// read returns n rows from at on, both within the table. IDs may be empty.
	read(ctx context.Context, at, n int) ([]store.Row, error)
	close() error
}

// A lossy table's rows are not quite those that it was made of; the sentence,
// empty where they are, says how.
type lossy interface{ lossy() string }

// maxNotes bounds what a source says of itself.
const maxNotes = 10

// openers are the kinds of files, by the ending of the name.
var openers = map[string]func(path string) (table, error){
	".npy":         openNPY,
	".index":       openFaiss,
	".safetensors": openSafetensors,
	".parquet":     openParquet,
}

const kinds = ".npy, .index, .safetensors or .parquet"

// A Source is a table of features: a file, or a folder's files one after
// another in the order of their names.
type Source struct {
	shards []table
	names  []string // of the shards' files
	starts []int    // of each shard's rows, and one more: the number of rows
}

// Open opens the file or folder at path. Errors are NotFound for a path that is
// not there, Invalid for one that holds no features or is broken.
func Open(path string) (*Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, invalid(err)
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = shards(path); err != nil {
			return nil, err
		}
	}
	s := &Source{starts: []int{0}}
	for _, f := range files {
		if err := s.add(f); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// shards lists the files of features in a folder, by name. Their sidecars, and
// what else may lie there, are not among them.
func shards(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, invalid(err)
	}
	var files []string
	for _, e := range entries {
		if openers[strings.ToLower(filepath.Ext(e.Name()))] != nil && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "the folder %s holds no %s file", filepath.Base(dir), kinds)
	}
	return files, nil
}

func (s *Source) add(path string) error {
	name := filepath.Base(path)
	open := openers[strings.ToLower(filepath.Ext(path))]
	if open == nil {
		return imagebind.Errorf(imagebind.Invalid, "%s is no table of features, which is a %s file, or a folder of them; media, and lists of them, want a runner", name, kinds)
	}
	// A link in a folder could lead anywhere, and a pipe would never end.
	if info, err := os.Lstat(path); err != nil {
		return invalid(err)
	} else if !info.Mode().IsRegular() {
		return imagebind.Errorf(imagebind.Invalid, "%s is no plain file", name)
	}
	t, err := open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, invalid(err))
	}
	if t.rows() == 0 { // and perhaps no dim to compare
		return t.close()
	}
	s.shards, s.names = append(s.shards, t), append(s.names, name)
	s.starts = append(s.starts, s.Rows()+t.rows())
	switch first := s.Dim(); {
	case t.dim() < 1 || t.dim() > retrieverapi.MaxDim:
		return imagebind.Errorf(imagebind.Invalid, "%s has rows of %d values; a feature has 1 to %d", name, t.dim(), retrieverapi.MaxDim)
	case t.dim() != first:
		return imagebind.Errorf(imagebind.Invalid, "%s has rows of %d values, the files before it have %d", name, t.dim(), first)
	}
	return nil
}

// invalid returns err as an Error that the sender of the job may read.
func invalid(err error) error {
	var typed *imagebind.Error
	switch {
	case errors.As(err, &typed):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return imagebind.Errorf(imagebind.NotFound, "%w", err)
	}
	return imagebind.Errorf(imagebind.Invalid, "%w", err)
}

// Dim returns the number of values of a row, or 0 when there are no rows.
func (s *Source) Dim() int {
	if len(s.shards) == 0 {
		return 0
	}
	return s.shards[0].dim()
}

// Notes says what whoever uses the rows should know: which files give their
// vectors back only about as they were, and how. At most 10 of them are named.
func (s *Source) Notes() []string {
	var notes []string
	for i, t := range s.shards {
		l, ok := t.(lossy)
		if !ok || l.lossy() == "" {
			continue
		}
		if len(notes) == maxNotes {
			return append(notes, "more such files follow")
		}
		notes = append(notes, s.names[i]+", "+l.lossy())
	}
	return notes
}

// Rows returns the number of rows.
func (s *Source) Rows() int { return s.starts[len(s.starts)-1] }

// Read returns the rows from at, from 0 on: at most n, and at least one unless
// at is the end or n is 0. A read ends with a file. Vectors may hold anything;
// their length may differ from Dim in a .parquet file.
func (s *Source) Read(ctx context.Context, at, n int) ([]store.Row, error) {
	if at < 0 || at > s.Rows() || n < 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "rows %d to %d of %d", at, at+n, s.Rows())
	}
	if err := ctx.Err(); err != nil || at == s.Rows() || n == 0 {
		return nil, err
	}
	i, found := slices.BinarySearch(s.starts, at)
	if !found {
		i--
	}
	rows, err := s.shards[i].read(ctx, at-s.starts[i], min(n, s.starts[i+1]-at))
	if err != nil {
		return nil, fmt.Errorf("row %d: %w", at, invalid(err))
	}
	for j := range rows {
		if rows[j].ID == "" {
			rows[j].ID = strconv.Itoa(at + j)
		}
	}
	return rows, nil
}

// Close closes the files.
func (s *Source) Close() error {
	var err error
	for _, t := range s.shards {
		err = errors.Join(err, t.close())
	}
	return err
}

func openNPY(path string) (table, error) {
	f, err := npy.Open(path)
	if err != nil {
		return nil, err
	}
	return newArray(path, f)
}

func openFaiss(path string) (table, error) {
	f, err := faiss.Open(path)
	if err != nil {
		return nil, err
	}
	a, err := newArray(path, f)
	if err != nil {
		return nil, err
	}
	return indexed{a, f}, nil
}

// indexed is a faiss index, which may have its own ids and may be lossy.
type indexed struct {
	table
	index *faiss.File
}

func (m indexed) lossy() string { return m.index.Lossy }

// read gives the index's ids to rows whose sidecar has none.
func (m indexed) read(ctx context.Context, at, n int) ([]store.Row, error) {
	rows, err := m.table.read(ctx, at, n)
	if err != nil || !m.index.Mapped {
		return rows, err
	}
	ids := make([]int64, len(rows))
	if err := m.index.ReadIDs(ids, at); err != nil {
		return nil, err
	}
	for i := range rows {
		if rows[i].ID == "" {
			rows[i].ID = strconv.FormatInt(ids[i], 10)
		}
	}
	return rows, nil
}

func openSafetensors(path string) (table, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	return newArray(path, f)
}
