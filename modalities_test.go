package imagebind_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
)

// tinyModel has every encoder, with weights drawn at random in the released
// layouts: what it says means nothing, and every part of the way is real.
var tinyModel = []string{
	"--imagebind", "testdata/golden/imagebind-tiny/checkpoint.pth", "--point", "testdata/golden/pointbind-tiny/checkpoint.pth",
	"--heads-config", "testdata/golden/heads.json",
	"--llama", "testdata/golden/llama-adapter-tiny/7B", "--tokenizer", "testdata/golden/llama-adapter-tiny/tokenizer.model",
	"--adapter", "testdata/golden/llama-adapter-tiny/adapter-finetune.pth",
}

// depthPNG is a wall that leans away from the viewer, 0.5 to 8 m, as 16-bit
// millimetres.
func depthPNG(t *testing.T) []byte {
	t.Helper()
	img := image.NewGray16(image.Rect(0, 0, 320, 240))
	for y := range 240 {
		for x := range 320 {
			img.SetGray16(x, y, color.Gray16{Y: uint16(500 + 7500*(x+y)/560)})
		}
	}
	return encodePNG(t, img)
}

// thermalPNG is a warm disc before a cold ground.
func thermalPNG(t *testing.T) []byte {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, 320, 256))
	for y := range 256 {
		for x := range 320 {
			img.SetGray(x, y, color.Gray{Y: 40})
			if math.Hypot(float64(x-160), float64(y-128)) < 80 {
				img.SetGray(x, y, color.Gray{Y: 210})
			}
		}
	}
	return encodePNG(t, img)
}

func encodePNG(t *testing.T, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// imuCSV is six seconds of walking at 100 Hz, without a time column.
func imuCSV() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z")
	for i := range 600 {
		s := math.Sin(2 * math.Pi * 1.8 * float64(i) / 100)
		fmt.Fprintf(&b, "%.4f,%.4f,%.4f,%.4f,%.4f,%.4f\n", 0.5*s, 0.2, 9.81+2*s, 0.1*s, 0.3*s, -0.05)
	}
	return b.Bytes()
}

// pointPLY is a torus of 2000 points; change may spoil one.
func pointPLY(change func(i int, p *[3]float64)) []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, "ply\nformat ascii 1.0\nelement vertex 2000\nproperty float x\nproperty float y\nproperty float z\nend_header\n")
	for i := range 2000 {
		u, v := 2.4*float64(i), 0.37*float64(i)
		p := [3]float64{(1 + 0.3*math.Cos(v)) * math.Cos(u), (1 + 0.3*math.Cos(v)) * math.Sin(u), 0.3 * math.Sin(v)}
		if change != nil {
			change(i, &p)
		}
		fmt.Fprintf(&b, "%.5f %.5f %.5f\n", p[0], p[1], p[2])
	}
	return b.Bytes()
}

// An input is a file of a modality, with what it does not say.
type input struct {
	field  string // of the form; the part is the field with _url
	data   []byte
	params map[string]float64
}

func inputs(t *testing.T) []input {
	t.Helper()
	return []input{
		{"image", golden.Bytes(t, "runner/modality/vision/testdata/inputs/rgba_250x250.png"), nil},
		{"video", golden.Bytes(t, "runner/modality/vision/testdata/video/portrait_90x160_30fps_3s.mp4"), map[string]float64{"clips": 2, "crops": 1}},
		{"audio", golden.Bytes(t, "runner/modality/audio/testdata/inputs/mixed_44k_stereo.wav"), nil},
		{"depth", depthPNG(t), map[string]float64{"baseline": 0.075, "focal": 520}},
		{"thermal", thermalPNG(t), nil},
		{"imu", imuCSV(), map[string]float64{"rate": 100}},
		{"point_cloud", pointPLY(nil), nil},
	}
}

// part is the content part of an input.
func (in input) part(weight float64) map[string]any {
	payload := map[string]any{"url": "data:;base64," + base64.StdEncoding.EncodeToString(in.data)}
	for k, v := range in.params {
		payload[k] = v
	}
	return map[string]any{"type": in.field + "_url", in.field + "_url": payload, "weight": weight}
}

func bindText(s string, weight float64) map[string]any {
	return map[string]any{"type": "bind_text", "bind_text": map[string]string{"text": s}, "weight": weight}
}

// post sends JSON to the runner and reads its answer into out.
func (s *system) post(t *testing.T, path string, body, out any) int {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.runner+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if raw, err = io.ReadAll(resp.Body); err == nil {
		err = json.Unmarshal(raw, out)
	}
	if err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return resp.StatusCode
}

// embed returns the embedding of parts; a status that is not 200 comes with the
// error's message.
func (s *system) embed(t *testing.T, parts ...map[string]any) (embedding []float64, status int, message string) {
	t.Helper()
	var got struct {
		Data  []struct{ Embedding []float64 }
		Error struct{ Message string }
	}
	status = s.post(t, "/v1/embeddings", map[string]any{"input": []any{map[string]any{"content": parts}}}, &got)
	if status != http.StatusOK {
		return nil, status, got.Error.Message
	}
	return got.Data[0].Embedding, status, ""
}

// TestModalities sends every kind of input through every door: embeddings,
// chat, the form, the shell, and a cache rebuild from a folder of media.
func TestModalities(t *testing.T) {
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		golden.Need(t, "ffmpeg", "wants ffmpeg for the video: "+err.Error())
	}
	s := build(t, tinyModel)
	media := filepath.Join(s.dir, "media")
	if err := os.Mkdir(media, 0o755); err != nil {
		t.Fatal(err)
	}
	s.serveRetriever(t, "--source-root", s.dir, "--runners", s.runner)
	s.serveRunner(t)
	all := inputs(t)
	embeddings := map[string][]float64{}

	for _, in := range all {
		e, status, message := s.embed(t, in.part(1))
		if status != http.StatusOK || len(e) != 64 {
			t.Fatalf("embeddings, %s: %d %s", in.field, status, message)
		}
		embeddings[in.field] = e
		if again, _, _ := s.embed(t, in.part(1)); !slices.Equal(e, again) {
			t.Errorf("%s: another embedding the second time", in.field)
		}
	}
	embeddings["text"], _, _ = s.embed(t, bindText("a torus", 1))
	e, status, message := s.embed(t, map[string]any{"type": "embedding", "embedding": map[string]any{"data": embeddings["imu"], "modality": "imu"}})
	if status != http.StatusOK || !near(e, embeddings["imu"], 1e-6) {
		t.Errorf("a ready embedding: %d %s", status, message)
	}

	t.Run("mix of all", func(t *testing.T) {
		var parts []map[string]any
		mix, sum := make([]float64, 64), 0.0
		add := func(e []float64, w float64) {
			sum += w
			for i := range mix {
				mix[i] += w * e[i]
			}
		}
		for i, in := range all {
			w := 0.5 + float64(i)
			parts = append(parts, in.part(w))
			add(embeddings[in.field], w)
		}
		parts = append(parts, bindText("a torus", 2), map[string]any{"type": "embedding", "embedding": map[string]any{"data": embeddings["depth"]}, "weight": 0.25})
		add(embeddings["text"], 2)
		add(embeddings["depth"], 0.25)
		length := 0.0
		for _, v := range mix {
			length += v * v
		}
		for i := range mix {
			mix[i] /= math.Sqrt(length)
		}
		got, status, message := s.embed(t, parts...)
		if status != http.StatusOK || !near(got, mix, 2e-6) {
			t.Errorf("%d %s: not the weighted sum", status, message)
		}
		var a answer
		status = s.post(t, "/v1/chat/completions", map[string]any{"max_tokens": 8, "temperature": 0,
			"messages": []any{map[string]any{"role": "user", "content": append(parts, map[string]any{"type": "text", "text": "What is this?"})}}}, &a)
		if status != http.StatusOK || len(a.Bind.Modalities) != len(parts) {
			t.Errorf("chat: %d %s %+v", status, a.Error.Message, a.Bind)
		}
	})

	t.Run("form and shell", func(t *testing.T) {
		fields := map[string]string{"prompt": "What is this?", "max_tokens": "8", "temperature": "0"}
		var files, flags []string
		for _, in := range all {
			path := filepath.Join(media, in.field)
			if err := os.WriteFile(path, in.data, 0o644); err != nil {
				t.Fatal(err)
			}
			files = append(files, in.field+"="+path)
			flags = append(flags, "--"+strings.ReplaceAll(in.field, "_", "-"), path)
			for k, v := range in.params {
				fields[in.field+"_"+k] = strconv.FormatFloat(v, 'g', -1, 64)
				flags = append(flags, "--param", fmt.Sprintf("%s.%s=%v", in.field, k, v))
			}
		}
		a, status := s.ask(t, fields, files...)
		if status != http.StatusOK || len(a.Bind.Modalities) != len(all) {
			t.Errorf("form: %d %s %+v", status, a.Error.Message, a.Bind)
		}
		out := s.run(t, filepath.Join(s.bin, "runner"), append([]string{"ask", "--server", s.runner, "--max-tokens", "8", "--temperature", "0", "--json", "What is this?"}, flags...)...)
		var shell answer
		if err := json.Unmarshal([]byte(out), &shell); err != nil || shell.text() != a.text() || len(shell.Bind.Modalities) != len(all) {
			t.Errorf("shell: %v, %s; the form's answer is %q", err, out, a.text())
		}
	})

	t.Run("cache rebuild from media", func(t *testing.T) {
		for _, in := range all {
			dir := filepath.Join(s.dir, "of-"+in.field)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "one"), in.data, 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"cache", "--retriever", s.retriever, "--runner", s.runner, "--modality", in.field, "--collection", in.field, "--path", filepath.Base(dir)}
			for _, k := range slices.Sorted(maps.Keys(in.params)) {
				args = append(args, "--param", fmt.Sprintf("%s=%v", k, in.params[k]))
			}
			s.run(t, filepath.Join(s.bin, "exporter"), args...)
			var found struct {
				Neighbours [][]struct {
					URI   string
					Score float64
				}
			}
			body := map[string]any{"vectors": [][]float64{embeddings[in.field]}, "k": 1}
			if err := s.search(t, in.field, body, &found); err != nil {
				t.Fatal(err)
			}
			if n := found.Neighbours; len(n) != 1 || len(n[0]) != 1 || math.Abs(n[0][0].Score-1) > 1e-5 {
				t.Errorf("%s: found %+v", in.field, found)
			}
		}
	})
}

// search asks a collection of the retriever.
func (s *system) search(t *testing.T, collection string, body, out any) error {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.retriever+"/v1/collections/"+collection+"/search", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("search: %s", resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func near(a, b []float64, tol float64) bool {
	for i := range a {
		if len(a) != len(b) || !(math.Abs(a[i]-b[i]) <= tol) {
			return false
		}
	}
	return len(a) > 0
}

// TestMissingEncoder: a bundle without some encoders says so, and a request for
// one of them learns what there is.
func TestMissingEncoder(t *testing.T) {
	s := build(t, demoModel)
	s.serveRunner(t)
	var models struct {
		Data []struct{ Modalities []string }
	}
	if _, raw := get(t.Context(), s.runner+"/v1/models"); json.Unmarshal(raw, &models) != nil || slices.Contains(models.Data[0].Modalities, "point_cloud") {
		t.Errorf("/v1/models: %s", raw)
	}
	_, status, message := s.embed(t, input{"point_cloud", pointPLY(nil), nil}.part(1))
	if status != http.StatusUnsupportedMediaType || !strings.Contains(message, "it has "+strings.Join(models.Data[0].Modalities, ", ")) {
		t.Errorf("%d %s", status, message)
	}
}

// TestBadMedia sends what no reader may take in, or take memory for: each is a
// clear 4xx, and the server's memory stays flat.
func TestBadMedia(t *testing.T) {
	s := build(t, tinyModel[:6]) // embeddings are enough
	p := s.serveRunner(t)
	picture, sound := golden.Bytes(t, "runner/modality/vision/testdata/inputs/exact_224x224.png"), golden.Bytes(t, "runner/modality/audio/testdata/inputs/speech_16k_mono.wav")
	jpeg := golden.Bytes(t, "runner/modality/vision/testdata/inputs/landscape_401x300_q92_444.jpg")
	zipEnd := append([]byte("PK\x05\x06"), make([]byte, 18)...)
	lie := slices.Clone(sound) // its data is 4 GB long, it says
	binary.LittleEndian.PutUint32(lie[40:], 0xfffffff0)
	binary.LittleEndian.PutUint32(lie[24:], 4_000_000_000) // samples a second
	for _, warm := range []input{{"image", picture, nil}, {"audio", sound, nil}, {"depth", depthPNG(t), nil}, {"point_cloud", pointPLY(nil), nil}} {
		if _, status, message := s.embed(t, warm.part(1)); status != http.StatusOK {
			t.Fatalf("%s: %d %s", warm.field, status, message)
		}
	}
	before := residentMB(t, p)
	for _, tt := range []struct {
		name string
		input
		says string
	}{
		{"picture of one pixel", input{"image", encodePNG(t, image.NewGray(image.Rect(0, 0, 1, 1))), nil}, "1 × 1"},
		{"empty picture", input{"image", nil, nil}, "empty"},
		{"JPEG that is cut", input{"image", jpeg[:len(jpeg)/2], nil}, "JPEG"},
		{"header of a huge PNG", input{"image", hugePNG(30000, 30000), nil}, "30000 × 30000"},
		{"huge depth map", input{"depth", hugePNG(30000, 30000), nil}, "30000"},
		{"huge thermal picture", input{"thermal", hugePNG(30000, 30000), nil}, "30000"},
		{"WAV whose header lies", input{"audio", lie, nil}, "samples a second"},
		{"empty sound", input{"audio", nil, nil}, "empty"},
		{"NaN points", input{"point_cloud", pointPLY(func(i int, p *[3]float64) {
			if i == 7 {
				p[1] = math.NaN()
			}
		}), nil}, "7"},
		{"PLY of four billion points", input{"point_cloud", []byte("ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty float x\nproperty float y\nproperty float z\nend_header\n"), nil}, "4000000000"},
		{"picture and archive", input{"image", append(slices.Clone(picture), zipEnd...), nil}, "at once"},
		{"sound and archive", input{"audio", append(slices.Clone(sound), zipEnd...), nil}, "at once"},
		{"PDF as a picture", input{"image", []byte("%PDF-1.7\n"), nil}, "application/pdf"},
		{"text as a video", input{"video", []byte("hello"), nil}, "text/plain"},
		{"picture as a video", input{"video", picture, nil}, "image/png"},
		{"picture as a sound", input{"audio", picture, nil}, "image/png"},
		{"sound as a picture", input{"image", sound, nil}, "audio/wav"},
		{"IMU without a rate", input{"imu", imuCSV(), nil}, "rate"},
		{"IMU at no rate", input{"imu", imuCSV(), map[string]float64{"rate": -5}}, "rate"},
		{"unknown parameter", input{"depth", depthPNG(t), map[string]float64{"focl": 5}}, "focal"},
	} {
		_, status, message := s.embed(t, tt.part(1))
		if status < 400 || status > 499 || !strings.Contains(message, tt.says) {
			t.Errorf("%s: %d %q", tt.name, status, message)
		}
	}
	for _, w := range []float64{0, -1} {
		if _, status, message := s.embed(t, input{"image", picture, nil}.part(w)); status != http.StatusBadRequest || !strings.Contains(message, "weight") {
			t.Errorf("weight %v: %d %q", w, status, message)
		}
	}
	const slack = 64 // MB: what the heap may grow by between two collections
	if after := residentMB(t, p); after > before+slack {
		t.Errorf("memory went from %d to %d MB", before, after)
	}
}

// hugePNG is the header of a grey 16-bit PNG of w × h, and no picture behind it.
func hugePNG(w, h uint32) []byte {
	chunk := binary.BigEndian.AppendUint32([]byte("IHDR"), w)
	chunk = append(binary.BigEndian.AppendUint32(chunk, h), 16, 0, 0, 0, 0)
	b := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), chunk...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(chunk))
}

// residentMB is a program's memory that is in RAM.
func residentMB(t *testing.T, p *program) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Skipf("wants /proc to see another program's memory: %v", err)
	}
	for line := range strings.Lines(string(raw)) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
