package jobs

import (
	"context"
	"path/filepath"
	"strings"

	imagebind "imagebind-llm"
)

// A Root is the one folder that jobs may read; "" is none.
type Root string

// Open returns an Options.Open that hands paths below the root to open.
func (r Root) Open(open func(ctx context.Context, path string) (Source, error)) func(context.Context, string) (Source, error) {
	return func(ctx context.Context, path string) (Source, error) {
		real, err := r.find(path)
		if err != nil {
			return nil, err
		}
		return open(ctx, real)
	}
}

// Check is an Options.Check.
func (r Root) Check(path string) error {
	_, err := r.find(path)
	return err
}

// find returns where path, relative to the root or absolute, really is. Links
// must not lead out of the root.
func (r Root) find(path string) (string, error) {
	if r == "" {
		return "", imagebind.Errorf(imagebind.Invalid, "this retriever reads no files: start it with --source-root DIR")
	}
	base, err := filepath.EvalSymlinks(string(r))
	if err == nil {
		base, err = filepath.Abs(base)
	}
	if err != nil {
		return "", imagebind.Errorf(imagebind.Unavailable, "the source root cannot be read: %w", err)
	}
	full := path
	if !filepath.IsAbs(path) {
		full = filepath.Join(base, path)
	}
	real, err := filepath.EvalSymlinks(full)
	outside := func(p string) bool {
		rel, err := filepath.Rel(base, p)
		return err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator))
	}
	if err != nil && !outside(filepath.Clean(full)) {
		return "", imagebind.Errorf(imagebind.NotFound, "source %q is not there under the source root", path)
	}
	if err != nil || outside(real) {
		return "", imagebind.Errorf(imagebind.Invalid, "source %q is outside the source root", path)
	}
	return real, nil
}
