package main

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"imagebind-llm/internal/golden"
)

// TestEmulated runs the tiles of amd64 on an emulated processor that has AVX-512
// VNNI (Bochs' Ice Lake), for those whose own has not: from a disk that boots
// into them (testdata/boot.s) and holds the sums they should give.
func TestEmulated(t *testing.T) {
	for _, tool := range []string{"bochs", "as", "ld"} {
		if _, err := exec.LookPath(tool); err != nil || runtime.GOOS+"/"+runtime.GOARCH != "linux/amd64" {
			golden.Need(t, "bochs", "wants bochs, as and ld on linux/amd64 (Debian: bochs bochsbios vgabios binutils)")
		}
	}
	dir := t.TempDir()
	boot, program := filepath.Join(dir, "boot"), filepath.Join(dir, "kernel.test")
	command(t, "as", "--64", "-o", boot+".o", "testdata/boot.s")
	command(t, "ld", "-m", "elf_x86_64", "-Ttext", "0x7c00", "--oformat", "binary", "-o", boot, boot+".o")
	command(t, "go", "test", "-c", "-o", program, "..")

	disk, names := payload(t, functions(t, program))
	if len(disk) > 127*512 {
		t.Fatalf("the boot sector does not read all of %d bytes", len(disk))
	}
	disk = append(golden.Bytes(t, boot), disk...)
	disk = append(disk, make([]byte, 16*63*512-len(disk))...) // a cylinder
	for name, data := range map[string][]byte{
		"disk": disk,
		"rc":   []byte("continue\n"), // Debian's Bochs starts in its debugger
		"config": fmt.Appendf(nil, `cpu: model=corei7_icelake_u, reset_on_triple_fault=0
megs: 32
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
ata0-master: type=disk, path=%[1]q, mode=flat, cylinders=1, heads=16, spt=63
boot: disk
display_library: rfb, options="timeout=0"
port_e9_hack: enabled=1
panic: action=fatal
log: %[2]q
`, filepath.Join(dir, "disk"), filepath.Join(dir, "log")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := command(t, "bochs", "-q", "-f", filepath.Join(dir, "config"), "-rc", filepath.Join(dir, "rc"))
	got := regexp.MustCompile(`<([.X]*)(>?)`).FindStringSubmatch(out)
	if got == nil {
		t.Fatalf("it did not boot:\n%s", out)
	}
	for i, c := range got[1] {
		if c == 'X' {
			t.Errorf("%s: wrong sums", names[i])
		}
	}
	if got[2] == "" {
		t.Errorf("it stopped in %s", names[len(got[1])])
	}
	t.Logf("%d calls", len(got[1]))
}

// command returns what a program writes. Bochs' exit code says nothing.
func command(t *testing.T, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil && name != "bochs" {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// functions returns the machine code of a program's tiles by their names, as in
// "vnni_codes_4x2".
func functions(t *testing.T, program string) map[string][]byte {
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, s := range symbols {
		name, assembly := strings.CutSuffix(strings.TrimPrefix(s.Name, "imagebind-llm/retriever/kernel."), ".abi0")
		if assembly && strings.Contains(name, "_codes_") {
			section := f.Sections[s.Section]
			code := make([]byte, s.Size)
			if _, err := section.ReadAt(code, int64(s.Value-section.Addr)); err != nil {
				t.Fatal(err)
			}
			found[name] = code
		}
	}
	return found
}

// payload returns what boot.s reads: calls of every function for rows of several
// lengths, random and largest, and the functions' names in this order.
func payload(t *testing.T, code map[string][]byte) (image []byte, names []string) {
	const base, lines, most = 0x10000, 16, 1024 // int32 compared; values of a row
	if len(code) != 3*len(codeTiles) {
		t.Fatalf("%d tiles are in the program, want three for each of %v", len(code), codeTiles)
	}
	r := rand.New(rand.NewPCG(1, 2))
	strides := []int{64, 192, most}
	image = make([]byte, 64*(len(code)*len(strides)+1))
	add := func(data any) uint64 { // aligned as little as Go's are
		at := len(image)
		image, _ = binary.Append(image, binary.LittleEndian, data)
		return uint64(base + at)
	}
	functionAt := map[string]uint64{}
	for name, machine := range code {
		functionAt[name] = add(machine)
	}
	for _, stride := range strides {
		rows, queries := make([]int8, 4*stride), make([]int16, 3*stride)
		limit := min(16383, (1<<31-1)/(127*stride)) // kernel.MaxQuery
		for i := range rows {
			rows[i] = int8(r.IntN(255) - 127)
		}
		for i := range queries {
			queries[i] = int16(r.IntN(2*limit+1) - limit)
		}
		for i := range stride {
			rows[i], queries[i] = 127, int16(limit)
		}
		rowsAt, queriesAt := add(rows), add(queries)
		for _, name := range slices.Sorted(maps.Keys(code)) {
			var nr, nq int
			if _, err := fmt.Sscanf(name[strings.LastIndex(name, "_")+1:], "%dx%d", &nr, &nq); err != nil {
				t.Fatal(err)
			}
			const wide = 4 // int32 from one row's sums to the next one's
			var dst, want [lines]int32
			for i := range dst {
				dst[i], want[i] = int32(i-7), int32(i-7)
			}
			for i := range nr {
				for j := range nq {
					want[wide*i+j] = 0
					for k := range stride {
						want[wide*i+j] += int32(rows[i*stride+k]) * int32(queries[j*stride+k])
					}
				}
			}
			call := []uint64{functionAt[name], add(dst), 4 * wide, rowsAt, queriesAt, uint64(stride), uint64(stride), add(want)}
			if _, err := binary.Encode(image[64*len(names):], binary.LittleEndian, call); err != nil {
				t.Fatal(err)
			}
			names = append(names, fmt.Sprintf("%s, %d values", name, stride))
		}
	}
	return image, names
}
