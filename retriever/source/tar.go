package source

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// An archive of samples is a .tar as webdataset has it: members one behind
// another whose names are the same up to the first dot of their last part are a
// sample. a/cat.jpg is the medium, a/cat.txt its caption, a/cat.json holds what a
// line of notes holds, a/cat.cls its class, a number. The first member that may
// be a medium is the one. Nothing is unpacked: a sample's offset is known, and
// its members are read from there. Links are not followed.

const (
	maxMembers = 64   // of a sample; those behind are not looked at
	maxName    = 4096 // bytes of a member's name
	tarBlock   = 512
)

// A member is a plain file in an archive.
type member struct {
	at     int64  // where its headers begin
	name   string // without ./ before it
	sample string // the name up to the first dot of its last part
	size   int64
	body   io.Reader
}

// sample says whether m is of an archive.
func (m medium) sample() bool { return strings.EqualFold(path.Ext(m.path), ".tar") }

// eachMember calls f with the members of an archive of size bytes, from the one
// whose headers begin at from on, as long as f returns true.
func eachMember(in io.ReaderAt, from, size int64, f func(member) (bool, error)) error {
	section := io.NewSectionReader(in, from, size-from)
	r := tar.NewReader(section) // which reads a header at a time, and seeks over what is between
	var end int64               // of what was read, from from on
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return closed(in, from+end, size)
		}
		if err != nil {
			return fmt.Errorf("it is cut, or no .tar: %w", err)
		}
		m := member{at: from + end, name: strings.TrimPrefix(h.Name, "./"), size: h.Size, body: r}
		data, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if len(h.Name) > maxName {
			return fmt.Errorf("a member's name has %d bytes; at most %d are read", len(h.Name), maxName)
		}
		if sparse(h) {
			return fmt.Errorf("its member %s has holes; write it without tar --sparse", m.name)
		}
		end = data + (h.Size+tarBlock-1)/tarBlock*tarBlock
		dir, base := path.Split(m.name)
		if h.Typeflag != tar.TypeReg || base == "" || strings.HasPrefix(base, ".") {
			continue
		}
		base, _, _ = strings.Cut(base, ".")
		m.sample = dir + base
		if more, err := f(m); err != nil || !more {
			return err
		}
	}
}

func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// closed returns an error unless an archive has an end at that offset, and
// nothing behind it: blocks of zeros. One that was cut between two members has
// none; of two that were written one behind the other, the second would be lost.
func closed(in io.ReaderAt, at, size int64) error {
	if size-at < tarBlock {
		return errors.New("it is cut: the blocks at its end are missing")
	}
	b := make([]byte, 1<<16)
	for from := at; from < size; {
		n := min(int64(len(b)), size-from)
		if _, err := in.ReadAt(b[:n], from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		i := bytes.IndexFunc(b[:n], func(c rune) bool { return c != 0 })
		if i >= 0 && from+int64(i) < at+tarBlock { // the headers of another member
			return errors.New("it is cut")
		}
		if i >= 0 {
			return errors.New("there is more behind its end; give archives each on its own, not one behind the other")
		}
		from += n
	}
	return nil
}

// medium says whether a member may be its sample's medium.
func (m member) medium(modality string) bool {
	switch strings.ToLower(path.Ext(m.name)) {
	case ".txt":
		return modality == textModality
	case ".cls":
		return false
	}
	return wanted(path.Base(m.name), modality)
}

// archive takes the samples of a .tar. One without a medium is a row that is left
// out. h takes in the members' names, sizes and times.
func (l *list) archive(ctx context.Context, name string, h hash.Hash) error {
	f, size, err := l.openArchive(name)
	if err != nil {
		return err
	}
	defer f.Close()
	key, count := "", 0
	err = eachMember(f, 0, size, func(m member) (bool, error) {
		fmt.Fprintf(h, "%q %d %d\n", m.name, m.at, m.size)
		if count == 0 || m.sample != key {
			key, count = m.sample, 0
			l.media = append(l.media, medium{path: name, note: m.at})
		}
		if last := &l.media[len(l.media)-1]; last.member == "" && count < maxMembers && m.medium(l.modality) {
			last.member, last.size = m.name, m.size
		}
		count++
		return true, ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(h, "%q %d\n", name, size)
	return nil
}

// openArchive opens a .tar and returns its size.
func (l *list) openArchive(name string) (*os.File, int64, error) {
	info, err := l.root.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, imagebind.Errorf(imagebind.Invalid, "%s is no plain file", name)
	}
	f, err := l.root.Open(name)
	return f, info.Size(), err
}

// eachOf calls f with the members of the sample of m, at most maxMembers.
func (l *list) eachOf(m medium, f func(member) error) error {
	file, size, err := l.openArchive(m.path)
	if err != nil {
		return err
	}
	defer file.Close()
	key, count := "", 0
	return eachMember(file, m.note, size, func(in member) (bool, error) {
		if count == 0 {
			key = in.sample
		}
		if count++; in.sample != key || count > maxMembers {
			return false, nil
		}
		return true, f(in)
	})
}

// sample reads what an archive says of a sample.
func (l *list) sample(m medium) entry {
	e := entry{path: m.path}
	var key, text, class string
	err := l.eachOf(m, func(in member) error {
		key = in.sample
		ext := strings.ToLower(path.Ext(in.name))
		if ext != ".json" && ext != ".txt" && ext != ".cls" {
			return nil
		}
		b, err := io.ReadAll(io.LimitReader(in.body, maxLine+1))
		switch {
		case err != nil:
			return err
		case ext == ".txt":
			text = cut(strings.TrimSpace(string(b)))
		case len(b) > maxLine:
			return fmt.Errorf("%s has over %d bytes", in.name, maxLine)
		case ext == ".cls":
			class = cut(strings.TrimSpace(string(b)))
		default:
			var note store.Row
			if note, err = parseNote(b); err != nil {
				return fmt.Errorf("%s: %w", in.name, err)
			}
			e.Row = note
		}
		return nil
	})
	if err == nil && m.member == "" {
		err = fmt.Errorf("the sample %s has no medium; its members lie one behind another, as tar --sort=name writes them, and links are not followed", key)
	}
	if err != nil {
		return entry{wrong: err}
	}
	if e.Caption == "" {
		e.Caption = text
	}
	if _, there := e.Metadata["cls"]; class != "" && !there {
		if e.Metadata == nil {
			e.Metadata = map[string]any{}
		}
		e.Metadata["cls"] = class
		var n float64
		if json.Unmarshal([]byte(class), &n) == nil {
			e.Metadata["cls"] = n
		}
	}
	return e
}

// loadMember reads a sample's medium, whose size was looked at.
func (l *list) loadMember(m medium) ([]byte, error) {
	var b []byte
	err := l.eachOf(m, func(in member) (err error) {
		if in.name == m.member && in.size == m.size {
			b, err = io.ReadAll(in.body)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, imagebind.Errorf(imagebind.Invalid, "it cannot be read: %w", err)
	case len(b) == 0:
		return nil, imagebind.Errorf(imagebind.Invalid, "it is empty")
	}
	return b, nil
}
