// Package budget says what memory a bundle will take before it is loaded, so
// that too much is refused with the settings that would fit, and not found out
// by the kernel in the middle of an answer. The figures are estimates from the
// manifest; docs/operations.md tells how they were measured.
package budget

import (
	"fmt"
	"log/slog"
	"strings"

	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
)

// Options are the settings that memory depends on.
type Options struct {
	Slots   int  // sequences at a time
	Context int  // tokens of each; 0 means the bundle's
	Chunk   int  // tokens of prompts in one run; 0 means 512
	Clips   int  // that go through an encoder at once; 0 means 16 on CUDA, else 2, as in package embed
	CUDA    bool // weights as they are in the files, on the device
	Plain   bool // onnxruntime's own kernels on the CPU, in place of this project's
}

// A Part is what one kind of thing takes.
type Part struct {
	Name  string // as it is logged
	Bytes int64
}

// A Plan is the memory that a bundle takes under some options.
type Plan struct {
	Parts []Part
	b     *bundle.Manifest
	o     Options
}

// program is the runner itself and the onnxruntime library.
const program = 128 << 20

// resident is the memory of a graph's weights on the CPU, over their bytes in
// the file: matrices are packed for the kernels, into private memory, and what is
// stored in half precision is computed in float32. A device holds what the file
// holds.
func (o Options) resident(precision string) float64 {
	switch {
	case o.CUDA:
		return 1
	case precision == "fp16":
		return 2.2
	case precision == "int8" && o.Plain:
		return 1.1
	case (precision == "int4" || precision == "int4a") && o.Plain:
		return 1.2
	}
	return 1
}

// New plans b under o.
func New(b *bundle.Manifest, o Options) Plan {
	if o.Chunk <= 0 {
		o.Chunk = 512
	}
	if o.Clips <= 0 {
		if o.Clips = 2; o.CUDA {
			o.Clips = 16
		}
	}
	if o.Context <= 0 && b.Decoder != nil {
		o.Context = b.Decoder.Context
	}
	p := Plan{b: b, o: o}
	var encoders, workspace int64
	for _, e := range b.Encoders {
		encoders += p.weights(e.Graph, e.Precision)
		workspace += p.clips(e)
	}
	p.add("encoders", encoders)
	if b.Bridge != nil {
		p.add("bridge", p.weights(b.Bridge.Graph, "fp32"))
	}
	if d := b.Decoder; d != nil {
		p.add("decoder", p.weights(d.Graph, d.Precision))
		p.add("kv_cache", int64(o.Slots)*p.slot(o.Context))
		workspace += p.prompt()
	}
	p.add("workspace", workspace)
	if !o.CUDA {
		p.add("program", program)
	}
	return p
}

func (p *Plan) add(name string, bytes int64) {
	if bytes > 0 {
		p.Parts = append(p.Parts, Part{name, bytes})
	}
}

// weights is what a graph's files take, loaded.
func (p *Plan) weights(graph, precision string) int64 {
	var n int64
	for name, f := range p.b.Files {
		if name == graph || strings.HasPrefix(name, graph+".") {
			n += f.Bytes
		}
	}
	return int64(p.o.resident(precision) * float64(n))
}

// slot is the KV cache of one sequence: 2·L·KH·context·Dh values.
func (p *Plan) slot(context int) int64 {
	d := p.b.Decoder
	n := 2 * int64(d.Layers) * int64(d.KVHeads) * int64(context) * int64(d.HeadDim)
	if d.KVType == "float16" {
		return 2 * n
	}
	return 4 * n
}

// prompt is what a chunk of a prompt takes while it runs, as float32: about four
// rows as wide as the model, packed q, k and v, three of the hidden width, and
// the attention's weights over the whole context; then the logits of all slots,
// twice, for the step under way and the one before.
func (p *Plan) prompt() int64 {
	d := p.b.Decoder
	wide := 4*d.Width + (d.Heads+2*d.KVHeads)*d.HeadDim + 3*d.Hidden
	return 4 * (int64(p.o.Chunk)*int64(wide+d.Heads*p.o.Context) + 2*int64(p.o.Slots)*int64(d.Vocab))
}

// clips is what a run of an encoder takes at most, as float32: for each clip of
// T tokens about twelve rows of its width a token, and twice the attention's
// weights [N, T, T].
func (p *Plan) clips(e bundle.Encoder) int64 {
	t := int64(tokens(e))
	return 4 * int64(p.o.Clips) * t * (12*int64(e.Width) + 2*t*int64(e.Heads))
}

// tokens is T: what the modality's stem makes of one clip.
func tokens(e bundle.Encoder) int {
	for _, spec := range all.Specs {
		if len(e.Modalities) == 0 || spec.Name != e.Modalities[0] {
			continue
		}
		if p, ok := spec.Encoder.Stem.(modality.Patches); ok && len(p.Stride) <= len(e.Input) {
			t := 1 // the class token's place is within the estimate
			for i, d := range e.Input[len(e.Input)-len(p.Stride):] {
				t *= max(d/p.Stride[i], 1)
			}
			return t
		}
	}
	if len(e.Input) > 0 { // ids, or groups of points
		return e.Input[0]
	}
	return 1
}

// Total is the sum of the parts.
func (p Plan) Total() int64 {
	var n int64
	for _, part := range p.Parts {
		n += part.Bytes
	}
	return n
}

// Log is the plan as a log record's attributes, in MiB.
func (p Plan) Log(available int64) []any {
	var list []any
	for _, part := range p.Parts {
		list = append(list, slog.Int64(part.Name+"_mib", mib(part.Bytes)))
	}
	return append(list, slog.Int64("total_mib", mib(p.Total())), slog.Int64("available_mib", available>>20))
}

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// Check returns nil where the plan fits into available bytes, or an error that
// says which settings would.
func (p Plan) Check(available int64) error {
	if p.Total() <= available {
		return nil
	}
	return fmt.Errorf("the bundle would take %d MiB of memory and %d MiB are there: %s (--memory-check warn tries all the same)",
		mib(p.Total()), available>>20, p.advice(available))
}

// with plans the same bundle under other slots and context.
func (p Plan) with(slots, context int) Plan {
	o := p.o
	o.Slots, o.Context = slots, context
	return New(p.b, o)
}

// advice names what would fit: fewer slots, a shorter context, or both.
func (p Plan) advice(available int64) string {
	fits := func(slots, context int) bool { return p.with(slots, context).Total() <= available }
	least := min(128, p.o.Context)
	if p.b.Decoder == nil || !fits(1, least) {
		return "no setting makes it fit; a bundle of a smaller --precision or with fewer encoders would take less"
	}
	context := func(slots int) int { // the longest that fits, in steps of 64
		c := p.o.Context
		for c > least && !fits(slots, c) {
			c = max((c-1)/64*64, least)
		}
		return c
	}
	slots := p.o.Slots - 1
	for slots > 0 && !fits(slots, p.o.Context) {
		slots--
	}
	var list []string
	if slots > 0 {
		list = append(list, fmt.Sprintf("--slots %d", slots))
	}
	if fits(p.o.Slots, least) {
		list = append(list, fmt.Sprintf("--context %d", context(p.o.Slots)))
	}
	if slots == 0 && p.o.Slots > 1 {
		list = append(list, fmt.Sprintf("--slots 1 --context %d", context(1)))
	}
	return strings.Join(list, ", or ") + " would fit"
}
