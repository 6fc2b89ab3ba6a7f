// Package testbundle makes bundles of the golden checkpoints for tests, with
// the exporter as a user runs it: runner and exporter meet in a file.
package testbundle

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
)

// Args of `exporter model`, from the module's root.
var (
	ImageBind = []string{"--imagebind", "testdata/golden/imagebind-tiny/checkpoint.pth", "--heads-config", "testdata/golden/heads.json"}
	Point     = []string{"--point", "testdata/golden/pointbind-tiny/checkpoint.pth"}
	LLaMA     = []string{"--llama", "testdata/golden/llama-adapter-tiny/7B", "--tokenizer", "testdata/golden/llama-adapter-tiny/tokenizer.model"}
	Adapter   = []string{"--adapter", "testdata/golden/llama-adapter-tiny/adapter-finetune.pth"}
)

var made struct {
	sync.Mutex
	dir     string
	bundles map[string]string // by args
}

// Main is for TestMain: it removes what Open made.
func Main(m *testing.M) {
	code := m.Run()
	if made.dir != "" {
		os.RemoveAll(made.dir)
	}
	os.Exit(code)
}

// Open returns the bundle that the given lists of args make, made once a test
// program. It wants onnxruntime.
func Open(t testing.TB, args ...[]string) *bundle.Bundle {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	made.Lock()
	defer made.Unlock()
	root := Root(t)
	if made.dir == "" {
		dir, err := os.MkdirTemp("", "testbundle-*") //nolint:usetesting // it outlives the test: see Main
		if err != nil {
			t.Fatal(err)
		}
		made.dir, made.bundles = dir, map[string]string{}
		run(t, root, "go", "build", "-o", filepath.Join(dir, "exporter"), "./exporter")
	}
	all := []string{"model", "--out"}
	var flags []string
	for _, a := range args {
		flags = append(flags, a...)
	}
	key := strings.Join(flags, " ")
	dir := made.bundles[key]
	if dir == "" {
		dir = filepath.Join(made.dir, "bundle-"+string(rune('a'+len(made.bundles))))
		run(t, root, filepath.Join(made.dir, "exporter"), append(append(all, dir), flags...)...)
		made.bundles[key] = dir
	}
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Root returns the module's folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, e := os.Stat(filepath.Join(dir, "go.mod")); e == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working folder")
		}
	}
	t.Fatal(err)
	return ""
}

func run(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
}
