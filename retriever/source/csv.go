package source

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	imagebind "imagebind-llm"
)

// A header says what the columns of a .csv or .tsv list are, by the names in its
// first line, in any case: path (or file, file_name, filename) of a medium, or
// text to embed, and any of id, caption, uri (or url), modality and metadata, a
// JSON object. Other columns join the metadata as strings.
type header struct {
	name    string // of the file
	comma   rune
	columns []string
}

// columnNames maps what a column may be called to what it is; of several, a row
// has the last that is not empty.
var columnNames = map[string]string{
	"path": "path", "file": "path", "file_name": "path", "filename": "path", "text": "text", "id": "id",
	"caption": "caption", "uri": "uri", "url": "uri", "modality": "modality", "metadata": "metadata",
}

// isTable says whether a name is that of a .csv or .tsv file.
func isTable(name string) bool {
	ext := strings.ToLower(path.Ext(name))
	return ext == ".csv" || ext == ".tsv"
}

// records opens a reader over the lines of a list. Each record, which may be
// several lines, must fit in what allow lets through.
func (h header) records(r io.Reader) (*csv.Reader, *allowance) {
	a := &allowance{r: r}
	c := csv.NewReader(a)
	c.Comma, c.FieldsPerRecord = h.comma, -1
	a.reset()
	return c, a
}

// An allowance bounds what a csv.Reader, which has no bound of its own, takes
// for one record.
type allowance struct {
	r    io.Reader
	left int
}

// readAhead is over what a csv.Reader reads at once.
const readAhead = 1 << 13

var errLongRecord = fmt.Errorf("a record of over %d bytes; is a quote missing?", maxLine)

func (a *allowance) reset() { a.left = maxLine + readAhead }

func (a *allowance) Read(b []byte) (int, error) {
	if a.left <= 0 {
		return 0, errLongRecord
	}
	n, err := a.r.Read(b[:min(len(b), a.left, readAhead/2)])
	a.left -= n
	return n, err
}

// readHeader reads the first line. ok says whether it is that of a list: it
// names a path or a text.
func readHeader(name string, r *csv.Reader) (h header, ok bool, err error) {
	h.name, h.comma = name, r.Comma
	fields, err := r.Read()
	if errors.Is(err, io.EOF) {
		return h, false, nil
	}
	if err != nil {
		return h, false, imagebind.Errorf(imagebind.Invalid, "%s: %w", name, err)
	}
	known := map[string]bool{}
	for i, f := range fields {
		if i == 0 {
			f = strings.TrimPrefix(f, "\uFEFF")
		}
		f = strings.TrimSpace(f)
		if k := columnNames[strings.ToLower(f)]; k != "" {
			f, known[k] = k, true
		}
		h.columns = append(h.columns, f)
	}
	return h, known["path"] || known["text"], nil
}

// table takes the media from a .csv or .tsv list. A record that is broken is a
// row that is left out. It returns false, and takes nothing, where the file is
// no list.
func (l *list) table(ctx context.Context, name string, h hash.Hash) (bool, error) {
	file, err := l.root.Open(path.Join(l.dir, name))
	if err != nil {
		return false, err
	}
	head := header{name: name, comma: ','}
	if strings.EqualFold(path.Ext(name), ".tsv") {
		head.comma = '\t'
	}
	r, bound := head.records(io.TeeReader(file, h))
	head, ok, err := readHeader(name, r)
	if err != nil || !ok {
		return false, errors.Join(err, file.Close())
	}
	l.notes, l.name = file, name
	l.note = func(at int64) (entry, error) {
		r, _ := head.records(io.NewSectionReader(file, at, 1<<62-at))
		fields, err := r.Read()
		return l.record(head, fields, err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return true, err
		}
		at := r.InputOffset()
		bound.reset()
		fields, err := r.Read()
		var broken *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case err != nil && !errors.As(err, &broken):
			return true, imagebind.Errorf(imagebind.Invalid, "%s, row %d: %w", name, len(l.media), err)
		}
		e, err := l.record(head, fields, err)
		if err != nil {
			l.media = append(l.media, medium{size: unreadable, note: at})
		} else if err := l.add(ctx, e, at, h); err != nil {
			return true, err
		}
	}
}

// record makes an entry of a record's fields; err is of reading them.
func (l *list) record(h header, fields []string, err error) (entry, error) {
	var e entry
	if err != nil {
		var broken *csv.ParseError
		if errors.As(err, &broken) { // its lines are counted from the record
			err = broken.Err
		}
		return e, err
	}
	if len(fields) != len(h.columns) {
		return e, fmt.Errorf("it has %d fields, the first line of %s names %d", len(fields), h.name, len(h.columns))
	}
	var name string
	extra := map[string]any{}
	for i, f := range fields {
		column := h.columns[i]
		if column != "path" {
			f = strings.ToValidUTF8(f, "\uFFFD")
		}
		if f == "" {
			continue
		}
		switch column {
		case "path":
			name = f
		case "text":
			e.text = f
		case "id":
			e.ID = f
		case "caption":
			e.Caption = f
		case "uri":
			e.URI = f
		case "modality":
			e.modality = f
		case "metadata":
			if err := json.Unmarshal([]byte(f), &e.Metadata); err != nil {
				return e, errors.New("metadata is no JSON object")
			}
		default:
			extra[column] = f
		}
	}
	if name != "" && e.text != "" { // a text beside a medium says something of it
		extra["text"], e.text = e.text, ""
	}
	for column, f := range extra {
		if e.Metadata == nil {
			e.Metadata = map[string]any{}
		}
		if _, there := e.Metadata[column]; !there {
			e.Metadata[column] = f
		}
	}
	if name == "" && e.text == "" {
		return e, errors.New("it has neither a path nor a text")
	}
	if name != "" {
		e.path, err = l.below(name)
	}
	return e, err
}
