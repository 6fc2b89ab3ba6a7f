package llama

import (
	"errors"
	"slices"

	"imagebind-llm/internal/ort"
)

// buffers are what runs read and write beside the cache. They are made once, or
// when a span of rows first runs, and used again.
type buffers struct {
	d         *Decoder
	ids       []int64   // [Slots] of a step
	prompt    []int64   // [chunk]
	seqlens   []int32   // [Slots]
	index     []int64   // [Slots]: of a step, zeros
	injection []float32 // [Slots, La, D]: each row's
	plain     []bool    // [Slots]: whether that is zeros
	total     ort.Scalar
	last      []int64 // [1]: of a prompt
	lastValue ort.Value
	spans     map[span]binding
	logits    []*logits
}

// A span is n rows from row at on.
type span struct{ at, n int }

// A binding is a span's inputs and outputs in the graph's order. The logits of
// a step are put in for each run, and the ids of a prompt.
type binding struct{ in, out []ort.Value }

// logits are [Slots, V] that a step wrote. They are free when users is 0.
type logits struct {
	v      []float32
	values []ort.Value // by rows less 1, nil until used
	users  int         // slots whose owners may still read
}

func (b *buffers) make(d *Decoder) error {
	n := d.o.Slots
	*b = buffers{d: d, ids: make([]int64, n), prompt: make([]int64, d.chunk), seqlens: make([]int32, n), index: make([]int64, n),
		injection: make([]float32, n*d.cfg.AdaptedLayers*d.cfg.Width), plain: make([]bool, n), last: make([]int64, 1), spans: map[span]binding{}}
	for i := range b.plain {
		b.plain[i] = true
	}
	var err1, err2 error
	b.total, err1 = ort.NewScalar()
	b.lastValue, err2 = ort.Int64s(b.last, 1)
	return errors.Join(err1, err2)
}

// bind returns the binding of a span.
func (b *buffers) bind(s span) (binding, error) {
	if x, ok := b.spans[s]; ok {
		return x, nil
	}
	d, c := b.d, b.d.cfg
	x := binding{make([]ort.Value, len(d.session.Inputs)), make([]ort.Value, len(d.session.Outputs))}
	var errs []error
	put := func(list []ort.Value, i int, v ort.Value, err error) {
		list[i] = v
		errs = append(errs, err)
	}
	v, err := ort.Int64s(b.ids[s.at:s.at+s.n], s.n, 1)
	put(x.in, d.session.Input("input_ids"), v, err)
	v, err = ort.Int32s(b.seqlens[s.at:s.at+s.n], s.n)
	put(x.in, d.session.Input("seqlens_k"), v, err)
	put(x.in, d.session.Input("total_sequence_length"), b.total.Value, nil)
	v, err = ort.Int64s(b.index[s.at:s.at+s.n], s.n)
	put(x.in, d.session.Input("logit_index"), v, err)
	if c.AdaptedLayers > 0 {
		one := c.AdaptedLayers * c.Width
		v, err = ort.Floats(b.injection[s.at*one:(s.at+s.n)*one], s.n, c.AdaptedLayers, c.Width)
		put(x.in, d.session.Input("injection"), v, err)
	}
	for layer := range c.Layers {
		for kind, name := range kinds {
			v, err := d.cache.view(layer, kind, s.at, s.n)
			put(x.in, d.session.Input(pastName(layer, name)), v, err)
			put(x.out, d.session.Output(presentName(layer, name)), v, nil)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return x, err
	}
	b.spans[s] = x
	return x, nil
}

// free returns logits that nobody reads, with the value of n rows.
func (b *buffers) free(n int) (*logits, ort.Value, error) {
	i := slices.IndexFunc(b.logits, func(l *logits) bool { return l.users == 0 })
	if i < 0 {
		i = len(b.logits)
		b.logits = append(b.logits, &logits{v: make([]float32, b.d.o.Slots*b.d.cfg.Vocab), values: make([]ort.Value, b.d.o.Slots)})
	}
	l := b.logits[i]
	if l.values[n-1] == nil {
		v, err := ort.Floats(l.v[:n*b.d.cfg.Vocab], n, b.d.cfg.Vocab)
		if err != nil {
			return nil, nil, err
		}
		l.values[n-1] = v
	}
	return l, l.values[n-1], nil
}

// of returns a row's injection.
func (b *buffers) of(row int) []float32 {
	one := b.d.cfg.AdaptedLayers * b.d.cfg.Width
	return b.injection[row*one : (row+1)*one]
}

// inject gives a row its injection [La, D]; nil is zeros.
func (b *buffers) inject(row int, injection []float32) {
	if injection == nil && !b.plain[row] {
		clear(b.of(row))
	}
	copy(b.of(row), injection)
	b.plain[row] = injection == nil
}

// injectFrom gives a row another's.
func (b *buffers) injectFrom(row, other int) {
	copy(b.of(row), b.of(other))
	b.plain[row] = b.plain[other]
}

// same reports whether a row has that injection.
func (b *buffers) same(row int, injection []float32) bool {
	if injection == nil || b.plain[row] {
		return injection == nil && b.plain[row]
	}
	return slices.Equal(b.of(row), injection)
}

func (b *buffers) destroy() {
	for _, x := range b.spans {
		for i, v := range x.in {
			if v != nil && v != b.total.Value {
				ort.Destroy(x.in[i])
			}
		}
	}
	for _, l := range b.logits {
		ort.Destroy(l.values...)
	}
	if b.d != nil {
		ort.Destroy(b.total.Value, b.lastValue)
	}
}
