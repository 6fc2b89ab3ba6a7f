package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/internal/progtest"
	"imagebind-llm/retriever/retrieverapi"
)

func TestMain(m *testing.M) {
	progtest.Main(main)
	os.Exit(m.Run())
}

// serve starts the program and waits until it is ready.
func serve(t *testing.T, addr string, args ...string) (*exec.Cmd, *retrieverapi.Client) {
	t.Helper()
	cmd := progtest.Command(t, append([]string{"serve", "--listen", addr}, args...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if t.Failed() {
			t.Logf("the program said:\n%s", log.String())
		}
	})
	c, err := retrieverapi.NewClient("http://"+addr, retrieverapi.Options{BreakAfter: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); c.Ready(t.Context()) != nil; <-tick.C {
		if time.Since(start) > 20*time.Second {
			t.Fatal("not ready after 20 s")
		}
	}
	return cmd, c
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// writeNPY writes rows [n, dim] of unit vectors and returns the first.
func writeNPY(t *testing.T, path string, n, dim int) imagebind.Embedding {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	rows := make([]imagebind.Embedding, n)
	for i := range rows {
		rows[i] = make(imagebind.Embedding, dim)
		for j := range rows[i] {
			rows[i][j] = r.Float32() - 0.5
		}
		rows[i].Normalize()
	}
	writeRows(t, path, rows)
	return rows[0]
}

// writeRows writes rows as .npy.
func writeRows(t *testing.T, path string, rows []imagebind.Embedding) {
	t.Helper()
	header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", len(rows), len(rows[0]))
	header += strings.Repeat(" ", 63-(len(header)+10)%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), byte(len(header)>>8))
	b = append(b, header...)
	for _, v := range rows {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A rebuild that is killed goes on after the restart; until then and after it
// fails to answer nothing, the old generation serves.
func TestKilledDuringARebuild(t *testing.T) {
	if testing.Short() {
		t.Skip("100 MB of rows")
	}
	dir, addr, ctx := t.TempDir(), freeAddr(t), t.Context()
	const n, dim = 60000, 256
	first := writeNPY(t, filepath.Join(dir, "features.npy"), n, dim)
	args := []string{"--data", filepath.Join(dir, "data"), "--source-root", dir}
	cmd, c := serve(t, addr, args...)
	if _, err := c.Create(ctx, "default", retrieverapi.CreateCollection{Dim: dim}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Upsert(ctx, "default", []retrieverapi.Item{{ID: "old", Vector: retrieverapi.Vector(first)}}); err != nil {
		t.Fatal(err)
	}
	j, err := c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "default", Source: retrieverapi.Source{Path: "features.npy"}})
	if err != nil {
		t.Fatal(err)
	}
	watch, stop := context.WithCancel(ctx)
	var at retrieverapi.Job
	_, _ = c.Wait(watch, j.ID, time.Minute, func(j retrieverapi.Job) {
		if at = j; j.RowsDone > 0 || j.Over() {
			stop()
		}
	})
	stop()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if at.State != "running" {
		t.Fatalf("the job was over before the kill: %+v", at)
	}
	t.Logf("killed in phase %s at row %d", at.Phase, at.RowsDone)

	cmd, c = serve(t, addr, args...)
	old, err := c.Search(ctx, "default", []imagebind.Embedding{first}, 1, nil)
	if err != nil || len(old[0]) != 1 {
		t.Fatalf("%v, %v", old, err)
	}
	j, err = c.Wait(ctx, j.ID, time.Minute, nil)
	if err != nil || j.State != "done" || j.Resumed != 1 || j.RowsDone != n || j.Checks.Rows != n || j.Checks.Recall < 0.999 {
		t.Fatalf("%+v, %v", j, err)
	}
	info, err := c.Collection(ctx, "default")
	if err != nil || info.Count != n || info.Generation != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	got, err := c.Search(ctx, "default", []imagebind.Embedding{first}, 1, nil)
	if err != nil || got[0][0].ID == "old" || math.Abs(float64(got[0][0].Similarity)-1) > 1e-5 {
		t.Errorf("%v, %v", got, err)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// A fakeRunner embeds each file as its bytes, one a value, and counts them.
type fakeRunner struct {
	mu     sync.Mutex
	seen   map[string]int
	answer int           // requests that are answered before open is closed
	open   chan struct{} // the others wait for it
	full   chan struct{} // closed when one waits
}

func (f *fakeRunner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer secret" {
		httpapi.WriteError(w, r, imagebind.Errorf(imagebind.Unauthorized, "no key"))
		return
	}
	if r.URL.Path == "/v1/models" {
		_, _ = io.WriteString(w, `{"data":[{"id":"fake","dimensions":4,"modalities":["image"],"inputs":[{"modality":"image","part":"image_url"}]}]}`)
		return
	}
	var q struct {
		Input []struct {
			Content []struct {
				Image struct{ URL string } `json:"image_url"`
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		httpapi.WriteError(w, r, imagebind.Errorf(imagebind.Invalid, "%w", err))
		return
	}
	f.mu.Lock()
	f.answer--
	if f.answer == -1 {
		close(f.full)
	}
	wait := f.answer < 0
	f.mu.Unlock()
	if wait {
		select {
		case <-f.open:
		case <-r.Context().Done():
			return
		}
	}
	var data []map[string]any
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, in := range q.Input {
		_, b64, _ := strings.Cut(in.Content[0].Image.URL, ",")
		file, _ := base64.StdEncoding.DecodeString(b64)
		f.seen[string(file)]++
		var row []byte
		for _, c := range file {
			row = binary.LittleEndian.AppendUint32(row, math.Float32bits(float32(c)))
		}
		data = append(data, map[string]any{"index": i, "embedding": row})
	}
	httpapi.WriteJSON(w, http.StatusOK, map[string]any{"data": data})
}

// A rebuild from media that is killed goes on after the restart, and embeds
// again no more than what was under way.
func TestKilledWhileItEmbeds(t *testing.T) {
	for _, tt := range []struct{ path, id, uri string }{
		{"photos", "123.jpg", "file:photos/123.jpg"},
		{"photos.csv", "photos/123.jpg", "file:photos/123.jpg"},
		{"shards", "1.tar/123.jpg", "file:shards/1.tar#123.jpg"},
	} {
		t.Run(tt.path, func(t *testing.T) { killedWhileItEmbeds(t, tt.path, tt.id, tt.uri) })
	}
}

// photographs writes n media: in a folder, in a list of its files, in two archives.
func photographs(t *testing.T, root string, n int) {
	t.Helper()
	list, shards := bytes.NewBufferString("path\n"), [2]bytes.Buffer{}
	archives := [2]*tar.Writer{tar.NewWriter(&shards[0]), tar.NewWriter(&shards[1])}
	put := func(name string, b []byte) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		name, b := fmt.Sprintf("%03d.jpg", i), fmt.Appendf(nil, "%04d", i)
		put("photos/"+name, b)
		fmt.Fprintf(list, "photos/%s\n", name)
		w := archives[2*i/n]
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	put("photos.csv", list.Bytes())
	for i, w := range archives {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		put(fmt.Sprintf("shards/%d.tar", i), shards[i].Bytes())
	}
}

func killedWhileItEmbeds(t *testing.T, path, id, uri string) {
	dir, addr, ctx := t.TempDir(), freeAddr(t), t.Context()
	const n, batch, requests = 200, 5, 2
	photographs(t, filepath.Join(dir, "root"), n)
	f := &fakeRunner{seen: map[string]int{}, answer: 20, open: make(chan struct{}), full: make(chan struct{})}
	runner := httptest.NewServer(f)
	defer runner.Close()
	t.Setenv("RETRIEVER_RUNNER_KEY", "secret")
	args := []string{"--data", filepath.Join(dir, "data"), "--source-root", filepath.Join(dir, "root"), "--runners", runner.URL,
		"--jobs-embed-batch", fmt.Sprint(batch), "--jobs-embed-requests", fmt.Sprint(requests)}
	cmd, c := serve(t, addr, args...)
	j, err := c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "photos", Source: retrieverapi.Source{Path: path, Runner: runner.URL + "/", Modality: "image"}})
	if err != nil {
		t.Fatal(err)
	}
	<-f.full
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	close(f.open)

	_, c = serve(t, addr, args...)
	j, err = c.Wait(ctx, j.ID, time.Minute, nil)
	if err != nil || j.State != "done" || j.Resumed != 1 || j.RowsDone != n || j.Checks.Rows != n || j.Checks.Recall != 1 || j.Model != "fake" {
		t.Fatalf("%+v, %v", j, err)
	}
	twice := 0
	for _, times := range f.seen {
		twice += times - 1
	}
	if len(f.seen) != n || twice > batch*requests {
		t.Errorf("%d files embedded, %d of them twice", len(f.seen), twice)
	}
	q := imagebind.Embedding{'0', '1', '2', '3'}
	got, err := c.Search(ctx, "photos", []imagebind.Embedding{q}, n, nil)
	if err != nil || !slices.ContainsFunc(got[0], func(n imagebind.Neighbour) bool { return n.ID == id && n.URI == uri }) {
		t.Errorf("%v, %v", got, err)
	}
	if info, err := c.Collection(ctx, "photos"); err != nil || info.Model != "fake" {
		t.Errorf("%+v, %v", info, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "data/jobs/*.rows")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	_, err = c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "photos", Source: retrieverapi.Source{Path: "photos", Runner: "http://127.0.0.1:1"}})
	if imagebind.KindOf(err) != imagebind.Invalid || imagebind.ParamOf(err) != "source.runner" {
		t.Errorf("a runner that is not named: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("listen: ':1'\nlisten_on: ':2'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"help", []string{"--help"}, 0, "serve"},
		{"help of serve", []string{"serve", "--help"}, 0, "retriever serve --store milvus"},
		{"version", []string{"--version"}, 0, "retriever version"},
		{"nothing", nil, 0, "Usage"},
		{"unknown command", []string{"server"}, 2, "server"},
		{"unknown flag", []string{"serve", "--port", "1"}, 2, "--port"},
		{"argument", []string{"serve", "x"}, 2, "x"},
		{"unknown key", []string{"serve", "--config", bad}, 2, "listen_on"},
		{"store", []string{"serve", "--store", "sqlite"}, 2, "sqlite"},
		{"a runner that is no URL", []string{"serve", "--runners", "runner:8080"}, 2, "http://localhost:8080"},
		{"no requests", []string{"serve", "--jobs-embed-requests", "0"}, 2, "1 to 64"},
		{"no batch", []string{"serve", "--jobs-embed-batch", "4000"}, 2, "1 to 2048"},
		{"a device of another kind", []string{"serve", "--device", "tpu"}, 2, "cuda:N"},
		{"a device beside Milvus", []string{"serve", "--store", "milvus", "--device", "cuda"}, 2, "embedded"},
		{"a device without its library", []string{"serve", "--data", dir, "--device", "cpu", "--ort-lib", bad + ".so"}, 1, "onnxruntime"},
		{"log format", []string{"serve", "--log-format", "xml"}, 2, "xml"},
		{"address in use", []string{"serve", "--data", dir, "--listen", busy.Addr().String()}, 1, "address already in use"},
	}
	for _, tt := range tests {
		progtest.Check(t, tt.name, tt.code, tt.says, tt.args...)
	}
}

// configs/retriever.yaml lists every key with its default.
func TestConfigFile(t *testing.T) {
	progtest.ConfigFile(t, "../configs/retriever.yaml", &options{}, defaults())
}

func TestServesOpenAPI(t *testing.T) {
	addr := freeAddr(t)
	_, _ = serve(t, addr, "--data", t.TempDir())
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !bytes.Contains(b, []byte(`"openapi":"3.1.0"`)) {
		t.Errorf("%d, %v, %.80s", resp.StatusCode, err, b)
	}
}
