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

// TestTable has the C compiler hold shim.h and kernel/op.h against the header
// that the binding was made with: the places of the functions, the version, and
// how an operator is laid out.
func TestTable(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatal(err)
	}
	cc, err := exec.Command("go", "env", "CC").Output()
	if err != nil {
		t.Fatal(err)
	}
	for header, more := range map[string]string{
		"shim.h": "_Static_assert(ORT_API == ORT_API_VERSION, \"version\");\n",
		"kernel/op.h": "#define SAME(ours, theirs) _Static_assert(offsetof(struct op, ours) == offsetof(struct OrtCustomOp, theirs), #theirs)\n" +
			"SAME(version, version); SAME(name, GetName); SAME(input_type, GetInputType); SAME(outputs, GetOutputTypeCount); SAME(destroy, KernelDestroy);\n" +
			"SAME(input_kind, GetInputCharacteristic); SAME(input_memory, GetInputMemoryType); SAME(output_alike, GetVariadicOutputHomogeneity);\n" +
			"SAME(create2, CreateKernelV2); SAME(compute2, KernelComputeV2); SAME(infer, InferOutputShapeFn); SAME(last_version, GetEndVersion); SAME(called, GetMayInplace);\n",
	} {
		text, err := os.ReadFile(header)
		if err != nil {
			t.Fatal(err)
		}
		list := regexp.MustCompile(`\tORT_(\w+) = (\d+),`).FindAllStringSubmatch(string(text), -1)
		if len(list) < 15 {
			t.Fatalf("%d functions in %s", len(list), header)
		}
		var c strings.Builder
		c.WriteString("#include <stddef.h>\n#include \"onnxruntime_c_api.h\"\n#include \"" + header + "\"\n" + more)
		for _, f := range list {
			c.WriteString("_Static_assert(offsetof(OrtApi, " + f[1] + ") == " + f[2] + " * sizeof(void *), \"" + f[1] + "\");\n")
		}
		cmd := exec.Command(strings.Fields(string(cc))[0], "-fsyntax-only", "-I", strings.TrimSpace(string(dir)), "-I", ".", "-x", "c", "-")
		cmd.Stdin = strings.NewReader(c.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s does not fit onnxruntime_c_api.h: %v\n%s", header, err, out)
		}
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
	if f, ok := reflect.TypeFor[onnx.SessionOptions]().FieldByName("o"); !ok || !strings.Contains(f.Type.String(), "OrtSessionOptions") || f.Type.Kind() != reflect.Pointer {
		t.Fatalf("SessionOptions.o is %v", f.Type)
	}
}
