package checkpoint

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// Variants of the bind network.
const (
	RMSNorm = "rmsnorm" // as the released checkpoints
	Legacy  = "legacy"  // LayerNorm, and biases everywhere
)

// BindBlocks is how many blocks a bind network has (llama_adapter.py).
const BindBlocks = 3

// An Adapter is an ImageBind-LLM checkpoint on its base model: the bind
// network, and what changes in the decoder.
type Adapter struct {
	Variant string // RMSNorm, Legacy
	Embed   int    // E
	Hidden  int    // of the bind network
	Layers  int    // La: the last La layers of the decoder are adapted
	Rank    int    // of LoRA; 0 without
	Biases  bool   // on wq, wo, w1, w2 and w3

	Proj   Affine          // [D, E]
	Blocks []BindBlock     // BindBlocks of them
	Prefix format.Tensor   // [La, D]: one query an adapted layer
	Gates  []format.Tensor // [1, N, 1, 1] each, of the adapted layers

	base *LLaMA
	src  Source
	lora loraCache
}

// An Affine is a matrix [out, in] and its bias [out]; Bias is zero where there
// is none.
type Affine struct{ Weight, Bias format.Tensor }

// A BindBlock is x + f2(silu(f1(n)) · f3(n)), n being the norm of x.
type BindBlock struct{ Norm, F1, F2, F3 Affine }

// ReadAdapter reads an ImageBind-LLM checkpoint as the reference saves it
// (finetune, pretrain, legacy) against the base model that it was trained on.
// Both must stay open while the adapter is used.
//
// Tensors that are missing, of another shape than the base model asks for, or
// no part of an adapter are all named in the one error, of kind Invalid. A wrong
// base is told by its shapes: width, heads, layers, hidden width. Another base
// of the same shapes is told only where the adapter's norms are stored in half
// precision beside float32: pretraining leaves them as the base had them, so
// they must be the base's.
func ReadAdapter(src Source, base *LLaMA) (*Adapter, error) {
	r := adapterReader{src: src, left: map[string]bool{}}
	for _, n := range src.Names() {
		r.left[n] = true
	}
	a := &Adapter{base: base, src: src, Variant: RMSNorm}
	if err := r.kin(base.Config); err != nil {
		return nil, err
	}
	r.bind(a)
	r.decoder(a)
	r.faults.extra(r.left, "an adapter of %d layers on this base model (%s)", a.Layers, a.Variant)
	if err := r.faults.err(); err != nil {
		return nil, fmt.Errorf("adapter: %w", err)
	}
	if err := a.sameNorms(); err != nil {
		return nil, err
	}
	return a, nil
}

type adapterReader struct {
	src    Source
	left   map[string]bool // not asked for yet
	faults faults
}

// kin compares the few shapes that tell which model an adapter is of.
func (r *adapterReader) kin(c LLaMAConfig) error {
	var differ []string
	compare := func(what string, got, want int) {
		if got != want {
			differ = append(differ, fmt.Sprintf("%s %d for %d", what, got, want))
		}
	}
	layers, hidden := 0, 0
	for _, n := range r.src.Names() {
		if strings.HasPrefix(n, "llma.") {
			return imagebind.Errorf(imagebind.Invalid, "adapter: tensor %s: this is a checkpoint as training saves it; convert it with the reference's convert_ckpt.py first", n)
		}
		rest, ok := strings.CutPrefix(n, "llama.layers.")
		if !ok {
			continue
		}
		number, tail, _ := strings.Cut(rest, ".")
		if i, err := strconv.Atoi(number); err == nil && i >= 0 {
			layers = max(layers, i+1)
		}
		if tail == "feed_forward.w1.bias" {
			hidden = rows(r.src, n)
		}
	}
	if layers == 0 {
		return imagebind.Errorf(imagebind.Invalid, "it is no ImageBind-LLM adapter: it has no tensor llama.layers.*")
	}
	if t, err := r.src.Tensor("prefix_query.weight"); err == nil && len(t.Shape) == 2 {
		compare("width", t.Shape[1], c.Width)
	}
	compare("layers", layers, c.Layers)
	if t, err := r.src.Tensor(fmt.Sprintf("llama.layers.%d.attention.gate", layers-1)); err == nil {
		compare("heads", t.Len(), c.Heads)
	}
	if hidden > 0 {
		compare("hidden width", hidden, c.Hidden)
	}
	if len(differ) > 0 {
		return imagebind.Errorf(imagebind.Invalid, "the adapter was trained on another base model than this one: %s", strings.Join(differ, ", "))
	}
	return nil
}

// get claims a tensor of that shape, -1 standing for any size.
func (r *adapterReader) get(name string, shape ...int) format.Tensor {
	t, err := r.src.Tensor(name)
	if err != nil {
		r.faults.add("tensor %s is missing", name)
		return format.Tensor{Name: name, Shape: make([]int, len(shape))}
	}
	delete(r.left, name)
	if !slices.EqualFunc(t.Shape, shape, func(got, want int) bool { return got == want || want < 0 && got > 0 }) {
		r.faults.add("tensor %s has shape %v, want %s", name, t.Shape, strings.ReplaceAll(fmt.Sprint(shape), "-1", "any"))
		t.Shape = make([]int, len(shape))
	}
	return t
}

func (r *adapterReader) has(suffix string) bool {
	return slices.ContainsFunc(r.src.Names(), func(n string) bool { return strings.HasSuffix(n, suffix) })
}

// bind claims the bind network and the prefix queries.
func (r *adapterReader) bind(a *Adapter) {
	if r.left["image_bind_norm_1.bias"] || r.left["image_bind_f1_1.bias"] {
		a.Variant = Legacy
	}
	d := a.base.Config.Width
	a.Proj = Affine{r.get("image_bind_proj.weight", d, -1), r.get("image_bind_proj.bias", d)}
	a.Embed = a.Proj.Weight.Shape[1]
	a.Hidden = rows(r.src, "image_bind_f1_1.weight")
	affine := func(name string, shape ...int) Affine {
		f := Affine{Weight: r.get(name+".weight", shape...)}
		if a.Variant == Legacy {
			f.Bias = r.get(name+".bias", shape[0])
		}
		return f
	}
	for i := range BindBlocks {
		n := strconv.Itoa(i + 1)
		a.Blocks = append(a.Blocks, BindBlock{
			Norm: affine("image_bind_norm_"+n, d),
			F1:   affine("image_bind_f1_"+n, a.Hidden, d),
			F2:   affine("image_bind_f2_"+n, d, a.Hidden),
			F3:   affine("image_bind_f3_"+n, a.Hidden, d),
		})
	}
	a.Prefix = r.get("prefix_query.weight", -1, d)
	a.Layers = a.Prefix.Shape[0]
	if a.Layers > a.base.Config.Layers {
		r.faults.add("tensor prefix_query.weight is of %d layers, the base model has %d", a.Layers, a.base.Config.Layers)
	}
}

// adapted are the matrices of a layer that have LoRA, and which have a bias.
var adapted = []struct {
	kind string
	bias bool
}{
	{"attention.wq", true}, {"attention.wk", false}, {"attention.wv", false}, {"attention.wo", true},
	{"feed_forward.w1", true}, {"feed_forward.w2", true}, {"feed_forward.w3", true},
}

// decoder claims what changes in the decoder.
func (r *adapterReader) decoder(a *Adapter) {
	c := a.base.Config
	hasLoRA := r.has("_l1.weight") || r.has("_l2.weight")
	a.Biases = r.has("attention.wq.bias") || r.has("feed_forward.w1.bias")
	if hasLoRA {
		a.Rank = -1 // until the first is seen
	}
	for i := range c.Layers {
		p := fmt.Sprintf("layers.%d.", i)
		for _, m := range adapted {
			name := p + m.kind + ".weight"
			shape := c.shape(name)
			if m.bias && a.Biases {
				r.get(biasName(name), shape[0])
			}
			if hasLoRA {
				l1, l2 := loraNames(name)
				t := r.get(l1, a.Rank, shape[1])
				if a.Rank < 0 && t.Shape[0] > 0 {
					a.Rank = t.Shape[0]
				}
				r.get(l2, shape[0], a.Rank)
			}
		}
		r.get("llama."+p+"attention_norm.weight", c.Width)
		r.get("llama."+p+"ffn_norm.weight", c.Width)
		// The reference has a gate in every layer and reads the adapted ones'.
		gate := "llama." + p + "attention.gate"
		if i >= c.Layers-a.Layers {
			a.Gates = append(a.Gates, r.get(gate, 1, c.Heads, 1, 1))
		} else if r.left[gate] {
			r.get(gate, 1, c.Heads, 1, 1)
		}
	}
	r.get("llama.norm.weight", c.Width)
}

// biasName returns the adapter's name of a base tensor's bias.
func biasName(weight string) string {
	return "llama." + strings.TrimSuffix(weight, ".weight") + ".bias"
}

// loraNames returns the adapter's names of the matrices on a base tensor:
// layers.0.attention.wq.weight has llama.layers.0.attention.lora_wq_l1.weight.
func loraNames(weight string) (l1, l2 string) {
	p := strings.TrimSuffix(weight, ".weight")
	i := strings.LastIndexByte(p, '.') + 1
	stem := "llama." + p[:i] + "lora_" + p[i:]
	return stem + "_l1.weight", stem + "_l2.weight"
}

// sameNorms holds norms that pretraining left alone against the base's.
func (a *Adapter) sameNorms() error {
	if a.Prefix.DType != format.F32 {
		return nil // all of it was stored smaller
	}
	var faults faults
	check := func(name string) error {
		mine, err := a.src.Tensor("llama." + name)
		if err != nil || mine.DType != format.F16 {
			return nil
		}
		theirs, err := a.base.Tensor(name)
		if err != nil {
			return err
		}
		x, err := mine.Floats()
		if err != nil {
			return err
		}
		y, err := theirs.Floats()
		if err != nil {
			return err
		}
		for i := range x {
			if d := math.Abs(float64(x[i] - y[i])); !(d <= 1e-4+math.Abs(float64(y[i]))/128) { // a step of bfloat16
				faults.add("tensor llama.%s is %v at %d, the base model's %v", name, x[i], i, y[i])
				return nil
			}
		}
		return nil
	}
	var err error
	renames(Meta, a.base.Config.Layers, func(name, _ string) {
		if err == nil && strings.HasSuffix(name, "norm.weight") {
			err = check(name)
		}
	})
	if err != nil {
		return err
	}
	if e := faults.err(); e != nil {
		return imagebind.Errorf(imagebind.Invalid, "the adapter was trained on another base model of the same size (the Chinese one is a base and its --delta): %w", e)
	}
	return nil
}

// Weight returns a tensor of the adapted decoder by Meta's name: norms are the
// adapter's, matrices the base's with LoRA merged in float32 (W + l2·l1, which
// has no scale).
func (a *Adapter) Weight(name string) (format.Tensor, error) {
	if strings.HasSuffix(name, "norm.weight") {
		return a.src.Tensor("llama." + name)
	}
	w, err := a.base.Tensor(name)
	if err != nil || a.Rank == 0 {
		return w, err
	}
	l1, l2, ok := a.LoRA(name)
	if !ok {
		return w, nil
	}
	return a.lora.merged(w, l1, l2), nil
}

// LoRA returns l1 [rank, in] and l2 [out, rank] on a base tensor, where it has any.
func (a *Adapter) LoRA(name string) (l1, l2 format.Tensor, ok bool) {
	n1, n2 := loraNames(name)
	l1, err1 := a.src.Tensor(n1)
	l2, err2 := a.src.Tensor(n2)
	return l1, l2, err1 == nil && err2 == nil
}

// Bias returns the bias on a base tensor, a zero Tensor where there is none.
func (a *Adapter) Bias(name string) format.Tensor {
	b, err := a.src.Tensor(biasName(name))
	if err != nil {
		return format.Tensor{}
	}
	return b
}

// A loraCache keeps the matrices of the weight that is being written, since
// that is read in many parts.
type loraCache struct {
	mu     sync.Mutex
	name   string
	l1, l2 []float32
}

func (c *loraCache) load(name string, l1, l2 format.Tensor) (a, b []float32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.name == name {
		return c.l1, c.l2, nil
	}
	if a, err = l1.Floats(); err != nil {
		return nil, nil, err
	}
	if b, err = l2.Floats(); err != nil {
		return nil, nil, err
	}
	c.name, c.l1, c.l2 = name, a, b
	return a, b, nil
}

// merged returns w + l2·l1.
func (c *loraCache) merged(w, l1, l2 format.Tensor) format.Tensor {
	in, rank := w.Shape[1], l1.Shape[0]
	out := w
	out.DType = format.F32
	out.Read = func(dst []float32, from int) error {
		if err := w.Read(dst, from); err != nil {
			return err
		}
		a, b, err := c.load(w.Name, l1, l2)
		if err != nil {
			return err
		}
		each(len(dst), in, func(i, n int) {
			for i < n {
				r, col := (from+i)/in, (from+i)%in
				row := dst[i:min(i+in-col, n)]
				addRow(row, b[r*rank:][:rank], a[col:], in)
				i += len(row)
			}
		})
		return nil
	}
	return out
}

// addRow adds Σ s[k]·x[k·stride:] to dst, four k at a time: that is less
// reading and writing of dst.
func addRow(dst, s, x []float32, stride int) {
	k := 0
	for ; k+4 <= len(s); k += 4 {
		s0, s1, s2, s3 := s[k], s[k+1], s[k+2], s[k+3]
		x0, x1 := x[k*stride:][:len(dst)], x[(k+1)*stride:][:len(dst)]
		x2, x3 := x[(k+2)*stride:][:len(dst)], x[(k+3)*stride:][:len(dst)]
		for i := range dst {
			dst[i] += s0*x0[i] + s1*x1[i] + s2*x2[i] + s3*x3[i]
		}
	}
	for ; k < len(s); k++ {
		x0, s0 := x[k*stride:][:len(dst)], s[k]
		for i := range dst {
			dst[i] += s0 * x0[i]
		}
	}
}

// each runs f on parts [i, n) of 0..total-1, one a processor, of at least least.
func each(total, least int, f func(i, n int)) {
	p := max(1, min(runtime.GOMAXPROCS(0), total/max(1, least)))
	var wg sync.WaitGroup
	for k := 1; k < p; k++ {
		wg.Go(func() { f(k*total/p, (k+1)*total/p) })
	}
	f(0, total/p)
	wg.Wait()
}
