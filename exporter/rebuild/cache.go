package rebuild

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/google/renameio/v2"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/progress"
	"imagebind-llm/retriever/retrieverapi"
)

// client returns a client for a collection.
func (o Options) client() (*retrieverapi.Client, error) {
	if o.Collection == "" {
		return nil, imagebind.Errorf(imagebind.Invalid, "no collection: name one with --collection")
	}
	return retrieverapi.NewClient(o.Retriever, retrieverapi.Options{Key: o.Key})
}

// Generations lists on out which generations of the collection can serve.
func Generations(ctx context.Context, o Options, out io.Writer) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	list, err := c.Generations(ctx, o.Collection)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GENERATION\tROWS\tDIM\tBUILT\tMODEL\t")
	for _, g := range list {
		built, serves := "", ""
		if g.BuiltAt != nil {
			built = g.BuiltAt.Local().Format(time.DateTime)
		}
		if g.Serves {
			serves = "serves"
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%s\n", g.Generation, g.Count, g.Dim, built, g.Model, serves)
	}
	return w.Flush()
}

// Rollback makes a kept generation serve, 0 for the one that served last.
func Rollback(ctx context.Context, o Options, generation int, out io.Writer) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	i, err := c.Rollback(ctx, o.Collection, generation)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "generation %d of %s serves: %d rows\n", i.Generation, i.Name, i.Count)
	return nil
}

// Forget removes a kept generation.
func Forget(ctx context.Context, o Options, generation int, out io.Writer) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	if err := c.Forget(ctx, o.Collection, generation); err != nil {
		return err
	}
	fmt.Fprintf(out, "generation %d of %s is gone\n", generation, o.Collection)
	return nil
}

// Export writes the rows that serve to a .parquet file, which appears whole or
// not at all.
func Export(ctx context.Context, o Options, path string, out io.Writer) (err error) {
	c, err := o.client()
	if err != nil {
		return err
	}
	i, err := c.Collection(ctx, o.Collection)
	if err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = f.Cleanup() }() // after the rename it does nothing
	about := int64(i.Count) * int64(4*i.Dim)
	bar := progress.New(out).Start("export "+o.Collection, about, progress.Bytes)
	if err := c.Export(ctx, o.Collection, &counted{w: f, told: func(n int64) { bar.Set(n, max(n, about)) }}); err != nil {
		return err
	}
	bar.Finish()
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: generation %d, %d bytes\n", path, i.Generation, info.Size())
	return nil
}

// A counted writer tells how many bytes went through.
type counted struct {
	w    io.Writer
	n    int64
	told func(n int64)
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.told(c.n)
	return n, err
}
