package budget

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"imagebind-llm/runner/bundle"
)

// full is LLaMA-7B in int4 with the vision encoder of ImageBind huge.
func full() *bundle.Manifest {
	return &bundle.Manifest{
		Encoders: []bundle.Encoder{{Name: "vision", Modalities: []string{"image", "video"}, Graph: "vision.onnx", Input: []int{3, 2, 224, 224}, Width: 1280, Heads: 16, Precision: "fp32"}},
		Bridge:   &bundle.Bridge{Graph: "bridge.onnx"},
		Decoder:  &bundle.Decoder{Graph: "decoder.onnx", Width: 4096, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128, Hidden: 11008, Vocab: 32000, Context: 2048, Precision: "int4", KVType: "float32"},
		Files: map[string]bundle.File{
			"vision.onnx": {Bytes: 100 << 10}, "vision.onnx.data": {Bytes: 2414 << 20}, "decoder.onnx": {Bytes: 160 << 10}, "decoder.onnx.data": {Bytes: 4257 << 20},
			"bridge.onnx": {Bytes: 1 << 10}, "bridge.onnx.data": {Bytes: 100 << 20}, "tokenizer.model": {Bytes: 500 << 10},
		},
	}
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		want map[string]int64 // MiB
	}{
		{Options{Slots: 4, Clips: 16, Plain: true}, map[string]int64{"encoders": 2415, "bridge": 101, "decoder": 5109, "kv_cache": 8192, "workspace": 618, "program": 128}},
		{Options{Slots: 1, Context: 512, Chunk: 64, Clips: 1, Plain: true}, map[string]int64{"encoders": 2415, "bridge": 101, "decoder": 5109, "kv_cache": 512, "workspace": 43, "program": 128}},
		{Options{Slots: 4}, map[string]int64{"encoders": 2415, "bridge": 101, "decoder": 4258, "kv_cache": 8192, "workspace": 296, "program": 128}},
		{Options{Slots: 4, CUDA: true}, map[string]int64{"encoders": 2415, "bridge": 101, "decoder": 4258, "kv_cache": 8192, "workspace": 618}},
	} {
		p := New(full(), tt.o)
		var sum int64
		for _, part := range p.Parts {
			if mib(part.Bytes) != tt.want[part.Name] {
				t.Errorf("%+v: %s takes %d MiB, want %d", tt.o, part.Name, mib(part.Bytes), tt.want[part.Name])
			}
			sum += part.Bytes
		}
		if len(p.Parts) != len(tt.want) || p.Total() != sum {
			t.Errorf("%+v: %+v", tt.o, p.Parts)
		}
	}
	half := full()
	half.Decoder.KVType = "float16"
	h, f := New(half, Options{}), New(full(), Options{})
	if got, want := h.slot(2048), f.slot(2048)/2; got != want {
		t.Errorf("a slot in half precision takes %d, want %d", got, want)
	}
	if p := New(&bundle.Manifest{}, Options{Slots: 4}); p.Total() != program {
		t.Errorf("an empty bundle takes %+v", p.Parts)
	}
}

// TestTokens: what the encoders' own code makes of one clip, but for the class token.
func TestTokens(t *testing.T) {
	for modality, tt := range map[string]struct {
		input []int
		want  int
	}{
		"image": {[]int{3, 2, 224, 224}, 256}, "audio": {[]int{1, 128, 204}, 240}, "text": {[]int{77}, 77},
		"imu": {[]int{6, 2000}, 250}, "depth": {[]int{1, 224, 224}, 196}, "point_cloud": {[]int{512, 33, 3}, 512},
	} {
		if got := tokens(bundle.Encoder{Modalities: []string{modality}, Input: tt.input}); got != tt.want {
			t.Errorf("%s: %d tokens, want %d", modality, got, tt.want)
		}
	}
}

// TestCheck: what is refused is refused with settings that fit.
func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		have int64 // MiB
		want string
	}{
		{17000, ""},
		{16000, "--slots 3, or --context 1856 would fit"},
		{13000, "--slots 2, or --context 1152 would fit"},
		{9500, "--context 256, or --slots 1 --context 1152 would fit"},
		{8700, ": --slots 1 --context 384 would fit"},
		{8000, "no setting makes it fit"},
	} {
		err := New(full(), Options{Slots: 4, Clips: 16, Plain: true}).Check(tt.have << 20)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d MiB: %v, want %q", tt.have, err, tt.want)
		}
		if err == nil {
			continue
		}
		// Whatever it names fits, and the next larger does not.
		for _, s := range strings.Split(strings.SplitN(err.Error(), ": ", 2)[1], ", or ") {
			slots, context := 4, 2048
			if n, _ := fmt.Sscanf(s, "--slots %d --context %d", &slots, &context); n == 0 {
				if _, err := fmt.Sscanf(s, "--context %d", &context); err != nil {
					continue
				}
			}
			if got := New(full(), Options{Slots: slots, Context: context, Clips: 16, Plain: true}).Total(); got > tt.have<<20 {
				t.Errorf("%d MiB: %s takes %d", tt.have, s, got>>20)
			}
		}
	}
	if err := New(&bundle.Manifest{}, Options{}).Check(1 << 20); err == nil || !strings.Contains(err.Error(), "no setting") {
		t.Errorf("a bundle without a decoder: %v", err)
	}
}

func TestAvailable(t *testing.T) {
	const meminfo = "MemTotal: 24684036 kB\nMemFree: 100 kB\nMemAvailable: 2000 kB\n"
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, tt := range []struct {
		name  string
		files fstest.MapFS
		want  int64 // -1: an error
	}{
		{"no meminfo", fstest.MapFS{}, -1},
		{"no cgroups", fstest.MapFS{}, 2000 << 10},
		{"v2, no limit", fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("max\n")}, 2000 << 10},
		{"v2", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("900000\n"), "sys/fs/cgroup/a/b/memory.current": file("500000\n"),
			"sys/fs/cgroup/a/b/memory.stat": file("anon 1\ninactive_file 100000\n")}, 500000},
		{"v2, a group around it", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("900000\n"), "sys/fs/cgroup/a/memory.max": file("300000\n")}, 300000},
		{"v2 in a container", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("700000\n"), "sys/fs/cgroup/memory.current": file("800000\n")}, 0},
		{"v1", fstest.MapFS{"proc/self/cgroup": file("11:cpu,cpuacct:/x\n5:memory:/docker/1\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("800000\n"),
			"sys/fs/cgroup/memory/memory.usage_in_bytes": file("300000\n")}, 500000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want >= 0 {
				tt.files["proc/meminfo"] = file(meminfo)
			}
			got, err := available(tt.files)
			if (err != nil) != (tt.want < 0) || err == nil && got != tt.want {
				t.Errorf("got %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}
