package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/config"
	"imagebind-llm/internal/progtest"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/internal/testbundle"
	"imagebind-llm/runner/runnerapi"
)

func TestMain(m *testing.M) {
	progtest.Main(main)
	testbundle.Main(m)
}

const picture = "modality/vision/testdata/inputs/landscape_401x300_q92_444.jpg"

func tiny(t testing.TB) *bundle.Bundle {
	return testbundle.Open(t, testbundle.ImageBind, testbundle.LLaMA, testbundle.Adapter)
}

// serve starts the program on a port of its own and waits until it is ready.
func serve(t *testing.T, args ...string) (*exec.Cmd, *runnerapi.Client, string) {
	t.Helper()
	cmd := progtest.Command(t, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	addr, over := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(over)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if _, a, ok := strings.Cut(lines.Text(), "msg=listening addr="); ok {
				addr <- a
			}
		}
	}()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		<-over
		if t.Failed() {
			t.Logf("the program said:\n%s", said.String())
		}
	})
	var url string
	select {
	case a := <-addr:
		url = "http://" + a
	case <-over:
		t.Fatalf("it ended: %s", said.String())
	}
	c, err := runnerapi.NewClient(url, runnerapi.Options{})
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
	return cmd, c, url
}

// The same question over HTTP, by ask of a server, and by ask of a bundle has
// the same answer; SIGTERM lets an answer under way finish, and then ends the program.
func TestServeAndAsk(t *testing.T) {
	b := tiny(t)
	cmd, c, url := serve(t, "--bundle", b.Dir, "--verify", "--timeout", "1m")
	flags := []string{"--image", picture, "--temperature", "0", "--max-tokens", "12", "Describe the image."}
	ask := func(args ...string) string {
		t.Helper()
		cmd := progtest.Command(t, append(append([]string{"ask"}, args...), flags...)...)
		var warn bytes.Buffer
		cmd.Stderr = &warn
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, warn.String())
		}
		return string(out)
	}
	served, local := ask("--server", url), ask("--bundle", b.Dir)
	if served != local || strings.TrimSpace(served) == "" {
		t.Errorf("the server says %q, the bundle %q", served, local)
	}
	if plain := func() string { flags = flags[2:]; return ask("--server", url) }(); plain == served {
		t.Error("the picture changes nothing")
	}

	long := 60
	request := runnerapi.ChatRequest{MaxTokens: &long, Messages: runnerapi.Messages{{Role: "user", Content: runnerapi.Content{Text: "Describe the image."}}}}
	stopped := false
	chunks := 0
	err := c.Stream(t.Context(), request, func(runnerapi.ChatChunk) error {
		if chunks++; !stopped {
			stopped = true
			return cmd.Process.Signal(syscall.SIGTERM)
		}
		return nil
	})
	if err != nil || chunks < 3 {
		t.Errorf("the answer under way: %v after %d chunks", err, chunks)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if err := c.Ready(t.Context()); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("afterwards: %v", err)
	}
}

// An answer that outlasts the grace is cut, and the program still ends well.
func TestGrace(t *testing.T) {
	cmd, c, _ := serve(t, "--bundle", tiny(t).Dir, "--grace", "1ms")
	many, long := 128, 200
	request := runnerapi.ChatRequest{N: &many, MaxTokens: &long, Messages: runnerapi.Messages{{Role: "user", Content: runnerapi.Content{Text: "Describe the image."}}}}
	_ = c.Stream(t.Context(), request, func(runnerapi.ChatChunk) error {
		_ = cmd.Process.Signal(os.Interrupt)
		return nil
	})
	if err := cmd.Wait(); err != nil && !strings.Contains(err.Error(), "exit status 1") { // a second SIGINT ends it at once
		t.Errorf("after SIGINT: %v", err)
	}
}

func TestKeys(t *testing.T) {
	_, c, url := serve(t, "--bundle", tiny(t).Dir, "--keys", "a-secret,another")
	if _, err := c.Models(t.Context()); imagebind.KindOf(err) != imagebind.Unauthorized {
		t.Errorf("without a key: %v", err)
	}
	cmd := progtest.Command(t, "ask", "--server", url, "--key", "another", "--max-tokens", "3", "Hello")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("with a key: %v: %s", err, out)
	}
	cmd = progtest.Command(t, "ask", "--server", url, "Hello")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "key") {
		t.Errorf("without a key: %v: %s", err, out)
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("listen: ':1'\nlisten_on: ':2'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + free.Addr().String()
	free.Close()
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"help", []string{"--help"}, 0, "serve"},
		{"help of serve", []string{"serve", "--help"}, 0, "--on-retriever-failure"},
		{"help of ask", []string{"ask", "--help"}, 0, "--bind-text strawberry"},
		{"version", []string{"--version"}, 0, "runner version"},
		{"nothing", nil, 0, "Usage"},
		{"unknown command", []string{"server"}, 2, "server"},
		{"unknown flag", []string{"serve", "--port", "1"}, 2, "--port"},
		{"argument", []string{"serve", "x"}, 2, "x"},
		{"unknown key", []string{"serve", "--config", bad}, 2, "listen_on"},
		{"policy", []string{"serve", "--on-retriever-failure", "shrug"}, 2, "shrug"},
		{"policy without retriever", []string{"serve", "--on-retriever-failure", "fail"}, 2, "--retriever"},
		{"retriever's URL", []string{"serve", "--retriever", "localhost:8081"}, 2, "http://localhost:8081"},
		{"slots", []string{"serve", "--slots", "0"}, 2, "slots"},
		{"provider", []string{"serve", "--ort-provider", "tpu"}, 2, "tpu"},
		{"cache", []string{"serve", "--cache-weight", "2"}, 2, "weight is 2"},
		{"cache switch", []string{"serve", "--cache-enabled", "perhaps"}, 2, "perhaps"},
		{"media root", []string{"serve", "--media-root", filepath.Join(dir, "absent")}, 2, "absent"},
		{"hosts", []string{"serve", "--media-hosts", "https://example.com/"}, 2, "example.com"},
		{"log format", []string{"serve", "--log-format", "xml"}, 2, "xml"},
		{"no prompt", []string{"ask"}, 2, "arg"},
		{"absent file", []string{"ask", "--image", filepath.Join(dir, "absent.png"), "Q"}, 2, "absent.png"},
		{"two ways", []string{"ask", "--bundle", dir, "--server", nobody, "Q"}, 2, "--server"},
		{"server's URL", []string{"ask", "--server", "there", "Q"}, 2, "there"},
		{"nobody there", []string{"ask", "--server", nobody, "Q"}, 1, "does not answer"},
		{"library", []string{"serve", "--ort-lib", filepath.Join(dir, "absent.so")}, 1, "absent.so"},
	}
	for _, tt := range tests {
		progtest.Check(t, tt.name, tt.code, tt.says, tt.args...)
	}
	t.Run("no bundle", func(t *testing.T) {
		tiny(t) // onnxruntime is there
		out, err := progtest.Command(t, "serve", "--bundle", dir).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "exporter model --out") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// configs/runner.yaml lists every key with its default.
func TestConfigFile(t *testing.T) {
	progtest.ConfigFile(t, "../configs/runner.yaml", &options{}, defaults())
}

// The options go over the bundle's defaults of the cache, and no further.
func TestCacheOptions(t *testing.T) {
	of := bundle.Cache{Enabled: true, Collection: "default", K: 10, Temperature: 20, Weight: 0.5}
	got, o := of, defaults()
	if err := o.setCache(&got); err != nil || got != of {
		t.Errorf("%v, %+v", err, got)
	}
	o.Cache.Enabled, o.Cache.Collection, o.Cache.K, o.Cache.Temperature, o.Cache.Weight = "false", "pets", 3, 0, 0
	if err := o.setCache(&got); err != nil || got != (bundle.Cache{Collection: "pets", K: 3}) {
		t.Errorf("%v, %+v", err, got)
	}
	t.Setenv("RUNNER_CACHE_K", "7")
	t.Setenv("RUNNER_CACHE_ENABLED", "true")
	o = defaults()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs, o)
	if err := o.load(fs); err != nil || o.Cache.K != 7 || o.Cache.Enabled != "true" {
		t.Errorf("%v, %+v", err, o.Cache)
	}
}

// run reports usage errors as such without a process of its own.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var bad config.Usage
	if err := run(ctx, []string{"ask"}, strings.NewReader(""), io.Discard, io.Discard); !errors.As(err, &bad) {
		t.Errorf("%v", err)
	}
}
