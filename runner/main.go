// The runner answers questions about pictures, sounds and texts with a bundle
// (docs/api.md): serve over HTTP, ask from the shell. Its parts are packages
// below; this file is flags and wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/config"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/internal/ort"
	"imagebind-llm/internal/ort/kernel"
	"imagebind-llm/internal/version"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/runner/ask"
	"imagebind-llm/runner/budget"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/media"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/runnerapi"
	"imagebind-llm/runner/server"
)

// options are the keys of configs/runner.yaml, with their help.
type options struct {
	Listen    string        `koanf:"listen" help:"address to answer on, host:port"`
	Bundle    string        `koanf:"bundle" help:"folder that exporter model wrote"`
	Verify    bool          `koanf:"verify" help:"hold every file of the bundle against its hash first"`
	Keys      []string      `koanf:"keys" secret:"true" help:"bearer keys, any of which lets a request in; none: no check"`
	Timeout   time.Duration `koanf:"timeout" help:"longest request, queue included"`
	Grace     time.Duration `koanf:"grace" help:"how long requests under way may take after SIGTERM"`
	LogFormat string        `koanf:"log_format" help:"text or json, on stderr"`
	LogLevel  string        `koanf:"log_level" help:"debug, info, warn or error"`

	Retriever          string        `koanf:"retriever" help:"URL of the feature cache, as in http://localhost:8081; empty: none"`
	RetrieverKey       string        `koanf:"retriever_key" secret:"true" help:"bearer key sent to the retriever"`
	RetrieverTimeout   time.Duration `koanf:"retriever_timeout" help:"longest try of a lookup, of three"`
	OnRetrieverFailure string        `koanf:"on_retriever_failure" help:"degrade: answer without the cache and say so; fail: 503"`

	Slots    int `koanf:"slots" help:"answers under way at a time, each with a KV cache"`
	Context  int `koanf:"context" help:"tokens of prompt and answer together; 0: the bundle's"`
	Chunk    int `koanf:"chunk" help:"tokens of a prompt in one run of the decoder"`
	MaxQueue int `koanf:"max_queue" help:"requests let in beyond the slots; more are answered 429"`

	BatchClips  int           `koanf:"batch_clips" help:"clips of pictures, sounds, … that go through an encoder in one run; 0: 2 on the CPU, 16 on a GPU"`
	BatchWindow time.Duration `koanf:"batch_window" help:"how long an idle encoder waits for inputs that are being read; 0: not at all"`
	EmbedCache  int           `koanf:"embed_cache" help:"embeddings of parts that are kept for later turns; 0: none"`

	Cache struct {
		Enabled     string  `koanf:"enabled" help:"whether requests that do not say use the cache, true or false; empty: the bundle's"`
		Collection  string  `koanf:"collection" help:"which one; empty: the bundle's"`
		K           int     `koanf:"k" help:"neighbours, 1 to 1000; 0: the bundle's"`
		Temperature float64 `koanf:"temperature" help:"of the softmax over similarities, 0 to 1000; negative: the bundle's"`
		Weight      float64 `koanf:"weight" help:"share of the neighbours, 0 to 1; negative: the bundle's"`
	} `koanf:"cache"`

	Limits struct {
		Body     int64   `koanf:"body" help:"largest request body, bytes"`
		InFlight int64   `koanf:"inflight" help:"bodies and files of all requests together, bytes; more are answered 429"`
		Parts    int     `koanf:"parts" help:"media and embeddings of a request"`
		File     int64   `koanf:"file" help:"largest picture, sound or other file, bytes"`
		Pixels   int     `koanf:"pixels" help:"of a picture or a video's frame, width x height"`
		Side     int     `koanf:"side" help:"of a picture, the longer side"`
		Smallest int     `koanf:"smallest" help:"of a picture, the longer side at least"`
		Seconds  float64 `koanf:"seconds" help:"of a sound, video or motion trace"`
		Frames   int     `koanf:"frames" help:"of a video that are decoded"`
		Points   int     `koanf:"points" help:"of a point cloud"`
		Ratio    int     `koanf:"ratio" help:"decoded bytes per byte of a compressed file"`
		Decode   float64 `koanf:"decode" help:"seconds that ffmpeg may take over a file"`
	} `koanf:"limits"`

	Media struct {
		Root      string        `koanf:"root" help:"folder that file: URLs may name; empty: none"`
		Hosts     []string      `koanf:"hosts" help:"hosts that http and https URLs may name; none: off"`
		Redirects int           `koanf:"redirects" help:"redirects that are followed, each to one of those hosts"`
		Private   bool          `koanf:"private" help:"those hosts may have private and loopback addresses"`
		Timeout   time.Duration `koanf:"timeout" help:"longest fetch"`
		FFmpeg    string        `koanf:"ffmpeg" help:"program for videos, and sounds that are not read natively; empty: they are refused"`
		Reference bool          `koanf:"reference" help:"read pictures as the published code does: no EXIF rotation, alpha dropped"`
	} `koanf:"media"`

	Memory struct {
		Check string `koanf:"check" help:"a bundle that will not fit into memory: refuse it, warn, or off"`
	} `koanf:"memory"`

	ORTLib string      `koanf:"ort_lib" help:"the onnxruntime library; empty: $ORT_LIB, beside the program, .cache/ort, the system's"`
	ORT    ort.Options `koanf:"ort"`
}

func defaults() *options {
	l := modality.DefaultLimits()
	o := &options{Listen: ":8080", Bundle: "bundle", Timeout: 5 * time.Minute, Grace: 30 * time.Second, LogFormat: "text", LogLevel: "info",
		RetrieverTimeout: 5 * time.Second, OnRetrieverFailure: pipeline.Degrade, Slots: 4, Chunk: 512, MaxQueue: 64,
		BatchWindow: 2 * time.Millisecond, EmbedCache: 256,
		ORT: ort.Options{Provider: "cpu"}}
	o.Cache.Temperature, o.Cache.Weight = -1, -1
	o.Limits.Body, o.Limits.InFlight, o.Limits.Parts, o.Limits.File = 64<<20, 1<<30, 64, 32<<20
	o.Limits.Pixels, o.Limits.Side, o.Limits.Smallest, o.Limits.Seconds = l.Pixels, l.Side, l.Smallest, l.Seconds
	o.Limits.Frames, o.Limits.Points, o.Limits.Ratio = l.Frames, l.Points, l.Ratio
	o.Limits.Decode = l.Decode
	o.Media.Timeout, o.Media.FFmpeg = 10*time.Second, "ffmpeg"
	o.Memory.Check = "refuse"
	return o
}

// signals end the program: the first gracefully, a second at once.
var signals = make(chan os.Signal, 2)

// listen (re-)installs Go's handlers. onnxruntime's CUDA provider replaces them
// when its first session opens, by ones that crash a Go program; Notify alone
// leaves them, since Go believes its own to be in place: Ignore takes them out.
func listen() {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	listen()
	go func() {
		<-signals
		cancel()
		<-signals
		fmt.Fprintln(os.Stderr, "runner: stopped at once")
		os.Exit(1)
	}()
	config.Exit("runner", run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program: 0 for nil, 2 for a usage error, 1 for others.
func run(ctx context.Context, args []string, in io.Reader, out, warn io.Writer) error {
	started := false
	root := &cobra.Command{
		Use: "runner", Short: "Questions about pictures, sounds and texts, answered",
		Version: version.String(), SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(serveCommand(&started), askCommand(&started, in, out, warn)) //nolint:contextcheck // cobra hands ctx on
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(out)
	err := root.ExecuteContext(ctx)
	if err != nil && !started {
		return config.Usage{Err: fmt.Errorf("%w (see runner --help)", err)}
	}
	return err
}

func serveCommand(started *bool) *cobra.Command {
	o := defaults()
	c := &cobra.Command{
		Use: "serve", Short: "Serve the HTTP API and the page", Args: cobra.NoArgs, Version: version.String(),
		Long: `Serve a bundle over HTTP. Every flag is also a key of the file that --config
names (configs/runner.yaml lists them) and an environment variable, as in
RUNNER_MEDIA_ROOT; flags go over the environment, that over the file.`,
		Example: `  runner serve --bundle bundle
  runner serve --bundle bundle --listen :8080 --retriever http://localhost:8081
  runner serve --bundle bundle --ort-provider cuda --slots 8
  curl -F prompt='What is this?' -F image=@dog.jpg localhost:8080/v1/ask`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.load(c.Flags()); err != nil {
				return err
			}
			*started = true
			return o.serve(c.Context())
		},
	}
	config.Flags(c.Flags(), o)
	return c
}

// load fills o and checks what can be checked without opening anything.
func (o *options) load(fs *pflag.FlagSet) error {
	if err := config.Load(fs, "RUNNER", o); err != nil {
		return err
	}
	if err := config.SetLog(o.LogFormat, o.LogLevel); err != nil {
		return err
	}
	switch {
	case o.Bundle == "":
		return errors.New("--bundle is empty; name a folder")
	case o.OnRetrieverFailure != pipeline.Degrade && o.OnRetrieverFailure != pipeline.Fail:
		return fmt.Errorf("--on-retriever-failure %q: it is %s or %s", o.OnRetrieverFailure, pipeline.Degrade, pipeline.Fail)
	case o.OnRetrieverFailure == pipeline.Fail && o.Retriever == "":
		return errors.New("--on-retriever-failure fail needs --retriever URL")
	case o.Slots < 1:
		return fmt.Errorf("--slots %d: at least one is needed", o.Slots)
	case o.Context < 0, o.Chunk < 0, o.MaxQueue < 0:
		return errors.New("--context, --chunk and --max-queue are at least 0")
	case o.BatchClips < 0, o.BatchWindow < 0, o.EmbedCache < 0:
		return errors.New("--batch-clips, --batch-window and --embed-cache are at least 0")
	case o.Timeout <= 0, o.Media.Timeout <= 0, o.RetrieverTimeout <= 0:
		return errors.New("--timeout, --media-timeout and --retriever-timeout are longer than 0")
	case o.Limits.Body < 1, o.Limits.Parts < 1, o.Limits.File < 1, o.limits() != o.limits().OrDefault():
		return errors.New("the --limits-… are more than 0")
	case o.Limits.InFlight < 3*o.Limits.Body:
		return fmt.Errorf("--limits-inflight %d: at least three times --limits-body, %d: a request holds its body and the files in it", o.Limits.InFlight, o.Limits.Body)
	case o.Memory.Check != "refuse" && o.Memory.Check != "warn" && o.Memory.Check != "off":
		return fmt.Errorf("--memory-check %q: it is refuse, warn or off", o.Memory.Check)
	case o.ORT.Provider != "cpu" && o.ORT.Provider != "cuda":
		return fmt.Errorf("--ort-provider %q: it is cpu or cuda", o.ORT.Provider)
	}
	if _, err := o.client(); err != nil {
		return err
	}
	_, err := o.fetcher()
	return errors.Join(err, o.setCache(&bundle.Cache{}))
}

// limits are those of reading a file.
func (o *options) limits() modality.Limits {
	l := o.Limits
	return modality.Limits{Pixels: l.Pixels, Side: l.Side, Smallest: l.Smallest, Seconds: l.Seconds, Frames: l.Frames, Points: l.Points, Ratio: l.Ratio, Decode: l.Decode}
}

// client returns the retriever's, or nil for none.
func (o *options) client() (*retrieverapi.Client, error) {
	if o.Retriever == "" {
		return nil, nil
	}
	return retrieverapi.NewClient(o.Retriever, retrieverapi.Options{Key: o.RetrieverKey, Timeout: o.RetrieverTimeout})
}

func (o *options) fetcher() (*media.Fetcher, error) {
	m := o.Media
	return media.New(media.Options{Root: m.Root, Hosts: m.Hosts, Private: m.Private, Redirects: m.Redirects, Timeout: m.Timeout, MaxBytes: o.Limits.File})
}

// setCache puts the options over a bundle's defaults.
func (o *options) setCache(c *bundle.Cache) error {
	set := o.Cache
	if set.Enabled != "" {
		on, err := strconv.ParseBool(set.Enabled)
		if err != nil {
			return fmt.Errorf("--cache-enabled %q: it is true, false or empty", set.Enabled)
		}
		c.Enabled = on
	}
	if set.Collection != "" {
		c.Collection = set.Collection
	}
	p := imagebind.DefaultEnhance()
	if set.K != 0 {
		c.K, p.K = set.K, set.K
	}
	if set.Temperature >= 0 {
		c.Temperature = float32(set.Temperature)
		p.Temperature = c.Temperature
	}
	if set.Weight >= 0 {
		c.Weight = float32(set.Weight)
		p.Weight = c.Weight
	}
	if err := p.Validate(); err != nil {
		return fmt.Errorf("--cache-…: %w", err)
	}
	return nil
}

// fit holds the memory that b will take against what is there, before any is taken.
func (o *options) fit(b *bundle.Bundle) error {
	if o.Memory.Check == "off" {
		return nil
	}
	cuda := o.ORT.Provider == "cuda"
	plan := budget.New(&b.Manifest, budget.Options{Slots: o.Slots, Context: o.Context, Chunk: o.Chunk, Clips: o.BatchClips, CUDA: cuda, Plain: o.ORT.Plain || !kernel.Supported()})
	have, err := budget.Available()
	if cuda {
		have, _, err = ort.DeviceMemory(o.ORT.Device)
	}
	if err != nil {
		slog.Warn("memory that is there is not known; what the bundle takes is not checked", "err", err)
		return nil
	}
	slog.Info("memory", plan.Log(have)...)
	if err = plan.Check(have); err != nil && o.Memory.Check == "warn" {
		slog.Warn("memory may not suffice", "err", err)
		return nil
	}
	return err
}

// open opens the bundle and what answers with it. The pipeline is the caller's
// to close.
func (o *options) open() (*pipeline.Pipeline, *server.Server, error) {
	library, err := ort.Load(o.ORTLib)
	if err != nil {
		return nil, nil, err
	}
	slog.Info("onnxruntime", "version", library)
	b, err := bundle.Open(o.Bundle)
	if err != nil {
		return nil, nil, err
	}
	if o.Verify {
		start := time.Now()
		if err := b.Verify(nil); err != nil {
			return nil, nil, err
		}
		slog.Info("every file has its hash", "files", len(b.Files), "duration", time.Since(start))
	}
	if err := o.fit(b); err != nil {
		return nil, nil, err
	}
	if err := o.setCache(&b.Cache); err != nil {
		return nil, nil, err
	}
	retriever, err := o.client()
	if err != nil {
		return nil, nil, err
	}
	fetcher, err := o.fetcher()
	if err != nil {
		return nil, nil, err
	}
	read := modality.Options{Reference: o.Media.Reference, Limits: o.limits()}
	if o.Media.FFmpeg != "" {
		if read.FFmpeg, err = exec.LookPath(o.Media.FFmpeg); err != nil {
			slog.Info("no ffmpeg: videos, and sounds that are not read natively, are refused", "err", err)
		}
	}
	queue := o.MaxQueue
	if queue == 0 {
		queue = -1
	}
	metrics := server.NewMetrics()
	p, err := pipeline.Open(b, pipeline.Options{ORT: o.ORT, Slots: o.Slots, Context: o.Context, Chunk: o.Chunk, MaxQueue: queue,
		BatchClips: o.BatchClips, BatchWindow: o.BatchWindow, EmbedCache: o.EmbedCache,
		Retriever: retriever, OnRetrieverFailure: o.OnRetrieverFailure, Read: read, Observer: metrics})
	if err != nil {
		return nil, nil, err
	}
	if o.ORT.Provider == "cuda" {
		listen()
	}
	s, err := server.New(server.Options{Pipeline: p, Media: fetcher, Metrics: metrics, Keys: o.Keys,
		MaxBody: o.Limits.Body, MaxInFlight: o.Limits.InFlight, MaxFile: o.Limits.File, MaxParts: o.Limits.Parts, MaxRequests: o.Slots + o.MaxQueue, Timeout: o.Timeout})
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	return p, s, nil
}

func (o *options) serve(ctx context.Context) (err error) {
	config.Log(o)
	p, s, err := o.open() //nolint:contextcheck // the decoder's schedule outlives every request
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	slog.Info("serving", "bundle", p.Bundle().Name, "modalities", p.Modalities(), "context", p.Context(), "retriever", o.Retriever)
	return httpapi.Serve(ctx, o.Listen, s, o.Grace, s.Drain)
}

// localFlags are serve's that matter to ask without a server.
var localFlags = []string{"config", "bundle", "retriever", "retriever-key", "retriever-timeout", "on-retriever-failure", "context",
	"media-root", "media-ffmpeg", "media-reference", "ort-lib", "ort-provider", "ort-device", "ort-threads", "ort-spin", "ort-plain", "ort-gpu-memory", "ort-tf32", "memory-check", "log-format", "log-level"}

func askCommand(started *bool, in io.Reader, out, warn io.Writer) *cobra.Command {
	o := defaults()
	o.LogLevel = "warn"
	var base, key string
	q := &ask.Question{}
	c := &cobra.Command{
		Use: "ask [flags] PROMPT", Short: "Ask one question, of a server or of a bundle", Version: version.String(),
		Long: `Ask about files of any kind and texts, and print the answer as it comes. With
--server a runner answers; with --bundle this program does, without one. A
PROMPT of - is read from standard input.`,
		Example: `  runner ask --image dog.jpg --audio bark.wav "What is this?"
  runner ask --image owl.png --image lemon.png --weight image=0.7 --weight image=0.3 "What is this?"
  runner ask --point-cloud chair.ply --imu walk.csv --param imu.rate=200 "What is this?"
  runner ask --bind-text strawberry --neighbours "Describe it."
  runner ask --bundle bundle --image dog.jpg "What is this?"
  runner ask --server http://gpu:8080 --json - < prompt.txt`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			local := c.Flags().Changed("bundle")
			if local && c.Flags().Changed("server") {
				return errors.New("--server and --bundle are two ways to ask; give one")
			}
			if err := o.load(c.Flags()); err != nil {
				return err
			}
			if err := q.Read(args, in); err != nil {
				return err
			}
			client, err := runnerapi.NewClient(base, runnerapi.Options{Key: key})
			if err != nil {
				return err
			}
			*started = true
			if local {
				inside, stop, err := o.inside()
				if err != nil {
					return err
				}
				defer stop()
				client = inside
			}
			return q.Ask(c.Context(), client, out, warn)
		},
	}
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.Flags(all, o)
	for _, name := range localFlags {
		c.Flags().AddFlag(all.Lookup(name))
	}
	c.Flags().Lookup("bundle").DefValue = ""
	c.Flags().Lookup("bundle").Usage = "answer with this bundle here, without a server"
	c.Flags().StringVar(&base, "server", defaultServer(), "URL of the runner")
	c.Flags().StringVar(&key, "key", os.Getenv("RUNNER_KEY"), "bearer key for it")
	q.Flags(c.Flags())
	return c
}

// defaultServer is where ask asks unless it is told.
func defaultServer() string {
	if s := os.Getenv("RUNNER_SERVER"); s != "" {
		return s
	}
	return "http://localhost:8080"
}

// inside returns a client of a server that no other program reaches.
func (o *options) inside() (*runnerapi.Client, func(), error) {
	o.Slots = 1  // choices take turns
	o.Keys = nil // they guard a port, and there is none
	p, s, err := o.open()
	if err != nil {
		return nil, nil, err
	}
	l := make(pipe)
	srv := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	client, err := runnerapi.NewClient("http://runner", runnerapi.Options{HTTP: &http.Client{Transport: &http.Transport{DialContext: l.dial}}})
	return client, func() { _, _ = srv.Close(), p.Close() }, err
}

// A pipe is a listener whose connections stay in the program.
type pipe chan net.Conn

func (p pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept waits for a dial, until Close.
func (p pipe) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Close ends Accept.
func (p pipe) Close() error { close(p); return nil }

// Addr is no address.
func (p pipe) Addr() net.Addr { return &net.UnixAddr{Name: "inside", Net: "pipe"} }
