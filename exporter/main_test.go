package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"imagebind-llm/internal/config"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/internal/progtest"
	"imagebind-llm/runner/bundle"
)

func TestMain(m *testing.M) {
	progtest.Main(main)
	os.Exit(m.Run())
}

// Checkpoints: demo is what make demo exports, tiny what the goldens are of.
const (
	demo = "../demo/"
	tiny = "../testdata/golden/"
)

func demoArgs(out string, more ...string) []string {
	return append([]string{"model", "--imagebind", demo + "imagebind_demo.pth", "--heads-config", demo + "heads.json",
		"--llama", demo + "llama", "--tokenizer", demo + "llama/tokenizer.model", "--adapter", demo + "adapter_demo.pth", "--out", out}, more...)
}

// TestUsage holds exit codes and messages against what is promised.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad, text := file("bad.yaml", "image_bind: x\n"), file("notes.txt", "hello")
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"help", []string{"--help"}, 0, "inspect"},
		{"nothing", nil, 0, "Usage"},
		{"version", []string{"--version"}, 0, "exporter version"},
		{"help of model", []string{"model", "--help"}, 0, "exporter model --imagebind demo/imagebind_demo.pth"},
		{"help of cache", []string{"cache", "--help"}, 0, "--no-wait"},
		{"help of inspect", []string{"inspect", "--help"}, 0, "exporter inspect bundle"},
		{"help of verify", []string{"verify", "--help"}, 0, "exporter verify bundle --goldens"},
		{"version of model", []string{"model", "--version"}, 0, "version"},
		{"unknown command", []string{"export"}, 2, "export"},
		{"unknown flag", []string{"model", "--output", "x"}, 2, "--output"},
		{"another command's flag", []string{"model", "--retriever", "x"}, 2, "--retriever"},
		{"argument", []string{"model", "x"}, 2, "x"},
		{"no argument", []string{"inspect"}, 2, "1 arg"},
		{"unknown key", []string{"inspect", text, "--config", bad}, 2, "image_bind"},
		{"log format", []string{"inspect", text, "--log-format", "xml"}, 2, "xml"},
		{"sha256", []string{"inspect", text, "--sha256", "yes"}, 2, "always"},
		{"nothing to export", []string{"model", "--out", dir + "/b"}, 2, "--llama"},
		{"no out", []string{"model", "--llama", demo + "llama"}, 2, "--out"},
		{"precision", demoArgs(dir+"/b", "--precision", "fp8"), 2, `"fp8"`},
		{"encoders' precision", demoArgs(dir+"/b", "--encoder-precision", "int4"), 2, "int4"},
		{"point encoder", demoArgs(dir+"/b", "--point", text), 1, "--point"},
		{"adapter alone", []string{"model", "--imagebind", "x", "--adapter", "y", "--out", dir + "/b"}, 2, "--llama"},
		{"licence", demoArgs(dir+"/b", "--licence", "decoder=MIT"), 2, "adapter"},
		{"no path", []string{"cache"}, 2, "--path"},
		{"help of rollback", []string{"cache", "rollback", "--help"}, 0, "--generation"},
		{"no generation to forget", []string{"cache", "forget"}, 2, "--generation"},
		{"no file to export to", []string{"cache", "export"}, 2, "--file"},
		{"no job to follow", []string{"cache", "follow"}, 2, "--job"},
		{"a modality without a runner", []string{"cache", "--path", "x", "--modality", "imu"}, 2, "--runner"},
		{"a parameter without a value", []string{"cache", "--path", "x", "--runner", "http://r", "--param", "rate"}, 2, "rate=200"},
		{"no retriever", []string{"cache", "--retriever", "http://127.0.0.1:1", "--path", "x"}, 1, "127.0.0.1:1"},
		{"missing file", []string{"model", "--imagebind", dir + "/none.pth", "--out", dir + "/b"}, 1, "none.pth"},
		{"foreign file", []string{"inspect", text}, 1, "hello"},
		{"no bundle", []string{"verify", dir}, 1, "bundle.json"},
		{"a full folder as out", demoArgs(dir), 1, "no bundle"},
	}
	for _, tt := range tests {
		progtest.Check(t, tt.name, tt.code, tt.says, tt.args...)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

// configs/exporter.yaml lists every key with its default.
func TestConfigFile(t *testing.T) {
	progtest.ConfigFile(t, "../configs/exporter.yaml", &options{}, defaults())
}

// Every option is a flag of some command, and every flag an option.
func TestFlags(t *testing.T) {
	o := defaults()
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.Flags(all, o)
	used := map[string]bool{"config": true, "log-format": true, "log-level": true}
	for _, c := range append(o.commands(io.Discard), o.cacheCommands(io.Discard)...) {
		for _, f := range c.flags {
			if used[f] = true; all.Lookup(f) == nil {
				t.Errorf("%s has no option for --%s", c.Use, f)
			}
		}
	}
	all.VisitAll(func(f *pflag.Flag) {
		if !used[f.Name] {
			t.Errorf("no command has --%s", f.Name)
		}
	})
}

// TestDemo exports the demo model as make demo does, in seconds, over an earlier
// bundle, and checks the result's files.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundle")
	for _, name := range []string{"first", "again"} {
		start := time.Now()
		var out bytes.Buffer
		if err := run(t.Context(), demoArgs(dir, "--name", name, "--licence", "llama=this project's own"), &out); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
		b, err := bundle.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(nil); err != nil {
			t.Error(err)
		}
		if b.Name != name || b.Embed() != 256 || b.Decoder == nil || b.Bridge == nil || b.Decoder.Template != "alpaca" ||
			b.Decoder.BOS != 1 || !slices.Equal(b.Decoder.Stop, []int{2}) || !slices.Equal(b.Modalities(), []string{"image", "video", "text"}) {
			t.Errorf("the manifest is %+v", b.Manifest)
		}
		if !slices.ContainsFunc(b.Licences, func(l bundle.Licence) bool { return l.Part == "llama" && l.Name == "this project's own" }) {
			t.Errorf("licences are %+v", b.Licences)
		}
		for _, want := range []string{"decoder:", "encoder vision:", "bridge:", "bundle " + dir} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not in the output\n%s", want, out.String())
			}
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	t.Run("inspect", func(t *testing.T) {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"inspect", "--json", dir}, &out); err != nil {
			t.Fatal(err)
		}
		var r struct {
			Kind   string
			Bundle bundle.Manifest
			Files  []struct{ Name, SHA256 string }
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Kind != "bundle" || r.Bundle.Name != "again" || len(r.Files) < 8 {
			t.Errorf("it says %+v", r)
		}
	})
	t.Run("verify", func(t *testing.T) {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"verify", dir}, &out); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if _, err := ort.Load(""); err != nil {
			golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
		}
		// The goldens are of other checkpoints: it says so instead of passing.
		err := run(t.Context(), []string{"verify", dir, "--goldens", tiny}, &out)
		if err == nil || !strings.Contains(err.Error(), "no golden") {
			t.Errorf("error is %v", err)
		}
	})
}

// TestWrongAdapter: an adapter of another base is refused, in words, and
// leaves nothing.
func TestWrongAdapter(t *testing.T) {
	dir := t.TempDir()
	args := demoArgs(filepath.Join(dir, "bundle"))
	args[slices.Index(args, "--adapter")+1] = tiny + "llama-adapter-tiny/adapter-finetune.pth"
	out, err := progtest.Command(t, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"adapter-finetune.pth", "another base model", "width 80 for 256"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not named:\n%s", want, out)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestKilled: an export that is killed while it writes leaves no bundle, and an
// earlier one as it was; one that is interrupted leaves nothing at all.
func TestKilled(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"kill": syscall.SIGKILL, "interrupt": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			dir, log := interrupted(t, signal)
			out := filepath.Join(dir, "bundle")
			if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a bundle is there: %v", err)
			}
			entries, _ := os.ReadDir(dir)
			if signal == syscall.SIGINT && (len(entries) > 0 || !strings.Contains(log, context.Canceled.Error())) {
				t.Errorf("left behind: %v\n%s", entries, log)
			}
			// The next export says what the killed one left, and is whole.
			said, err := progtest.Command(t, demoArgs(out)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			if signal == syscall.SIGKILL && !strings.Contains(string(said), entries[0].Name()) {
				t.Errorf("it does not name %s:\n%s", entries[0].Name(), said)
			}
			if b, err := bundle.Open(out); err != nil {
				t.Error(err)
			} else if err := b.Verify(nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// interrupted exports to dir/bundle and sends the signal while weights are being
// written. An export that was faster is made again.
func interrupted(t *testing.T, signal syscall.Signal) (dir, log string) {
	t.Helper()
	for range 20 {
		dir = t.TempDir()
		cmd := progtest.Command(t, demoArgs(filepath.Join(dir, "bundle"))...)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// As soon as the first weights are there, it is at work.
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
			if m, _ := filepath.Glob(filepath.Join(dir, ".bundle.partial-*", "*.data")); len(m) > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it wrote nothing in 20 s")
			}
		}
		if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if cmd.Wait() != nil {
			return dir, said.String()
		}
	}
	t.Fatal("20 exports were done before the signal came")
	return "", ""
}

// TestCache: the flags reach the retriever.
func TestCache(t *testing.T) {
	var asked struct {
		Type, Collection, Index string
		Source                  struct {
			Path, Runner, Modality string
			Params                 map[string]any
		}
	}
	var key string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key = r.Header.Get("Authorization")
		if r.Method == http.MethodGet { // what is under way
			_, _ = io.WriteString(w, `{"jobs":[]}`)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"j7","state":"queued"}`)
	}))
	defer s.Close()
	var out bytes.Buffer
	err := run(t.Context(), []string{"cache", "--retriever", s.URL, "--collection", "pets", "--path", "p.npy", "--runner", "http://runner",
		"--modality", "imu", "--param", "rate=200", "--param", "flip=true", "--index", "HNSW", "--key", "secret", "--no-wait"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	if asked.Type != "rebuild" || asked.Collection != "pets" || asked.Index != "HNSW" || asked.Source.Path != "p.npy" || asked.Source.Runner != "http://runner" || key != "Bearer secret" ||
		asked.Source.Modality != "imu" || asked.Source.Params["rate"] != 200.0 || asked.Source.Params["flip"] != true {
		t.Errorf("asked %+v with %q", asked, key)
	}
	if !strings.Contains(out.String(), "j7") {
		t.Errorf("output %q", out.String())
	}
}
