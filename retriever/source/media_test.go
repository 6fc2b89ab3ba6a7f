package source

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

var _ jobs.Made = (*Media)(nil)

const mediaDim = 8

// vectorOf is what the fake runner makes of a part: it tells types, contents
// and parameters apart.
func vectorOf(part, content, params string) imagebind.Embedding {
	h := fnv.New64a()
	_, _ = io.WriteString(h, part+"|"+content+"|"+params)
	v, x := make(imagebind.Embedding, mediaDim), h.Sum64()
	for i := range v {
		v[i] = float32(x>>(8*i)&0xff) - 127.5
	}
	v.Normalize()
	return v
}

// A fakeRunner answers as docs/api.md says. Files that begin with "bad" it
// refuses, the first of a request at a time.
type fakeRunner struct {
	*httptest.Server
	mu       sync.Mutex
	model    string
	weights  string         // its fingerprint
	seen     map[string]int // how often each content was embedded
	requests int
	sizes    []int // items of each request that was answered
	largest  int   // bytes of a body
	now, top int   // requests under way, and the most
	// hook, where set, may answer itself: it then returns true.
	hook func(w http.ResponseWriter, r *http.Request, contents []string) bool
}

func newFakeRunner(t *testing.T) *fakeRunner {
	f := &fakeRunner{model: "tiny", seen: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var inputs []map[string]any
		for m, part := range map[string]string{"image": "image_url", "depth": "depth_url", "imu": "imu_url", "text": "bind_text", "thermal": "thermal_url"} {
			inputs = append(inputs, map[string]any{"modality": m, "part": part})
		}
		httpapi.WriteJSON(w, 200, map[string]any{"data": []any{map[string]any{"id": f.model, "fingerprint": f.weights, "dimensions": mediaDim,
			"modalities": []string{"image", "depth", "imu", "text"}, "inputs": inputs}}})
	})
	mux.HandleFunc("POST /v1/embeddings", f.embeddings)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRunner) embeddings(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	var q struct {
		Model string `json:"model"`
		Input []struct {
			Content []map[string]json.RawMessage `json:"content"`
		} `json:"input"`
	}
	if err != nil || json.Unmarshal(raw, &q) != nil {
		httpapi.WriteError(w, r, imagebind.Errorf(imagebind.Invalid, "no request: %.80s", raw))
		return
	}
	f.mu.Lock()
	f.requests++
	f.now++
	f.top, f.largest = max(f.top, f.now), max(f.largest, len(raw))
	model, hook := f.model, f.hook
	f.mu.Unlock()
	defer func() { f.mu.Lock(); f.now--; f.mu.Unlock() }()
	if q.Model != model {
		httpapi.WriteError(w, r, imagebind.Errorf(imagebind.NotFound, "no model %q here", q.Model))
		return
	}
	var contents []string
	var vectors []imagebind.Embedding
	for _, in := range q.Input {
		part, content, params := "", "", ""
		for _, p := range in.Content {
			_ = json.Unmarshal(p["type"], &part)
			var payload map[string]any
			_ = json.Unmarshal(p[part], &payload)
			if text, ok := payload["text"].(string); ok {
				content = text
			} else if data, ok := strings.CutPrefix(fmt.Sprint(payload["url"]), "data:application/octet-stream;base64,"); ok {
				b, _ := base64.StdEncoding.DecodeString(data)
				content = string(b)
			}
			delete(payload, "url")
			delete(payload, "text")
			b, _ := json.Marshal(payload)
			params = string(b)
		}
		contents, vectors = append(contents, content), append(vectors, vectorOf(part, content, params))
	}
	if hook != nil && hook(w, r, contents) {
		return
	}
	if i := slices.IndexFunc(contents, func(c string) bool { return strings.HasPrefix(c, "bad") }); i >= 0 {
		httpapi.WriteError(w, r, imagebind.WithParam(imagebind.Errorf(imagebind.Unsupported, "%s is no picture", contents[i]), fmt.Sprintf("input[%d].content[0].media_url.url", i)))
		return
	}
	f.mu.Lock()
	f.sizes = append(f.sizes, len(contents))
	for _, c := range contents {
		f.seen[c]++
	}
	f.mu.Unlock()
	var data []any
	for i, v := range vectors {
		b := make([]byte, 0, 4*mediaDim)
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		data = append(data, map[string]any{"index": i, "embedding": b})
	}
	slices.Reverse(data) // the index counts, not the order
	httpapi.WriteJSON(w, 200, map[string]any{"data": data})
}

// tree writes files: name -> content.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(root, name), []byte(content))
	}
	return root
}

var quick = RunnerOptions{Backoff: time.Millisecond, Retries: 2, Batch: 4, Requests: 2}

func runners(t *testing.T, f *fakeRunner, o RunnerOptions) *Runners {
	t.Helper()
	rs, err := NewRunners([]string{f.URL}, o)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func openMedia(t *testing.T, f *fakeRunner, o RunnerOptions, root, name string, s retrieverapi.Source, scratch string) (*Media, error) {
	t.Helper()
	s.Runner = f.URL
	m, err := runners(t, f, o).OpenMedia(t.Context(), root, name, s, scratch)
	if err == nil {
		t.Cleanup(func() { _ = m.Close() })
	}
	return m, err
}

// everyRow reads the rows in order, as a copy does.
func everyRow(t *testing.T, m *Media) []store.Row {
	t.Helper()
	var rows []store.Row
	for len(rows) < m.Rows() {
		got, err := m.Read(t.Context(), len(rows), 2048)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, got...)
	}
	return rows
}

func TestMediaLists(t *testing.T) {
	files := map[string]string{
		"pets/b.jpg": "b", "pets/a.jpg": "a", "pets/a.txt": " a cat\n", "pets/sub dir/ü.png": "u", "pets/.hidden.jpg": "h", "pets/.git/x.jpg": "x",
		"pets/README.md": "m", "pets/notes.csv": "n", "secret.jpg": "secret", "other/o.jpg": "o",
		"noted/x.jpg": "x", "noted/x.txt": "from the txt", "noted/y.jpg": "y",
		"noted/captions.jsonl":     `{"path":"x.jpg","caption":"from the notes","id":"X","license":"CC0","uri":"http://x"}` + "\n" + `{"file_name":"gone.jpg"}`,
		"strange/captions.jsonl":   `{"path":"nothing.jpg"}`,
		"strange/x.jpg":            "x",
		"lists/all.jsonl":          `{"path":"../other/o.jpg","caption":"o","metadata":{"n":1}}` + "\n" + `{"text":"a dog"}` + "\n" + `{"path":"gone.jpg","id":7}` + "\n" + `{"path":"d.png","modality":"depth","params":{"baseline":0.5,"metres":true}}`,
		"lists/d.png":              "d",
		"lists/out.jsonl":          `{"path":"../../etc/passwd"}`,
		"lists/absolute.jsonl":     `{"path":"/etc/passwd"}`,
		"lists/neither.jsonl":      `{"id":"x"}`,
		"lists/both.jsonl":         `{"path":"d.png","text":"d"}`,
		"lists/broken.jsonl":       `{"path":`,
		"lists/params.jsonl":       `{"path":"d.png","params":{"rate":"fast"}}`,
		"lists/empty.jsonl":        "",
		"lists/wrong path.jsonl":   `{"path":7}`,
		"texts/1.txt":              "one",
		"texts/2.txt":              "two",
		"texts/3.jpg":              "three",
		"points/p.ply":             "p",
		"points/p.txt":             "a chair",
		"points/q.txt":             "0 0 0",
		"points/captions.md":       "",
		"long/" + long() + ".jpg":  "l",
		"single/" + "s.PNG":        "s",
		"single/" + "s.txt":        "alone",
		"single/" + "ignored.json": "{}",
	}
	root := tree(t, files)
	outside := tree(t, map[string]string{"secret.jpg": "outside", "dir/x.jpg": "x"})
	for link, to := range map[string]string{"pets/out.jpg": outside + "/secret.jpg", "pets/nowhere.jpg": "nowhere", "pets/z-in.jpg": "../other/o.jpg", "pets/dir": "../other"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	type row struct{ id, uri, caption, part, content, params string }
	image := func(id, uri, caption, content string) row {
		return row{id, uri, caption, "media_url", content, "{}"}
	}
	tests := []struct {
		name, path string
		s          retrieverapi.Source
		want       []row
		says       string // of the error
	}{
		{"folder", "pets", retrieverapi.Source{}, []row{
			image("a.jpg", "file:pets/a.jpg", "a cat", "a"), image("b.jpg", "file:pets/b.jpg", "", "b"),
			image("sub dir/ü.png", "file:pets/sub%20dir/%C3%BC.png", "", "u"), image("z-in.jpg", "file:pets/z-in.jpg", "", "o")}, ""},
		{"folder with notes", "noted", retrieverapi.Source{}, []row{
			image("X", "http://x", "from the notes", "x"), image("y.jpg", "file:noted/y.jpg", "", "y")}, ""},
		{"one modality, with parameters", "points", retrieverapi.Source{Modality: "depth", Params: map[string]any{"rate": 200.0, "flip": true}}, []row{
			{"p.ply", "file:points/p.ply", "a chair", "depth_url", "p", `{"flip":true,"rate":200}`}, {"q.txt", "file:points/q.txt", "", "depth_url", "0 0 0", `{"flip":true,"rate":200}`}}, ""},
		{"texts", "texts", retrieverapi.Source{Modality: "text"}, []row{
			{"1.txt", "file:texts/1.txt", "one", "bind_text", "one", "{}"}, {"2.txt", "file:texts/2.txt", "two", "bind_text", "two", "{}"}}, ""},
		{"list", "lists/all.jsonl", retrieverapi.Source{}, []row{
			image("other/o.jpg", "file:other/o.jpg", "o", "o"), {"1", "", "a dog", "bind_text", "a dog", "{}"},
			{"7", "file:lists/gone.jpg", "", "", "", ""}, {"d.png", "file:lists/d.png", "", "depth_url", "d", `{"baseline":0.5,"metres":true}`}}, ""},
		{"one file", "single/s.PNG", retrieverapi.Source{}, []row{image("s.PNG", "file:single/s.PNG", "alone", "s")}, ""},
		{"a name too long for an id", "long", retrieverapi.Source{}, []row{image("", "file:long/"+long()+".jpg", "", "l")}, ""},
		{"an empty list", "lists/empty.jsonl", retrieverapi.Source{}, nil, ""},
		{"notes of other files", "strange", retrieverapi.Source{}, nil, "none of the 1 paths of captions.jsonl"},
		{"out of the root", "lists/out.jsonl", retrieverapi.Source{}, nil, "line 1: the path \"../../etc/passwd\" is not below"},
		{"absolute", "lists/absolute.jsonl", retrieverapi.Source{}, nil, "is not below the source root"},
		{"neither path nor text", "lists/neither.jsonl", retrieverapi.Source{}, nil, "a path or a text"},
		{"both", "lists/both.jsonl", retrieverapi.Source{}, nil, "a path or a text"},
		{"broken JSON", "lists/broken.jsonl", retrieverapi.Source{}, nil, "no JSON object"},
		{"a path that is no string", "lists/wrong path.jsonl", retrieverapi.Source{}, nil, "path"},
		{"parameters that are none", "lists/params.jsonl", retrieverapi.Source{}, nil, "\"rate\" is neither a number"},
		{"no such path", "nothing", retrieverapi.Source{}, nil, "nothing"},
		{"a modality without an encoder", "pets", retrieverapi.Source{Modality: "thermal"}, nil, "no encoder for thermal; it has image, depth"},
		{"no modality", "pets", retrieverapi.Source{Modality: "smell"}, nil, "no encoder for smell"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeRunner(t)
			m, err := openMedia(t, f, quick, root, tt.path, tt.s, filepath.Join(t.TempDir(), "s"))
			if tt.says != "" {
				if err == nil || !strings.Contains(imagebind.MessageOf(err), tt.says) {
					t.Errorf("%v, want %q", err, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.Rows() != len(tt.want) || m.Dim() != mediaDim || m.Model() != "tiny" {
				t.Fatalf("%d rows of %d values by %s", m.Rows(), m.Dim(), m.Model())
			}
			for i, r := range everyRow(t, m) {
				w := tt.want[i]
				if w.id == "" && (!strings.HasPrefix(r.ID, "sha256:") || len(r.ID) != 71) || w.id != "" && r.ID != w.id || r.URI != w.uri || r.Caption != w.caption {
					t.Errorf("row %d: %q, %q, %q", i, r.ID, r.URI, r.Caption)
				}
				if w.part == "" {
					if why := m.Why(i); r.Vector != nil || !strings.Contains(why, "lists/gone.jpg: it cannot be read") {
						t.Errorf("row %d: %v, %q", i, r.Vector, why)
					}
				} else if !slices.Equal(r.Vector, vectorOf(w.part, w.content, w.params)) || m.Why(i) != "" {
					t.Errorf("row %d is not the embedding of %s %q %s: %s", i, w.part, w.content, w.params, m.Why(i))
				}
			}
			if tt.name == "folder with notes" {
				if got, err := m.Read(t.Context(), 0, 1); err != nil || got[0].Metadata["license"] != "CC0" {
					t.Errorf("%v, %v", got, err)
				}
			}
		})
	}
}

func long() string { return strings.Repeat("x", 150) + "/" + strings.Repeat("y", 150) }

// photos are n files, the content of each is its number.
func photos(t *testing.T, n int) string {
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf("p/%03d.jpg", i)] = fmt.Sprint(i)
	}
	return tree(t, files)
}

func check(t *testing.T, rows []store.Row, bad ...int) {
	t.Helper()
	for i, r := range rows {
		if r.ID != fmt.Sprintf("%03d.jpg", i) {
			t.Errorf("row %d is %s", i, r.ID)
		}
		want := vectorOf("media_url", fmt.Sprint(i), "{}")
		if slices.Contains(bad, i) {
			want = nil
		}
		if !slices.Equal(r.Vector, want) {
			t.Errorf("row %d: %v, want %v", i, r.Vector, want)
		}
	}
}

// Order, bounds, and no file twice, however slowly the requests come back.
func TestMediaInOrder(t *testing.T) {
	f, root := newFakeRunner(t), photos(t, 50)
	first := make(chan struct{}) // the first request waits for the second
	var once sync.Once
	f.hook = func(_ http.ResponseWriter, r *http.Request, contents []string) bool {
		if contents[0] != "0" {
			once.Do(func() { close(first) })
			return false
		}
		select {
		case <-first:
		case <-r.Context().Done():
		}
		return false
	}
	scratch := filepath.Join(t.TempDir(), "s")
	m, err := openMedia(t, f, quick, root, "p", retrieverapi.Source{}, scratch)
	if err != nil {
		t.Fatal(err)
	}
	check(t, everyRow(t, m))
	for _, at := range []int{49, 0, 17} { // again, in any order, as the check does
		rows, err := m.Read(t.Context(), at, 1)
		if err != nil || len(rows) != 1 || rows[0].ID != fmt.Sprintf("%03d.jpg", at) {
			t.Errorf("row %d again: %v, %v", at, rows, err)
		}
	}
	if rows, err := m.Read(t.Context(), 50, 1); len(rows) != 0 || err != nil {
		t.Errorf("at the end: %v, %v", rows, err)
	}
	if _, err := m.Read(t.Context(), 51, 1); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("past the end: %v", err)
	}
	if f.requests != 13 || slices.Max(f.sizes) != 4 || f.top > 2 {
		t.Errorf("%d requests of at most %d, %d at a time", f.requests, slices.Max(f.sizes), f.top)
	}
	// Another source with the same scratch file, as after a restart, asks for nothing.
	again, err := openMedia(t, f, quick, root, "p", retrieverapi.Source{}, scratch)
	if err != nil {
		t.Fatal(err)
	}
	check(t, everyRow(t, again))
	if again.Hash() != m.Hash() || f.requests != 13 {
		t.Errorf("hash %s and %s, %d requests", m.Hash(), again.Hash(), f.requests)
	}
}

// Half a spool: what is there is not asked for again, what is torn is.
func TestMediaGoesOn(t *testing.T) {
	f, root, scratch := newFakeRunner(t), photos(t, 20), filepath.Join(t.TempDir(), "s")
	m, err := openMedia(t, f, quick, root, "p", retrieverapi.Source{}, scratch)
	if err != nil {
		t.Fatal(err)
	}
	everyRow(t, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(scratch)
	if err != nil {
		t.Fatal(err)
	}
	size := m.spool.size()
	b[5*size+recordHead] ^= 1  // row 5 is torn
	clear(b[9*size : 11*size]) // 9 and 10 never came
	b = b[:18*size+size/2]     // nor did the end
	if err := os.WriteFile(scratch, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f.seen = map[string]int{}
	m, err = openMedia(t, f, quick, root, "p", retrieverapi.Source{}, scratch)
	if err != nil {
		t.Fatal(err)
	}
	check(t, everyRow(t, m))
	if want := map[string]int{"5": 1, "9": 1, "10": 1, "18": 1, "19": 1}; fmt.Sprint(f.seen) != fmt.Sprint(want) {
		t.Errorf("embedded %v, want %v", f.seen, want)
	}
	// A row far ahead, out of order, with an empty spool.
	if m, err = openMedia(t, f, quick, root, "p", retrieverapi.Source{}, scratch+"2"); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{13, 2, 19, 0} {
		rows, err := m.Read(t.Context(), at, 1)
		if err != nil || len(rows) != 1 || rows[0].ID != fmt.Sprintf("%03d.jpg", at) {
			t.Fatalf("row %d: %v, %v", at, rows, err)
		}
	}
	check(t, everyRow(t, m))
}

func TestMediaHash(t *testing.T) {
	f, root := newFakeRunner(t), photos(t, 3)
	write(t, root+"/l/l.jsonl", []byte(`{"path":"../p/000.jpg"}`))
	hash := func(name string, s retrieverapi.Source) string {
		m, err := openMedia(t, f, quick, root, name, s, filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		return m.Hash()
	}
	seen := map[string]string{}
	add := func(what, hash string) {
		if before, ok := seen[hash]; ok {
			t.Errorf("%s hashes as %s", what, before)
		}
		seen[hash] = what
	}
	first := hash("p", retrieverapi.Source{})
	add("at first", first)
	if again := hash("p", retrieverapi.Source{}); again != first {
		t.Error("a hash differs from itself")
	}
	add("a modality", hash("p", retrieverapi.Source{Modality: "depth"}))
	add("a parameter", hash("p", retrieverapi.Source{Modality: "depth", Params: map[string]any{"rate": 2.0}}))
	add("a list", hash("l/l.jsonl", retrieverapi.Source{}))
	write(t, root+"/l/l.jsonl", []byte(`{"path":"../p/000.jpg","caption":"x"}`))
	add("a list with a caption", hash("l/l.jsonl", retrieverapi.Source{}))
	write(t, root+"/p/001.jpg", []byte("longer"))
	add("another size", hash("p", retrieverapi.Source{}))
	write(t, root+"/p/001.txt", []byte("a cat"))
	add("a caption", hash("p", retrieverapi.Source{}))
	write(t, root+"/p/004.jpg", []byte("new"))
	add("another file", hash("p", retrieverapi.Source{}))
	f.weights = "0123"
	add("other weights", hash("p", retrieverapi.Source{}))
	f.model = "other"
	add("another model", hash("p", retrieverapi.Source{}))
}

// fuzzRows opens what it is given as a list of that name, and checks each row
// of one that opens.
func fuzzRows(f *testing.F, name string, check func(t *testing.T, l *list, i int)) {
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		write(t, dir+"/in/"+name, b)
		l, err := openList(t.Context(), root, "in/"+name, retrieverapi.Source{}, fnv.New64a())
		if err != nil {
			return
		}
		defer l.close()
		for i := range l.media {
			check(t, l, i)
		}
	})
}

func FuzzList(f *testing.F) {
	for _, s := range []string{`{"path":"a.jpg","caption":"x"}`, `{"text":"a dog","id":3}`, `{"path":"../x"}`, `{"path":"a.jpg","params":{"a":1}}` + "\n{}", "null", "{\"path\":\"\x00\"}"} {
		f.Add([]byte(s))
	}
	fuzzRows(f, "l.jsonl", func(t *testing.T, l *list, i int) {
		e, err := l.entry(i)
		if err != nil {
			t.Fatalf("row %d was read once: %v", i, err)
		}
		if e.path != l.media[i].path || e.ID == "" && e.path == "" {
			t.Fatalf("row %d: %+v", i, e)
		}
		_, _ = l.load(i, 10)
	})
}

func FuzzSpool(f *testing.F) {
	f.Add(make([]byte, 300), 0)
	f.Add([]byte{1, 2, 3}, 4)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte, row int) {
		s, err := openSpool(write(t, dir+"/s", b), mediaDim)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		row = min(max(row, 0), 1<<20)
		if r, there, err := s.get(row); err != nil || there && (r.embedding == nil) == (r.why == "") {
			t.Fatalf("%+v, %v, %v", r, there, err)
		}
		want := result{why: string(b[:min(len(b), 20)])}
		if want.why == "" {
			want.embedding = make(imagebind.Embedding, mediaDim)
		}
		if err := s.put(row, want); err != nil {
			t.Fatal(err)
		}
		if r, there, err := s.get(row); err != nil || !there || r.why != cut(want.why) || len(r.embedding) != len(want.embedding) {
			t.Fatalf("%+v came back as %+v, %v, %v", want, r, there, err)
		}
	})
}
