package source

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

const (
	stride  = 64      // lines between two known offsets: 3M rows cost 375 KB
	maxLine = 1 << 18 // bytes; a caption, a URI and metadata of the largest sizes, escaped
)

// A sidecar holds what a file of bare vectors lacks: a JSON object a line, one
// line a row, with id (a string or a whole number), caption, uri (or url) and
// metadata, an object. Each may be absent. Other fields join the metadata.
type sidecar struct {
	f       *os.File
	name    string
	offsets []int64 // of lines 0, stride, 2·stride, …
	lines   int
}

// openSidecar opens the .jsonl file beside the features at path, or returns nil
// where there is none. Every line is read once, so that a broken one is known
// before a job copies anything.
func openSidecar(path string, rows int) (*sidecar, error) {
	path = strings.TrimSuffix(path, filepath.Ext(path)) + ".jsonl"
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &sidecar{f: f, name: filepath.Base(path)}
	if err := s.scan(rows); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *sidecar) scan(rows int) error {
	var err error
	s.lines, err = eachLine(s.f, s.name, func(number int, at int64, line []byte) error {
		if _, err := s.parse(line, number); err != nil {
			return err
		}
		if number == rows {
			return imagebind.Errorf(imagebind.Invalid, "%s has more lines than the features have rows, %d", s.name, rows)
		}
		if number%stride == 0 {
			s.offsets = append(s.offsets, at)
		}
		return nil
	})
	if err == nil && s.lines != rows {
		err = imagebind.Errorf(imagebind.Invalid, "%s has %d lines, the features have %d rows", s.name, s.lines, rows)
	}
	return err
}

// eachLine calls f with each line of the file called name, its number from 0
// and the offset where it begins, and returns how many there are. The line,
// with its end, is valid during the call.
func eachLine(r io.Reader, name string, f func(number int, at int64, line []byte) error) (int, error) {
	buf, at := bufio.NewReaderSize(r, maxLine), int64(0)
	for number := 0; ; number++ {
		line, err := nextLine(buf, name, number)
		if errors.Is(err, io.EOF) {
			return number, nil
		}
		if err == nil {
			err = f(number, at, line)
		}
		if err != nil {
			return number, err
		}
		at += int64(len(line))
	}
}

// nextLine returns the next line with its end, valid until the next call.
func nextLine(r *bufio.Reader, name string, number int) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, imagebind.Errorf(imagebind.Invalid, "%s, line %d: over %d bytes", name, number+1, maxLine)
	case errors.Is(err, io.EOF) && len(line) > 0: // the last line may lack its end
		return line, nil
	}
	return line, err
}

// parse reads a line to a row without a vector.
func (s *sidecar) parse(line []byte, number int) (store.Row, error) {
	row, err := parseNote(line)
	if err != nil {
		return row, imagebind.Errorf(imagebind.Invalid, "%s, line %d: %w", s.name, number+1, err)
	}
	return row, nil
}

func parseNote(line []byte) (store.Row, error) {
	fields, err := members(line)
	if err != nil {
		return store.Row{}, err
	}
	return noteOf(fields)
}

// members splits a line, a JSON object.
func members(line []byte) (map[string]json.RawMessage, error) {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil, errors.New("it is empty; a row without notes is {}")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	if fields == nil {
		return nil, errors.New("it is null, not a JSON object")
	}
	return fields, nil
}

// noteOf makes a row of a line's fields.
func noteOf(fields map[string]json.RawMessage) (store.Row, error) {
	var row store.Row
	if raw, ok := fields["metadata"]; ok {
		if err := json.Unmarshal(raw, &row.Metadata); err != nil {
			return row, errors.New("metadata is no object")
		}
	}
	for name, raw := range fields {
		var err error
		switch name {
		case "metadata":
		case "id":
			row.ID, err = noteID(raw)
		case "caption":
			err = json.Unmarshal(raw, &row.Caption)
		case "uri":
			err = json.Unmarshal(raw, &row.URI)
		case "url":
			if _, both := fields["uri"]; !both {
				err = json.Unmarshal(raw, &row.URI)
				break
			}
			fallthrough
		default:
			if _, there := row.Metadata[name]; there {
				break
			}
			var v any
			if err = json.Unmarshal(raw, &v); err != nil {
				break
			}
			if row.Metadata == nil {
				row.Metadata = map[string]any{}
			}
			row.Metadata[name] = v
		}
		if err != nil {
			return row, fmt.Errorf("%s: %w", name, err)
		}
	}
	return row, nil
}

// noteID reads an id: a string, a whole number as its digits, or null for none.
func noteID(raw json.RawMessage) (string, error) {
	var id *string
	if err := json.Unmarshal(raw, &id); err == nil {
		if id == nil {
			return "", nil
		}
		return *id, nil
	}
	var n int64
	if err := json.Unmarshal(raw, &n); err != nil {
		return "", errors.New("it is neither a string nor a whole number")
	}
	return fmt.Sprint(n), nil
}

// read returns rows at to at+n, without vectors.
func (s *sidecar) read(at, n int) ([]store.Row, error) {
	if n == 0 {
		return nil, nil
	}
	block := at / stride
	from := s.offsets[block]
	r := bufio.NewReaderSize(io.NewSectionReader(s.f, from, 1<<62-from), maxLine)
	rows := make([]store.Row, 0, n)
	for number := block * stride; len(rows) < n; number++ {
		line, err := nextLine(r, s.name, number)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", s.name, number+1, err) // it was there when it was opened
		}
		if number < at {
			continue
		}
		row, err := s.parse(line, number)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// close closes the file, where there is one.
func (s *sidecar) close() error {
	if s == nil {
		return nil
	}
	return s.f.Close()
}
