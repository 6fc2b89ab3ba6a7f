package imu

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// signal is a made-up trace [6, n] of eighths: exact in every format.
func signal(n int) (x [channels][]float32) {
	for c := range x {
		for i := range n {
			h := uint32(i*channels+c) * 2654435761
			x[c] = append(x[c], float32(h>>13&0xfff)/8-256)
		}
	}
	return x
}

// table writes x as text. Where when is not nil it gives the time of a sample.
func table(header, sep string, x [channels][]float32, when func(i int) string) []byte {
	var b strings.Builder
	b.WriteString(header)
	for i := range x[0] {
		if when != nil {
			b.WriteString(when(i) + sep)
		}
		for c := range x {
			if c > 0 {
				b.WriteString(sep)
			}
			fmt.Fprint(&b, x[c][i])
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

func read(t *testing.T, data []byte, p modality.Params) []float32 {
	t.Helper()
	if err := Spec.Check(p); err != nil {
		t.Fatal(err)
	}
	x, err := Read(t.Context(), data, modality.Options{Params: p})
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Shape) != 3 || !slices.Equal(x.Shape[1:], Spec.Encoder.Input) {
		t.Fatalf("shape %v", x.Shape)
	}
	return x.Floats
}

// TestReadGolden holds traces against numpy and scipy. Values are up to 256;
// float32 rounds them by 1.5e-5, and the linear interpolation of irregular
// times once more.
func TestReadGolden(t *testing.T) {
	var want map[string]struct {
		Hz, Window      float64
		N, Clips, Every int
		Values          []float32
	}
	golden.JSON(t, "testdata/want.json", &want)
	if len(want) != 8 {
		t.Fatalf("%d cases", len(want))
	}
	for name, w := range want {
		t.Run(name, func(t *testing.T) {
			var data []byte
			p := modality.Params{"rate": w.Hz, "window": w.Window}
			switch {
			case strings.HasSuffix(name, ".csv"):
				data = golden.Bytes(t, "testdata/"+name)
			case w.Hz == 0:
				data = table("t_us,ax,ay,az,gx,gy,gz\n", ",", signal(w.N), func(i int) string {
					return fmt.Sprint(i*5000 + int(uint32(i)*2654435761>>20))
				})
			default:
				data = table("", ",", signal(w.N), nil)
			}
			got := read(t, data, p)
			if len(got) != w.Clips*channels*steps {
				t.Fatalf("%d values, want %d clips", len(got), w.Clips)
			}
			if strings.HasSuffix(name, ".csv") {
				var head []float32
				for c := range channels {
					head = append(head, got[c*steps:c*steps+700]...)
				}
				got = head
			}
			var some []float32
			for i := 0; i < len(got); i += w.Every {
				some = append(some, got[i])
			}
			t.Logf("off by %.2g", golden.Close(t, some, w.Values, 1e-4))
		})
	}
}

// TestSame reads one trace in every way of writing it. Times and their mean rate
// are rounded, those since 1970 to 256 ns; units to float32.
func TestSame(t *testing.T) {
	x := signal(60)
	var turned [channels][]float32 // gyroscope first
	copy(turned[:3], x[3:])
	copy(turned[3:], x[:3])
	scaled := func(by [2]float64) (y [channels][]float32) {
		for c := range x {
			for _, v := range x[c] {
				y[c] = append(y[c], float32(float64(v)*by[c/3]))
			}
		}
		return y
	}
	every := func(step, from int) func(int) string {
		return func(i int) string { return fmt.Sprint(from + i*step) }
	}
	at := func(i int) string { return fmt.Sprintf("%.2f", float64(i)*0.02) }
	rate := modality.Params{"rate": 50}
	want := read(t, table("", ",", x, nil), rate)
	if want[0] == 0 || want[480] != 0 || want[479] == 0 { // 60 samples of 8 steps
		t.Fatalf("steps 0, 479 and 480 are %v, %v, %v", want[0], want[479], want[480])
	}
	crlf := strings.ReplaceAll(string(table("\ufeff\"Time (s)\";\"Acc X\";\"Acc Y\";\"Acc Z\";\"Gyro X\";\"Gyro Y\";\"Gyro Z\"\n", ";", x, at)), "\n", "\r\n\r\n")
	euroc := "#timestamp [ns],w_RS_S_x [rad s^-1],w_RS_S_y [rad s^-1],w_RS_S_z [rad s^-1],a_RS_S_x [m s^-2],a_RS_S_y [m s^-2],a_RS_S_z [m s^-2]\n"
	const degree, g = 180 / math.Pi, 1 / gravity
	for _, tt := range []struct {
		name string
		data []byte
		p    modality.Params
		tol  float64
	}{
		{"npy [6, N] float32", golden.Bytes(t, "testdata/channels_first_f4.npy"), rate, 0},
		{"npy [6, N] float16", golden.Bytes(t, "testdata/channels_first_f2.npy"), rate, 0}, // an eighth of up to 256 takes 11 bits
		{"npy [N, 6] float64", golden.Bytes(t, "testdata/channels_last_f8.npy"), rate, 0},
		{"numpy.savetxt, commented header", golden.Bytes(t, "testdata/savetxt.txt"), nil, 1e-4},
		{"seconds", table("time,ax,ay,az,gx,gy,gz\n", ",", x, at), nil, 1e-4},
		{"seven columns, blanks", table("# walk 3\n\n", "   ", x, at), nil, 1e-4},
		{"tabs", table("", "\t", x, at), nil, 1e-4},
		{"tabs, samples without time", table("time\tax\tay\taz\tgx\tgy\tgz\n\t1\t2\t3\t4\t5\t6\nNULL\t1\t2\t3\t4\t5\t6\n", "\t", x, at), nil, 1e-4},
		{"BOM, semicolons, quotes, CRLF, empty lines", []byte(crlf), nil, 1e-4},
		{"milliseconds by size", table("timestamp,accX,accY,accZ,gyrX,gyrY,gyrZ\n", ",", x, every(20, 0)), nil, 1e-4},
		{"microseconds by size", table("", ",", x, every(20000, 17e9)), nil, 1e-4},
		{"nanoseconds since 1970", table(euroc, ",", turned, every(20e6, 17e17)), nil, 1e-4},
		{"ROS", table("time,angular_velocity.x,angular_velocity.y,angular_velocity.z,linear_acceleration.x,linear_acceleration.y,linear_acceleration.z\n", ",", turned, at), nil, 1e-4},
		{"rate instead of times", table("clock,time,ax,ay,az,gx,gy,gz\n", ",", x, func(int) string { return "a,noon" }), rate, 0},
		{"g and degrees by parameter", table("", ",", scaled([2]float64{g, degree}), nil), modality.Params{"rate": 50, "acc_in_g": 1, "gyro_in_degrees": 1}, 1e-4},
		{"g and degrees by header", table("ax (g),ay (g),az (g),gyro_x_dps,gyro_y_dps,gyro_z_dps\n", ",", scaled([2]float64{g, degree}), nil), rate, 1e-4},
		{"g by both", table("ax [g],ay [g],az [g],gx,gy,gz\n", ",", scaled([2]float64{g, 1}), nil), modality.Params{"rate": 50, "acc_in_g": 1}, 1e-4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Logf("off by %.2g", golden.Close(t, read(t, tt.data, tt.p), want, tt.tol))
		})
	}
	eighths := read(t, golden.Bytes(t, "testdata/channels_last_i2.npy"), rate)
	for i := range eighths {
		eighths[i] /= 8
	}
	golden.Close(t, eighths, want, 0)
}

// made is a trace of the given functions of seconds; missing ones are 0.
func made(n int, hz float64, f ...func(at float64) float64) (x [channels][]float32) {
	for c := range x {
		x[c] = make([]float32, n)
		for i := range n {
			if c < len(f) {
				x[c][i] = float32(f[c](float64(i) / hz))
			}
		}
	}
	return x
}

func sine(hz float64) func(float64) float64 {
	return func(at float64) float64 { return math.Sin(2 * math.Pi * hz * at) }
}

// TestProperties holds what resampling must keep: a body at rest, phase, a line.
func TestProperties(t *testing.T) {
	fs := []func(float64) float64{
		func(float64) float64 { return gravity }, sine(10), func(at float64) float64 { return 5 * at }, sine(3),
	}
	for _, hz := range []float64{50, 104, 200, 201.005, 400, 1000, 6400} {
		n := int(4 * hz)
		got := read(t, table("", ",", made(n, hz, fs...), nil), modality.Params{"rate": hz})
		for c, f := range fs {
			tol := 5e-3 // of the filter, whose gain is not quite 1
			if c == 0 {
				tol = 1e-6
			}
			for j := range 1600 {
				at := float64(j) / 400
				if edge := 6.1 / min(hz, 400); c > 0 && (at < edge || at > float64(n-1)/hz-edge) {
					continue // the filter reaches over the ends
				}
				if d := math.Abs(float64(got[c*steps+j]) - f(at)); d > tol {
					t.Fatalf("%v Hz, step %d, channel %d: %v, want %v", hz, j, c, got[c*steps+j], f(at))
				}
			}
		}
		if tail := got[1601:steps]; slices.ContainsFunc(tail, func(v float32) bool { return v != 0 }) {
			t.Errorf("%v Hz: no zeros behind the trace", hz)
		}
	}
}

// TestAlias holds that downsampling filters what 400 Hz cannot hold.
func TestAlias(t *testing.T) {
	got := read(t, table("", ",", made(5000, 1000, sine(300), sine(150)), nil), modality.Params{"rate": 1000})
	for c, want := range []float64{0, 1} {
		if a := math.Sqrt(2) * rms(got[c*steps+50:c*steps+1950]); math.Abs(a-want) > 0.02 {
			t.Errorf("channel %d has an amplitude of %v, want %v", c, a, want)
		}
	}
}

func rms(x []float32) float64 {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum / float64(len(x)))
}

// TestInput reads what is the encoder's input already: not a bit changes.
func TestInput(t *testing.T) {
	x := signal(steps)
	want := slices.Concat(x[:]...)
	golden.Close(t, read(t, array("<f4", "6, 2000", want), modality.Params{"rate": 400}), want, 0)
	golden.Close(t, read(t, table("", ",", x, nil), modality.Params{"rate": 400}), want, 0)
}

// TestClips holds how many clips there are, and where: the first begins with
// the trace and the last ends with it.
func TestClips(t *testing.T) {
	ramp := func(at float64) float64 { return at }
	for _, tt := range []struct {
		seconds float64
		starts  []float64
	}{
		{0.5, []float64{0}}, {5, []float64{0}}, {6, []float64{0, 1}}, {10, []float64{0, 5}}, {11, []float64{0, 3, 6}},
		{60, []float64{0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55}},
		{599, []float64{0, 54, 108, 162, 216, 270, 324, 378, 432, 486, 540, 594}},
	} {
		got := read(t, table("", ",", made(int(tt.seconds*400), 400, ramp), nil), modality.Params{"rate": 400})
		var starts []float64
		for i := 0; i < len(got); i += channels * steps {
			starts = append(starts, math.Round(float64(got[i])*1000)/1000)
		}
		if !slices.Equal(starts, tt.starts) {
			t.Errorf("%v s: clips from %v, want %v", tt.seconds, starts, tt.starts)
		}
	}
}
