package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/x448/float16"
)

// A shape is a LLaMA's.
type shape struct{ width, layers, heads, hidden, vocab, context int }

// llama7B is the released LLaMA-7B's.
var llama7B = shape{width: 4096, layers: 32, heads: 32, hidden: 11008, vocab: 32000, context: 2048}

// GGUF's numbers of value types (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and of tensor types (ggml.h).
const (
	metaUint32, metaInt32, metaFloat32, metaString, metaArray = 4, 5, 6, 8, 9

	typeF32, typeQ4, typeQ8 = 0, 2, 8

	blockValues = 32 // of Q4_0 and Q8_0
	alignment   = 32
)

// A tensor is one of a GGUF file that is written.
type tensor struct {
	name      string
	typ       uint32
	rows, row int // rows of row values; 0 rows: a vector
}

func (t tensor) bytes() int64 {
	n := int64(max(1, t.rows)) * int64(t.row)
	switch t.typ {
	case typeQ4:
		return n / blockValues * 18
	case typeQ8:
		return n / blockValues * 34
	}
	return n * 4
}

// tensors are those of a LLaMA whose matrices have a type. The head is Q8_0, as
// ours is, and the embedding of the matrices' type, as llama-quantize makes it.
func (s shape) tensors(typ uint32) []tensor {
	list := []tensor{{"token_embd.weight", typ, s.vocab, s.width}, {"output_norm.weight", typeF32, 0, s.width}, {"output.weight", typeQ8, s.vocab, s.width}}
	for i := range s.layers {
		for _, t := range []tensor{
			{"attn_norm", typeF32, 0, s.width},
			{"attn_q", typ, s.width, s.width}, {"attn_k", typ, s.width, s.width}, {"attn_v", typ, s.width, s.width}, {"attn_output", typ, s.width, s.width},
			{"ffn_norm", typeF32, 0, s.width},
			{"ffn_gate", typ, s.hidden, s.width}, {"ffn_up", typ, s.hidden, s.width}, {"ffn_down", typ, s.width, s.hidden},
		} {
			t.name = fmt.Sprintf("blk.%d.%s.weight", i, t.name)
			list = append(list, t)
		}
	}
	return list
}

// ggufTool writes a LLaMA with random weights as a GGUF file.
func ggufTool(args []string) error {
	fs := flag.NewFlagSet("gguf", flag.ContinueOnError)
	out := fs.String("out", "", "the file")
	typ := fs.String("type", "Q4_0", "Q4_0 or Q8_0")
	layers := fs.Int("layers", llama7B.layers, "how many of the 32 layers")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s := llama7B
	s.layers = *layers
	return writeGGUF(*out, s, *typ)
}

// writeGGUF writes a LLaMA of random weights in blocks of Q4_0 or Q8_0, about as
// large as trained ones, with a vocabulary of made-up words.
func writeGGUF(path string, s shape, quant string) (err error) {
	types := map[string]uint32{"Q4_0": typeQ4, "Q8_0": typeQ8}
	typ, ok := types[quant]
	if !ok {
		return fmt.Errorf("type %q: it is Q4_0 or Q8_0", quant)
	}
	f, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
	}()
	w := &ggufWriter{w: bufio.NewWriterSize(f, 1<<20)}
	list := s.tensors(typ)
	w.header(s, list, map[uint32]uint32{typeQ4: 2, typeQ8: 7}[typ])
	random := rand.NewChaCha8([32]byte{7})
	for _, t := range list {
		w.tensor(t, random)
	}
	return errors.Join(w.err, w.w.Flush())
}

// A ggufWriter writes until something fails.
type ggufWriter struct {
	w   *bufio.Writer
	at  int64
	err error
}

func (w *ggufWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.at += int64(n)
	w.err = errors.Join(w.err, err)
	return n, err
}

func (w *ggufWriter) put(values ...any) {
	for _, v := range values {
		if s, ok := v.(string); ok {
			w.put(uint64(len(s)))
			_, _ = io.WriteString(w, s)
		} else if err := binary.Write(w, binary.LittleEndian, v); err != nil {
			w.err = errors.Join(w.err, err)
		}
	}
}

func (w *ggufWriter) align() { _, _ = w.Write(make([]byte, (alignment-w.at%alignment)%alignment)) }

func (w *ggufWriter) header(s shape, list []tensor, fileType uint32) {
	meta := []struct {
		key string
		v   any
	}{
		{"general.architecture", "llama"}, {"general.name", "random weights"}, {"general.file_type", fileType}, {"general.quantization_version", uint32(2)},
		{"llama.context_length", uint32(s.context)}, {"llama.embedding_length", uint32(s.width)}, {"llama.block_count", uint32(s.layers)},
		{"llama.feed_forward_length", uint32(s.hidden)}, {"llama.attention.head_count", uint32(s.heads)}, {"llama.attention.head_count_kv", uint32(s.heads)},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-6)}, {"llama.rope.dimension_count", uint32(s.width / s.heads)}, {"llama.vocab_size", uint32(s.vocab)},
		{"tokenizer.ggml.model", "llama"}, {"tokenizer.ggml.bos_token_id", uint32(1)}, {"tokenizer.ggml.eos_token_id", uint32(2)}, {"tokenizer.ggml.unknown_token_id", uint32(0)},
	}
	_, _ = io.WriteString(w, "GGUF")
	w.put(uint32(3), uint64(len(list)), uint64(len(meta)+3))
	for _, m := range meta {
		switch m.v.(type) {
		case string:
			w.put(m.key, uint32(metaString), m.v)
		case float32:
			w.put(m.key, uint32(metaFloat32), m.v)
		default:
			w.put(m.key, uint32(metaUint32), m.v)
		}
	}
	w.vocabulary(s.vocab)
	var offset int64
	for _, t := range list {
		if t.rows == 0 {
			w.put(t.name, uint32(1), uint64(t.row))
		} else {
			w.put(t.name, uint32(2), uint64(t.row), uint64(t.rows))
		}
		w.put(t.typ, uint64(offset))
		offset += (t.bytes() + alignment - 1) / alignment * alignment
	}
	w.align()
}

// vocabulary has the three special tokens of LLaMA, all bytes, and words.
func (w *ggufWriter) vocabulary(n int) {
	text := func(i int) string {
		switch {
		case i < 3:
			return []string{"<unk>", "<s>", "</s>"}[i]
		case i < 259:
			return fmt.Sprintf("<0x%02X>", i-3)
		}
		return fmt.Sprintf("▁w%d", i)
	}
	w.put("tokenizer.ggml.tokens", uint32(metaArray), uint32(metaString), uint64(n))
	for i := range n {
		w.put(text(i))
	}
	w.put("tokenizer.ggml.scores", uint32(metaArray), uint32(metaFloat32), uint64(n))
	for i := range n {
		w.put(-float32(i))
	}
	w.put("tokenizer.ggml.token_type", uint32(metaArray), uint32(metaInt32), uint64(n))
	for i := range n {
		kind := int32(1) // a word
		switch {
		case i == 0:
			kind = 2
		case i < 3:
			kind = 3 // control
		case i < 259:
			kind = 6 // a byte
		}
		w.put(kind)
	}
}

// tensor writes ones for a norm and random blocks for a matrix: a scale that
// gives a deviation of 1/√width, and random values.
func (w *ggufWriter) tensor(t tensor, random *rand.ChaCha8) {
	if t.typ == typeF32 {
		for range t.row {
			w.put(float32(1))
		}
		w.align()
		return
	}
	size, deviation := 18, 4.6 // of a uniform 4-bit value
	if t.typ == typeQ8 {
		size, deviation = 34, 73.9
	}
	scale := float16.Fromfloat32(float32(1 / 64. / deviation)).Bits()
	buf := make([]byte, t.row/blockValues*size)
	for range t.rows {
		_, _ = random.Read(buf)
		for at := 0; at < len(buf); at += size {
			binary.LittleEndian.PutUint16(buf[at:], scale)
		}
		_, _ = w.Write(buf)
	}
	w.align()
}
