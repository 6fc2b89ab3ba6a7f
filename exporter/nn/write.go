package nn

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
)

const chunk = 1 << 18 // elements at a time

// write streams t as elements of type dt.
func write(w io.Writer, dt onnx.DType, t format.Tensor) error {
	n := t.Len()
	values := make([]float32, min(n, chunk))
	var raw []byte
	for from := 0; from < n; from += len(values) {
		values = values[:min(n-from, chunk)]
		if err := t.Read(values, from); err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		raw = dt.AppendFloats(raw[:0], values)
		if _, err := w.Write(raw); err != nil {
			return err
		}
	}
	return nil
}

const tile = 64 // side of the squares that are transposed at a time: two of them fit the first cache

// writeTransposed writes the tensors [outᵢ, in], one below the other, as
// [in, Σ outᵢ]. They are read whole.
func writeTransposed(w io.Writer, dt onnx.DType, tensors []format.Tensor) error {
	in, out := tensors[0].Shape[1], 0
	for _, t := range tensors {
		out += t.Shape[0]
	}
	src, at := make([]float32, in*out), 0
	for _, t := range tensors {
		n := t.Len()
		if err := t.Read(src[at:at+n], 0); err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		at += n
	}
	block := make([]float32, min(tile, in)*out)
	var raw [2][]byte // one is written while the next is made
	done := make(chan error, 1)
	done <- nil
	for k, i := 0, 0; k < in; k, i = k+tile, 1-i {
		rows := min(tile, in-k)
		transpose(block, src[k:], in, out, rows)
		n := rows * out
		raw[i] = slices.Grow(raw[i][:0], int(dt.Bytes(n)))[:dt.Bytes(n)]
		parallel(rows, func(from, to int) {
			dt.PutFloats(raw[i][dt.Bytes(from*out):], block[from*out:to*out])
		})
		if err := <-done; err != nil {
			return err
		}
		go func() {
			_, err := w.Write(raw[i])
			done <- err
		}()
	}
	return <-done
}

// transpose writes the first rows columns of src [out, in], each as a row, to dst.
func transpose(dst, src []float32, in, out, rows int) {
	parallel((out+tile-1)/tile, func(from, to int) {
		for o := from * tile; o < min(to*tile, out); o += tile {
			for j := range rows {
				row := dst[j*out+o : j*out+min(o+tile, out)]
				s := src[o*in+j:]
				for x := range row {
					row[x] = s[x*in]
				}
			}
		}
	})
}

// parallel runs f on parts of 0..n-1, one a processor.
func parallel(n int, f func(from, to int)) {
	p := min(runtime.GOMAXPROCS(0), n)
	if p <= 1 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for i := range p {
		wg.Go(func() { f(i*n/p, (i+1)*n/p) })
	}
	wg.Wait()
}
