package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// featuresTool writes rows shaped like image features as .npy, float32 [N, E],
// and 2000 queries beside them: rows of uniform noise would be no test for an
// index, and easy for 8-bit codes.
func featuresTool(args []string) error {
	fs := flag.NewFlagSet("features", flag.ContinueOnError)
	n := fs.Int("n", 300000, "rows")
	dim := fs.Int("dim", 1024, "values of a row")
	out := fs.String("out", "", "file to write, .npy; the queries go to the same name with .queries.npy")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" || *n < 1 || *dim < 1 {
		return errors.New("features: -out FILE, and -n and -dim of at least 1")
	}
	return writeFeatures(*out, *n, *dim)
}

const (
	themes    = 3000
	spread    = 96 // directions in which rows of a topic differ
	genRows   = 4096
	npyHeader = 128
	eachQuery = 1000 // of images, and of other modalities
)

// A world is what all rows are made from: a common cone, topics of unequal
// frequency, directions shared by all topics, and noise. A query of another
// modality is a row's direction seen from another cone, cosine about 0.4.
type world struct {
	dim                int
	cone, other        []float32
	topics, directions []float32 // [themes, dim], [spread, dim]
	upTo               []float64 // cumulative frequency of topics
}

func normals(r *rand.Rand, n int, scale float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(scale * r.NormFloat64())
	}
	return v
}

func newWorld(dim int) *world {
	r := rand.New(rand.NewPCG(7, 7))
	e := 1 / math.Sqrt(float64(dim))
	w := &world{dim: dim, cone: normals(r, dim, 0.6*e), other: normals(r, dim, 0.7*e), topics: normals(r, themes*dim, 0.6*e), directions: normals(r, spread*dim, e)}
	sum := 0.0
	for i := range themes {
		sum += 1 / math.Sqrt(float64(i+1))
		w.upTo = append(w.upTo, sum)
	}
	return w
}

// row fills x [dim] with a unit row.
func (w *world) row(r *rand.Rand, x []float32) {
	pick, topic := r.Float64()*w.upTo[themes-1], 0
	for low, high := 0, themes-1; low < high; {
		if mid := (low + high) / 2; w.upTo[mid] < pick {
			low = mid + 1
		} else {
			high = mid
		}
		topic = low
	}
	e := float32(0.30 / math.Sqrt(float64(w.dim)))
	center := w.topics[topic*w.dim : (topic+1)*w.dim]
	for i := range x {
		x[i] = w.cone[i] + center[i] + e*float32(r.NormFloat64())
	}
	for d := range spread {
		z := float32(0.55 / math.Sqrt(spread) * r.NormFloat64())
		direction := w.directions[d*w.dim : (d+1)*w.dim]
		direction = direction[:len(x)]
		for i := range x {
			x[i] += z * direction[i]
		}
	}
	unit(x)
}

func unit(x []float32) {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	scale := float32(1 / math.Sqrt(sum))
	for i := range x {
		x[i] *= scale
	}
}

func npyHead(n, dim int) []byte {
	text := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", n, dim)
	text += strings.Repeat(" ", npyHeader-10-len(text)-1) + "\n"
	return append([]byte("\x93NUMPY\x01\x00\x76\x00"), text...)
}

func floatBytes(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

func writeFeatures(path string, n, dim int) error {
	w := newWorld(dim)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(npyHead(n, dim)); err != nil {
		return err
	}
	var next atomic.Int64
	errs := make([]error, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for g := range errs {
		wg.Go(func() {
			block := make([]float32, genRows*dim)
			for {
				from := int(next.Add(genRows)) - genRows
				if from >= n {
					return
				}
				r := rand.New(rand.NewPCG(1, uint64(from))) // a block is the same whoever makes it
				count := min(genRows, n-from)
				for i := range count {
					w.row(r, block[i*dim:(i+1)*dim])
				}
				if _, err := f.WriteAt(floatBytes(block[:count*dim]), npyHeader+4*int64(from)*int64(dim)); err != nil {
					errs[g] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := w.queries(f, strings.TrimSuffix(path, ".npy")+".queries.npy", n); err != nil {
		return err
	}
	return f.Close()
}

// queries writes eachQuery rows that are not in f, and as many of another modality
// each of which belongs to one of its n rows.
func (w *world) queries(f *os.File, path string, n int) error {
	r := rand.New(rand.NewPCG(2, 2))
	all := make([]float32, 2*eachQuery*w.dim)
	for i := range 2 * eachQuery {
		x := all[i*w.dim : (i+1)*w.dim]
		if i < eachQuery {
			w.row(r, x)
			continue
		}
		if _, err := f.ReadAt(floatBytes(x), npyHeader+4*int64(r.IntN(n))*int64(w.dim)); err != nil {
			return err
		}
		for j := range x {
			x[j] = 0.45*x[j] + w.other[j] + float32(0.5/math.Sqrt(float64(w.dim))*r.NormFloat64())
		}
		unit(x)
	}
	return os.WriteFile(path, append(npyHead(2*eachQuery, w.dim), floatBytes(all)...), 0o644)
}
