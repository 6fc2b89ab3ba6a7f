package model

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/internal/fake"
	"imagebind-llm/exporter/verify"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/tokenizer"
)

const (
	testdata = "../../testdata/golden/"
	tiny     = testdata + "llama-adapter-tiny/"
)

// tinyOptions export the checkpoints that the goldens are of.
func tinyOptions(t *testing.T, adapter string) Options {
	return Options{
		ImageBind: testdata + "imagebind-tiny/checkpoint.pth", Point: testdata + "pointbind-tiny/checkpoint.pth", HeadsConfig: testdata + "heads.json",
		LLaMA: tiny + "7B", Tokenizer: tiny + "tokenizer.model", Adapter: tiny + adapter, Out: filepath.Join(t.TempDir(), "bundle"),
	}
}

func wantORT(t *testing.T) {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
}

// TestVerify: at every precision and for every kind of adapter the bundle
// computes what the reference does.
func TestVerify(t *testing.T) {
	wantORT(t)
	tests := []struct {
		name, adapter, precision, encoders string
		exact                              bool
		head, table, bridge                string
		parts                              []string // that the report has
	}{
		{"fp32", "adapter-finetune.pth", "", "", false, "", "", "", []string{"encoder vision fp32", "vision_video", "encoder text fp32", "encoder audio fp32", "encoder depth fp32", "encoder thermal fp32", "encoder imu fp32", "encoder point fp32", "small_start0", "tokenizer", "bridge rmsnorm", "injection_after_wo", "decoder fp32", "image/alpaca"}},
		{"legacy", "adapter-legacy.pth", "", "", false, "", "", "", []string{"bridge legacy", "legacy_image_cache/short"}},
		{"pretrain", "adapter-pretrain.pth", "", "", false, "", "", "", []string{"pretrain_image/short"}},
		{"fp16", "adapter-finetune.pth", "fp16", "fp16", false, "", "", "", []string{"decoder fp16", "encoder vision fp16"}},
		{"int8", "adapter-finetune.pth", "int8", "int8", false, "", "", "", []string{"decoder int8", "encoder vision int8"}},
		{"int8, exact", "adapter-finetune.pth", "int8", "int8", true, "", "", "", []string{"decoder int8"}},
		{"int4", "adapter-finetune.pth", "int4", "", false, "", "", "", []string{"decoder int4", "bridge rmsnorm mixed"}},
		{"int4a", "adapter-finetune.pth", "int4a", "", false, "int4", "int4", "int8", []string{"decoder int4a", "bridge rmsnorm int8"}},
		{"fp32, the rest smaller", "adapter-finetune.pth", "", "", false, "int8", "fp16", "fp16", []string{"decoder fp32", "bridge rmsnorm fp16"}},
		{"int4, exact", "adapter-finetune.pth", "int4", "", true, "", "", "", []string{"decoder int4"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tinyOptions(t, tt.adapter)
			o.Precision, o.EncoderPrecision, o.Exact = tt.precision, tt.encoders, tt.exact
			o.HeadPrecision, o.TablePrecision, o.BridgePrecision = tt.head, tt.table, tt.bridge
			if err := Export(t.Context(), o, io.Discard); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err := verify.Run(t.Context(), o.Out, testdata, ort.Options{Threads: 1}, &out)
			t.Log("\n" + out.String())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range tt.parts {
				if !strings.Contains(out.String(), p) {
					t.Errorf("the report has no %q", p)
				}
			}
		})
	}
}

// TestBase: a LLaMA without an adapter, and the tokenizer that lies beside it.
func TestBase(t *testing.T) {
	o := Options{LLaMA: tiny + "7B", Name: "base", Out: filepath.Join(t.TempDir(), "b")}
	var out bytes.Buffer
	if err := Export(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	d := b.Decoder
	if b.Name != "base" || b.Bridge != nil || len(b.Encoders) > 0 || b.Cache.Enabled || d.AdaptedLayers != 0 || d.Template != "plain" || d.Tokenizer != "tokenizer.model" ||
		d.BOS != 1 || !slices.Equal(d.Stop, []int{2}) {
		t.Errorf("the manifest is %+v", b.Manifest)
	}
	if !strings.Contains(out.String(), "tokenizer.model") {
		t.Errorf("the tokenizer that was found is not named:\n%s", out.String())
	}
	wantORT(t)
	out.Reset()
	if err := verify.Run(t.Context(), o.Out, testdata, ort.Options{Threads: 1}, &out); err != nil || !strings.Contains(out.String(), "base/") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestEmbeddings: an ImageBind alone.
func TestEmbeddings(t *testing.T) {
	o := tinyOptions(t, "")
	o.LLaMA, o.Tokenizer, o.Adapter, o.Point = "", "", "", ""
	b := exported(t, o)
	var others []string // all but point clouds
	for _, s := range all.Specs {
		if s.Encoder.Name != "point" {
			others = append(others, s.Name)
		}
	}
	if b.Name != "bundle" || b.Decoder != nil || b.Embed() != 64 || !slices.Equal(b.Modalities(), others) {
		t.Errorf("the manifest is %+v", b.Manifest)
	}
	for _, e := range b.Encoders {
		if len(e.Preprocessing) == 0 || e.Heads < 3 || e.Heads > 4 {
			t.Errorf("encoder %+v", e)
		}
	}
	if _, err := os.Stat(b.Path(vocabulary)); err != nil {
		t.Error(err)
	}
}

func exported(t *testing.T, o Options) *bundle.Bundle {
	t.Helper()
	if err := Export(t.Context(), o, io.Discard); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPoint: the point encoder alone, and not where neither file has one.
func TestPoint(t *testing.T) {
	o := tinyOptions(t, "")
	o.LLaMA, o.Tokenizer, o.Adapter, o.ImageBind = "", "", "", ""
	b := exported(t, o)
	if e := b.Encoders; len(e) != 1 || e[0].Name != "point" || e[0].Heads != 4 || !slices.Equal(e[0].Input, []int{64, 17, 3}) || e[0].Layers != 3 {
		t.Errorf("the encoders are %+v", b.Encoders)
	}
	if l := b.Licences; len(l) != 1 || l[0].Part != "point" {
		t.Errorf("licences %+v", b.Licences)
	}
	o.Point = testdata + "imagebind-tiny/checkpoint.pth"
	if err := Export(t.Context(), o, io.Discard); err == nil || !strings.Contains(err.Error(), "--point") || !strings.Contains(err.Error(), "no tensor of point_trunk") {
		t.Errorf("an ImageBind as --point: %v", err)
	}
	o.Point, o.HeadsConfig = testdata+"pointbind-tiny/checkpoint.pth", testdata+"imagebind-tiny/config.json"
	var out bytes.Buffer
	if err := Export(t.Context(), o, &out); err != nil || !strings.Contains(out.String(), "pointbind-tiny/config.json") {
		t.Errorf("heads of the config.json beside it: %v\n%s", err, out.String())
	}
	alone := filepath.Join(t.TempDir(), "point.pth")
	if err := os.WriteFile(alone, golden.Bytes(t, o.Point), 0o644); err != nil {
		t.Fatal(err)
	}
	o.Point, o.HeadsConfig = alone, ""
	if err := Export(t.Context(), o, io.Discard); err == nil || !strings.Contains(err.Error(), "point_num_heads") {
		t.Errorf("without its heads: %v", err)
	}
}

// words is a tokenizer.json of four tokens, in Hugging Face's form.
const words = `{"model":{"type":"BPE","vocab":{"a":0,"b":1,"<|im_start|>":2,"<|im_end|>":3},"merges":[]},` +
	`"added_tokens":[{"id":2,"content":"<|im_start|>","special":true},{"id":3,"content":"<|im_end|>","special":true}],` +
	`"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}}`

// TestHuggingFace: in a folder of Hugging Face's everything is found beside the weights.
func TestHuggingFace(t *testing.T) {
	dir := t.TempDir()
	const d, hidden, vocab = 32, 64, 64
	p := "model.layers.0."
	fake.Save(t, filepath.Join(dir, "model.safetensors"),
		fake.Tensor("model.embed_tokens.weight", 1, vocab, d), fake.Tensor("model.norm.weight", 2, d), fake.Tensor("lm_head.weight", 3, vocab, d),
		fake.Tensor(p+"self_attn.q_proj.weight", 4, d, d), fake.Tensor(p+"self_attn.k_proj.weight", 5, d, d),
		fake.Tensor(p+"self_attn.v_proj.weight", 6, d, d), fake.Tensor(p+"self_attn.o_proj.weight", 7, d, d),
		fake.Tensor(p+"mlp.gate_proj.weight", 8, hidden, d), fake.Tensor(p+"mlp.up_proj.weight", 9, hidden, d), fake.Tensor(p+"mlp.down_proj.weight", 10, d, hidden),
		fake.Tensor(p+"input_layernorm.weight", 11, d), fake.Tensor(p+"post_attention_layernorm.weight", 12, d))
	fake.SaveJSON(t, filepath.Join(dir, "config.json"), map[string]any{"model_type": "llama", "hidden_size": d, "intermediate_size": hidden,
		"num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": vocab, "max_position_embeddings": 128, "eos_token_id": 0})
	o := Options{LLaMA: dir, Out: filepath.Join(t.TempDir(), "b")}
	if err := Export(t.Context(), o, io.Discard); err == nil || !strings.Contains(err.Error(), "with --tokenizer") {
		t.Errorf("without a tokenizer: %v", err)
	}
	for name, content := range map[string]string{"tokenizer.json": words, "generation_config.json": `{"eos_token_id":[3]}`,
		"tokenizer_config.json": `{"eos_token":"<|im_end|>","add_bos_token":false,"chat_template":"{% for m in messages %}<|im_start|>{% endfor %}"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Export(t.Context(), o, io.Discard); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	if d := b.Decoder; d.Tokenizer != "tokenizer.json" || d.Template != "chatml" || d.BOS != -1 || !slices.Equal(d.Stop, []int{3}) || d.Vocab != vocab || d.Context != 128 {
		t.Errorf("the decoder is %+v", d)
	}
	o.Context, o.Template = 64, "llama2"
	if err := Export(t.Context(), o, io.Discard); err != nil {
		t.Fatal(err)
	}
	if b, err = bundle.Open(o.Out); err != nil || b.Decoder.Context != 64 || b.Decoder.Template != "llama2" {
		t.Errorf("%v, the decoder is %+v", err, b.Decoder)
	}
}

// TestGGUF: a .gguf alone is a chat server, with its own tokenizer, template and
// licence; with another tokenizer its end token and template stay in force.
func TestGGUF(t *testing.T) {
	const d, hidden = 32, 64
	pieces := []string{"a", "b", "<|im_start|>", "<|im_end|>"}
	meta := []pair{
		{"general.architecture", "llama"}, {"general.license", "apache-2.0"},
		{"llama.embedding_length", uint32(d)}, {"llama.block_count", uint32(1)}, {"llama.attention.head_count", uint32(2)},
		{"llama.feed_forward_length", uint32(hidden)}, {"llama.context_length", uint32(128)}, {"llama.attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"tokenizer.ggml.model", "gpt2"}, {"tokenizer.ggml.pre", "smollm"}, {"tokenizer.ggml.tokens", pieces}, {"tokenizer.ggml.token_type", []int32{1, 1, 3, 3}},
		{"tokenizer.ggml.merges", []string{}}, {"tokenizer.ggml.eos_token_id", uint32(3)}, {"tokenizer.ggml.add_bos_token", false},
		{"tokenizer.chat_template", "<|im_start|>{{ x }}"},
	}
	shapes := []shaped{
		{"token_embd.weight", []int{len(pieces), d}}, {"output_norm.weight", []int{d}}, {"blk.0.attn_norm.weight", []int{d}}, {"blk.0.ffn_norm.weight", []int{d}},
		{"blk.0.attn_q.weight", []int{d, d}}, {"blk.0.attn_k.weight", []int{d, d}}, {"blk.0.attn_v.weight", []int{d, d}}, {"blk.0.attn_output.weight", []int{d, d}},
		{"blk.0.ffn_gate.weight", []int{hidden, d}}, {"blk.0.ffn_up.weight", []int{hidden, d}}, {"blk.0.ffn_down.weight", []int{d, hidden}},
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "model.gguf")
	if err := os.WriteFile(path, ggufFile(meta, shapes), 0o644); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.json")
	if err := os.WriteFile(other, []byte(words), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tok := range []string{"", path, other} {
		o := Options{LLaMA: path, Tokenizer: tok, Out: filepath.Join(dir, "b")}
		if err := Export(t.Context(), o, io.Discard); err != nil {
			t.Fatal(err)
		}
		b, err := bundle.Open(o.Out)
		if err != nil {
			t.Fatal(err)
		}
		if d := b.Decoder; d.Tokenizer != "tokenizer.json" || d.Template != "chatml" || d.BOS != -1 || !slices.Equal(d.Stop, []int{3}) || b.Licences[0].Name != "apache-2.0" {
			t.Errorf("with tokenizer %q the manifest is %+v, %+v", tok, d, b.Licences)
		}
	}
}

type pair struct {
	key   string
	value any
}

type shaped struct {
	name  string
	shape []int
}

// ggufFile makes a .gguf of version 3 whose tensors are float32 zeros.
func ggufFile(meta []pair, tensors []shaped) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32([]byte("GGUF"), 3)
	b = le.AppendUint64(le.AppendUint64(b, uint64(len(tensors))), uint64(len(meta)))
	text := func(b []byte, s string) []byte { return append(le.AppendUint64(b, uint64(len(s))), s...) }
	for _, m := range meta {
		b = text(b, m.key)
		switch v := m.value.(type) {
		case uint32:
			b = le.AppendUint32(le.AppendUint32(b, 4), v)
		case float32:
			b = le.AppendUint32(le.AppendUint32(b, 6), math.Float32bits(v))
		case bool:
			b = append(le.AppendUint32(b, 7), 0) // false is all that is wanted
		case string:
			b = text(le.AppendUint32(b, 8), v)
		case []string:
			b = le.AppendUint64(le.AppendUint32(le.AppendUint32(b, 9), 8), uint64(len(v)))
			for _, s := range v {
				b = text(b, s)
			}
		case []int32:
			b = le.AppendUint64(le.AppendUint32(le.AppendUint32(b, 9), 5), uint64(len(v)))
			for _, n := range v {
				b = le.AppendUint32(b, uint32(n))
			}
		}
	}
	offset := 0
	for _, x := range tensors {
		b = le.AppendUint32(text(b, x.name), uint32(len(x.shape)))
		for _, d := range slices.Backward(x.shape) {
			b = le.AppendUint64(b, uint64(d))
		}
		b = le.AppendUint64(le.AppendUint32(b, 0), uint64(offset))
		offset += 4 * imagebind.Size(x.shape)
	}
	b = append(b, make([]byte, (32-len(b)%32)%32)...)
	return append(b, make([]byte, offset)...)
}

// TestDamage: a weight that is off makes verify fail and name the part.
func TestDamage(t *testing.T) {
	wantORT(t)
	o := tinyOptions(t, "adapter-finetune.pth")
	if err := Export(t.Context(), o, io.Discard); err != nil {
		t.Fatal(err)
	}
	for file, part := range map[string]string{"vision.onnx.data": "encoder vision fp32", "bridge.onnx.data": "bridge rmsnorm", "decoder.onnx.data": "decoder fp32"} {
		path := filepath.Join(o.Out, file)
		whole := golden.Bytes(t, path)
		bad := slices.Clone(whole)
		// One in 101 bytes of the last quarter: some are of weights that every case uses.
		for i := len(bad) * 3 / 4; i < len(bad); i += 101 {
			bad[i] ^= 0x40
		}
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := verify.Run(t.Context(), o.Out, testdata, ort.Options{Threads: 1}, &out)
		if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), "files") || !strings.Contains(out.String(), file) {
			t.Errorf("%s: error is %v\n%s", file, err, out.String())
		}
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRefusals: what does not fit is refused before anything long, and nothing
// is left of it.
func TestRefusals(t *testing.T) {
	few := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(few, []byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[],"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Options)
		says   string
	}{
		{"no such file", func(o *Options) { o.ImageBind = "none.pth" }, "none.pth"},
		{"adapter for ImageBind", func(o *Options) { o.ImageBind = tiny + "adapter-finetune.pth" }, "image_bind_proj.weight"},
		{"heads of another model", func(o *Options) { o.HeadsConfig = "../../demo/heads.json" }, "heads"},
		{"no heads", func(o *Options) { o.HeadsConfig = "" }, "--heads-config"},
		{"larger tokenizer", func(o *Options) { o.Tokenizer = "../../demo/llama/tokenizer.model" }, "2048"},
		{"other base", func(o *Options) { o.LLaMA = "../../demo/llama"; o.Tokenizer = "" }, "another base model than this one: width 80 for 256"},
		{"ImageBind of other width", func(o *Options) {
			o.ImageBind, o.HeadsConfig, o.Point = "../../demo/imagebind_demo.pth", "../../demo/heads.json", ""
		}, "embeddings of 64 values"},
		{"template", func(o *Options) { o.Template = "alpacca" }, "alpacca"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tinyOptions(t, "adapter-finetune.pth")
			tt.change(&o)
			err := Export(t.Context(), o, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error is %v, want %q", err, tt.says)
			}
			if entries, _ := os.ReadDir(filepath.Dir(o.Out)); len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for name, o := range map[string]Options{
		"nothing":        {Out: "x"},
		"exact of fp32":  {LLaMA: "x", Out: "x", Exact: true},
		"context":        {LLaMA: "x", Out: "x", Context: -1},
		"delta alone":    {ImageBind: "x", Out: "x", Delta: "d"},
		"tokenizer":      {ImageBind: "x", Out: "x", Tokenizer: "t"},
		"heads":          {LLaMA: "x", Out: "x", HeadsConfig: "h"},
		"licence's part": {LLaMA: "x", Out: "x", Licences: []string{"imagebind=MIT"}},
		"licence":        {LLaMA: "x", Out: "x", Licences: []string{"llama"}},
	} {
		if err := o.Check(); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Options{LLaMA: "x", Out: "x", EncoderPrecision: "int8", Exact: true, Licences: []string{"llama=MIT"}}).Check(); err != nil {
		t.Error(err)
	}
}

// TestNeighbours: what the files beside a Hugging Face tokenizer say.
func TestNeighbours(t *testing.T) {
	special, err := tokenizer.Parse([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"</s>":1,"<end>":2},"merges":[]},` +
		`"added_tokens":[{"id":1,"content":"</s>","special":true},{"id":2,"content":"<end>","special":true}],` +
		`"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}}`))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		files map[string]string
		want  neighbours
	}{
		{"nothing", nil, neighbours{}},
		{"config", map[string]string{"config.json": `{"eos_token_id":1}`}, neighbours{stop: []int{1}}},
		{"generation config first", map[string]string{"config.json": `{"eos_token_id":1}`, "generation_config.json": `{"eos_token_id":[2,0]}`}, neighbours{stop: []int{2, 0}}},
		{"none of them", map[string]string{"config.json": `{"eos_token_id":null}`}, neighbours{}},
		{"token by name", map[string]string{"tokenizer_config.json": `{"eos_token":"<end>","add_bos_token":false,"chat_template":"T"}`}, neighbours{stop: []int{2}, noBOS: true, template: "T"}},
		{"token as an object", map[string]string{"tokenizer_config.json": `{"eos_token":{"content":"</s>","lstrip":false},"add_bos_token":true}`, "config.json": `{"eos_token_id":2}`}, neighbours{stop: []int{2, 1}}},
		{"named templates", map[string]string{"tokenizer_config.json": `{"chat_template":[{"name":"tools","template":"A"},{"name":"default","template":"B"},{"name":"rag","template":"C"}]}`}, neighbours{template: "B"}},
		{"template of its own", map[string]string{"tokenizer_config.json": `{"chat_template":"T"}`, "chat_template.jinja": "J"}, neighbours{template: "J"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := readNeighbours(dir, special)
			if err != nil || !slices.Equal(got.stop, tt.want.stop) || got.noBOS != tt.want.noBOS || got.template != tt.want.template {
				t.Errorf("%+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readNeighbours(dir, special); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("broken config: %v", err)
	}
}

func TestTemplate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "chat.tmpl")
	const own = "{{range .Messages}}{{.Content}}!{{end}}"
	if err := os.WriteFile(file, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, chosen, adapter, jinja, want string
	}{
		{"adapter", "", "a.pth", "", "alpaca"},
		{"adapter, over the base's", "", "a.pth", "<|im_start|>", "alpaca"},
		{"chosen over the adapter's", "plain", "a.pth", "", "plain"},
		{"recognised", "", "", "{{'<|im_start|>' + m}}", "chatml"},
		{"base model", "", "", "", "plain"},
		{"file", file, "", "", own},
	}
	for _, tt := range tests {
		x := &export{Options: Options{Template: tt.chosen, Adapter: tt.adapter}, out: io.Discard}
		if got, err := x.template(tt.jinja); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	x := &export{out: io.Discard}
	if _, err := x.template("{{ strange }}"); err == nil || !strings.Contains(err.Error(), prompt.Names()[0]) {
		t.Errorf("an unknown template: %v", err)
	}
}

// FuzzNeighbours: any content of the small JSON files is read or refused.
func FuzzNeighbours(f *testing.F) {
	f.Add([]byte(`{"eos_token_id":[1,2],"eos_token":{"content":"x"},"add_bos_token":false,"chat_template":[{"name":"a","template":"b"}]}`))
	f.Add([]byte(`{"eos_token_id":null,"eos_token":3,"chat_template":{}}`))
	tok, err := tokenizer.Open(tiny + "tokenizer.model")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		for _, name := range []string{"config.json", "tokenizer_config.json"} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := readNeighbours(dir, tok); err == nil != json.Valid(raw) && err == nil {
			t.Errorf("%q is no JSON and was read", raw)
		}
	})
}
