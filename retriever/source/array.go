package source

import (
	"context"
	"errors"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/retriever/store"
)

// An array is a tensor [N, E], with a sidecar where there is one.
type array struct {
	file  format.File
	x     format.Tensor
	notes *sidecar // nil: none
}

// vectorNames are what the rows of features are called, in the order of
// preference, in files that may hold more than one array.
var vectorNames = []string{"vectors", "vector", "embeddings", "embedding", "features", "feature", "prototypes"}

func newArray(path string, f format.File) (table, error) {
	x, err := pick(f.Tensors())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	a := &array{file: f, x: x}
	if a.notes, err = openSidecar(path, a.rows()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// pick finds the tensor of features: the one that is [N, E] and of floats, or
// among several the one with a name that says so.
func pick(all []format.Tensor) (format.Tensor, error) {
	var fit []format.Tensor
	var others []string
	for _, t := range all {
		switch t.DType {
		case format.F64, format.F32, format.F16, format.BF16:
			if len(t.Shape) == 2 {
				fit = append(fit, t)
				continue
			}
		}
		if len(others) < 10 {
			others = append(others, strings.TrimSpace(t.String()))
		}
	}
	if len(fit) == 1 {
		return fit[0], nil
	}
	for _, name := range vectorNames {
		if i := slices.IndexFunc(fit, func(t format.Tensor) bool { return t.Name == name }); i >= 0 {
			return fit[i], nil
		}
	}
	if len(fit) == 0 {
		return format.Tensor{}, imagebind.Errorf(imagebind.Invalid, "no array of floats of two axes, [rows, values]; there is %s", strings.Join(others, ", "))
	}
	return format.Tensor{}, imagebind.Errorf(imagebind.Invalid, "%d arrays could be the features; name the one that is %q", len(fit), vectorNames[0])
}

func (a *array) rows() int { return a.x.Shape[0] }

func (a *array) dim() int { return a.x.Shape[1] }

func (a *array) close() error { return errors.Join(a.file.Close(), a.notes.close()) }

func (a *array) read(_ context.Context, at, n int) ([]store.Row, error) {
	dim := a.dim()
	values := make([]float32, n*dim)
	if err := a.x.Read(values, at*dim); err != nil {
		return nil, err
	}
	rows := make([]store.Row, n)
	if a.notes != nil {
		var err error
		if rows, err = a.notes.read(at, n); err != nil {
			return nil, err
		}
	}
	for i := range rows {
		rows[i].Vector = values[i*dim : (i+1)*dim : (i+1)*dim]
	}
	return rows, nil
}
