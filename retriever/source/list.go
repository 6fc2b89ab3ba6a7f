package source

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// A list is media in a fixed order: those of a folder, one file, those that a
// .jsonl, .csv (csv.go) or .tsv names, or the samples of .tar archives (tar.go).
// Only their paths are in memory; what else is known of one is read from the disk
// where it is asked for.
//
// Beside a folder's media may lie dog.txt, the caption of dog.jpg, and in the
// folder itself captions.jsonl (or metadata.jsonl, as Hugging Face has it): an
// object a line with path (or file_name) and any of id, caption, uri and
// metadata. A .jsonl list has such lines too, one a row and in that order, with
// modality and params where a row has its own, and text in the place of path for
// a text to embed. Paths are relative to the folder of the file that names them;
// that of a .tar stands for all its samples.
type list struct {
	root  *os.Root // the source root: links do not lead out of it
	dir   string   // of the folder, file or .jsonl, within root
	media []medium
	notes *os.File                      // captions.jsonl or the list; nil: none
	name  string                        // of notes
	note  func(at int64) (entry, error) // reads one of notes, at an offset
	// modality and params are those of the whole source.
	modality string
	params   map[string]any
}

// A medium is one row's.
type medium struct {
	path   string // in root; "" for a text, which stands in its note
	member string // in the .tar at path; "": it is the file itself
	size   int64  // bytes; -1: it is not there, or no plain file; or unreadable
	note   int64  // where its line of notes begins, in a .tar its sample; -1: it has none
	title  bool   // a .txt beside it is its caption
}

// unreadable is the size of a medium whose note is broken: a row left out.
const unreadable = -2

// name is what a medium is called to people.
func (m medium) name() string {
	if m.member == "" {
		return m.path
	}
	return m.path + "/" + m.member
}

// textModality is of texts: files of it hold UTF-8, and their part is no URL.
const textModality = "text"

// openList lists the media at name in root. h takes in all that the rows are made of.
func openList(ctx context.Context, root *os.Root, name string, s retrieverapi.Source, h hash.Hash) (*list, error) {
	l := &list{root: root, dir: name, modality: s.Modality, params: s.Params}
	info, err := root.Stat(name)
	switch {
	case err != nil:
	case info.IsDir():
		err = l.folder(ctx, h)
	case strings.EqualFold(path.Ext(name), ".jsonl"):
		l.dir = path.Dir(name)
		err = l.read(ctx, path.Base(name), h)
	case strings.EqualFold(path.Ext(name), ".tar"):
		l.dir = path.Dir(name)
		err = l.archive(ctx, name, h)
	case strings.HasSuffix(strings.ToLower(name), ".tar.gz") || strings.EqualFold(path.Ext(name), ".tgz"):
		err = imagebind.Errorf(imagebind.Invalid, "%s is compressed, so that its members cannot be read where they lie; gunzip it to a .tar", path.Base(name))
	case isTable(name):
		var ok bool
		l.dir = path.Dir(name)
		ok, err = l.table(ctx, path.Base(name), h)
		switch {
		case err != nil || ok:
		case s.Modality == "" || s.Modality == textModality:
			err = imagebind.Errorf(imagebind.Invalid, "the first line of %s names no column path, file or text", path.Base(name))
		default: // a medium that is a table, as a trace of motion
			l.media = []medium{{path: name, size: info.Size(), note: -1, title: l.has(caption(name))}}
		}
	case info.Mode().IsRegular():
		l.dir = path.Dir(name)
		l.media = []medium{{path: name, size: info.Size(), note: -1, title: l.has(caption(name)) && s.Modality != textModality}}
	default:
		err = imagebind.Errorf(imagebind.Invalid, "%s is no plain file", path.Base(name))
	}
	if err != nil {
		return nil, errors.Join(invalid(err), l.close())
	}
	for _, m := range l.media {
		fmt.Fprintf(h, "%q %d %v\n", m.name(), m.size, m.title)
	}
	return l, nil
}

// read takes the media from a list.
func (l *list) read(ctx context.Context, name string, h hash.Hash) error {
	_, err := l.scan(name, h, func(offset int64, e entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return l.add(ctx, e, offset, h)
	})
	return err
}

// add takes the medium of a list's entry, or the samples where it is a .tar.
func (l *list) add(ctx context.Context, e entry, offset int64, h hash.Hash) error {
	if strings.EqualFold(path.Ext(e.path), ".tar") {
		return l.archive(ctx, e.path, h)
	}
	m := medium{path: e.path, size: int64(len(e.text)), note: offset}
	if m.path != "" {
		m.size = -1
		if info, err := l.root.Stat(m.path); err == nil && info.Mode().IsRegular() {
			m.size = info.Size()
		}
	}
	l.media = append(l.media, m)
	return nil
}

// scan opens a file of notes and calls f with each.
func (l *list) scan(name string, h hash.Hash, f func(offset int64, e entry) error) (int, error) {
	file, err := l.root.Open(path.Join(l.dir, name))
	if err != nil {
		return 0, err
	}
	l.notes, l.name = file, name
	l.note = func(at int64) (entry, error) {
		line, err := nextLine(bufio.NewReaderSize(io.NewSectionReader(file, at, maxLine), maxLine), name, 0)
		if err != nil {
			return entry{}, err
		}
		return l.parse(line)
	}
	return eachLine(io.TeeReader(file, h), name, func(number int, at int64, line []byte) error {
		e, err := l.parse(line)
		if err != nil {
			return imagebind.Errorf(imagebind.Invalid, "%s, line %d: %w", name, number+1, err)
		}
		return f(at, e)
	})
}

// An entry is a line of a list or of captions.jsonl.
type entry struct {
	store.Row // without a vector
	path      string
	text      string
	modality  string
	params    map[string]any
	wrong     error // why there is no more of it; the row is left out
}

// below returns the path of a file that a list names, which is below the root.
func (l *list) below(name string) (string, error) {
	full := path.Join(l.dir, name)
	if path.IsAbs(name) || !fs.ValidPath(full) {
		return "", fmt.Errorf("the path %q is not below the source root; it is relative to the folder of %s", name, l.name)
	}
	return full, nil
}

func (l *list) parse(line []byte) (entry, error) {
	var e entry
	fields, err := members(line)
	if err != nil {
		return e, err
	}
	var name string
	for _, f := range []struct {
		key string
		to  any
	}{{"file_name", &name}, {"path", &name}, {"text", &e.text}, {"modality", &e.modality}, {"params", &e.params}} {
		raw, ok := fields[f.key]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, f.to); err != nil {
			return e, fmt.Errorf("%s: %w", f.key, err)
		}
		delete(fields, f.key)
	}
	if (name == "") == (e.text == "") {
		return e, errors.New("it has a path or a text, and not both")
	}
	if err := CheckParams(e.modality, e.params); err != nil {
		return e, err
	}
	if name != "" {
		if e.path, err = l.below(name); err != nil {
			return e, err
		}
	}
	e.Row, err = noteOf(fields)
	return e, err
}

func (l *list) has(name string) bool {
	info, err := l.root.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// entry reads what is known of a row: with an id, a URI, and the caption, where
// there is one.
func (l *list) entry(row int) (entry, error) {
	m, e := l.media[row], entry{path: l.media[row].path}
	var err error
	switch {
	case m.sample():
		e = l.sample(m)
	case m.note >= 0:
		if e, err = l.note(m.note); err != nil {
			err = imagebind.Errorf(imagebind.Invalid, "%s, row %d: %w", l.name, row, err)
		}
	}
	if m.size == unreadable {
		e.wrong = err
	} else if err != nil {
		return e, err
	}
	if e.wrong != nil {
		return entry{Row: store.Row{ID: strconv.Itoa(row)}, path: m.path, wrong: e.wrong}, nil
	}
	e.modality = cmp.Or(e.modality, l.modality)
	if e.params == nil {
		e.params = l.params
	}
	if e.Caption == "" && !m.sample() {
		e.Caption = l.caption(m, e)
	}
	if m.path == "" {
		e.modality, e.params, e.ID = textModality, nil, cmp.Or(e.ID, strconv.Itoa(row))
		return e, nil
	}
	if e.ID == "" {
		e.ID = id(strings.TrimPrefix(m.name(), l.dir+"/"))
	}
	if e.URI == "" {
		e.URI = (&url.URL{Scheme: "file", Opaque: escape(m.path), Fragment: m.member}).String()
	}
	return e, nil
}

// caption is of a medium whose note has none.
func (l *list) caption(m medium, e entry) string {
	name := caption(m.path)
	switch {
	case m.path == "":
		return cut(e.text)
	case l.modality == textModality:
		name = m.path
	case !m.title:
		return ""
	}
	f, err := l.root.Open(name)
	if err != nil {
		return "" // it went; the medium did not
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, retrieverapi.MaxText+1))
	if err != nil {
		return ""
	}
	return cut(strings.TrimSpace(string(b)))
}

// cut returns s as UTF-8 of at most MaxText bytes.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	n := min(len(s), retrieverapi.MaxText)
	for n < len(s) && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// id is of the file at a path: the path, or the hash of one that cannot be an id.
func id(name string) string {
	if len(name) <= retrieverapi.MaxID && utf8.ValidString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// escape writes a path as a URL has it, each name on its own.
func escape(name string) string {
	names := strings.Split(name, "/")
	for i, n := range names {
		names[i] = url.PathEscape(n)
	}
	return strings.Join(names, "/")
}

// load reads a row's file, of at most limit bytes.
func (l *list) load(row int, limit int64) ([]byte, error) {
	m := l.media[row]
	if m.size > limit {
		return nil, imagebind.Errorf(imagebind.TooLarge, "it has %d bytes; at most %d are sent to a runner", m.size, limit)
	}
	if m.member != "" {
		return l.loadMember(m)
	}
	info, err := l.root.Stat(m.path) // before it is opened: a pipe would wait there
	if err == nil && !info.Mode().IsRegular() {
		return nil, imagebind.Errorf(imagebind.Invalid, "it is no plain file")
	}
	var f *os.File
	if err == nil {
		f, err = l.root.Open(m.path)
	}
	if err != nil {
		return nil, imagebind.Errorf(imagebind.NotFound, "it cannot be read: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, imagebind.Errorf(imagebind.Invalid, "it cannot be read: %w", err)
	case len(b) == 0:
		return nil, imagebind.Errorf(imagebind.Invalid, "it is empty")
	case int64(len(b)) > limit:
		return nil, imagebind.Errorf(imagebind.TooLarge, "it has over %d bytes, which is what is sent to a runner at most", limit)
	}
	return b, nil
}

func (l *list) close() error {
	if l.notes == nil {
		return nil
	}
	return l.notes.Close()
}
