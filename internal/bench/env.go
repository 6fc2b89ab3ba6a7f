package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"imagebind-llm/internal/ort"
)

// An env is what the rows share.
type env struct {
	bin, work, llama, models string // folders
	threads                  []int
	rounds, layers, features int
	spin, half               bool
	server, index            string // of Milvus
	filled                   bool   // it has the rows of a run before
	device                   string
}

// say tells what is being done, on stderr: stdout is the table's.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// head writes what was measured on what.
func (e *env) head(w io.Writer) {
	fmt.Fprintf(w, "Processor: %s, %d cores; %s %s/%s; load %s; %d rounds, ours and theirs in turns.\n",
		firstField("/proc/cpuinfo", "model name"), runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, loadAverage(), e.rounds)
	fmt.Fprintf(w, "onnxruntime %s; %s.\n", ortVersion(), e.llamaVersion())
	fmt.Fprintln(w, "A value is the median of the rounds; a ratio the median of the rounds' ratios [least–largest], above 1 where ours is better.")
}

// firstField returns what stands behind the colon on the first line of a file
// that begins with name.
func firstField(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	s, _, _ := strings.Cut(string(b), " ")
	return s
}

// ortVersion is what the library says that our programs find.
func ortVersion() string {
	v, err := ort.Load("")
	if err != nil {
		return "is missing: run make ort"
	}
	return v
}

// peersHint says how to get what is missing.
const peersHint = "missing: run scripts/peers.sh"

// llamaVersion is what llama.cpp says of itself; its package's version where it was built from one.
func (e *env) llamaVersion() string {
	if b, err := os.ReadFile(filepath.Join(e.llama, "VERSION")); err == nil {
		return "llama.cpp " + strings.TrimSpace(string(b))
	}
	out, err := exec.Command(filepath.Join(e.llama, "llama-bench"), "--version").CombinedOutput()
	if err != nil {
		return "llama.cpp " + peersHint
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return "llama.cpp " + line
}

// has reports whether every file is there.
func has(files ...string) bool {
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return false
		}
	}
	return true
}

// output runs a program and returns what it printed; its stderr is told when it fails.
func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, tail(stderr.String()))
	}
	return out, err
}

func tail(s string) string {
	if len(s) > 1500 {
		return "…" + s[len(s)-1500:]
	}
	return s
}

// bundle exports gguf at a precision, unless this exporter did that before, and
// returns the bundle's folder.
func (e *env) bundle(ctx context.Context, name, gguf, precision string) (string, error) {
	dir := filepath.Join(e.work, name+"-"+precision)
	return dir, e.export(dir, gguf, func() error {
		_, err := output(ctx, filepath.Join(e.bin, "exporter"), "model", "--name", name+"-"+precision, "--llama", gguf, "--precision", precision, "--out", dir)
		return err
	})
}

// export fills dir by do, unless it was made from a file as it is now and by the
// exporter as it is now: DIR.made says of which.
func (e *env) export(dir, from string, do func() error) error {
	f, err := os.Open(filepath.Join(e.bin, "exporter"))
	if err != nil {
		return fmt.Errorf("%w: go build -o %s ./exporter", err, e.bin)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	made := fmt.Sprintf("%s of %d bytes, %s, by exporter %x\n", from, info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano), sum.Sum(nil))
	if old, err := os.ReadFile(dir + ".made"); err == nil && string(old) == made && has(dir) {
		return nil
	}
	say("exporting %s", dir)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return os.WriteFile(dir+".made", []byte(made), 0o644)
}

// A server is a program that answers HTTP.
type server struct {
	Base string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
}

// start starts a server that answers 200 on ready; args get its address as
// {host} and {port}. Its log is a file in the work folder.
func (e *env) start(ctx context.Context, name, ready, program string, args ...string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		return nil, err
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	for i, a := range args {
		args[i] = strings.NewReplacer("{host}", "127.0.0.1", "{port}", fmt.Sprint(addr.Port)).Replace(a)
	}
	if err := os.MkdirAll(e.work, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(e.work, name+".log"))
	if err != nil {
		return nil, err
	}
	s := &server{Base: "http://" + addr.String(), cmd: exec.Command(program, args...), log: log, done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	for {
		if resp, err := http.Get(s.Base + ready); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-s.done:
			raw, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("%s ended before it was ready: %s", name, tail(string(raw)))
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		}
	}
}

// stop ends the server and waits until it has.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	_ = s.log.Close()
}
