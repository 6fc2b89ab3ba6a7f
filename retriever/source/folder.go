package source

import (
	"context"
	"hash"
	"io/fs"
	"path"
	"slices"
	"strings"

	imagebind "imagebind-llm"
)

// notesNames are the files of notes in a folder of media; the first that is there is read.
var notesNames = []string{"captions.jsonl", "metadata.jsonl"}

// wanted says whether a file of a folder is a medium. Without a modality the
// runner tells by content, and what cannot be any is left out by its name.
func wanted(name, modality string) bool {
	ext := strings.ToLower(path.Ext(name))
	switch {
	case strings.HasPrefix(name, ".") || ext == ".tar":
		return false
	case modality == textModality:
		return ext == ".txt"
	case slices.Contains([]string{".json", ".jsonl", ".md", ".yaml", ".yml", ".html", ".xml", ".log", ".py", ".parquet", ".zip", ".gz"}, ext):
		return false
	}
	return modality != "" || !slices.Contains([]string{".txt", ".csv", ".tsv"}, ext)
}

// caption is the name of a caption beside the medium name.
func caption(name string) string { return strings.TrimSuffix(name, path.Ext(name)) + ".txt" }

// folder takes the media of a folder, or where it has none the samples of its
// archives.
func (l *list) folder(ctx context.Context, h hash.Hash) error {
	archives, err := l.walk(ctx)
	if err != nil {
		return err
	}
	if len(l.media) > 0 || len(archives) == 0 {
		return l.annotate(h)
	}
	for _, name := range archives {
		if err := l.archive(ctx, name, h); err != nil {
			return err
		}
	}
	return nil
}

// walk lists the folder's media, below it too, each folder by name, and its .tar
// files. Links to files within the root are followed, those to folders are not.
func (l *list) walk(ctx context.Context) (archives []string, err error) {
	texts := map[string]bool{}
	err = fs.WalkDir(l.root.FS(), l.dir, func(name string, d fs.DirEntry, err error) error {
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
		if strings.EqualFold(path.Ext(name), ".tar") && !strings.HasPrefix(d.Name(), ".") {
			archives = append(archives, name)
		}
		if wanted(d.Name(), l.modality) {
			l.media = append(l.media, medium{path: name, size: info.Size(), note: -1})
		}
		return nil
	})
	if err != nil || l.modality == textModality {
		return archives, err
	}
	captions := map[string]bool{} // which by their names may be media themselves
	for i, m := range l.media {
		if c := caption(m.path); c != m.path && texts[c] {
			l.media[i].title, captions[c] = true, true
		}
	}
	l.media = slices.DeleteFunc(l.media, func(m medium) bool { return captions[m.path] })
	return archives, nil
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
