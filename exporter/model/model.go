// Package model makes a bundle from checkpoints: the command exporter model.
// Every part is optional: an ImageBind alone is a server of embeddings, a LLaMA
// alone one of plain chat. All graphs are built, and so all names and shapes
// checked, before the first weight is written; the weights then stream through
// one after the other.
package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/bridge"
	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/encoder"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/llama"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/progress"
	"imagebind-llm/internal/version"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/modality/point"
	"imagebind-llm/runner/modality/text"
)

// Options of Export. All paths but Out may be empty.
type Options struct {
	ImageBind   string // a state dict in the released key names
	HeadsConfig string // JSON: head counts of other dims than the released ones
	LLaMA       string // a folder in Meta's or Hugging Face's layout, or a .gguf
	Delta       string // added to the base model's weights
	Tokenizer   string // tokenizer.model, tokenizer.json or a .gguf; empty: the one beside the LLaMA
	Adapter     string // an ImageBind-LLM checkpoint
	Point       string // a Point-Bind state dict, alone or within an ImageBind's; goes over that in ImageBind

	Precision        string   // of the decoder: fp32 (default), fp16, int8, int4
	HeadPrecision    string   // of the decoder's output head; empty: see llama.Options
	TablePrecision   string   // of its embedding table; empty: see llama.Options
	BridgePrecision  string   // see bridge.Options; empty: mixed beside a quantised decoder, else as the checkpoints store it
	EncoderPrecision string   // of the encoders: fp32 (default), fp16, int8
	Exact            bool     // quantised products without rounding their input: for checks, slow
	Context          int      // tokens that the decoder can hold; 0: the model's, with an adapter at most 512
	Template         string   // prompt template: a built-in's name, or a file; empty: by the checkpoints
	Name             string   // of the bundle; empty: the last part of Out
	Licences         []string // PART=NAME, over what is known
	Out              string   // the bundle's folder
}

// Check finds what no export can come of: mistakes of usage.
func (o Options) Check() error {
	p, err := nn.ParsePrecision(o.Precision)
	if err != nil {
		return fmt.Errorf("--precision: %w", err)
	}
	ep, err := nn.ParsePrecision(o.EncoderPrecision)
	if err != nil {
		return fmt.Errorf("--encoder-precision: %w", err)
	}
	for flag, name := range map[string]string{"head": o.HeadPrecision, "embedding": o.TablePrecision} {
		if _, err := nn.ParsePrecision(name); err != nil {
			return fmt.Errorf("--%s-precision: %w", flag, err)
		}
	}
	fail := func(format string, args ...any) error { return imagebind.Errorf(imagebind.Invalid, format, args...) }
	switch {
	case o.ImageBind == "" && o.Point == "" && o.LLaMA == "":
		return fail("nothing to export: give --imagebind, --llama or both")
	case o.Out == "":
		return fail("no --out: name the bundle's folder")
	case o.Adapter != "" && o.LLaMA == "":
		return fail("--adapter needs the --llama that it was trained on")
	case o.Delta != "" && o.LLaMA == "":
		return fail("--delta needs the --llama that it is added to")
	case o.Tokenizer != "" && o.LLaMA == "":
		return fail("--tokenizer is of a language model: give --llama too")
	case o.HeadsConfig != "" && o.ImageBind == "" && o.Point == "":
		return fail("--heads-config is of --imagebind and --point, which are not given")
	case ep == nn.Int4 || ep == nn.Int4A:
		return fail("--encoder-precision %s: it is fp32, fp16 or int8", ep)
	case o.TablePrecision == string(nn.Int4A):
		return fail("--embedding-precision int4a: it is fp32, fp16, int8 or int4")
	case o.BridgePrecision != "" && !slices.Contains(bridge.Precisions, nn.Precision(o.BridgePrecision)):
		return fail("--bridge-precision %s: it is one of %v", o.BridgePrecision, bridge.Precisions)
	case o.LLaMA == "" && (o.HeadPrecision != "" || o.TablePrecision != ""):
		return fail("--head-precision and --embedding-precision are of a language model: give --llama too")
	case o.Adapter == "" && o.BridgePrecision != "":
		return fail("--bridge-precision: there is no bridge without --adapter")
	case o.Exact && !p.Quantised() && !ep.Quantised() && !nn.Precision(o.HeadPrecision).Quantised() && o.BridgePrecision != string(nn.Int8) && o.BridgePrecision != string(bridge.Mixed):
		return fail("--exact is of int8 and int4 weights, and there are none")
	case o.Context < 0:
		return fail("--context %d: it is a number of tokens", o.Context)
	}
	_, err = (&export{Options: o}).licences()
	return err
}

// Export makes the bundle and reports on out what it does. It leaves nothing
// behind when it fails or ctx ends; an earlier bundle at o.Out is replaced only
// by a whole new one.
func Export(ctx context.Context, o Options, out io.Writer) (err error) {
	if err := o.Check(); err != nil {
		return err
	}
	start := time.Now()
	w, err := bundle.Create(o.Out)
	if err != nil {
		return err
	}
	defer w.Abort()
	x := &export{Options: o, out: out, w: w, files: map[string][]byte{}, m: bundle.Manifest{
		Name: o.Name, Exporter: version.String(), Sampling: bundle.DefaultSampling(), Cache: bundle.DefaultCache(),
	}}
	if x.m.Name == "" {
		x.m.Name = filepath.Base(filepath.Clean(o.Out))
	}
	defer func() { err = errors.Join(err, x.close()) }()
	x.leftovers()
	for _, build := range []func() error{x.encoders, x.language, x.fit} {
		if err := build(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if x.m.Licences, err = x.licences(); err != nil {
		return err
	}
	if err := x.save(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Fprintln(out, "checksums")
	if err := w.Commit(&x.m); err != nil {
		return err
	}
	var bytes int64
	for _, f := range x.m.Files {
		bytes += f.Bytes
	}
	fmt.Fprintf(out, "bundle %s: %d files, %s, in %s\n", o.Out, len(x.m.Files), progress.Size(bytes), time.Since(start).Round(100*time.Millisecond))
	return nil
}

// An export under way.
type export struct {
	Options
	out    io.Writer
	w      *bundle.Writer
	m      bundle.Manifest
	graphs []pending
	files  map[string][]byte // small ones, by name
	open   []io.Closer

	baseLicence string // that the .gguf states
}

// pending is a graph that is built and not written.
type pending struct {
	title, name string
	graph       *graph.Graph
}

func (x *export) close() error {
	var errs []error
	for _, c := range x.open {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (x *export) notef(format string, args ...any) {
	fmt.Fprintf(x.out, "note: "+format+"\n", args...)
}

// leftovers tells of folders that killed exports left: they are as large as a bundle.
func (x *export) leftovers() {
	parent, base := filepath.Split(filepath.Clean(x.Out))
	old, _ := filepath.Glob(filepath.Join(parent, "."+base+".partial-*"))
	for _, dir := range old {
		if dir != filepath.Clean(x.w.Path(".")) {
			x.notef("%s is what an export left that was killed, unless it is still at work; remove it", dir)
		}
	}
}

// encoders builds a graph for every trunk of the checkpoint that some kind of
// input is read for.
func (x *export) encoders() (err error) {
	var heads encoder.Config
	if x.HeadsConfig != "" {
		if heads, err = encoder.ReadConfig(x.HeadsConfig); err != nil {
			return fmt.Errorf("--heads-config: %w", err)
		}
	}
	p, err := nn.ParsePrecision(x.EncoderPrecision)
	if err != nil {
		return err
	}
	var files []*weights
	for _, f := range []*weights{{flag: "--point", path: x.Point, points: true}, {flag: "--imagebind", path: x.ImageBind}} {
		if f.path == "" {
			continue
		}
		if f.Checkpoint, err = checkpoint.Open(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.flag, err)
		}
		x.open = append(x.open, f)
		if f.config = heads; f.points && heads.Heads(point.Spec.Encoder) == 0 {
			x.beside(f)
		}
		if err := x.known(f); err != nil {
			return fmt.Errorf("%s %s: %w", f.flag, f.path, err)
		}
		files = append(files, f)
	}
	var errs []error
	for _, spec := range all.Specs {
		e := spec.Encoder
		if i := slices.IndexFunc(x.m.Encoders, func(b bundle.Encoder) bool { return b.Name == e.Name }); i >= 0 {
			x.m.Encoders[i].Modalities = append(x.m.Encoders[i].Modalities, spec.Name)
			continue
		}
		i := slices.IndexFunc(files, func(f *weights) bool { return f.has(e) })
		if i < 0 {
			continue
		}
		f := files[i]
		e = f.config.Encoder(e)
		g, info, err := encoder.Build(f, e, encoder.Options{Heads: f.config.Heads(e), Precision: p, Exact: x.Exact})
		if err == nil {
			err = f.config.Check(e.Name, info)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", f.flag, f.path, err))
			continue
		}
		name := e.Name + ".onnx"
		x.graphs = append(x.graphs, pending{"encoder " + e.Name, name, g})
		x.m.Encoders = append(x.m.Encoders, bundle.Encoder{
			Name: e.Name, Modalities: []string{spec.Name}, Graph: name, Input: e.Input, Ints: e.Ints,
			Embed: info.Embed, Width: info.Width, Layers: info.Layers, Heads: info.Heads, Precision: string(p),
			Preprocessing: e.Preprocessing,
		})
		if e.Ints {
			x.files[vocabulary] = text.Vocabulary
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, f := range files {
		if !slices.ContainsFunc(all.Specs, func(s modality.Spec) bool { return f.has(s.Encoder) }) {
			if f.points {
				return imagebind.Errorf(imagebind.Invalid, "%s %s holds no point encoder: no tensor of point_trunk.*", f.flag, f.path)
			}
			return imagebind.Errorf(imagebind.Invalid, "%s %s holds no encoder that this version reads inputs for (%s)", f.flag, f.path, strings.Join(encoderNames(), ", "))
		}
	}
	return nil
}

// weights are a file of encoders.
type weights struct {
	*checkpoint.Checkpoint
	flag, path string
	points     bool // only that of point clouds is taken from it
	config     encoder.Config
}

// beside takes what --heads-config does not say of a point encoder from the
// config.json in its folder, where there is one of Point-Bind's.
func (x *export) beside(f *weights) {
	path := filepath.Join(filepath.Dir(f.path), "config.json")
	if c, err := encoder.ReadConfig(path); err == nil && c.Heads(point.Spec.Encoder) > 0 {
		f.config = c
		x.notef("heads and groups of the point encoder are those of %s", path)
	}
}

func (f *weights) has(e modality.Encoder) bool {
	_, groups := e.Stem.(modality.Groups)
	return encoder.Has(f, e) && (groups || !f.points)
}

// vocabulary is the text encoder's, for whoever reads the bundle: the runner
// has it built in.
const vocabulary = "bpe.txt.gz"

func encoderNames() []string {
	var names []string
	for _, s := range all.Specs {
		if !slices.Contains(names, s.Encoder.Name) {
			names = append(names, s.Encoder.Name)
		}
	}
	return names
}

// known refuses tensors that are no ImageBind's and tells which encoders are
// left out: those that no input is read for.
func (x *export) known(ck *weights) error {
	read := encoderNames()
	var strange, left []string
	for _, name := range ck.Names() {
		of := encoder.Of(name)
		if of == "" {
			strange = append(strange, name)
			continue
		}
		if !ck.points && !slices.Contains(read, of) && !slices.Contains(left, of) {
			left = append(left, of)
		}
	}
	if len(strange) > 0 {
		const most = 20
		more := ""
		if len(strange) > most {
			more = fmt.Sprintf(" and %d more", len(strange)-most)
		}
		return imagebind.Errorf(imagebind.Invalid, "tensors that are no part of an ImageBind: %s%s", strings.Join(strange[:min(most, len(strange))], ", "), more)
	}
	if len(left) > 0 {
		x.notef("left out, this version reads no such inputs: %s", strings.Join(left, ", "))
	}
	return nil
}

// adaptedContext is what ImageBind-LLM was tuned with and answers in
// (llama_adapter.py, max_seq_len), whatever its base was made for.
const adaptedContext = 512

// language builds decoder and bridge and finds the tokenizer.
func (x *export) language() error {
	if x.LLaMA == "" {
		return nil
	}
	base, err := checkpoint.OpenLLaMA(x.LLaMA, x.Delta)
	if err != nil {
		return fmt.Errorf("--llama: %w", err)
	}
	x.open = append(x.open, base)
	x.baseLicence, _ = base.Metadata["general.license"].(string)
	o := llama.Options{Exact: x.Exact, Context: x.Context}
	if o.Precision, err = nn.ParsePrecision(x.Precision); err != nil {
		return err
	}
	o.Head, o.Table = nn.Precision(x.HeadPrecision), nn.Precision(x.TablePrecision)
	var adapter *checkpoint.Checkpoint
	var over llama.Adapter // nil without an adapter
	if x.Adapter != "" {
		if adapter, err = checkpoint.Open(x.Adapter); err != nil {
			return fmt.Errorf("--adapter: %w", err)
		}
		x.open = append(x.open, adapter)
		over = adapter
		if o.Context == 0 {
			o.Context = min(adaptedContext, base.Config.Context)
		}
	}
	g, d, err := llama.Build(base, over, o)
	switch {
	case err != nil && adapter != nil:
		return fmt.Errorf("--llama %s with --adapter %s: %w", x.LLaMA, x.Adapter, err)
	case err != nil:
		return fmt.Errorf("--llama %s: %w", x.LLaMA, err)
	}
	d.Graph = "decoder.onnx"
	x.graphs = append(x.graphs, pending{"decoder", d.Graph, g})
	if err := x.tokens(base, &d); err != nil {
		return err
	}
	x.m.Decoder = &d
	x.m.Cache.Enabled = adapter != nil // nothing is looked up for plain chat
	if adapter == nil {
		return nil
	}
	bo := bridge.Options{Precision: nn.Precision(x.BridgePrecision), Exact: x.Exact}
	if bo.Precision == "" && o.Precision.Quantised() {
		bo.Precision = bridge.Mixed
	}
	g, b, err := bridge.Build(base, adapter, d.AdaptedLayers, bo)
	if err != nil {
		return fmt.Errorf("--adapter %s: %w", x.Adapter, err)
	}
	b.Graph = "bridge.onnx"
	x.graphs = append(x.graphs, pending{"bridge", b.Graph, g})
	x.m.Bridge = &b
	return nil
}

// fit holds the parts against each other before the long work.
func (x *export) fit() error {
	if b, e := x.m.Bridge, x.m.Embed(); b != nil && e > 0 && b.Embed != e {
		return imagebind.Errorf(imagebind.Invalid, "--adapter %s takes embeddings of %d values, --imagebind %s gives %d: they are of different models", x.Adapter, b.Embed, x.ImageBind, e)
	}
	return nil
}

// save writes all files but the manifest.
func (x *export) save(ctx context.Context) error {
	for name, data := range x.files {
		if err := os.WriteFile(x.w.Path(name), data, 0o644); err != nil {
			return err
		}
	}
	bars := progress.New(x.out)
	for i, p := range x.graphs {
		bar := bars.Start(p.title, 0, progress.Bytes)
		if err := p.graph.SaveContext(ctx, x.w.Path(p.name), bar.Set); err != nil {
			return fmt.Errorf("write %s: %w", p.title, err)
		}
		bar.Finish()
		x.graphs[i].graph = nil
	}
	return nil
}
