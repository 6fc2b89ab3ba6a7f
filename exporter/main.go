// The exporter turns checkpoints into a bundle that the runner serves, asks a
// retriever to rebuild a feature cache, and says what files hold and whether a
// bundle computes what the reference does. Its parts are packages below; this
// file is flags and wiring.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imagebind-llm/exporter/inspect"
	"imagebind-llm/exporter/model"
	"imagebind-llm/exporter/rebuild"
	"imagebind-llm/exporter/verify"
	"imagebind-llm/internal/config"
	"imagebind-llm/internal/ort"
	"imagebind-llm/internal/version"
)

// options are the keys of configs/exporter.yaml, with their help. A command has
// flags for those that it uses.
type options struct {
	ImageBind        string   `koanf:"imagebind" help:"ImageBind state dict (.pth, .safetensors) in the released key names"`
	HeadsConfig      string   `koanf:"heads_config" help:"JSON with head counts, for an ImageBind of other dims than the released one"`
	Point            string   `koanf:"point" help:"Point-Bind state dict, alone or within an ImageBind's (imagebind_w3D.pth); default: what --imagebind has; a config.json beside it may say its heads"`
	LLaMA            string   `koanf:"llama" help:"base model: a folder in Meta's or Hugging Face's layout, or a .gguf"`
	Delta            string   `koanf:"delta" help:"weight delta to add to the base model first"`
	Tokenizer        string   `koanf:"tokenizer" help:"tokenizer.model, tokenizer.json or a .gguf; empty: the one with --llama"`
	Adapter          string   `koanf:"adapter" help:"ImageBind-LLM checkpoint: bind network, gates, prefix queries, LoRA, biases, norms"`
	Precision        string   `koanf:"precision" help:"of the decoder's weights: fp32, fp16, int8, int4, or int4a: int4 with zero points"`
	HeadPrecision    string   `koanf:"head_precision" help:"of the decoder's output head: fp32 or fp16 as the decoder, int8, int4, int4a; empty: the decoder's, but int8 for int4"`
	TablePrecision   string   `koanf:"embedding_precision" help:"of the decoder's embedding table: fp32, fp16, int8, int4; empty: the decoder's, but int8 for int4, and the head's where they are one"`
	BridgePrecision  string   `koanf:"bridge_precision" help:"of the bridge's weights: fp32, fp16, int8, or mixed: int8 but for the bind network of fp16; empty: mixed beside a quantised decoder, else as the checkpoints store them"`
	EncoderPrecision string   `koanf:"encoder_precision" help:"of the encoders' weights: fp32, fp16 or int8"`
	Exact            bool     `koanf:"exact" help:"int8 and int4 products without rounding their input: for checks, many times slower"`
	Context          int      `koanf:"context" help:"tokens that the decoder can hold, prompt and answer together; 0: the model's, with an adapter at most 512 as in the reference"`
	Template         string   `koanf:"template" help:"prompt template: a built-in's name or a file; empty: by the checkpoints"`
	Name             string   `koanf:"name" help:"name of the model in the API; empty: the last part of --out"`
	Licence          []string `koanf:"licence" help:"PART=NAME, terms of a part (imagebind, llama, adapter); repeatable, a comma separates"`
	Out              string   `koanf:"out" help:"folder of the bundle; an earlier bundle there is replaced"`

	Retriever  string   `koanf:"retriever" help:"URL of the retriever"`
	Key        string   `koanf:"key" secret:"true" help:"bearer key of the retriever"`
	Collection string   `koanf:"collection" help:"collection of the retriever"`
	Path       string   `koanf:"path" help:"features or media, a path under the retriever's --source-root"`
	Runner     string   `koanf:"runner" help:"URL of a runner that embeds media first, one of the retriever's --runners; empty: the path holds features"`
	Modality   string   `koanf:"modality" help:"of the media, as depth; empty: the runner finds it by content"`
	Param      []string `koanf:"param" help:"NAME=VALUE, a parameter of the modality, as rate=200; repeatable"`
	Index      string   `koanf:"index" help:"index of the new generation; empty: the collection's"`
	MaxRate    float64  `koanf:"max_rate" help:"rows a second at most, so that what serves has the machine; 0: no bound"`
	New        bool     `koanf:"new" help:"start a job also where one with the same source is under way, instead of following that"`
	Job        string   `koanf:"job" help:"id of a job"`
	Generation int      `koanf:"generation" help:"number of a kept generation; 0: the one that served last"`
	File       string   `koanf:"file" help:"file to write, .parquet"`
	NoWait     bool     `koanf:"no_wait" help:"start the job and return, instead of following it"`

	JSON   bool   `koanf:"json" help:"write JSON"`
	SHA256 string `koanf:"sha256" help:"hash files and tensors: always, never, or auto: up to 1 GiB"`

	Goldens string      `koanf:"goldens" help:"folder of the reference's tensors; empty: checksums only"`
	ORTLib  string      `koanf:"ort_lib" help:"onnxruntime library; empty: where it is usually found"`
	ORT     ort.Options `koanf:"ort"`

	LogFormat string `koanf:"log_format" help:"text or json, on stderr"`
	LogLevel  string `koanf:"log_level" help:"debug, info, warn or error"`
}

func defaults() *options {
	return &options{Precision: "fp32", EncoderPrecision: "fp32", Retriever: "http://localhost:8081", Collection: "default",
		SHA256: "auto", ORT: ort.Options{Provider: "cpu"}, LogFormat: "text", LogLevel: "info"}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	config.Exit("exporter", run(ctx, os.Args[1:], os.Stdout))
}

// A command is one of the exporter's.
type command struct {
	cobra.Command
	flags []string // of options
	// check finds mistakes of usage; nil finds none.
	check func() error
	work  func(ctx context.Context, args []string) error
	sub   []*command
}

// run is the program: 0 for nil, 2 for a usage error, 1 for others.
func run(ctx context.Context, args []string, out io.Writer) error {
	o, started := defaults(), false
	root := &cobra.Command{
		Use: "exporter", Short: "Checkpoints to bundles, features to a feature cache",
		Version: version.String(), SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var add func(to *cobra.Command, c *command)
	add = func(to *cobra.Command, c *command) { //nolint:contextcheck // cobra brings the context
		c.Version = version.String()
		c.RunE = func(cc *cobra.Command, args []string) error {
			if err := config.Load(cc.Flags(), "EXPORTER", o); err != nil {
				return err
			}
			if err := config.SetLog(o.LogFormat, o.LogLevel); err != nil {
				return err
			}
			if c.check != nil {
				if err := c.check(); err != nil {
					return err
				}
			}
			started = true
			return c.work(cc.Context(), args)
		}
		all := pflag.NewFlagSet("", pflag.ContinueOnError)
		config.Flags(all, o)
		for _, name := range append(c.flags, "config", "log-format", "log-level") {
			c.Flags().AddFlag(all.Lookup(name))
		}
		c.Flags().SortFlags = false
		to.AddCommand(&c.Command)
		for _, s := range c.sub {
			add(&c.Command, s)
		}
	}
	for _, c := range o.commands(out) {
		add(root, c)
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(out)
	err := root.ExecuteContext(ctx)
	if err != nil && !started {
		return config.Usage{Err: fmt.Errorf("%w (see exporter --help)", err)}
	}
	return err
}

const configNote = `

Every flag is also a key of the file that --config names (configs/exporter.yaml
lists them) and an environment variable, as in EXPORTER_LOG_FORMAT; flags go over
the environment, that over the file.`

func (o *options) rebuild() rebuild.Options {
	return rebuild.Options{Retriever: o.Retriever, Key: o.Key, Collection: o.Collection, Path: o.Path,
		Runner: o.Runner, Modality: o.Modality, Params: o.Param, Index: o.Index, Wait: !o.NoWait, MaxRate: o.MaxRate, New: o.New}
}

// cacheCommands are what can be done with a cache besides building it anew.
func (o *options) cacheCommands(out io.Writer) []*command {
	return []*command{{
		Command: cobra.Command{
			Use: "follow", Short: "Follow a job that is under way", Args: cobra.NoArgs,
			Example: `  exporter cache follow --job 0198c5f0-0000-7000-8000-000000000000`,
		},
		flags: []string{"job", "retriever", "key"},
		check: func() error {
			if o.Job == "" {
				return errors.New("no --job: its id was printed when it began; GET /v1/jobs lists them")
			}
			return nil
		},
		work: func(ctx context.Context, _ []string) error { return rebuild.Follow(ctx, o.rebuild(), o.Job, out) },
	}, {
		Command: cobra.Command{
			Use: "generations", Short: "List the generations that serve or can", Args: cobra.NoArgs,
			Example: `  exporter cache generations --collection pets`,
		},
		flags: []string{"collection", "retriever", "key"},
		work:  func(ctx context.Context, _ []string) error { return rebuild.Generations(ctx, o.rebuild(), out) },
	}, {
		Command: cobra.Command{
			Use: "rollback", Short: "Let the generation serve that did before", Args: cobra.NoArgs,
			Long: `Let the generation serve that did before the last rebuild, or the one that
--generation names, in one step. The one that serves now is kept.` + configNote,
			Example: `  exporter cache rollback --collection pets
  exporter cache rollback --collection pets --generation 3`,
		},
		flags: []string{"collection", "generation", "retriever", "key"},
		work: func(ctx context.Context, _ []string) error {
			return rebuild.Rollback(ctx, o.rebuild(), o.Generation, out)
		},
	}, {
		Command: cobra.Command{
			Use: "forget", Short: "Remove a generation that is kept", Args: cobra.NoArgs,
			Example: `  exporter cache forget --collection pets --generation 3`,
		},
		flags: []string{"collection", "generation", "retriever", "key"},
		check: func() error {
			if o.Generation < 1 {
				return errors.New("no --generation: exporter cache generations lists them")
			}
			return nil
		},
		work: func(ctx context.Context, _ []string) error {
			return rebuild.Forget(ctx, o.rebuild(), o.Generation, out)
		},
	}, {
		Command: cobra.Command{
			Use: "export", Short: "Write the rows that serve to a .parquet file", Args: cobra.NoArgs,
			Long: `Write the rows that serve, with ids, captions, URIs and metadata, to a .parquet
file, from which a cache can be rebuilt. The file appears whole or not at all.` + configNote,
			Example: `  exporter cache export --collection pets --file pets.parquet`,
		},
		flags: []string{"collection", "file", "retriever", "key"},
		check: func() error {
			if o.File == "" {
				return errors.New("no --file to write")
			}
			return nil
		},
		work: func(ctx context.Context, _ []string) error { return rebuild.Export(ctx, o.rebuild(), o.File, out) },
	}}
}

func (o *options) commands(out io.Writer) []*command {
	return []*command{{
		Command: cobra.Command{
			Use: "model", Short: "Make a bundle from checkpoints", Args: cobra.NoArgs,
			Long: `Make a bundle from checkpoints. Every part is optional: --imagebind alone is a
server of embeddings, --llama alone one of plain chat. The bundle appears whole
or not at all.` + configNote,
			Example: `  exporter model --imagebind imagebind_huge.pth --llama llama/7B --tokenizer llama/tokenizer.model \
    --adapter adapter.pth --precision int8 --out bundle
  exporter model --imagebind demo/imagebind_demo.pth --heads-config demo/heads.json --llama demo/llama \
    --tokenizer demo/llama/tokenizer.model --adapter demo/adapter_demo.pth --out bundle
  exporter model --llama SmolLM2-135M-Instruct-Q4_1.gguf --out bundle`,
		},
		flags: []string{"imagebind", "heads-config", "point", "llama", "delta", "tokenizer", "adapter", "precision", "head-precision", "embedding-precision", "bridge-precision", "encoder-precision",
			"exact", "context", "template", "name", "licence", "out"},
		check: func() error { return o.model().Check() },
		work:  func(ctx context.Context, _ []string) error { return model.Export(ctx, o.model(), out) },
	}, {
		Command: cobra.Command{
			Use: "cache", Short: "Rebuild a feature cache on a retriever", Args: cobra.NoArgs,
			Long: `Start a job on a retriever that builds a collection anew beside the one that
serves, and follow it; where such a job is under way, follow that. The path is
the retriever's, under its --source-root: .npy, .parquet, .safetensors, a faiss
.index (also of codes: SQ, PQ, IVF), a folder of such, or media with --runner: a
folder, one file, a .jsonl, .csv or .tsv list with path, caption, …, or
webdataset .tar shards.` + configNote,
			Example: `  exporter cache --retriever http://localhost:8081 --collection default --path features.npy
  exporter cache --collection pets --path pictures --runner http://localhost:8080 --no-wait
  exporter cache --collection motion --path traces --runner http://localhost:8080 --modality imu --param rate=200`,
		},
		flags: []string{"retriever", "key", "collection", "path", "runner", "modality", "param", "index", "max-rate", "new", "no-wait"},
		sub:   o.cacheCommands(out),
		check: func() error {
			if o.Path == "" {
				return errors.New("no --path: name features or media under the retriever's --source-root")
			}
			if o.Runner == "" && (o.Modality != "" || len(o.Param) > 0) {
				return errors.New("--modality and --param are of media: name a --runner that embeds them")
			}
			_, err := rebuild.Params(o.Param)
			return err
		},
		work: func(ctx context.Context, _ []string) error {
			return rebuild.Run(ctx, o.rebuild(), out)
		},
	}, {
		Command: cobra.Command{
			Use: "inspect PATH", Short: "Say what a file, a folder of weights or a bundle holds", Args: cobra.ExactArgs(1),
			Long: `Say what a checkpoint (.pth, .pt), .safetensors (single, sharded), .gguf, .npy,
faiss .index, .onnx, a folder of them, or a bundle holds: names, types, shapes,
metadata, sha256. A tensor's hash is of its elements, little-endian and
row-major, so that it is the same in every format.` + configNote,
			Example: `  exporter inspect demo/imagebind_demo.pth
  exporter inspect --json --sha256 never llama/7B
  exporter inspect bundle`,
		},
		flags: []string{"json", "sha256"},
		check: func() error {
			if o.SHA256 != "auto" && o.SHA256 != "always" && o.SHA256 != "never" {
				return fmt.Errorf("--sha256 %q: it is auto, always or never", o.SHA256)
			}
			return nil
		},
		work: func(ctx context.Context, args []string) error { return o.inspect(ctx, args[0], out) },
	}, {
		Command: cobra.Command{
			Use: "verify BUNDLE", Short: "Hold a bundle against the reference's numbers", Args: cobra.ExactArgs(1),
			Long: `Check a bundle's files against their sha256, and with --goldens its graphs
against tensors that the reference code computed from the same checkpoints, part
by part. Any difference beyond tolerance is an error.` + configNote,
			Example: `  exporter verify bundle --goldens testdata/golden
  exporter verify bundle`,
		},
		flags: []string{"goldens", "ort-lib", "ort-provider", "ort-device", "ort-threads", "ort-spin", "ort-plain", "ort-gpu-memory", "ort-tf32"},
		work: func(ctx context.Context, args []string) error {
			if _, err := ort.Load(o.ORTLib); err != nil && o.Goldens != "" {
				return err
			}
			return verify.Run(ctx, args[0], o.Goldens, o.ORT, out)
		},
	}}
}

func (o *options) model() model.Options {
	return model.Options{ImageBind: o.ImageBind, HeadsConfig: o.HeadsConfig, Point: o.Point, LLaMA: o.LLaMA, Delta: o.Delta,
		Tokenizer: o.Tokenizer, Adapter: o.Adapter, Precision: o.Precision,
		HeadPrecision: o.HeadPrecision, TablePrecision: o.TablePrecision, BridgePrecision: o.BridgePrecision, EncoderPrecision: o.EncoderPrecision, Exact: o.Exact,
		Context: o.Context, Template: o.Template, Name: o.Name, Licences: o.Licence, Out: o.Out}
}

// hashed is up to how many bytes inspect hashes without being told to.
const hashed = 1 << 30

func (o *options) inspect(ctx context.Context, path string, out io.Writer) error {
	hash := o.SHA256 == "always"
	if o.SHA256 == "auto" {
		n, err := inspect.Size(path)
		if err != nil {
			return err
		}
		hash = n <= hashed
	}
	r, err := inspect.Open(ctx, path, inspect.Options{Hash: hash})
	if err != nil {
		return err
	}
	if !o.JSON {
		return r.Text(out)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
