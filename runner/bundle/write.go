package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A Writer makes a bundle beside its place and moves it there whole, so that a
// killed export leaves no half bundle.
type Writer struct {
	dir, out string
}

// Create makes the folder that the bundle's files are written to, beside out.
// An earlier bundle at out is replaced at Commit; anything else there is an error.
func Create(out string) (*Writer, error) {
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(out, ManifestName)); err != nil {
			return nil, fmt.Errorf("%s is not empty and no bundle: name another folder", out)
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	parent := filepath.Dir(filepath.Clean(out))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, "."+filepath.Base(out)+".partial-")
	if err != nil {
		return nil, err
	}
	return &Writer{dir, out}, os.Chmod(dir, 0o755)
}

// Path returns where a file of the bundle is written to.
func (w *Writer) Path(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

// Abort removes what was written. After Commit it does nothing.
func (w *Writer) Abort() { _ = os.RemoveAll(w.dir) }

// Commit hashes the files, writes the manifest and moves the folder into place.
// m.Version and m.Files are filled in.
func (w *Writer) Commit(m *Manifest) error {
	m.Version, m.Files = Version, map[string]File{}
	err := filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if err := syncFile(path); err != nil {
			return err
		}
		name, err := filepath.Rel(w.dir, path)
		if err != nil {
			return err
		}
		f := File{}
		f.SHA256, err = hashFile(path, func(n int64) { f.Bytes += n })
		m.Files[filepath.ToSlash(name)] = f
		return err
	})
	if err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	manifest := w.Path(ManifestName)
	if err := os.WriteFile(manifest, append(raw, '\n'), 0o644); err != nil {
		return err
	}
	if err := errors.Join(syncFile(manifest), syncFile(w.dir)); err != nil {
		return err
	}
	// A folder cannot be renamed over a full one: the old bundle steps aside first.
	old := w.dir + ".old"
	if err := os.Rename(w.out, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(w.dir, w.out); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(old), syncFile(filepath.Dir(filepath.Clean(w.out))))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
