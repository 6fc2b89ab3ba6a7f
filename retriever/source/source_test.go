package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/store"
)

var _ jobs.Source = (*Source)(nil)

// values are n rows of dim values: row r's value c is r + c/100, times a sign.
func values(n, dim int) [][]float32 {
	rows := make([][]float32, n)
	for r := range rows {
		for c := range dim {
			rows[r] = append(rows[r], float32(r)+float32(c)/100)
		}
	}
	return rows
}

func npyFile(rows [][]float32) []byte {
	dim := 0
	if len(rows) > 0 {
		dim = len(rows[0])
	}
	head := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", len(rows), dim)
	head += strings.Repeat(" ", 63-(len(head)+10)%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), byte(len(head)>>8))
	b = append(b, head...)
	for _, r := range rows {
		for _, v := range r {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	return b
}

// safetensorsFile holds named [len(rows), len(rows[0])] arrays.
func safetensorsFile(t *testing.T, arrays map[string][][]float32) []byte {
	t.Helper()
	head, data := map[string]any{}, []byte{}
	for name, rows := range arrays {
		from := len(data)
		for _, r := range rows {
			for _, v := range r {
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
			}
		}
		head[name] = map[string]any{"dtype": "F32", "shape": []int{len(rows), len(rows[0])}, "data_offsets": []int{from, len(data)}}
	}
	b, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(b))), b...), data...)
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *Source {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// all reads every row, n at a time.
func all(t testing.TB, s *Source, n int) []store.Row {
	t.Helper()
	var rows []store.Row
	for len(rows) < s.Rows() {
		got, err := s.Read(t.Context(), len(rows), n)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || len(got) > n {
			t.Fatalf("%d rows at %d of %d", len(got), len(rows), s.Rows())
		}
		rows = append(rows, got...)
	}
	return rows
}

func same(t *testing.T, got []store.Row, want [][]float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i, r := range got {
		if !reflect.DeepEqual([]float32(r.Vector), want[i]) {
			t.Fatalf("row %d is %v, want %v", i, r.Vector, want[i])
		}
	}
}

func TestKinds(t *testing.T) {
	dir := t.TempDir()
	rows := values(70, 5)
	paths := map[string]string{
		"npy":               write(t, dir+"/a/features.npy", npyFile(rows)),
		"safetensors":       write(t, dir+"/b/x.safetensors", safetensorsFile(t, map[string][][]float32{"any": rows})),
		"one of several":    write(t, dir+"/c/x.safetensors", safetensorsFile(t, map[string][][]float32{"features": rows, "more": values(3, 5)})),
		"ending in capital": write(t, dir+"/d/X.NPY", npyFile(rows)),
		"parquet":           write(t, dir+"/e/x.parquet", parquetFile(t, plainRows(rows), 16)),
		"folder":            dir + "/f",
	}
	write(t, dir+"/f/0.npy", npyFile(rows[:30]))
	write(t, dir+"/f/1.parquet", parquetFile(t, plainRows(rows[30:31]), 16))
	write(t, dir+"/f/2.parquet", parquetFile(t, []plain{}, 16)) // no rows
	write(t, dir+"/f/3.safetensors", safetensorsFile(t, map[string][][]float32{"x": rows[31:]}))
	write(t, dir+"/f/README.md", []byte("not features"))
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			s := open(t, path)
			if s.Dim() != 5 || s.Rows() != 70 {
				t.Fatalf("dim %d, rows %d", s.Dim(), s.Rows())
			}
			for _, n := range []int{1, 7, 100} {
				got := all(t, s, n)
				same(t, got, rows)
				for i, r := range got {
					if r.ID != strconv.Itoa(i) {
						t.Fatalf("row %d has the id %q", i, r.ID)
					}
				}
			}
			for _, at := range []int{69, 0, 30, 31, 29, 5} { // anywhere, in any order
				got, err := s.Read(t.Context(), at, 1)
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, rows[at:at+1])
			}
			if got, err := s.Read(t.Context(), 70, 1); len(got) != 0 || err != nil {
				t.Errorf("at the end: %v, %v", got, err)
			}
			for _, bad := range [][2]int{{-1, 1}, {71, 1}, {0, -1}} {
				if _, err := s.Read(t.Context(), bad[0], bad[1]); imagebind.KindOf(err) != imagebind.Invalid {
					t.Errorf("%v: %v", bad, err)
				}
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := s.Read(gone, 0, 1); imagebind.KindOf(err) != imagebind.Canceled {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

// TestFaissGolden reads an index that faiss wrote; its rows are the prototypes.
func TestFaissGolden(t *testing.T) {
	s := open(t, "../../internal/format/faiss/testdata/knn.index")
	if s.Dim() != 64 || s.Rows() != 500 {
		t.Fatalf("dim %d, rows %d", s.Dim(), s.Rows())
	}
	raw := golden.Bytes(t, "../enhance/testdata/golden/prototypes.npy")
	raw = raw[10+int(binary.LittleEndian.Uint16(raw[8:])):]
	for i, r := range all(t, s, 64) {
		for j, v := range r.Vector {
			if math.Float32bits(v) != binary.LittleEndian.Uint32(raw[4*(64*i+j):]) {
				t.Fatalf("row %d, value %d: %v", i, j, v)
			}
		}
	}
}

// TestFaissIDs: the ids of a map are the rows'.
func TestFaissIDs(t *testing.T) {
	s := open(t, "../../internal/format/faiss/testdata/kinds/idmap_hnsw.index")
	var ids []string
	for _, r := range all(t, s, 5) {
		ids = append(ids, r.ID)
	}
	if want := strings.Fields("827 269 178 643 743 299 704 466 293 28 160 497"); !slices.Equal(ids, want) {
		t.Errorf("ids %v, want %v", ids, want)
	}
}

// TestFaissCodes: rows are rebuilt from codes, each with its own caption, and the
// source says so.
func TestFaissCodes(t *testing.T) {
	const codes = "../../internal/format/faiss/testdata/codes/"
	dir := t.TempDir()
	var notes bytes.Buffer
	for i := range 40 {
		fmt.Fprintf(&notes, `{"caption":"row %d"}`+"\n", i)
	}
	write(t, dir+"/a.jsonl", notes.Bytes())
	want := golden.Bytes(t, codes+"ivf_flat.npy")
	want = want[len(want)-40*16*4:]
	for _, name := range []string{"ivf_flat", "ivf_sq8"} {
		write(t, dir+"/a.index", golden.Bytes(t, codes+name+".index"))
		s := open(t, dir)
		if n := s.Notes(); name == "ivf_flat" && n != nil || name == "ivf_sq8" && (len(n) != 1 || !strings.HasPrefix(n[0], "a.index, IVF4,SQ8: values are rebuilt from 8-bit codes")) {
			t.Errorf("%s: notes %q", name, n)
		}
		for i, r := range all(t, s, 7) {
			if r.ID != fmt.Sprint(i) || r.Caption != fmt.Sprint("row ", i) {
				t.Fatalf("row %d is %q, %q", i, r.ID, r.Caption)
			}
			for j, v := range r.Vector { // lists are not in this order: a row elsewhere would be far off
				if w := math.Float32frombits(binary.LittleEndian.Uint32(want[4*(16*i+j):])); math.Abs(float64(v-w)) > 0.01 {
					t.Fatalf("%s: row %d, value %d: %v, want %v", name, i, j, v, w)
				}
			}
		}
	}
	// Many files are not all named.
	for i := range 12 {
		write(t, fmt.Sprintf("%s/b%02d.index", dir, i), golden.Bytes(t, codes+"sq8.index"))
	}
	if n := open(t, dir).Notes(); len(n) != maxNotes+1 || n[1] != "b00.index, SQ8: values are rebuilt from 8-bit codes; the neighbours found may differ from the originals'" {
		t.Errorf("%d notes: %q", len(n), n)
	}
}

func TestSidecar(t *testing.T) {
	dir := t.TempDir()
	n := 3*stride + 5
	rows := values(n, 2)
	var notes bytes.Buffer
	for i := range n {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&notes, `{"id":"r%d","caption":"row %d","uri":"file:%d.png","metadata":{"n":%d}}`+"\n", i, i, i, i)
		case 1:
			fmt.Fprintf(&notes, `{"id":%d,"url":"u","group":"g","metadata":{"a":null}}`+"\r\n", i)
		case 2:
			notes.WriteString("{}\n")
		}
	}
	notes.Truncate(notes.Len() - 1) // no end to the last line
	s := open(t, write(t, dir+"/features.npy", npyFile(rows)))
	if got := all(t, s, 10); got[0].Caption != "" {
		t.Errorf("a caption without a sidecar: %q", got[0].Caption)
	}
	write(t, dir+"/features.jsonl", notes.Bytes())
	s = open(t, dir+"/features.npy")
	for _, batch := range []int{1, 50, n} {
		got := all(t, s, batch)
		same(t, got, rows)
		for i, r := range got {
			want := store.Row{ID: strconv.Itoa(i)}
			switch i % 3 {
			case 0:
				want = store.Row{ID: fmt.Sprintf("r%d", i), Caption: fmt.Sprintf("row %d", i), URI: fmt.Sprintf("file:%d.png", i), Metadata: map[string]any{"n": float64(i)}}
			case 1:
				want = store.Row{ID: strconv.Itoa(i), URI: "u", Metadata: map[string]any{"group": "g", "a": nil}}
			}
			r.Vector = nil
			if !reflect.DeepEqual(r, want) {
				t.Fatalf("row %d is %+v, want %+v", i, r, want)
			}
		}
	}
}

// TestSidecarOfAShard: each file of a folder has a sidecar of its own, and rows
// without an id are numbered over the whole folder.
func TestSidecarOfAShard(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/0.npy", npyFile(values(2, 2)))
	write(t, dir+"/1.npy", npyFile(values(2, 2)))
	write(t, dir+"/1.jsonl", []byte("{\"id\":\"named\"}\n{}\n"))
	var ids []string
	for _, r := range all(t, open(t, dir), 10) {
		ids = append(ids, r.ID)
	}
	if got := strings.Join(ids, " "); got != "0 1 named 3" {
		t.Errorf("ids %s", got)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	good := npyFile(values(3, 2))
	file := func(name string, b []byte) string { return write(t, filepath.Join(dir, name), b) }
	notes := func(name, lines string) string {
		file(name+"/x.jsonl", []byte(lines))
		return file(name+"/x.npy", good)
	}
	mixed := filepath.Join(dir, "mixed")
	file("mixed/0.npy", good)
	file("mixed/1.npy", npyFile(values(3, 4)))
	if err := os.MkdirAll(dir+"/link", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file("far/x.npy", good), dir+"/link/x.npy"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/empty", 0o755); err != nil {
		t.Fatal(err)
	}
	whole := parquetFile(t, plainRows(values(20, 3)), 8)
	tests := []struct {
		name, path string
		kind       imagebind.Kind
		says       string
	}{
		{"not there", dir + "/none.npy", imagebind.NotFound, "none.npy"},
		{"another kind", file("x.csv", []byte("1,2")), imagebind.Invalid, "x.csv is no table"},
		{"empty folder", dir + "/empty", imagebind.Invalid, "empty holds no"},
		{"a link in a folder", dir + "/link", imagebind.Invalid, "no plain file"},
		{"two dims", mixed, imagebind.Invalid, "1.npy has rows of 4 values"},
		{"no .npy", file("bad.npy", []byte("hello")), imagebind.Invalid, "bad.npy"},
		{"no .index", file("bad.index", []byte("hello")), imagebind.Invalid, "bad.index"},
		{"no .safetensors", file("bad.safetensors", []byte("hello")), imagebind.Invalid, "bad.safetensors"},
		{"no features in it", file("one.safetensors", safetensorsFile(t, map[string][][]float32{"a": values(2, 2), "b": values(2, 2)})), imagebind.Invalid, `"vectors"`},
		{"fewer notes", notes("few", "{}\n{}\n"), imagebind.Invalid, "x.jsonl has 2 lines"},
		{"more notes", notes("many", "{}\n{}\n{}\n{}\n"), imagebind.Invalid, "more lines"},
		{"no JSON", notes("broken", "{}\n{\n{}\n"), imagebind.Invalid, "x.jsonl, line 2"},
		{"a note that is an array", notes("array", "{}\n{}\n[]\n"), imagebind.Invalid, "line 3"},
		{"a note that is null", notes("null", "null\n{}\n{}\n"), imagebind.Invalid, "line 1"},
		{"an empty line", notes("blank", "{}\n\n{}\n"), imagebind.Invalid, "line 2: it is empty"},
		{"a caption that is a number", notes("caption", "{\"caption\":1}\n{}\n{}\n"), imagebind.Invalid, "caption"},
		{"an id that is a list", notes("id", "{\"id\":[1]}\n{}\n{}\n"), imagebind.Invalid, "id"},
		{"metadata that is a string", notes("metadata", "{\"metadata\":\"x\"}\n{}\n{}\n"), imagebind.Invalid, "metadata"},
		{"a long line", notes("long", "{\"x\":\""+strings.Repeat("x", maxLine)+"\"}\n{}\n{}\n"), imagebind.Invalid, "bytes"},
		{"no parquet", file("bad.parquet", []byte("PAR1 and more of it PAR1")), imagebind.Invalid, "bad.parquet"},
		{"empty parquet", file("none.parquet", nil), imagebind.Invalid, "0 bytes"},
		{"truncated parquet", file("cut.parquet", whole[:len(whole)-9]), imagebind.Invalid, "PAR1"},
		{"no vectors in it", file("flat.parquet", parquetFile(t, []struct {
			ID string `parquet:"id"`
		}{{"a"}}, 8)), imagebind.Invalid, "no column of lists of floats"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(tt.path)
			if err == nil {
				s.Close()
			}
			if imagebind.KindOf(err) != tt.kind || !strings.Contains(imagebind.MessageOf(err), tt.says) && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzSidecar(f *testing.F) {
	for _, s := range []string{"{}\n", `{"id":"a","caption":"c","uri":"u","metadata":{"x":[1]}}` + "\n{}", "{\"id\":7,\"url\":null}\r\n", "[]\n", "\n", "", "{", `{"metadata":null,"x":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		write(t, dir+"/x.jsonl", b)
		lines := bytes.Count(b, []byte{'\n'})
		if len(b) > 0 && b[len(b)-1] != '\n' {
			lines++
		}
		s, err := openSidecar(dir+"/x.npy", lines)
		if err != nil {
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Fatal(err)
			}
			return
		}
		defer s.close()
		whole, err := s.read(0, lines)
		if err != nil || len(whole) != lines {
			t.Fatal(len(whole), err)
		}
		for i := range lines {
			if one, err := s.read(i, 1); err != nil || !reflect.DeepEqual(one[0], whole[i]) {
				t.Fatalf("line %d: %+v, %v", i, one, err)
			}
		}
	})
}
