package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
)

// TestGenerated holds the files in the folder above to what gen writes.
func TestGenerated(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "gen")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "-out", "kernel_amd64.s", "-stubs", "stubs_amd64.go", "-pkg", "kernel")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"kernel_amd64.s", "stubs_amd64.go", "kernel_arm64.s", "stubs_arm64.go"} {
		got, want := golden.Bytes(t, filepath.Join(dir, name)), golden.Bytes(t, filepath.Join("..", name))
		// avo's first line is its command.
		_, got, _ = bytes.Cut(got, []byte("\n"))
		_, want, _ = bytes.Cut(want, []byte("\n"))
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what gen writes: go generate ./retriever/kernel", name)
		}
	}
}

// TestWords holds the names beside the words of kernel_arm64.s to a disassembler.
func TestWords(t *testing.T) {
	const objdump = "aarch64-linux-gnu-objdump"
	if _, err := exec.LookPath(objdump); err != nil {
		golden.Need(t, "arm64", "wants "+objdump+" (Debian: binutils-aarch64-linux-gnu)")
	}
	var code []byte
	var want []string
	for _, m := range regexp.MustCompile(`WORD \$(0x\w{8}) // (.*)`).FindAllSubmatch(golden.Bytes(t, "../kernel_arm64.s"), -1) {
		word, err := strconv.ParseUint(string(m[1]), 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		code, want = binary.LittleEndian.AppendUint32(code, uint32(word)), append(want, string(m[2]))
	}
	file := filepath.Join(t.TempDir(), "words")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), objdump, "-D", "-b", "binary", "-m", "aarch64", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^ +[0-9a-f]+:\t[0-9a-f]{8} \t(.*)$`).FindAllStringSubmatch(string(out), -1) {
		got = append(got, strings.ReplaceAll(m[1], "\t", " "))
	}
	if len(got) != len(want) || len(got) == 0 {
		t.Fatalf("%d words, %d instructions", len(want), len(got))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%#08x is %s, not %s", binary.LittleEndian.Uint32(code[4*i:]), got[i], want[i])
		}
	}
}
