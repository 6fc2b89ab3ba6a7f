package safetensors

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// file writes a .safetensors with that header and data.
func file(t testing.TB, header string, data ...byte) string {
	t.Helper()
	raw := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, append(raw, data...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpen(t *testing.T) {
	f, err := Open(file(t, `{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},
		"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"c":{"dtype":"BF16","shape":[1,2],"data_offsets":[12,16]},
		"d":{"dtype":"U8","shape":[3],"data_offsets":[16,19]},"none":{"dtype":"F32","shape":[0,4],"data_offsets":[19,19]}}`,
		0xfe, 255, 255, 255, 255, 255, 255, 255, 0, 0x3c, 0, 0xc0, 0x80, 0x3f, 0, 0xc0, 1, 2, 255))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Metadata["format"] != "pt" {
		t.Errorf("metadata %v", f.Metadata)
	}
	var names []string
	for _, x := range f.Tensors() {
		names = append(names, x.Name)
	}
	if !slices.Equal(names, []string{"a", "b", "c", "d", "none"}) {
		t.Errorf("order %v", names)
	}
	for name, want := range map[string][]float32{"a": {-2}, "b": {1, -2}, "c": {1, -2}, "d": {1, 2, 255}, "none": {}} {
		x, ok := f.Tensor(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		got, err := x.Floats()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v (%v)", name, got, want, err)
		}
	}
	d, _ := f.Tensor("d")
	part := make([]float32, 2)
	if err := d.Read(part, 1); err != nil || !slices.Equal(part, []float32{2, 255}) {
		t.Errorf("from 1: %v (%v)", part, err)
	}
	if err := d.Read(part, 2); err == nil {
		t.Error("reads behind the end")
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, header, want string }{
		{"no JSON", `{`, "header"},
		{"shape and bytes differ", `{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, "shape [2]"},
		{"behind the end", `{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, "8 bytes"},
		{"negative offset", `{"x":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, "4 bytes"},
		{"negative axis", `{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, "shape [-1]"},
		{"overflow", `{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}`, "shape"},
		{"unknown type", `{"x":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}`, "F8_E4M3"},
		{"a block type of ggml", `{"x":{"dtype":"Q8_0","shape":[32],"data_offsets":[0,4]}}`, "Q8_0"},
	} {
		if _, err := Open(file(t, tt.header, 0, 0, 0, 0)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v, want %q in it", tt.name, err, tt.want)
		}
	}
	long := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(long, []byte("\xff\xff\xff\xff\xff\xff\xff\xff{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(long); err == nil {
		t.Error("a header longer than the file is taken")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(`{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, []byte{0, 0, 0, 0})
	f.Add(`{"x":{"dtype":"BOOL","shape":[2,2],"data_offsets":[0,4]},"y":{"dtype":"I16","shape":[],"data_offsets":[1,3]}}`, []byte{0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, header string, data []byte) {
		file, err := Open(file(t, header, data...))
		if err != nil {
			return
		}
		defer file.Close()
		for _, x := range file.Tensors() {
			if _, err := x.Floats(); err != nil {
				t.Errorf("%v: %v", x, err)
			}
		}
	})
}
