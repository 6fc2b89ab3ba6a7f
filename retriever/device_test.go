//go:build cgo

package main

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/retriever/retrieverapi"
)

// TestDevice: with --device, what a rebuild made is searched there, and
// /metrics says so.
func TestDevice(t *testing.T) {
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	dir, addr, ctx := t.TempDir(), freeAddr(t), t.Context()
	first := writeNPY(t, filepath.Join(dir, "features.npy"), 5000, 16)
	_, c := serve(t, addr, "--data", filepath.Join(dir, "data"), "--source-root", dir, "--device", "cpu", "--values", "float16")
	j, err := c.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "pets", Source: retrieverapi.Source{Path: "features.npy"}})
	if err != nil {
		t.Fatal(err)
	}
	if j, err = c.Wait(ctx, j.ID, time.Minute, nil); err != nil || j.State != retrieverapi.JobDone {
		t.Fatalf("%+v, %v", j, err)
	}
	metrics := func() string {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); !strings.Contains(metrics(), `retriever_device_rows{collection="pets"} 5000`); <-tick.C {
		if time.Since(start) > 20*time.Second {
			t.Fatal("the rows are not on the device after 20 s")
		}
	}
	got, err := c.Search(ctx, "pets", []imagebind.Embedding{first}, 3, nil)
	if err != nil || len(got[0]) != 3 || got[0][0].Similarity < 0.999 {
		t.Errorf("%v, %v", got, err)
	}
	if m := metrics(); !strings.Contains(m, `retriever_device_queries_total{by="device",collection="pets"} 1`) {
		t.Errorf("the device was not asked: %s", m[strings.Index(m, "retriever_device"):])
	}
}
