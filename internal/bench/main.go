// Bench measures this project beside named peers, in turns, and prints a table;
// scripts/bench.sh builds what it needs and calls it. It is no test: it has no
// verdict but the ratios, and a peer that is missing is a line that says how to
// get it (scripts/peers.sh).
//
// A round does all of a row's work once with either side; the rounds' ratios are
// what is told, since a machine's other load meets both sides of a round alike.
// docs/benchmarks.md holds the figures and says what each row is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A row is a part of the table that can be measured alone.
type row struct {
	name, help string
	run        func(*env, context.Context) ([]Result, error)
}

var rows = []row{
	{"decode", "SmolLM2-135M, one token after the other and a prompt of 256, int4 and int8, beside llama-bench", (*env).decode},
	{"serve", "tokens/s of 4, 8 and 16 answers at a time over HTTP, beside llama-server", (*env).serve},
	{"join", "time between two tokens of running answers while a long prompt joins, beside llama-server", (*env).join},
	{"wide", "a decoder of LLaMA-7B's shapes with random weights, beside llama-bench and the memory's speed", (*env).wide},
	{"overhead", "what HTTP, prompts, sampling and scheduling add to the graph's own time", (*env).overhead},
	{"encoders", "ImageBind's encoders in the released sizes with random weights, beside PyTorch", (*env).encoders},
	{"cold", "7B int4 from a disk that is read for the first time to ready, beside a plain read", (*env).cold},
	{"retrieval", "the embedded store with rows like image features, beside a read of its codes, faiss and onnxruntime", (*env).retrieval},
	{"device", "the embedded store with candidates found by onnxruntime on -device, beside its own scan", (*env).deviceRow},
	{"milvus", "the Milvus store beside the SDK alone, on the server that -milvus names", (*env).milvus},
	{"memory", "bytes/s of a read loop over memory", (*env).memory},
}

// tools are what rows run in processes of their own; scripts may too.
var tools = map[string]func(args []string) error{
	"decoder":  decoderTool,
	"read":     readTool,
	"encoder":  encoderTool,
	"features": featuresTool,
	"gguf":     ggufTool,
	"soak":     soakTool,
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && tools[args[0]] != nil {
		return tools[args[0]](args[1:])
	}
	e := &env{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "bench [flags] ROW...   (all: every row)")
		for _, r := range rows {
			fmt.Fprintf(fs.Output(), "  %-10s %s\n", r.name, r.help)
		}
		fs.PrintDefaults()
	}
	threads := "1,2"
	fs.StringVar(&e.bin, "bin", ".cache/bench/bin", "folder of our programs")
	fs.StringVar(&e.work, "work", ".cache/bench", "folder of bundles and large files")
	fs.StringVar(&e.llama, "llama", ".cache/peers/llama.cpp", "folder of llama.cpp's programs")
	fs.StringVar(&e.models, "models", ".cache/peers/models", "folder of GGUF files")
	fs.StringVar(&threads, "threads", threads, "numbers of threads to measure with, of either side")
	fs.IntVar(&e.rounds, "rounds", 5, "how often everything is measured")
	fs.IntVar(&e.layers, "layers", 32, "layers of the 7B-shaped decoder")
	fs.IntVar(&e.features, "features", 300000, "rows of the retrieval row; 3000000 is the paper's cache, and takes 50 GB of disk")
	fs.BoolVar(&e.half, "half", false, "rows of the retrieval row in float16")
	fs.StringVar(&e.device, "device", "cpu", "cpu, cuda or cuda:N for the device row")
	fs.StringVar(&e.server, "milvus", "", "HOST:PORT of a Milvus server for the milvus row")
	fs.BoolVar(&e.filled, "filled", false, "the milvus row searches what a run before left there")
	fs.StringVar(&e.index, "index", "IVF_FLAT", "index of the milvus row: FLAT, IVF_FLAT or HNSW")
	fs.BoolVar(&e.spin, "spin", false, "our idle threads spin (ort.spin)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, s := range strings.Split(threads, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("-threads %s: numbers of at least 1, with commas between", threads)
		}
		e.threads = append(e.threads, n)
	}
	wanted := fs.Args()
	if len(wanted) == 0 {
		fs.Usage()
		return flag.ErrHelp
	}
	for _, w := range wanted {
		if w != "all" && !slices.ContainsFunc(rows, func(r row) bool { return r.name == w }) {
			return fmt.Errorf("no row %s; bench -h lists them", w)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e.head(os.Stdout)
	var failed []error
	for _, r := range rows {
		if !slices.Contains(wanted, "all") && !slices.Contains(wanted, r.name) {
			continue
		}
		results, err := r.run(e, ctx)
		if err != nil {
			err = fmt.Errorf("%s: %w", r.name, err)
			fmt.Fprintln(os.Stderr, "bench:", err)
			failed = append(failed, err)
		}
		if len(results) > 0 {
			fmt.Printf("\n`%s`: %s.\n\n", r.name, r.help)
			writeTable(os.Stdout, results)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(failed...)
}
