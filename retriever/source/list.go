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
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// A list is media in a fixed order: those of a folder, one file, or those that
// a .jsonl names. Only their paths are in memory; what else is known of one is
// read from the disk where it is asked for.
//
// Beside a folder's media may lie dog.txt, the caption of dog.jpg, and in the
// folder itself captions.jsonl (or metadata.jsonl, as Hugging Face has it): an
// object a line with path (or file_name) and any of id, caption, uri and
// metadata. A .jsonl list has such lines too, one a row and in that order, with
// modality and params where a row has its own, and text in the place of path for
// a text to embed. Paths are relative to the folder of the file that names them.
type list struct {
	root  *os.Root // the source root: links do not lead out of it
	dir   string   // of the folder, file or .jsonl, within root
	media []medium
	notes *os.File // captions.jsonl or the list; nil: none
	name  string   // of notes
	// modality and params are those of the whole source.
	modality string
	params   map[string]any
}

// A medium is one row's.
type medium struct {
	path  string // in root; "" for a text, which stands in its note
	size  int64  // bytes; -1: it is not there, or no plain file
	note  int64  // where its line of notes begins; -1: it has none
	title bool   // a .txt beside it is its caption
}

// textModality is of texts: files of it hold UTF-8, and their part is no URL.
const textModality = "text"

// notesNames are the files of notes in a folder of media; the first that is there is read.
var notesNames = []string{"captions.jsonl", "metadata.jsonl"}

// openList lists the media at name in root. h takes in all that the rows are made of.
func openList(ctx context.Context, root *os.Root, name string, s retrieverapi.Source, h hash.Hash) (*list, error) {
	l := &list{root: root, dir: name, modality: s.Modality, params: s.Params}
	info, err := root.Stat(name)
	switch {
	case err != nil:
	case info.IsDir():
		if err = l.walk(ctx); err == nil {
			err = l.annotate(h)
		}
	case strings.EqualFold(path.Ext(name), ".jsonl"):
		l.dir = path.Dir(name)
		err = l.read(ctx, path.Base(name), h)
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
		fmt.Fprintf(h, "%q %d %v\n", m.path, m.size, m.title)
	}
	return l, nil
}

// wanted says whether a file of a folder is a medium. Without a modality the
// runner tells by content, and what cannot be any is left out by its name.
func wanted(name, modality string) bool {
	ext := strings.ToLower(path.Ext(name))
	switch {
	case strings.HasPrefix(name, "."):
		return false
	case modality == textModality:
		return ext == ".txt"
	case slices.Contains([]string{".json", ".jsonl", ".md", ".yaml", ".yml", ".html", ".xml", ".log"}, ext):
		return false
	}
	return modality != "" || !slices.Contains([]string{".txt", ".csv", ".tsv", ".py", ".parquet", ".tar", ".zip", ".gz"}, ext)
}

// caption is the name of a caption beside the medium name.
func caption(name string) string { return strings.TrimSuffix(name, path.Ext(name)) + ".txt" }

// walk lists the folder's media, below it too, each folder by name. Links to
// files within the root are followed, those to folders are not.
func (l *list) walk(ctx context.Context) error {
	texts := map[string]bool{}
	err := fs.WalkDir(l.root.FS(), l.dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != l.dir && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir():
			return ctx.Err()
		}
		info, err := d.Info()
		if err == nil && d.Type()&fs.ModeSymlink != 0 {
			info, err = l.root.Stat(name)
		}
		if err != nil || !info.Mode().IsRegular() { // gone, a link that leads out or to nothing, a pipe
			return nil
		}
		if path.Ext(name) == ".txt" {
			texts[name] = true
		}
		if wanted(d.Name(), l.modality) {
			l.media = append(l.media, medium{path: name, size: info.Size(), note: -1})
		}
		return nil
	})
	if err != nil || l.modality == textModality {
		return err
	}
	captions := map[string]bool{} // which by their names may be media themselves
	for i, m := range l.media {
		if c := caption(m.path); c != m.path && texts[c] {
			l.media[i].title, captions[c] = true, true
		}
	}
	l.media = slices.DeleteFunc(l.media, func(m medium) bool { return captions[m.path] })
	return nil
}

// annotate finds the folder's file of notes, and which line is of which medium.
func (l *list) annotate(h hash.Hash) error {
	i := slices.IndexFunc(notesNames, func(name string) bool { return l.has(path.Join(l.dir, name)) })
	if i < 0 {
		return nil
	}
	at := make(map[string]int, len(l.media))
	for i, m := range l.media {
		at[m.path] = i
	}
	found := 0
	lines, err := l.scan(notesNames[i], h, func(offset int64, e entry) error {
		if i, ok := at[e.path]; ok {
			l.media[i].note = offset
			found++
		}
		return nil
	})
	if err == nil && lines > 0 && found == 0 {
		err = imagebind.Errorf(imagebind.Invalid, "none of the %d paths of %s is a medium in its folder", lines, l.name)
	}
	return err
}

// read takes the media from a list.
func (l *list) read(ctx context.Context, name string, h hash.Hash) error {
	_, err := l.scan(name, h, func(offset int64, e entry) error {
		m := medium{path: e.path, size: int64(len(e.text)), note: offset}
		if m.path != "" {
			m.size = -1
			if info, err := l.root.Stat(m.path); err == nil && info.Mode().IsRegular() {
				m.size = info.Size()
			}
		}
		l.media = append(l.media, m)
		return ctx.Err()
	})
	return err
}

// scan opens a file of notes and calls f with each.
func (l *list) scan(name string, h hash.Hash, f func(offset int64, e entry) error) (int, error) {
	file, err := l.root.Open(path.Join(l.dir, name))
	if err != nil {
		return 0, err
	}
	l.notes, l.name = file, name
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
		if e.path = path.Join(l.dir, name); path.IsAbs(name) || !fs.ValidPath(e.path) {
			return e, fmt.Errorf("the path %q is not below the source root; it is relative to the folder of %s", name, l.name)
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
	if m.note >= 0 {
		line, err := nextLine(bufio.NewReaderSize(io.NewSectionReader(l.notes, m.note, maxLine), maxLine), l.name, row)
		if err == nil {
			e, err = l.parse(line)
		}
		if err != nil {
			return e, imagebind.Errorf(imagebind.Invalid, "%s, row %d: %w", l.name, row, err)
		}
	}
	e.modality = cmp.Or(e.modality, l.modality)
	if e.params == nil {
		e.params = l.params
	}
	if e.Caption == "" {
		e.Caption = l.caption(m, e)
	}
	if m.path == "" {
		e.modality, e.params, e.ID = textModality, nil, cmp.Or(e.ID, strconv.Itoa(row))
		return e, nil
	}
	if e.ID == "" {
		e.ID = id(strings.TrimPrefix(m.path, l.dir+"/"))
	}
	if e.URI == "" {
		e.URI = (&url.URL{Scheme: "file", Opaque: escape(m.path)}).String()
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
	f, err := l.root.Open(m.path)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.NotFound, "it cannot be read: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, imagebind.Errorf(imagebind.Invalid, "it is no plain file")
	}
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
