package imagebind_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "imagebind-llm"

// A listed package is what `go list -json` says of it.
type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// across are the packages of another program's folder that a program may see.
var across = map[string][]string{
	"exporter":  {"runner/bundle", "runner/modality", "runner/runnerapi", "runner/tokenizer", "runner/prompt", "retriever/retrieverapi"},
	"runner":    {"retriever/retrieverapi"},
	"retriever": {},
}

// homes are the one place of each outside library.
var homes = []struct{ library, home string }{
	{"github.com/yalue/onnxruntime_go", "internal/ort"},
	{"github.com/milvus-io/milvus-sdk-go", "retriever/milvus"},
	{"github.com/gin-gonic/gin", "*/server"},
	{"github.com/knadh/koanf", "internal/config"},
	{"github.com/parquet-go/parquet-go", "retriever/source"},
	{"github.com/mmcloughlin/avo", "retriever/kernel/gen"},
	{"github.com/schollz/progressbar", "exporter"},
	{"github.com/hajimehoshi/go-mp3", "runner/modality/audio"},
	{"github.com/mewkiz/flac", "runner/modality/audio"},
	{"github.com/jfreymuth/oggvorbis", "runner/modality/audio"},
	{"github.com/dlclark/regexp2", "runner/tokenizer"},
}

// TestStructure holds the imports against docs/architecture.md: exporter,
// runner and retriever meet in a few named packages, everything may use
// internal and the root, the root uses the standard library only, and each
// outside library has one home.
func TestStructure(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	n := 0
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		n++
		pkg := local(p.ImportPath)
		for _, imp := range p.Imports {
			checkImport(t, pkg, imp)
		}
		for _, imp := range append(p.TestImports, p.XTestImports...) {
			if pkg != "" { // the end-to-end tests beside doc.go see all
				checkImport(t, pkg, imp)
			}
		}
	}
	if n < 10 {
		t.Fatalf("go list named %d packages", n)
	}
}

func local(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

func top(pkg string) string { dir, _, _ := strings.Cut(pkg, "/"); return dir }

func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

func checkImport(t *testing.T, pkg, imp string) {
	t.Helper()
	if imp != module && !strings.HasPrefix(imp, module+"/") {
		for _, h := range homes {
			if !within(imp, h.library) {
				continue
			}
			if h.home == "*/server" && (within(pkg, "runner/server") || within(pkg, "retriever/server")) || within(pkg, h.home) {
				continue
			}
			t.Errorf("%s imports %s; %s lives in %s", pkg, imp, h.library, h.home)
		}
		if pkg == "" && strings.Contains(imp, ".") {
			t.Errorf("the root imports %s; it uses the standard library only", imp)
		}
		return
	}
	to := local(imp)
	switch from := top(pkg); {
	case within(pkg, "internal/bench"): // programs, which nothing imports: they may see all
	case pkg == "" && to != "":
		t.Errorf("the root imports %s; nothing below it may be seen from there", to)
	case from == "internal" && to != "" && top(to) != "internal":
		t.Errorf("%s imports %s; internal sees internal and the root only", pkg, to)
	case across[from] != nil && top(to) != from && across[top(to)] != nil:
		for _, ok := range across[from] {
			if within(to, ok) {
				return
			}
		}
		t.Errorf("%s imports %s; of the other programs %s sees %s only", pkg, to, from, strings.Join(across[from], ", "))
	}
}
