package faiss

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// A transform is one that faiss applied to the vectors before it stored them.
type transform struct {
	kind    string
	in, out int64
	loss    string
	// reverse writes to x [in] what y [out] was made from.
	reverse func(x, y []float32)
}

// maxTransforms is of one index.
const maxTransforms = 8

// transformed reads an index of vectors that were rotated first, or the like
// (IndexPreTransform); its rows are turned back.
func (r *reader) transformed(depth int) (index, error) {
	outer := r.header()
	n := r.i32()
	if r.err == nil && (n < 0 || n > maxTransforms) {
		return index{}, fmt.Errorf("%d transforms of its vectors; at most %d are read", n, maxTransforms)
	}
	var chain []transform
	var kinds, loss []string
	dim := outer.dim
	for range n {
		t := r.transform()
		if r.err != nil {
			return index{}, r.err
		}
		if t.in != dim {
			return index{}, fmt.Errorf("a transform of %d values behind one that gives %d", t.in, dim)
		}
		dim = t.out
		chain, kinds = append(chain, t), append(kinds, t.kind)
		if t.loss != "" {
			loss = append(loss, t.loss)
		}
	}
	inner, err := r.index(r.four(), depth+1)
	if err != nil {
		return inner, err
	}
	if err := inner.within(header{dim: dim, total: outer.total}, "transform"); err != nil {
		return inner, err
	}
	x := index{header: outer, kind: strings.Join(append(kinds, inner.kind), ","), loss: append(inner.loss, loss...), ids: inner.ids}
	x.read = func(dst []float32, row int) error {
		from, to := int(dim), int(outer.dim)
		y := make([]float32, min(len(dst)/to*from, max(from, chunk/4/from*from)))
		for len(dst) > 0 {
			n := min(len(dst)/to, len(y)/from)
			if err := inner.read(y[:n*from], row); err != nil {
				return err
			}
			for i := range n {
				v := y[i*from : (i+1)*from]
				for c := len(chain) - 1; c > 0; c-- {
					w := make([]float32, chain[c].in)
					chain[c].reverse(w, v)
					v = w
				}
				if len(chain) > 0 {
					chain[0].reverse(dst[i*to:(i+1)*to], v)
				} else {
					copy(dst[i*to:], v)
				}
			}
			dst, row = dst[n*to:], row+n
		}
		return nil
	}
	return x, nil
}

// transform reads one behind its type (write_VectorTransform).
func (r *reader) transform() transform {
	switch kind := r.four(); kind {
	case "rrot":
		return r.linear("RR")
	case "LTra": // OPQ's rotation is one
		return r.linear("LT")
	case "PcAm", "Pcam":
		r.bytes(4) // eigen_power
		if kind == "Pcam" {
			r.bytes(4) // epsilon
		}
		r.bytes(1 + 4) // random_rotation, balanced_bins
		r.vector(4)    // mean, eigenvalues and all axes, of which A has those that count
		r.vector(4)
		r.vector(4)
		return r.linear("PCA")
	case "VNrm":
		r.bytes(4) // the norm
		t := r.dims(transform{kind: "L2norm", loss: "directions without their lengths", reverse: func(x, y []float32) { copy(x, y) }})
		if r.err == nil && t.in != t.out {
			r.err = fmt.Errorf("a normalization from %d to %d values", t.in, t.out)
		}
		return t
	case "VCnt":
		mean := r.floats(-1, "")
		t := r.dims(transform{kind: "Centering", reverse: func(x, y []float32) {
			for i := range x {
				x[i] = y[i] + mean[i]
			}
		}})
		if r.err == nil && (t.in != t.out || t.in != int64(len(mean))) {
			r.err = fmt.Errorf("a mean of %d values for %d and %d", len(mean), t.in, t.out)
		}
		return t
	default:
		if r.err == nil {
			r.err = fmt.Errorf("its vectors went through a transform of type %q, which is not turned back; write them out with reconstruct_n as .npy", kind)
		}
		return transform{}
	}
}

// dims reads the end of each transform.
func (r *reader) dims(t transform) transform {
	t.in, t.out = int64(r.i32()), int64(r.i32())
	r.bytes(1) // whether it is trained
	if r.err == nil && (t.in < 1 || t.in > MaxDim || t.out < 1 || t.out > MaxDim) {
		r.err = fmt.Errorf("a transform from %d to %d values", t.in, t.out)
	}
	return t
}

// linear reads y = A·x + b, with A [out, in]. It is turned back by A's
// transpose, which wants rows that are orthonormal; where out < in, what A
// leaves out is lost.
func (r *reader) linear(kind string) transform {
	biased := r.bool()
	a, b := r.floats(-1, ""), r.floats(-1, "")
	t := r.dims(transform{})
	if r.err == nil && (int64(len(a)) != t.in*t.out || biased && int64(len(b)) != t.out) {
		r.err = fmt.Errorf("a rotation from %d to %d values has %d and %d of its own", t.in, t.out, len(a), len(b))
	}
	if r.err != nil {
		return t
	}
	t.kind = fmt.Sprintf("%s%d", kind, t.out)
	if t.out < t.in {
		t.loss = fmt.Sprintf("%d of %d dimensions", t.out, t.in)
	}
	if !orthonormal(a, int(t.in), int(t.out)) {
		r.err = errors.New("its vectors went through a matrix that is no rotation, which is not turned back; write them out with reconstruct_n as .npy")
	}
	t.reverse = func(x, y []float32) {
		if biased {
			z := make([]float32, len(y))
			for i := range z {
				z[i] = y[i] - b[i]
			}
			y = z
		}
		transposed(x, a, y)
	}
	return t
}

// transposed writes Aᵀ·y to x, A [len(y), len(x)]; four rows at a time, which
// reads and writes x a quarter as often.
func transposed(x, a, y []float32) {
	clear(x)
	n := len(x)
	for ; len(y) >= 4; y, a = y[4:], a[4*n:] {
		a0, a1, a2, a3 := a[:n], a[n:2*n], a[2*n:3*n], a[3*n:4*n]
		y0, y1, y2, y3 := y[0], y[1], y[2], y[3]
		for j := range x {
			x[j] += y0*a0[j] + y1*a1[j] + y2*a2[j] + y3*a3[j]
		}
	}
	for i, v := range y {
		for j, w := range a[i*n : (i+1)*n] {
			x[j] += v * w
		}
	}
}

// orthonormal says whether A·Aᵀ is the identity, by what it makes of a few
// vectors: the product itself would take minutes for a large A. faiss lets
// elements of it be off by 4e-5.
func orthonormal(a []float32, in, out int) bool {
	if out > in {
		return false
	}
	const tol = 1e-3 // of a vector's length, 4e-5·√out at 600 values
	x, y := make([]float32, in), make([]float32, out)
	for seed := range uint32(4) {
		s := seed + 1
		for i := range y {
			s = s*1664525 + 1013904223
			y[i] = float32(int32(s)) / (1 << 31)
		}
		transposed(x, a, y)
		var off, all float64
		for i, v := range y {
			var sum float64
			for j, w := range a[i*in : (i+1)*in] {
				sum += float64(w) * float64(x[j])
			}
			off += (sum - float64(v)) * (sum - float64(v))
			all += float64(v) * float64(v)
		}
		if !(off <= tol*tol*all) || math.IsInf(off, 0) {
			return false
		}
	}
	return true
}
