package source

import (
	"archive/tar"
	"bytes"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
)

// tarOf writes an archive of name, content, name, content, …; a name that ends
// in "/" is a folder, a content that begins with "->" a link.
func tarOf(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), ModTime: time.Unix(1, 0)}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag = tar.TypeDir
		} else if to, ok := strings.CutPrefix(pairs[i+1], "->"); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			if _, err := w.Write([]byte(pairs[i+1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pets(t testing.TB) []byte {
	return tarOf(t,
		"./", "", "./a/", "",
		"./a/cat.v2.jpg", "cat", "./a/cat.txt", " a cat\n", "./a/cat.json", `{"url":"http://cat","width":3}`, "./a/cat.cls", "7",
		"dog.txt", "a dog", "dog.json", `{"id":"D","caption":"the dog","uri":"u","metadata":{"cls":1},"key":null}`, "dog.png", "dog", "dog.wav", "woof", "dog.cls", "x",
		".hidden.jpg", "h", "bird.txt", "no picture", "fish.jpg", "->cat.jpg",
		"owl.json", "{", "owl.jpg", "owl", "bad.jpg", "bad one", "none.jpg", "",
		strings.Repeat("long/", 60)+"name.jpg", "long", "ü #1.jpg", "u", "cow.cls", "cattle", "cow.jpg", "cow",
		"big.json", `{"x":"`+strings.Repeat("y", maxLine)+`"}`, "big.jpg", "big", "dir/cat.jpg", "another cat")
}

func TestArchives(t *testing.T) {
	root := tree(t, map[string]string{
		"s/pets.TAR": string(pets(t)), "s/1.tar": string(tarOf(t, "x.jpg", "x1", "x.txt", "first")), "w/00/1.tar": string(tarOf(t, "x.jpg", "x1")),
		"w/2.tar": string(tarOf(t, "x.jpg", "x2", "y.jpg", "y2")), "w/.3.tar": "hidden", "w/2.json": "{}", "w/2.parquet": "p", "w/stats.csv": "a", "w/empty.tar": string(tarOf(t)),
		"mixed/1.tar": "no archive", "mixed/a.jpg": "a",
		"l/list.jsonl": `{"path":"../w/2.tar"}` + "\n" + `{"path":"../mixed/a.jpg","id":"A"}` + "\n", "l/list.csv": "path\n../w/2.tar\n../mixed/a.jpg\n", "l/none.csv": "path\nnone.tar\n",
		"text.tar":      string(tarOf(t, "1.txt", "one", "1.json", `{"n":1}`, "2.txt", "two", "3.jpg", "three")),
		"zipped.tar.gz": "\x1f\x8b",
		"imu.tar":       string(tarOf(t, "1.csv", "0,1", "1.txt", "a walk")),
	})
	image := func(id, uri, caption, content string, meta map[string]any) want {
		return want{id, uri, caption, meta, "media_url", content, ""}
	}
	wrong := func(why string) want { return want{why: why} }
	two := []want{image("w/2.tar/x.jpg", "file:w/2.tar#x.jpg", "", "x2", nil), image("w/2.tar/y.jpg", "file:w/2.tar#y.jpg", "", "y2", nil)}
	tests := []struct {
		path string
		s    retrieverapi.Source
		want []want
		says string // of the error
	}{
		{"s/pets.TAR", retrieverapi.Source{}, []want{
			image("pets.TAR/a/cat.v2.jpg", "http://cat", "a cat", "cat", map[string]any{"width": 3.0, "cls": 7.0}),
			image("D", "u", "the dog", "dog", map[string]any{"cls": 1.0, "key": nil}),
			wrong("s/pets.TAR: the sample bird has no medium"), wrong("s/pets.TAR/owl.jpg: owl.json: it is no JSON object"),
			wrong("s/pets.TAR/bad.jpg: bad one is no picture"), wrong("s/pets.TAR/none.jpg: it is empty"),
			image("", "file:s/pets.TAR#"+strings.Repeat("long/", 60)+"name.jpg", "", "long", nil), image("pets.TAR/ü #1.jpg", "file:s/pets.TAR#%C3%BC%20%231.jpg", "", "u", nil),
			image("pets.TAR/cow.jpg", "file:s/pets.TAR#cow.jpg", "", "cow", map[string]any{"cls": "cattle"}), wrong("big.json has over 262144 bytes"),
			image("pets.TAR/dir/cat.jpg", "file:s/pets.TAR#dir/cat.jpg", "", "another cat", nil)}, ""},
		{"w", retrieverapi.Source{}, []want{image("00/1.tar/x.jpg", "file:w/00/1.tar#x.jpg", "", "x1", nil), {"2.tar/x.jpg", "file:w/2.tar#x.jpg", "", nil, "media_url", "x2", ""}, {"2.tar/y.jpg", "file:w/2.tar#y.jpg", "", nil, "media_url", "y2", ""}}, ""},
		{"mixed", retrieverapi.Source{}, []want{image("a.jpg", "file:mixed/a.jpg", "", "a", nil)}, ""},
		{"l/list.jsonl", retrieverapi.Source{}, append(two[:2:2], image("A", "file:mixed/a.jpg", "", "a", nil)), ""},
		{"l/list.csv", retrieverapi.Source{}, append(two[:2:2], image("mixed/a.jpg", "file:mixed/a.jpg", "", "a", nil)), ""},
		{"text.tar", retrieverapi.Source{Modality: "text"}, []want{
			{"text.tar/1.txt", "file:text.tar#1.txt", "one", map[string]any{"n": 1.0}, "bind_text", "one", ""}, {"text.tar/2.txt", "file:text.tar#2.txt", "two", nil, "bind_text", "two", ""}, wrong("the sample 3 has no medium")}, ""},
		{"imu.tar", retrieverapi.Source{Modality: "imu"}, []want{{"imu.tar/1.csv", "file:imu.tar#1.csv", "a walk", nil, "imu_url", "0,1", ""}}, ""},
		{"w/empty.tar", retrieverapi.Source{}, nil, ""},
		{"mixed/1.tar", retrieverapi.Source{}, nil, "mixed/1.tar: it is cut, or no .tar"},
		{"l/none.csv", retrieverapi.Source{}, nil, "none.tar"},
		{"zipped.tar.gz", retrieverapi.Source{}, nil, "gunzip it"},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			m, err := openMedia(t, newFakeRunner(t), quick, root, tt.path, tt.s, filepath.Join(t.TempDir(), "s"))
			if tt.says != "" {
				if k := imagebind.KindOf(err); k != imagebind.Invalid && k != imagebind.NotFound || !strings.Contains(imagebind.MessageOf(err), tt.says) {
					t.Errorf("%v, want %q", err, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range tt.want {
				if w.id == "" && w.why == "" {
					tt.want[i].id = id(strings.TrimPrefix(m.media[i].name(), "s/"))
				}
			}
			mediaAre(t, m, tt.want)
		})
	}
}

// TestArchivesRefused: however an archive is cut, it is an error and not fewer rows.
func TestArchivesRefused(t *testing.T) {
	whole := tarOf(t, "a.jpg", strings.Repeat("a", 700), "a.txt", "a", strings.Repeat("long/", 60)+"b.jpg", "b")
	holes := tarOf(t, "a.jpg", "x")
	holes[156] = tar.TypeGNUSparse
	copy(holes[257:], "ustar  \x00") // GNU's
	clear(holes[345:512])
	copy(holes[148:156], fmt.Sprintf("%06o\x00 ", checksum(holes[:512])))
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	list := func(b []byte) error {
		write(t, dir+"/x.tar", b)
		l, err := openList(t.Context(), root, "x.tar", retrieverapi.Source{}, fnv.New64a())
		if err == nil {
			_ = l.close()
		}
		return err
	}
	if err := list(whole); err != nil {
		t.Fatal(err)
	}
	end := len(whole) - tarBlock // one block of the two at the end is enough
	for n := 0; n < end; n += 1 + n%7*13 {
		if err := list(whole[:n]); imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "x.tar: it is cut") {
			t.Fatalf("its first %d bytes: %v", n, err)
		}
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"two in one file", append(whole[:len(whole):len(whole)], whole...), "more behind its end"},
		{"a member with holes", holes, "a.jpg has holes"},
		{"a long name", tarOf(t, strings.Repeat("n", maxName+1), "x"), "name has 4097 bytes"},
		{"another file", bytes.Repeat([]byte("pictures\n"), 1000), "no .tar"},
	} {
		if err := list(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// checksum of a header, with its own field as spaces.
func checksum(h []byte) (sum int) {
	for i, b := range h {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int(b)
	}
	return sum
}

// TestArchiveResumes: an archive that is the same asks for nothing twice, one
// that changed has another hash.
func TestArchiveResumes(t *testing.T) {
	f, root := newFakeRunner(t), t.TempDir()
	var pairs []string
	for i := range 30 {
		pairs = append(pairs, fmt.Sprintf("%02d.jpg", i), fmt.Sprint(i), fmt.Sprintf("%02d.txt", i), fmt.Sprint("caption ", i))
	}
	scratch := filepath.Join(t.TempDir(), "s")
	open := func(pairs []string) *Media {
		write(t, root+"/x.tar", tarOf(t, pairs...))
		m, err := openMedia(t, f, quick, root, "x.tar", retrieverapi.Source{}, scratch)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open(pairs)
	kept, err := m.Read(t.Context(), 0, 5)
	if err != nil {
		t.Fatal(err)
	}
	first := m.Hash()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = open(pairs)
	for i, r := range everyRow(t, m) {
		if want := vectorOf("media_url", fmt.Sprint(i), "{}"); r.Caption != fmt.Sprint("caption ", i) || !reflect.DeepEqual(r.Vector, want) {
			t.Errorf("row %d: %q, %v", i, r.Caption, r.Vector)
		}
	}
	for i := range kept { // what was under way behind them is asked for again
		if n := f.seen[fmt.Sprint(i)]; n != 1 {
			t.Errorf("%d was embedded %d times", i, n)
		}
	}
	if m.Hash() != first {
		t.Error("another hash")
	}
	pairs[3] = "another caption"
	if open(pairs).Hash() == first {
		t.Error("another caption, the same hash")
	}
}

func FuzzArchive(f *testing.F) {
	small := tarOf(f, "a.jpg", "a", "a.txt", "x", "a.json", `{"id":1}`, "b.cls", "3", strings.Repeat("l/", 80)+"b.jpg", "->a.jpg")
	f.Add(small)
	f.Add(small[:700])
	f.Add(tarOf(f, "1.txt", "one"))
	fuzzRows(f, "x.tar", func(t *testing.T, l *list, i int) {
		if e, err := l.entry(i); err != nil || e.ID == "" || e.wrong == nil && l.media[i].member == "" {
			t.Fatalf("row %d: %+v, %v", i, e, err)
		}
		if b, err := l.load(i, 10); len(b) > 10 || err == nil && int64(len(b)) != l.media[i].size {
			t.Fatalf("row %d: %d bytes, %v", i, len(b), err)
		}
	})
}
