package ort

import (
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"

	onnx "github.com/yalue/onnxruntime_go"
)

// TestTable has the C compiler hold shim.h against the header that the binding
// was made with: the places of the functions and the version.
func TestTable(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatal(err)
	}
	shim, err := os.ReadFile("shim.h")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`\tORT_(\w+) = (\d+),`).FindAllStringSubmatch(string(shim), -1)
	if len(list) < 20 {
		t.Fatalf("%d functions in shim.h", len(list))
	}
	var c strings.Builder
	c.WriteString("#include <stddef.h>\n#include \"onnxruntime_c_api.h\"\n#include \"shim.h\"\n_Static_assert(ORT_API == ORT_API_VERSION, \"version\");\n")
	for _, f := range list {
		c.WriteString("_Static_assert(offsetof(OrtApi, " + f[1] + ") == " + f[2] + " * sizeof(void *), \"" + f[1] + "\");\n")
	}
	cc, err := exec.Command("go", "env", "CC").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(strings.Fields(string(cc))[0], "-fsyntax-only", "-I", strings.TrimSpace(string(dir)), "-I", ".", "-x", "c", "-")
	cmd.Stdin = strings.NewReader(c.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("shim.h does not fit onnxruntime_c_api.h: %v\n%s", err, out)
	}
}

// TestLayout: the binding still keeps an OrtSession where sessionOf looks.
func TestLayout(t *testing.T) {
	s, ok := reflect.TypeFor[onnx.DynamicAdvancedSession]().FieldByName("s")
	if !ok || s.Type != reflect.TypeFor[*onnx.AdvancedSession]() {
		t.Fatalf("DynamicAdvancedSession.s is %v", s.Type)
	}
	if f, ok := s.Type.Elem().FieldByName("ortSession"); !ok || !strings.Contains(f.Type.String(), "OrtSession") || f.Type.Kind() != reflect.Pointer {
		t.Fatalf("AdvancedSession.ortSession is %v", f.Type)
	}
}
