package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	imagebind "imagebind-llm"
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
	header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", n, dim)
	header += strings.Repeat(" ", 63-(len(header)+10)%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), byte(len(header)>>8))
	b = append(b, header...)
	r := rand.New(rand.NewPCG(3, 4))
	var first imagebind.Embedding
	for i := range n {
		v := make(imagebind.Embedding, dim)
		for j := range v {
			v[j] = r.Float32() - 0.5
		}
		v.Normalize()
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		if i == 0 {
			first = v
		}
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return first
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
