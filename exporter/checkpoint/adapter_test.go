package checkpoint

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/internal/fake"
	"imagebind-llm/internal/format"
)

func openAdapter(t testing.TB, variant string) *Checkpoint {
	t.Helper()
	c, err := Open(filepath.Join(tiny, "adapter-"+variant+".pth"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var config7B = LLaMAConfig{
	Width: 4096, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128, Hidden: 11008, Vocab: 32000,
	NormEps: 1e-6, RopeTheta: 10000, RopeScale: 1, Context: 2048,
}

// TestFullSize: the names and shapes of the released models are what is asked for.
func TestFullSize(t *testing.T) {
	weights, err := config7B.rename(Meta, New(fake.Keys(t, "llama_7B_consolidated", 32)...), nil)
	if err != nil {
		t.Fatal(err)
	}
	base := &LLaMA{Checkpoint: weights, Config: config7B, Layout: Meta}
	for _, tt := range []struct {
		name, variant string
		rank          int
		biases        bool
	}{
		{"finetune", RMSNorm, 16, true},
		{"legacy", Legacy, 16, true},
		{"pretrain", RMSNorm, 0, false},
	} {
		a, err := ReadAdapter(New(fake.Keys(t, "adapter_7B_"+tt.name, 32)...), base)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if a.Variant != tt.variant || a.Rank != tt.rank || a.Biases != tt.biases || a.Embed != 1024 || a.Hidden != 16384 || a.Layers != 32 || len(a.Gates) != 32 {
			t.Errorf("%s: it is %+v", tt.name, a)
		}
	}
	// Pretraining leaves the norms as the base had them.
	other := change(t, New(fake.Keys(t, "adapter_7B_pretrain", 32)...), func(x *format.Tensor) bool {
		if strings.HasSuffix(x.Name, "norm.weight") {
			*x = fake.Constant(*x, 0.5)
		}
		return true
	})
	_, err = ReadAdapter(other, base)
	wantError(t, err, imagebind.Invalid, "another base model of the same size", "llama.layers.31.ffn_norm.weight is 0.5 at 0, the base model's 1")
}

func TestAdapters(t *testing.T) {
	base := openTiny(t)
	for _, tt := range []struct {
		name, variant string
		rank          int
	}{{"finetune", RMSNorm, 4}, {"legacy", Legacy, 4}, {"pretrain", RMSNorm, 0}} {
		a, err := ReadAdapter(openAdapter(t, tt.name), base)
		if err != nil {
			t.Fatal(err)
		}
		if a.Variant != tt.variant || a.Rank != tt.rank || a.Embed != 64 || a.Hidden != 320 || a.Layers != 4 || len(a.Gates) != 4 || len(a.Blocks) != BindBlocks {
			t.Errorf("%s: it is %+v", tt.name, a)
		}
		if last := a.Gates[3].Name; last != "llama.layers.5.attention.gate" {
			t.Errorf("%s: the last gate is %s", tt.name, last)
		}
	}
}

// TestMerge: W + l2·l1, norms replaced, biases where the reference has them.
func TestMerge(t *testing.T) {
	base, src := openTiny(t), openAdapter(t, "finetune")
	a, err := ReadAdapter(src, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"layers.0.attention.wq.weight", "layers.5.feed_forward.w2.weight", "layers.3.feed_forward.w3.weight"} {
		x, err := a.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Floats()
		if err != nil {
			t.Fatal(err)
		}
		in := x.Shape[1]
		w, n1, n2 := floats(t, base, name), "", ""
		n1, n2 = loraNames(name)
		l1, l2 := floats(t, src, n1), floats(t, src, n2)
		for i, v := range w {
			sum := float64(v)
			for k := range a.Rank {
				sum += float64(l2[i/in*a.Rank+k]) * float64(l1[k*in+i%in])
			}
			if d := math.Abs(sum - float64(got[i])); d > 1e-6 {
				t.Fatalf("%s: element %d is %v, want %v", name, i, got[i], sum)
			}
		}
		part := make([]float32, 3*in/2+7) // begins and ends within rows
		for _, from := range []int{0, 5, in - 1, len(w) - len(part)} {
			if err := x.Read(part, from); err != nil || !slices.Equal(part, got[from:from+len(part)]) {
				t.Errorf("%s: elements from %d differ: %v", name, from, err)
			}
		}
	}
	for name, want := range map[string]bool{
		"layers.1.attention.wq.weight": true, "layers.1.attention.wk.weight": false, "layers.1.attention.wv.weight": false,
		"layers.1.attention.wo.weight": true, "layers.1.feed_forward.w1.weight": true, "layers.1.feed_forward.w2.weight": true,
		"layers.1.feed_forward.w3.weight": true, "output.weight": false,
	} {
		if b := a.Bias(name); (b.Read != nil) != want {
			t.Errorf("%s: a bias %v", name, b)
		}
	}
	if x, err := a.Weight("layers.2.ffn_norm.weight"); err != nil || x.Name != "llama.layers.2.ffn_norm.weight" {
		t.Errorf("a norm is %v, %v", x, err)
	}
	if x, err := a.Weight("output.weight"); err != nil || x.DType != format.F16 {
		t.Errorf("the head is %v, %v", x, err)
	}
	if _, err := a.Weight("layers.6.attention.wq.weight"); err == nil {
		t.Error("a seventh layer")
	}
}

// TestAddRow: ranks that are and are not a multiple of four.
func TestAddRow(t *testing.T) {
	x := make([]float32, 7*10)
	for i := range x {
		x[i] = float32(i%11) - 5
	}
	for rank := range 8 {
		s, dst, want := []float32{1, -2, 3, 0.5, 4, -1, 2}[:rank], make([]float32, 5), make([]float32, 5)
		addRow(dst, s, x[2:], 10)
		for k := range s {
			for i := range want {
				want[i] += s[k] * x[2+k*10+i]
			}
		}
		if !slices.Equal(dst, want) { // small integers and halves: exact
			t.Errorf("rank %d: %v, want %v", rank, dst, want)
		}
	}
}

// change returns the tensors of c as f leaves them; f returns false to drop one.
func change(t testing.TB, c *Checkpoint, f func(*format.Tensor) bool) *Checkpoint {
	t.Helper()
	out := New()
	for _, x := range all(t, c) {
		if f(&x) {
			out.put(x)
		}
	}
	return out
}

func TestAdapterErrors(t *testing.T) {
	base := openTiny(t)
	for _, tt := range []struct {
		name    string
		variant string
		change  func(*format.Tensor) bool
		want    []string
	}{
		{"missing, misshapen and extra at once", "finetune", func(x *format.Tensor) bool {
			switch x.Name {
			case "llama.layers.3.attention.lora_wv_l2.weight", "image_bind_f2_2.weight":
				return false
			case "llama.layers.1.feed_forward.w3.bias", "image_bind_norm_1.weight":
				x.Shape = []int{7}
			case "llama.layers.0.attention.gate":
				x.Name = "llama.layers.0.attention.door"
			}
			return true
		}, []string{
			"5 tensors do not fit", "tensor llama.layers.3.attention.lora_wv_l2.weight is missing", "tensor image_bind_f2_2.weight is missing",
			"tensor llama.layers.1.feed_forward.w3.bias has shape [7], want [224]", "tensor image_bind_norm_1.weight has shape [7], want [80]",
			"tensor llama.layers.0.attention.door is no part of an adapter of 4 layers",
		}},
		{"one gate missing", "pretrain", func(x *format.Tensor) bool { return x.Name != "llama.layers.4.attention.gate" }, []string{"llama.layers.4.attention.gate is missing"}},
		{"one LoRA only", "pretrain", func(x *format.Tensor) bool {
			if x.Name == "llama.layers.0.attention.gate" {
				x.Name, x.Shape = "llama.layers.0.attention.lora_wq_l1.weight", []int{4, 80}
			}
			return true
		}, []string{"llama.layers.0.attention.lora_wq_l2.weight is missing", "llama.layers.5.feed_forward.lora_w3_l2.weight is missing"}},
		{"two ranks", "finetune", func(x *format.Tensor) bool {
			if x.Name == "llama.layers.2.attention.lora_wo_l1.weight" {
				x.Shape = []int{8, 80}
			}
			return true
		}, []string{"llama.layers.2.attention.lora_wo_l1.weight has shape [8 80], want [4 80]"}},
		{"no norms", "finetune", func(x *format.Tensor) bool { return !strings.HasSuffix(x.Name, "_norm.weight") }, []string{"12 tensors", "llama.layers.5.attention_norm.weight is missing"}},
		{"no prefix", "finetune", func(x *format.Tensor) bool { return x.Name != "prefix_query.weight" }, []string{"prefix_query.weight is missing"}},
		{"too many prefixes", "finetune", func(x *format.Tensor) bool {
			if x.Name == "prefix_query.weight" {
				x.Shape = []int{9, 80}
			}
			return true
		}, []string{"prefix_query.weight is of 9 layers, the base model has 6"}},
		{"no embedding width", "finetune", func(x *format.Tensor) bool {
			if x.Name == "image_bind_proj.weight" {
				x.Shape = []int{80}
			}
			return true
		}, []string{"image_bind_proj.weight has shape [80], want [80 any]"}},
		{"as training saves it", "finetune", func(x *format.Tensor) bool {
			x.Name = strings.Replace(x.Name, "llama.", "llma.", 1)
			return true
		}, []string{"convert_ckpt.py"}},
		{"something else", "finetune", func(x *format.Tensor) bool { return strings.HasPrefix(x.Name, "image_bind_") }, []string{"no ImageBind-LLM adapter"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadAdapter(change(t, openAdapter(t, tt.variant), tt.change), base)
			wantError(t, err, imagebind.Invalid, tt.want...)
		})
	}
}

// TestOptionalGates: layers below the adapted ones have gates that nothing reads.
func TestOptionalGates(t *testing.T) {
	base := openTiny(t)
	src := change(t, openAdapter(t, "finetune"), func(x *format.Tensor) bool { return x.Name != "llama.layers.0.attention.gate" })
	if _, err := ReadAdapter(src, base); err != nil {
		t.Error(err)
	}
}

// TestWrongBase: an adapter of the released size on the small model, and the
// other way round, by the dims that differ.
func TestWrongBase(t *testing.T) {
	_, err := ReadAdapter(New(fake.Keys(t, "adapter_7B_finetune", 32)...), openTiny(t))
	wantError(t, err, imagebind.Invalid, "trained on another base model", "width 4096 for 80", "layers 32 for 6", "heads 32 for 4", "hidden width 11008 for 224")

	base := &LLaMA{Checkpoint: New(fake.Keys(t, "llama_7B_consolidated", 32)...), Config: config7B}
	_, err = ReadAdapter(openAdapter(t, "pretrain"), base)
	wantError(t, err, imagebind.Invalid, "width 80 for 4096", "layers 6 for 32", "heads 4 for 32")
}

// TestSameNorms: norms in half precision beside float32 are the base's own.
func TestSameNorms(t *testing.T) {
	base := openTiny(t)
	norms := func(scale float32) *Checkpoint {
		return change(t, openAdapter(t, "pretrain"), func(x *format.Tensor) bool {
			if name, ok := strings.CutPrefix(x.Name, "llama."); ok && strings.HasSuffix(name, "norm.weight") {
				theirs, err := base.Tensor(name)
				if err != nil {
					t.Fatal(err)
				}
				x.DType = format.F16
				x.Read = func(dst []float32, from int) error {
					err := theirs.Read(dst, from)
					for i := range dst {
						dst[i] *= scale
					}
					return err
				}
			}
			return true
		})
	}
	if _, err := ReadAdapter(norms(1), base); err != nil {
		t.Error(err)
	}
	if _, err := ReadAdapter(norms(1.003), base); err != nil { // a base in bfloat16
		t.Error(err)
	}
	_, err := ReadAdapter(norms(1.1), base)
	wantError(t, err, imagebind.Invalid, "13 tensors", "the Chinese one is a base and its --delta")
}

func TestReadErrors(t *testing.T) {
	broken := fmt.Errorf("disk on fire")
	base := openTiny(t)
	src := change(t, openAdapter(t, "finetune"), func(x *format.Tensor) bool {
		if strings.Contains(x.Name, "lora_wq_l2") {
			x.Read = func([]float32, int) error { return broken }
		}
		return true
	})
	a, err := ReadAdapter(src, base)
	if err != nil {
		t.Fatal(err)
	}
	x, err := a.Weight("layers.0.attention.wq.weight")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Floats(); err == nil || !strings.Contains(err.Error(), "lora_wq_l2.weight: disk on fire") {
		t.Errorf("error is %v", err)
	}
}
