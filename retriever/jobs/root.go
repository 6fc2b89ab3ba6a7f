package jobs

import (
	"path/filepath"
	"strings"

	imagebind "imagebind-llm"
)

// A Root is the one folder that jobs may read; "" is none.
type Root string

// Find returns where the root really is and, below it, where path does, which
// is relative to the root or absolute. Links must not lead out of the root.
func (r Root) Find(path string) (root, name string, err error) {
	if r == "" {
		return "", "", imagebind.Errorf(imagebind.Invalid, "this retriever reads no files: start it with --source-root DIR")
	}
	base, err := filepath.EvalSymlinks(string(r))
	if err == nil {
		base, err = filepath.Abs(base)
	}
	if err != nil {
		return "", "", imagebind.Errorf(imagebind.Unavailable, "the source root cannot be read: %w", err)
	}
	full := path
	if !filepath.IsAbs(path) {
		full = filepath.Join(base, path)
	}
	real, err := filepath.EvalSymlinks(full)
	if err != nil {
		if _, inside := below(base, filepath.Clean(full)); inside {
			return "", "", imagebind.Errorf(imagebind.NotFound, "source %q is not there under the source root", path)
		}
	}
	name, inside := below(base, real)
	if err != nil || !inside {
		return "", "", imagebind.Errorf(imagebind.Invalid, "source %q is outside the source root", path)
	}
	return base, name, nil
}

// below returns path as it is from base on, and whether it is there at all.
func below(base, path string) (string, bool) {
	rel, err := filepath.Rel(base, path)
	return rel, err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
