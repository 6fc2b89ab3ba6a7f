package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"

	imagebind "imagebind-llm"
)

// parquetFile writes rows in groups of perGroup.
func parquetFile[T any](t testing.TB, rows []T, perGroup int, options ...parquet.WriterOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b, append([]parquet.WriterOption{parquet.PageBufferSize(256)}, options...)...)
	for len(rows) > 0 {
		n := min(perGroup, len(rows))
		if _, err := w.Write(rows[:n]); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		rows = rows[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type plain struct {
	Vector []float32 `parquet:"vector,list"`
}

func plainRows(rows [][]float32) []plain {
	out := make([]plain, len(rows))
	for i := range rows {
		out[i].Vector = rows[i]
	}
	return out
}

type full struct {
	ID        int64     `parquet:"id"`
	Embedding []float64 `parquet:"embedding"` // a bare repeated column
	Text      *string   `parquet:"text,optional"`
	URL       string    `parquet:"url,dict"`
	Metadata  string    `parquet:"metadata"`
	Width     int32     `parquet:"width"`
	Score     *float64  `parquet:"score,optional"`
	NSFW      bool      `parquet:"nsfw"`
	Tags      []string  `parquet:"tags,list"` // a list: left out
	Raw       []byte    `parquet:"raw"`
	Nested    struct {
		Licence string `parquet:"licence"`
	} `parquet:"nested"`
}

func TestParquetColumns(t *testing.T) {
	text, score := "a cat", 0.5
	rows := []full{
		{ID: 7, Embedding: []float64{1, 2}, Text: &text, URL: "u", Metadata: `{"a":1,"width":"kept"}`, Width: 3, Score: &score, NSFW: true, Tags: []string{"x", "y"}, Raw: []byte{0xff}},
		{ID: -1, Embedding: []float64{3, 4}, URL: "u", Metadata: "plain words", Width: 4},
		{ID: 9, Embedding: []float64{5}}, // a wrong length is the caller's to judge
		{ID: 10},
	}
	rows[0].Nested.Licence = "CC0"
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Zstd} {
		for _, version := range []int{1, 2} {
			b := parquetFile(t, rows, 3, parquet.Compression(codec), parquet.DataPageVersion(version))
			s := open(t, write(t, t.TempDir()+"/x.parquet", b))
			got := all(t, s, 10)
			if s.Dim() != 2 || len(got) != 4 {
				t.Fatalf("%v: dim %d, %d rows", codec, s.Dim(), len(got))
			}
			r := got[0]
			if r.ID != "7" || r.Caption != "a cat" || r.URI != "u" || !reflect.DeepEqual(r.Vector, imagebind.Embedding{1, 2}) {
				t.Errorf("%v: %+v", codec, r)
			}
			if want := map[string]any{"a": 1.0, "width": "kept", "score": 0.5, "nsfw": true, "nested.licence": "CC0"}; !reflect.DeepEqual(r.Metadata, want) {
				t.Errorf("%v: %v", codec, r.Metadata)
			}
			r = got[1]
			if r.ID != "-1" || r.Caption != "" || r.Metadata["metadata"] != "plain words" || r.Metadata["width"] != 4.0 {
				t.Errorf("%v: %+v", codec, r)
			}
			if len(got[2].Vector) != 1 || len(got[3].Vector) != 0 || got[3].ID != "10" {
				t.Errorf("%v: %+v", codec, got[2:])
			}
		}
	}
}

// TestParquetNulls: a null list is no vector, a null in a list is NaN.
func TestParquetNulls(t *testing.T) {
	one := float32(1)
	type row struct {
		Big     uint64     `parquet:"big"`
		Vectors []*float32 `parquet:"vectors,list,optional"`
		ID      *string    `parquet:"id,optional"`
	}
	id := "x"
	b := parquetFile(t, []row{{1 << 63, nil, nil}, {1, []*float32{&one, &one}, &id}, {1, []*float32{&one, nil}, nil}}, 10)
	got := all(t, open(t, write(t, t.TempDir()+"/x.parquet", b)), 10)
	if len(got[0].Vector) != 0 || got[0].ID != "0" || got[0].Metadata["big"] != float64(1<<63) {
		t.Errorf("%+v", got[0])
	}
	if !reflect.DeepEqual(got[1].Vector, imagebind.Embedding{1, 1}) || got[1].ID != "x" {
		t.Errorf("%+v", got[1])
	}
	if v := got[2].Vector; len(v) != 2 || v[0] != 1 || !math.IsNaN(float64(v[1])) {
		t.Errorf("%+v", got[2])
	}
}

// TestParquetLies changes numbers in the footer and in page headers.
func TestParquetLies(t *testing.T) {
	whole := parquetFile(t, plainRows(values(200, 8)), 50, parquet.Compression(&parquet.Snappy))
	footer := int(binary.LittleEndian.Uint32(whole[len(whole)-8:]))
	huge := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(huge[len(huge)-8:], math.MaxUint32)
	// A list of 2^31-1 elements, for the schema: field 2, a list of structs.
	list := append(append([]byte("PAR1"), 0x29, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07), make([]byte, 100)...)
	list = append(binary.LittleEndian.AppendUint32(list, 106), "PAR1"...)
	for name, b := range map[string][]byte{"footer of 4 GiB": huge, "list of 2^31": list, "no data": append([]byte("PAR1"), whole[len(whole)-8-footer:]...)} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(write(t, t.TempDir()+"/x.parquet", b))
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Errorf("%v", err)
			}
		})
	}
	// Any byte may be wrong: an error or other values, never a crash.
	dir := t.TempDir()
	for i := 0; i < len(whole); i += 3 {
		b := bytes.Clone(whole)
		b[i] ^= 0xff
		readAll(t, write(t, dir+"/x.parquet", b))
	}
}

// readAll opens and reads a file of which nothing is known but that it must
// end in an Invalid error or in as many rows as were promised.
func readAll(t *testing.T, path string) {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		if imagebind.KindOf(err) != imagebind.Invalid {
			t.Fatalf("%v", err)
		}
		return
	}
	defer s.Close()
	ctx := context.Background()
	for at := 0; at < min(s.Rows(), 1000); {
		rows, err := s.Read(ctx, at, 64)
		if err != nil {
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(rows) == 0 {
			t.Fatalf("no rows at %d of %d", at, s.Rows())
		}
		at += len(rows)
	}
	if s.Rows() > 0 {
		if _, err := s.Read(ctx, s.Rows()-1, 1); err != nil && imagebind.KindOf(err) != imagebind.Invalid {
			t.Fatalf("%v", err)
		}
	}
}

func TestSkimDepth(t *testing.T) {
	if _, err := skimStruct(bytes.Repeat([]byte{0x1c}, 1<<20)); err == nil || !strings.Contains(err.Error(), "too much") {
		t.Errorf("a million nested structures: %v", err)
	}
}

func FuzzParquet(f *testing.F) {
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Zstd} {
		f.Add(parquetFile(f, plainRows(values(10, 3)), 4, parquet.Compression(codec)))
	}
	f.Add(parquetFile(f, []full{{ID: 1, Embedding: []float64{1}, URL: "u", Metadata: "{}"}}, 4, parquet.DataPageVersion(1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		readAll(t, write(t, t.TempDir()+"/x.parquet", b))
	})
}

// TestPyarrow reads files of the writer that most features come from.
func TestPyarrow(t *testing.T) {
	s := open(t, "testdata/golden/pyarrow_list.parquet")
	got := all(t, s, 7)
	if s.Dim() != 4 || len(got) != 40 {
		t.Fatalf("dim %d, %d rows", s.Dim(), len(got))
	}
	for i, r := range got {
		want := imagebind.Embedding{float32(i), float32(i) + 0.125, float32(i) + 0.25, float32(i) + 0.375}
		switch i {
		case 3, 5:
			want = nil
		case 7:
			if r.Vector[0] != 1 || !math.IsNaN(float64(r.Vector[1])) || r.Vector[3] != 3 {
				t.Errorf("row 7: %v", r.Vector)
			}
			r.Vector, want = nil, nil
		}
		caption := ""
		if i%4 != 0 {
			caption = fmt.Sprintf("caption %d", i%3)
		}
		meta := map[string]any{"width": float64(i), "when": float64(1000 * i), "exif.iso": float64(i), "exif.lens": "50mm"}
		if r.ID != fmt.Sprintf("r%d", i) || r.Caption != caption || r.URI != fmt.Sprintf("https://example.com/%d.jpg", i) ||
			!slices.Equal(r.Vector, want) || !reflect.DeepEqual(r.Metadata, meta) {
			t.Fatalf("row %d: %+v", i, r)
		}
	}
	s = open(t, "testdata/golden/pyarrow_fixed.parquet")
	for _, at := range []int{39, 0, 17, 16, 20} {
		rows, err := s.Read(t.Context(), at, 1)
		if err != nil {
			t.Fatal(err)
		}
		r := rows[0]
		want := imagebind.Embedding{float32(at), float32(at) + 0.125, float32(at) + 0.25, float32(at) + 0.375}
		if r.ID != fmt.Sprint(10*at) || r.Caption != fmt.Sprintf("text %d", at) || !slices.Equal(r.Vector, want) || !reflect.DeepEqual(r.Metadata, map[string]any{"key": float64(at)}) {
			t.Fatalf("row %d: %+v", at, r)
		}
	}
}
