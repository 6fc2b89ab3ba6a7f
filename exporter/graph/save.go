package graph

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/version"
)

const (
	inline    = 1024    // bytes; larger weights go to the data file
	pageAlign = 4096    // where the larger weights begin, so that they can be mapped
	lineAlign = 64      // where the others begin
	large     = 1 << 16 // bytes that make a weight a large one
)

// A Tensor describes a weight of the graph.
type Tensor struct {
	Name   string
	DType  onnx.DType
	Shape  []int
	Bytes  int64  // that it takes in the file: 0 where it shares those of another
	SHA256 string // of its bytes in the file, in hex; "" before Save
}

// Tensors returns the graph's weights in their order.
func (g *Graph) Tensors() []Tensor {
	list := make([]Tensor, len(g.inits))
	for i, w := range g.inits {
		shape := make([]int, w.v.Rank())
		for j, d := range w.v.shape {
			shape[j] = d.N
		}
		list[i] = Tensor{w.v.name, w.v.dtype, shape, w.bytes(), w.sum}
	}
	return list
}

// bytes that w takes in the file.
func (w *initialiser) bytes() int64 {
	if w.of != nil && w.of.bytes() > inline {
		return 0
	}
	return w.v.dtype.Bytes(product(w.v.shape).n)
}

// Save writes the graph to path and its larger weights to path + ".data", one
// after the other: memory holds one tensor at most. progress, which may be nil,
// hears of the bytes written. What is there already is overwritten.
func (g *Graph) Save(path string, progress func(done, total int64)) error {
	return g.SaveContext(context.Background(), path, progress)
}

// SaveContext is Save that ends with ctx's error, within a part of a weight,
// when ctx does.
func (g *Graph) SaveContext(ctx context.Context, path string, progress func(done, total int64)) (err error) {
	m := onnx.Model{
		IRVersion: onnx.IRVersion, Producer: "imagebind-llm", ProducerVersion: version.Version,
		Opsets: []onnx.OpsetID{{Version: onnx.Opset}, {Domain: onnx.Microsoft, Version: onnx.MicrosoftOpset}},
		Graph:  onnx.Graph{Name: g.Name, Inputs: infos(g.inputs), Outputs: infos(g.outputs)},
	}
	for _, n := range g.nodes {
		m.Graph.Nodes = append(m.Graph.Nodes, onnx.Node{
			Name: n.name, Op: n.op, Domain: n.domain, Inputs: names(n.in), Outputs: names(n.out), Attrs: n.attrs,
		})
	}
	var total int64
	for _, w := range g.inits {
		total += w.bytes()
	}
	d := data{ctx: ctx, path: path + ".data", progress: func(done int64) {
		if progress != nil {
			progress(done, total)
		}
	}}
	defer func() { err = errors.Join(err, d.close()) }()
	for _, w := range g.inits {
		t, err := d.add(w)
		if err != nil {
			return fmt.Errorf("weight %s: %w", w.v.name, err)
		}
		m.Graph.Initialisers = append(m.Graph.Initialisers, t)
	}
	return os.WriteFile(path, m.Marshal(), 0o644)
}

func infos(values []*Value) []onnx.ValueInfo {
	list := make([]onnx.ValueInfo, len(values))
	for i, v := range values {
		list[i] = onnx.ValueInfo{Name: v.name, DType: v.dtype}
		for _, d := range v.shape {
			list[i].Shape = append(list[i].Shape, onnx.Dim{Size: int64(d.N), Name: d.Name})
		}
	}
	return list
}

func names(values []*Value) []string {
	list := make([]string, len(values))
	for i, v := range values {
		if v != nil {
			list[i] = v.name
		}
	}
	return list
}

// data is the file of weights under way. It is made at the first weight that
// goes there.
type data struct {
	ctx      context.Context // of the one Save
	path     string
	f        *os.File
	w        *bufio.Writer
	offset   int64
	done     int64
	progress func(done int64)
}

// add writes a weight and returns its entry in the model.
func (d *data) add(w *initialiser) (onnx.Tensor, error) {
	t := onnx.Tensor{Name: w.v.name, DType: w.v.dtype}
	for _, dim := range w.v.shape {
		t.Shape = append(t.Shape, int64(dim.N))
	}
	if w.of != nil && w.of.at != nil {
		t.External, w.sum = w.of.at, w.of.sum
		return t, nil
	}
	size := w.bytes()
	sum := &meter{hash: sha256.New(), data: d}
	if size <= inline {
		var b bytes.Buffer
		sum.to = &b
		err := w.write(sum)
		t.Raw = b.Bytes()
		w.sum = sum.hex()
		return t, cmpSize(err, sum.n, size)
	}
	if err := d.open(size); err != nil {
		return t, err
	}
	w.at = &onnx.External{Location: filepath.Base(d.path), Offset: d.offset, Length: size}
	t.External = w.at
	sum.to = d.w
	err := w.write(sum)
	d.offset += sum.n
	w.sum = sum.hex()
	return t, cmpSize(err, sum.n, size)
}

func cmpSize(err error, got, want int64) error {
	if err == nil && got != want {
		err = fmt.Errorf("%d bytes written, the shape wants %d", got, want)
	}
	return err
}

// open makes the file ready for a weight of size bytes.
func (d *data) open(size int64) (err error) {
	if d.f == nil {
		if d.f, err = os.Create(d.path); err != nil {
			return err
		}
		d.w = bufio.NewWriterSize(d.f, 1<<20)
	}
	align := int64(lineAlign)
	if size >= large {
		align = pageAlign
	}
	pad := (align - d.offset%align) % align
	d.offset += pad
	_, err = d.w.Write(make([]byte, pad))
	return err
}

func (d *data) close() error {
	if d.f == nil {
		return nil
	}
	return errors.Join(d.w.Flush(), d.f.Close())
}

// A meter counts and hashes what goes through it.
type meter struct {
	to   io.Writer
	hash hash.Hash
	n    int64
	data *data
}

func (m *meter) Write(b []byte) (int, error) {
	if err := m.data.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.to.Write(b)
	m.hash.Write(b[:n])
	m.n += int64(n)
	m.data.done += int64(n)
	m.data.progress(m.data.done)
	return n, err
}

func (m *meter) hex() string { return hex.EncodeToString(m.hash.Sum(nil)) }
