package checkpoint

import (
	"fmt"

	"github.com/x448/float16"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// byRow returns a tensor whose values row reads: dst becomes elements col,
// col+1, … of row r, all within that row.
func byRow(name string, d format.DType, shape []int, row func(dst []float32, r, col int) error) format.Tensor {
	width, n := imagebind.Size(shape[1:]), imagebind.Size(shape)
	return format.Tensor{Name: name, DType: d, Shape: shape, Read: func(dst []float32, from int) error {
		if from < 0 || from > n || len(dst) > n-from {
			return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), n)
		}
		for len(dst) > 0 {
			r, col := from/width, from%width
			k := min(width-col, len(dst))
			if err := row(dst[:k], r, col); err != nil {
				return err
			}
			dst, from = dst[k:], from+k
		}
		return nil
	}}
}

// Rows returns the tensor whose row i is row rows[i] of t, or zeros where that
// is -1. t may have any rank but 0.
func Rows(t format.Tensor, rows []int) format.Tensor {
	shape := append([]int{len(rows)}, t.Shape[1:]...)
	width := imagebind.Size(t.Shape[1:])
	return byRow(t.Name, t.DType, shape, func(dst []float32, r, col int) error {
		if rows[r] < 0 {
			clear(dst)
			return nil
		}
		return t.Read(dst, rows[r]*width+col)
	})
}

// Columns returns the tensor whose column i is column columns[i] of the matrix
// t, or zeros where that is -1.
func Columns(t format.Tensor, columns []int) format.Tensor {
	width := t.Shape[1]
	return byRow(t.Name, t.DType, []int{t.Shape[0], len(columns)}, func(dst []float32, r, col int) error {
		row := make([]float32, width)
		if err := t.Read(row, r*width); err != nil {
			return err
		}
		for i := range dst {
			dst[i] = 0
			if c := columns[col+i]; c >= 0 {
				dst[i] = row[c]
			}
		}
		return nil
	})
}

// below returns the tensors one below the other, joined along axis 0. Their
// other axes are equal.
func below(name string, parts []format.Tensor) format.Tensor {
	shape := append([]int{0}, parts[0].Shape[1:]...)
	for _, p := range parts {
		shape[0] += p.Shape[0]
	}
	n := imagebind.Size(shape)
	return format.Tensor{Name: name, DType: parts[0].DType, Shape: shape, Read: func(dst []float32, from int) error {
		if from < 0 || from > n || len(dst) > n-from {
			return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), n)
		}
		for _, p := range parts {
			size := p.Len()
			if from >= size {
				from -= size
				continue
			}
			k := min(size-from, len(dst))
			if err := p.Read(dst[:k], from); err != nil {
				return err
			}
			if dst, from = dst[k:], 0; len(dst) == 0 {
				break
			}
		}
		return nil
	}}
}

// beside returns the matrices side by side, joined along axis 1. Their axes 0
// are equal.
func beside(name string, parts []format.Tensor) format.Tensor {
	shape := []int{parts[0].Shape[0], 0}
	for _, p := range parts {
		shape[1] += p.Shape[1]
	}
	return byRow(name, parts[0].DType, shape, func(dst []float32, r, col int) error {
		for _, p := range parts {
			w := p.Shape[1]
			if col >= w {
				col -= w
				continue
			}
			k := min(w-col, len(dst))
			if err := p.Read(dst[:k], r*w+col); err != nil {
				return err
			}
			if dst, col = dst[k:], 0; len(dst) == 0 {
				break
			}
		}
		return nil
	})
}

// sum returns t + delta, added in float32 and rounded to half precision, as the
// reference merges a delta. The shapes are equal.
func sum(t, delta format.Tensor) format.Tensor {
	out := t
	out.DType = format.F16
	out.Read = func(dst []float32, from int) error {
		if err := t.Read(dst, from); err != nil {
			return err
		}
		more := make([]float32, len(dst))
		if err := delta.Read(more, from); err != nil {
			return fmt.Errorf("delta: %w", err)
		}
		for i := range dst {
			dst[i] = float16.Fromfloat32(dst[i] + more[i]).Float32()
		}
		return nil
	}
	return out
}
