package source

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// A want is what a row of media is to be.
type want struct {
	id, uri, caption string
	meta             map[string]any
	part, content    string
	why              string // a row left out says this; "" for none
}

// mediaAre holds the rows of a source to what they are to be.
func mediaAre(t *testing.T, m *Media, wants []want) {
	t.Helper()
	if m.Rows() != len(wants) {
		t.Fatalf("%d rows, want %d", m.Rows(), len(wants))
	}
	for i, r := range everyRow(t, m) {
		w := wants[i]
		if w.why != "" {
			if why := m.Why(i); r.Vector != nil || !strings.Contains(why, w.why) {
				t.Errorf("row %d: %v, %q; want %q", i, r.Vector, why, w.why)
			}
			continue
		}
		if r.ID != w.id || r.URI != w.uri || r.Caption != w.caption || !reflect.DeepEqual(r.Metadata, w.meta) {
			t.Errorf("row %d: %q, %q, %q, %v; want %+v", i, r.ID, r.URI, r.Caption, r.Metadata, w)
		}
		if want := vectorOf(w.part, w.content, "{}"); !reflect.DeepEqual(r.Vector, want) {
			t.Errorf("row %d is not the embedding of %s %q: %s", i, w.part, w.content, m.Why(i))
		}
	}
}

func TestTables(t *testing.T) {
	root := tree(t, map[string]string{
		"l/a.jpg": "a", "l/b.png": "b", "l/a.txt": "beside it", "o.jpg": "o", "l/.x": "x",
		"l/all.csv": "\uFEFFFile,ID, Caption ,url,metadata,licence,modality\r\n" +
			"a.jpg,A,\"a \"\"cat\"\",\nand more\",http://a,\"{\"\"n\"\":1,\"\"licence\"\":\"\"mine\"\"}\",CC0,\r\n" +
			"\r\n" +
			"../o.jpg,,,,,,depth\r\n" +
			"b.png,B,b,,,CC-BY,",
		"l/all.tsv":      "path\ttext\na.jpg\ta cat, asleep\n\ta dog\n",
		"l/texts.csv":    "id,text\n1,one\n,two\n",
		"l/broken.csv":   "path,id\na.jpg,1\na.jpg\na.jpg,1,2\nb\"x,2\n,3\n/etc/passwd,4\n../../etc/passwd,5\n\"a.jpg\"x,6\ngone.jpg,7\nb.png,8\n\"b.png,9\n",
		"l/meta.csv":     "path,metadata\na.jpg,no\nb.png,{}\n",
		"l/none.csv":     "name,caption\na.jpg,x\n",
		"l/empty.csv":    "",
		"l/only.csv":     "path\n",
		"l/bytes.csv":    "path,caption\na.jpg,\xff\n\xff.jpg,x\n",
		"l/trace.csv":    "0,1,2\n3,4,5\n",
		"l/long.csv":     "path,caption\na.jpg,x\nb.png,\"" + strings.Repeat("y\n", maxLine) + "\"\n",
		"l/longhead.csv": "path," + strings.Repeat("y", 2*maxLine) + "\n",
	})
	if err := os.Symlink("/etc/hostname", filepath.Join(root, "l/out.jpg")); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/l/link.csv", []byte("path\nout.jpg\nb.png\n"))
	image := func(id, uri, caption, content string, meta map[string]any) want {
		return want{id, uri, caption, meta, "media_url", content, ""}
	}
	wrong := func(why string) want { return want{why: why} }
	tests := []struct {
		path string
		s    retrieverapi.Source
		want []want
		says string // of the error
	}{
		{"l/all.csv", retrieverapi.Source{}, []want{
			image("A", "http://a", "a \"cat\",\nand more", "a", map[string]any{"n": 1.0, "licence": "mine"}),
			{"o.jpg", "file:o.jpg", "", nil, "depth_url", "o", ""},
			image("B", "file:l/b.png", "b", "b", map[string]any{"licence": "CC-BY"})}, ""},
		{"l/all.tsv", retrieverapi.Source{}, []want{
			image("a.jpg", "file:l/a.jpg", "", "a", map[string]any{"text": "a cat, asleep"}),
			{"1", "", "a dog", nil, "bind_text", "a dog", ""}}, ""},
		{"l/texts.csv", retrieverapi.Source{}, []want{{"1", "", "one", nil, "bind_text", "one", ""}, {"1", "", "two", nil, "bind_text", "two", ""}}, ""},
		{"l/broken.csv", retrieverapi.Source{}, []want{
			image("1", "file:l/a.jpg", "", "a", nil), wrong("broken.csv, row 1: it has 1 fields, the first line of broken.csv names 2"), wrong("it has 3 fields"),
			wrong("bare \""), wrong("neither a path nor a text"), wrong("is not below the source root"), wrong("is not below the source root"),
			wrong("row 7: extraneous or missing"), wrong("l/gone.jpg: it cannot be read"), image("8", "file:l/b.png", "", "b", nil), wrong("extraneous or missing \"")}, ""},
		{"l/meta.csv", retrieverapi.Source{}, []want{wrong("metadata is no JSON object"), image("b.png", "file:l/b.png", "", "b", map[string]any{})}, ""},
		{"l/bytes.csv", retrieverapi.Source{}, []want{image("a.jpg", "file:l/a.jpg", "\uFFFD", "a", nil), wrong("not below the source root")}, ""},
		{"l/link.csv", retrieverapi.Source{}, []want{wrong("l/out.jpg: it cannot be read"), image("b.png", "file:l/b.png", "", "b", nil)}, ""},
		{"l/only.csv", retrieverapi.Source{}, nil, ""},
		{"l/none.csv", retrieverapi.Source{}, nil, "first line of none.csv names no column path, file or text"},
		{"l/empty.csv", retrieverapi.Source{}, nil, "names no column path"},
		{"l/long.csv", retrieverapi.Source{}, nil, "long.csv, row 1: a record of over 262144 bytes"},
		{"l/longhead.csv", retrieverapi.Source{}, nil, "longhead.csv: a record of over"},
		{"l/trace.csv", retrieverapi.Source{}, nil, "names no column path"},
		{"l/trace.csv", retrieverapi.Source{Modality: "imu"}, []want{{"trace.csv", "file:l/trace.csv", "", nil, "imu_url", "0,1,2\n3,4,5\n", ""}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			m, err := openMedia(t, newFakeRunner(t), quick, root, tt.path, tt.s, filepath.Join(t.TempDir(), "s"))
			if tt.says != "" {
				if imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(imagebind.MessageOf(err), tt.says) {
					t.Errorf("%v, want %q", err, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mediaAre(t, m, tt.want)
		})
	}
}

// TestTableOffsets: rows are read where they stand, also far on and behind
// records of many lines.
func TestTableOffsets(t *testing.T) {
	const n = 500
	var b strings.Builder
	b.WriteString("text,caption\n")
	for i := range n {
		fmt.Fprintf(&b, "t%d,\"%s\"\n%s", i, strings.Repeat("line\n", i%40), strings.Repeat("\n", i%3))
	}
	root, err := os.OpenRoot(tree(t, map[string]string{"l.csv": b.String()}))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	l, err := openList(t.Context(), root, "l.csv", retrieverapi.Source{}, fnv.New64a())
	if err != nil || len(l.media) != n {
		t.Fatalf("%d rows, %v", len(l.media), err)
	}
	defer l.close()
	for i := n - 1; i >= 0; i -= 7 {
		e, err := l.entry(i)
		if err != nil || e.text != fmt.Sprint("t", i) || len(e.Caption) != 5*(i%40) && i%40 > 0 {
			t.Fatalf("row %d: %q, %d bytes of caption, %v", i, e.text, len(e.Caption), err)
		}
	}
}

// TestTableResumes: a source that is the same has the same hash, and asks for
// nothing twice; one that changed has another.
func TestTableResumes(t *testing.T) {
	f, root := newFakeRunner(t), photos(t, 8)
	list := "path,caption\np/000.jpg,x\np/001.jpg,y\nbroken\np/002.jpg,z\n"
	write(t, root+"/l.csv", []byte(list))
	scratch := filepath.Join(t.TempDir(), "s")
	read := func() (string, []store.Row) {
		m, err := openMedia(t, f, quick, root, "l.csv", retrieverapi.Source{}, scratch)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		return m.Hash(), everyRow(t, m)
	}
	first, rows := read()
	before := f.requests
	again, same := read()
	if first != again || f.requests != before || !reflect.DeepEqual(rows, same) || len(rows) != 4 {
		t.Errorf("hashes %s, %s; %d requests then %d; %d rows", first, again, before, f.requests, len(rows))
	}
	write(t, root+"/l.csv", []byte(strings.Replace(list, ",y", ",Y", 1)))
	if changed, _ := read(); changed == first {
		t.Error("another caption, the same hash")
	}
}

func FuzzTable(f *testing.F) {
	for _, s := range []string{"path,id\na.jpg,1\n", "text\n\"a\nb\"\n", "path\n../x\n\"", "file,metadata\na,\"{\"\"a\"\":1}\"\n\n,\n", "path\r\na\r\n", "\uFEFFPATH,x,x\n1,2,3\n", "path\nx.tar\n"} {
		f.Add([]byte(s))
	}
	fuzzRows(f, "l.csv", func(t *testing.T, l *list, i int) {
		e, err := l.entry(i)
		if err != nil {
			t.Fatalf("row %d was read once: %v", i, err)
		}
		if (e.wrong != nil) != (l.media[i].size == unreadable) || e.path != l.media[i].path || e.ID == "" {
			t.Fatalf("row %d: %+v", i, e)
		}
		_, _ = l.load(i, 10)
	})
}
