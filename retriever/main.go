// The retriever keeps the feature cache: it serves nearest neighbours and cache
// enhancement over HTTP (docs/api.md) and rebuilds collections beside the ones
// that serve. Its parts are packages below; this file is flags and wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imagebind-llm/internal/config"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/internal/version"
	"imagebind-llm/retriever/device"
	"imagebind-llm/retriever/flat"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/milvus"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/server"
	"imagebind-llm/retriever/source"
	"imagebind-llm/retriever/store"
)

// options are the keys of configs/retriever.yaml, with their help.
type options struct {
	Listen     string        `koanf:"listen" help:"address to answer on, host:port"`
	Data       string        `koanf:"data" help:"folder of collections and jobs, made when absent"`
	Store      string        `koanf:"store" help:"where rows are kept: embedded (exact, files in --data) or milvus"`
	Keep       int           `koanf:"keep" help:"generations that served and are kept beside the one that does, to go back to"`
	Values     string        `koanf:"values" help:"rows of new generations in float32, or in float16: half the disk, rounded; with Milvus from 2.4 on"`
	Device     string        `koanf:"device" help:"embedded store: where candidates are found in half precision: cuda, cuda:N or cpu (for tests); empty: the codes are scanned"`
	ORTLib     string        `koanf:"ort_lib" help:"the onnxruntime library, for --device; empty: $ORT_LIB, beside the program, .cache/ort, the system's"`
	SourceRoot string        `koanf:"source_root" help:"folder that rebuild jobs may read; empty: none"`
	Keys       []string      `koanf:"keys" secret:"true" help:"bearer keys, any of which lets a request in; none: no check"`
	Tenants    []string      `koanf:"tenants" secret:"true" help:"NAME=KEY of those who share this retriever, each with collections, jobs and a folder of sources of its own; keys see all"`
	TenantRows int           `koanf:"tenant_rows" help:"rows that serve in all collections of a tenant together; 0: no bound"`
	Runners    []string      `koanf:"runners" help:"URLs of runners that rebuild jobs may have media embedded by; empty: none"`
	RunnerKey  string        `koanf:"runner_key" secret:"true" help:"bearer key sent to them"`
	RunnerWait time.Duration `koanf:"runner_timeout" help:"longest try of one request to them"`
	MaxBody    int64         `koanf:"max_body" help:"largest request body, bytes"`
	InFlight   int64         `koanf:"max_inflight" help:"bodies of all requests together, bytes; more are answered 429 before they are read"`
	Cache      int64         `koanf:"cache_bytes" help:"neighbours that are kept for queries that come again, bytes; 0: none"`
	Grace      time.Duration `koanf:"grace" help:"how long requests under way may take after SIGTERM"`
	LogFormat  string        `koanf:"log_format" help:"text or json, on stderr"`
	LogLevel   string        `koanf:"log_level" help:"debug, info, warn or error"`

	Milvus            string        `koanf:"milvus" help:"host:port of the Milvus server, with --store milvus"`
	MilvusUsername    string        `koanf:"milvus_username" help:"user of the Milvus server"`
	MilvusPassword    string        `koanf:"milvus_password" secret:"true" help:"password of that user"`
	MilvusDatabase    string        `koanf:"milvus_database" help:"database in the Milvus server; empty: its default"`
	MilvusTimeout     time.Duration `koanf:"milvus_timeout" help:"longest search or write"`
	MilvusIndex       string        `koanf:"milvus_index" help:"index of collections that ask for none: FLAT (exact), IVF_FLAT, IVF_SQ8, SCANN, HNSW, DISKANN, or AUTO: by their rows"`
	MilvusNList       int           `koanf:"milvus_nlist" help:"IVF types, SCANN: cells; 0: four times the root of a segment's rows"`
	MilvusNProbe      int           `koanf:"milvus_nprobe" help:"IVF types, SCANN: cells searched; 0: an eighth of them"`
	MilvusObjects     bool          `koanf:"milvus_object_storage" help:"the server's data is in object storage: IVF_SQ8 and DISKANN are safe before Milvus 2.4 too"`
	MilvusReplicas    int           `koanf:"milvus_replicas" help:"copies of a generation that are loaded, each in query nodes of its own, 1 to 64"`
	MilvusM           int           `koanf:"milvus_m" help:"HNSW: links of a node"`
	MilvusEfConstruct int           `koanf:"milvus_ef_construction" help:"HNSW: effort of the build"`
	MilvusEf          int           `koanf:"milvus_ef" help:"HNSW: effort of a search"`

	Jobs struct {
		MaxQueued int           `koanf:"max_queued" help:"jobs that may wait; more are answered 429"`
		Keep      int           `koanf:"keep" help:"finished jobs that are remembered"`
		Parallel  int           `koanf:"parallel" help:"jobs at once, each of another collection"`
		Patience  time.Duration `koanf:"patience" help:"how long a job waits for a store or a runner that is away, without getting on"`
		MinRecall float64       `koanf:"min_recall" help:"recall@10 that a new generation must reach, 0 to 1"`
		MaxBad    float64       `koanf:"max_bad" help:"share of a source's rows that may be broken, 0 to 1"`
		// Of rebuilds from media.
		EmbedRequests int   `koanf:"embed_requests" help:"requests of a job to a runner under way at a time"`
		EmbedBatch    int   `koanf:"embed_batch" help:"media of one such request, at most"`
		EmbedFile     int64 `koanf:"embed_file" help:"largest medium that is sent to a runner, bytes"`
	} `koanf:"jobs"`
}

func defaults() *options {
	o := &options{Listen: ":8081", Data: "data/retriever", Store: "embedded", Keep: 1, Values: "float32", RunnerWait: 10 * time.Minute, MaxBody: 64 << 20, InFlight: 256 << 20, Cache: 64 << 20, Grace: 15 * time.Second,
		LogFormat: "text", LogLevel: "info", Milvus: "localhost:19530", MilvusTimeout: 10 * time.Second, MilvusIndex: "FLAT",
		MilvusReplicas: 1, MilvusM: 16, MilvusEfConstruct: 200, MilvusEf: 256}
	o.Jobs.MaxQueued, o.Jobs.Keep, o.Jobs.MinRecall, o.Jobs.MaxBad = 16, 100, 0.9, 0.1
	o.Jobs.Parallel, o.Jobs.Patience = 2, 10*time.Minute
	o.Jobs.EmbedRequests, o.Jobs.EmbedBatch, o.Jobs.EmbedFile = 3, 32, 32<<20
	return o
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	config.Exit("retriever", run(ctx, os.Args[1:], os.Stdout))
}

// run is the program: 0 for nil, 2 for a usage error, 1 for others.
func run(ctx context.Context, args []string, out io.Writer) error {
	started := false
	o := defaults()
	root := &cobra.Command{
		Use: "retriever", Short: "The feature cache: neighbours, enhancement and rebuilds over HTTP",
		Version: version.String(), SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	serve := &cobra.Command{
		Use: "serve", Short: "Serve the HTTP API", Args: cobra.NoArgs, Version: version.String(),
		Long: `Serve collections of image features over HTTP. Every flag is also a key of the
file that --config names (configs/retriever.yaml lists them) and an environment
variable, as in RETRIEVER_SOURCE_ROOT; flags go over the environment, that over
the file.`,
		Example: `  retriever serve
  retriever serve --listen :8081 --data data/retriever --source-root demo
  retriever serve --source-root demo --runners http://localhost:8080
  retriever serve --values float16 --device cuda
  retriever serve --store milvus --milvus localhost:19530
  curl -X PUT localhost:8081/v1/collections/pets -d '{"dim": 1024}'
  curl localhost:8081/v1/jobs -d '{"type": "rebuild", "collection": "pets", "source": {"path": "features.npy"}}'
  curl localhost:8081/v1/jobs -d '{"type": "rebuild", "collection": "pets", "source": {"path": "photos", "runner": "http://localhost:8080"}}'`,
		RunE: func(c *cobra.Command, _ []string) error { //nolint:contextcheck // cobra brings the context
			if err := config.Load(c.Flags(), "RETRIEVER", o); err != nil {
				return err
			}
			if err := config.SetLog(o.LogFormat, o.LogLevel); err != nil {
				return err
			}
			if err := o.check(); err != nil {
				return err
			}
			started = true
			return o.serve(c.Context())
		},
	}
	config.Flags(serve.Flags(), o)
	root.AddCommand(serve)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(out)
	err := root.ExecuteContext(ctx)
	if err != nil && !started {
		return config.Usage{Err: fmt.Errorf("%w (see retriever serve --help)", err)}
	}
	return err
}

func (o *options) check() error {
	switch {
	case o.Store != "embedded" && o.Store != "milvus":
		return fmt.Errorf("--store %q: it is embedded or milvus", o.Store)
	case o.Store == "milvus" && o.Milvus == "":
		return errors.New("--store milvus needs --milvus HOST:PORT")
	case o.Values != "float32" && o.Values != "float16":
		return fmt.Errorf("--values %q: they are float32 or float16", o.Values)
	case o.Store == "milvus" && o.Device != "":
		return errors.New("--device is for --store embedded: Milvus has its own")
	case o.MilvusReplicas < 1 || o.MilvusReplicas > 64:
		return fmt.Errorf("--milvus-replicas %d: it is 1 to 64", o.MilvusReplicas)
	case o.Keep < 0:
		return fmt.Errorf("--keep %d: it is 0 or more", o.Keep)
	case o.Data == "":
		return errors.New("--data is empty; name a folder")
	case o.RunnerWait <= 0:
		return fmt.Errorf("--runner-timeout %v: it is longer than 0", o.RunnerWait)
	case o.Jobs.Parallel < 1 || o.Jobs.Parallel > 64:
		return fmt.Errorf("--jobs-parallel %d: it is 1 to 64", o.Jobs.Parallel)
	case o.Jobs.Patience <= 0:
		return fmt.Errorf("--jobs-patience %v: it is longer than 0", o.Jobs.Patience)
	case o.Jobs.EmbedRequests < 1 || o.Jobs.EmbedRequests > 64:
		return fmt.Errorf("--jobs-embed-requests %d: it is 1 to 64", o.Jobs.EmbedRequests)
	case o.Jobs.EmbedBatch < 1 || o.Jobs.EmbedBatch > 2048:
		return fmt.Errorf("--jobs-embed-batch %d: it is 1 to 2048", o.Jobs.EmbedBatch)
	case o.Jobs.EmbedFile < 1:
		return fmt.Errorf("--jobs-embed-file %d: it is a number of bytes", o.Jobs.EmbedFile)
	case o.MaxBody < 1:
		return fmt.Errorf("--max-body %d: it is a number of bytes", o.MaxBody)
	case o.InFlight < o.MaxBody:
		return fmt.Errorf("--max-inflight %d: at least --max-body, %d", o.InFlight, o.MaxBody)
	case o.Cache < 0:
		return fmt.Errorf("--cache-bytes %d: it is 0 or more", o.Cache)
	}
	if o.Device != "" {
		if _, err := device.Parse(o.Device); err != nil {
			return fmt.Errorf("--%w", err)
		}
	}
	if _, err := server.ParseTenants(o.Keys, o.Tenants, o.TenantRows); err != nil {
		return fmt.Errorf("--tenants: %w", err)
	}
	_, err := o.sources()
	return err
}

// sources are what jobs may read.
func (o *options) sources() (sources, error) {
	rs, err := source.NewRunners(o.Runners, source.RunnerOptions{Key: o.RunnerKey, Timeout: o.RunnerWait,
		Requests: o.Jobs.EmbedRequests, Batch: o.Jobs.EmbedBatch, File: o.Jobs.EmbedFile})
	return sources{jobs.Root(o.SourceRoot), rs}, err
}

// open opens the store that the options name.
func (o *options) open() (store.Store, error) {
	keep := o.Keep
	if keep == 0 {
		keep = -1 // none
	}
	if o.Store == "milvus" {
		return milvus.Open(milvus.Options{Address: o.Milvus, Username: o.MilvusUsername, Password: o.MilvusPassword,
			Database: o.MilvusDatabase, Timeout: o.MilvusTimeout, Index: o.MilvusIndex, NList: o.MilvusNList, NProbe: o.MilvusNProbe, ObjectStorage: o.MilvusObjects, Half: o.Values == "float16", Keep: keep,
			Replicas: o.MilvusReplicas, M: o.MilvusM, EfConstruct: o.MilvusEfConstruct, Ef: o.MilvusEf})
	}
	fo := flat.Options{Keep: keep, Half: o.Values == "float16"}
	dir := filepath.Join(o.Data, "collections")
	slog.Info("embedded store", "kernels", kernel.Name(), "values", o.Values, "device", o.Device)
	if o.Device == "" {
		return flat.Open(dir, fo)
	}
	do, err := device.Parse(o.Device)
	if err != nil {
		return nil, err
	}
	do.Library = o.ORTLib
	d, err := device.Open(do)
	if err != nil {
		return nil, err
	}
	fo.Load = func(ctx context.Context, n, dim int, read func(int, []uint16) error) (flat.Matrix, error) {
		return d.Load(ctx, n, dim, read)
	}
	return flat.Open(dir, fo)
}

func (o *options) serve(ctx context.Context) (err error) {
	config.Log(o)
	st, err := o.open()
	if err != nil {
		return fmt.Errorf("open the %s store: %w", o.Store, err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := st.Ready(ctx); err != nil {
		slog.Warn("the store is not ready; /readyz says when it is", "err", err)
	}
	from, err := o.sources()
	if err != nil {
		return err
	}
	tenants, err := server.ParseTenants(o.Keys, o.Tenants, o.TenantRows)
	if err != nil {
		return err
	}
	m, err := jobs.Open(jobs.Options{Dir: filepath.Join(o.Data, "jobs"), Store: st, Open: from.open, Check: from.check,
		Room: func(ctx context.Context, name string, rows int) error {
			return tenants.Room(ctx, st, name, rows, false)
		},
		MaxQueued: o.Jobs.MaxQueued, Keep: o.Jobs.Keep, Parallel: o.Jobs.Parallel, Patience: o.Jobs.Patience, MinRecall: o.Jobs.MinRecall, MaxBad: o.Jobs.MaxBad})
	if err != nil {
		return err
	}
	var cacheFor time.Duration // the embedded store sees all writes
	if o.Store == "milvus" {
		cacheFor = 30 * time.Second
	}
	s := server.New(server.Options{CacheFor: cacheFor, Store: st, Jobs: m, Tenants: tenants, MaxBody: o.MaxBody, MaxInFlight: o.InFlight, CacheBytes: o.Cache})
	working, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(working) })
	defer wg.Wait() // before the store closes
	defer stop()
	return httpapi.Serve(ctx, o.Listen, s, o.Grace, s.Drain)
}

// sources are the folder that jobs may read, and the runners that they may ask.
type sources struct {
	root    jobs.Root
	runners *source.Runners
}

// open reads a source of features, or of media.
func (f sources) open(ctx context.Context, s retrieverapi.Source, scratch string) (jobs.Source, error) {
	root, name, err := f.root.Find(s.Path)
	if err != nil {
		return nil, err
	}
	if s.Runner != "" {
		return f.runners.OpenMedia(ctx, root, name, s, scratch)
	}
	return source.Open(filepath.Join(root, name))
}

// check refuses what open would, as far as that is known when a job is submitted.
func (f sources) check(s retrieverapi.Source) error {
	if _, _, err := f.root.Find(s.Path); err != nil {
		return err
	}
	if s.Runner == "" {
		return nil
	}
	return f.runners.Check(s)
}
