package encoder

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"imagebind-llm/exporter/nn"
	"imagebind-llm/internal/format"
)

// branches are the parts of a checkpoint that have one branch an encoder.
var branches = []string{"modality_preprocessors.", "modality_trunks.", "modality_heads.", "modality_postprocessors."}

// Of returns the name of the encoder that a tensor is part of, or "".
func Of(tensor string) string {
	if strings.HasPrefix(tensor, pointTrunk) {
		return "point"
	}
	for _, b := range branches {
		if rest, ok := strings.CutPrefix(tensor, b); ok {
			name, _, _ := strings.Cut(rest, ".")
			return name
		}
	}
	return ""
}

// any1 stands for any size in a wanted shape.
const any1 = -1

// tensors hands out the tensors of one encoder and keeps what is wrong with them.
type tensors struct {
	src    Source
	left   map[string]bool // of this encoder, and not asked for yet
	faults []error
}

func newTensors(src Source, encoder string) *tensors {
	t := &tensors{src: src, left: map[string]bool{}}
	for _, n := range src.Names() {
		if Of(n) == encoder {
			t.left[n] = true
		}
	}
	return t
}

func (t *tensors) faultf(format string, args ...any) {
	t.faults = append(t.faults, fmt.Errorf(format, args...))
}

// has reports whether the tensor is in the file and not asked for yet.
func (t *tensors) has(name string) bool { return t.left[name] }

// get returns a tensor of that shape; a zero one where that fails.
func (t *tensors) get(name string, shape ...int) format.Tensor {
	x, ok := t.lookup(name)
	if !ok {
		return format.Tensor{}
	}
	if !slices.EqualFunc(x.Shape, shape, func(got, want int) bool { return got == want || want == any1 && got > 0 }) {
		t.faultf("tensor %s has shape %v, want %s", name, x.Shape, wanted(shape))
		return format.Tensor{}
	}
	return x
}

func wanted(shape []int) string {
	return strings.ReplaceAll(fmt.Sprint(shape), strconv.Itoa(any1), "any")
}

func (t *tensors) lookup(name string) (format.Tensor, bool) {
	x, err := t.src.Tensor(name)
	if err != nil {
		t.faultf("tensor %s is missing", name)
		return x, false
	}
	delete(t.left, name)
	return x, true
}

// size returns the first dimension of the first of these tensors that is there;
// all are read for good later.
func (t *tensors) size(names ...string) int {
	for _, n := range names {
		if x, err := t.src.Tensor(n); err == nil && len(x.Shape) > 0 && x.Shape[0] > 0 {
			return x.Shape[0]
		}
	}
	t.faultf("tensor %s is missing", names[0])
	return 0
}

// count returns how many numbered branches there are below prefix: one more
// than the largest number.
func (t *tensors) count(prefix string) int {
	n := 0
	for _, name := range t.src.Names() {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			number, _, _ := strings.Cut(rest, ".")
			if i, err := strconv.Atoi(number); err == nil && i >= n && i < maxLayers {
				n = i + 1
			}
		}
	}
	return n
}

// maxLayers bounds what a foreign name can ask for.
const maxLayers = 1000

func (t *tensors) layerNorm(name, prefix string, width int, eps float64) nn.LayerNorm {
	return nn.LayerNorm{Name: name, Eps: eps, Weight: t.get(prefix+".weight", width), Bias: t.get(prefix+".bias", width)}
}

// err returns what was wrong so far; at the end also every tensor that nobody
// asked for.
func (t *tensors) err(end bool) error {
	faults := t.faults
	if end {
		var extra []string
		for n := range t.left {
			extra = append(extra, n)
		}
		slices.Sort(extra)
		for _, n := range extra {
			faults = append(faults, fmt.Errorf("tensor %s is not part of this encoder", n))
		}
	}
	return errors.Join(faults...)
}
