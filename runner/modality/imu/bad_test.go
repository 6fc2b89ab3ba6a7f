package imu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

// array is a .npy file of float32, whose header may lie.
func array(descr, shape string, values []float32) []byte {
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }\n", descr, shape)
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), byte(len(header)>>8))
	b = append(b, header...)
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// lines is a table of n samples at 100 Hz, in which line i, from 0, is changed.
func lines(header string, n, i int, change func(line string) string) []byte {
	rows := strings.Split(strings.TrimSuffix(string(table("", ",", signal(n), func(i int) string { return fmt.Sprintf("%.2f", float64(i)/100) })), "\n"), "\n")
	rows[i] = change(rows[i])
	return []byte(header + strings.Join(rows, "\n"))
}

func TestRefused(t *testing.T) {
	at100 := modality.Params{"rate": 100}
	same := func(s string) string { return s }
	replace := func(field int, by string) func(string) string {
		return func(s string) string {
			f := strings.Split(s, ",")
			f[field] = by
			return strings.Join(f, ",")
		}
	}
	late := func(by float64) func(int) string {
		return func(i int) string {
			at := float64(i) / 100
			if i >= 50 {
				at += by
			}
			return fmt.Sprint(at)
		}
	}
	nan := make([]float32, 600)
	nan[100] = float32(math.NaN())
	const header = "time,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z\n"
	for _, tt := range []struct {
		name string
		data []byte
		p    modality.Params
		l    modality.Limits
		kind imagebind.Kind
		want string
	}{
		{name: "empty", kind: imagebind.Invalid, want: "is empty"},
		{name: "blank", data: []byte("\n\n \n"), kind: imagebind.Invalid, want: "holds 0 samples"},
		{name: "a picture", data: []byte("\x89PNG\r\n\x1a\n000000"), kind: imagebind.Unsupported, want: "image/png"},
		{name: "UTF-16", data: []byte("\xff\xfet\x00,\x00a\x00x\x00"), kind: imagebind.Unsupported, want: "UTF-8"},
		{name: "prose", data: []byte("Hello there"), kind: imagebind.Invalid, want: "names no acc_x"},
		{name: "header only", data: []byte(header), kind: imagebind.Invalid, want: "holds 0 samples"},
		{name: "one channel missing", data: []byte("time,ax,ay,az,gx,gy\n0,1,2,3,4,5\n"), kind: imagebind.Invalid, want: "names no gyro_z"},
		{name: "a channel twice", data: []byte("time,ax,ay,az,gx,gy,gz,acc_x\n"), kind: imagebind.Invalid, want: `names acc_x twice: "ax" and "acc_x"`},
		{name: "unknown unit", data: []byte("time,ax [mg],ay,az,gx,gy,gz\n"), kind: imagebind.Invalid, want: `the unit of the column "ax [mg]" is not understood`},
		{name: "unit of another sensor", data: []byte("time,ax,ay,az,gx (g),gy,gz\n"), kind: imagebind.Invalid, want: `"gx (g)" is not understood`},
		{name: "unknown unit in a comment", data: []byte("# time,ax [mg],ay,az,gx,gy,gz\n0,1,2,3,4,5,6\n"), kind: imagebind.Invalid, want: `"ax [mg]" is not understood`},
		{name: "two units", data: table("ax (m/s²),ay,az,gx,gy,gz\n", ",", signal(100), nil), p: modality.Params{"rate": 100, "acc_in_g": 1}, kind: imagebind.Invalid, want: "acc_in_g name different units of acc_x"},
		{name: "two units of the gyroscope", data: table("ax,ay,az,gx,gy,gz_rad_s\n", ",", signal(100), nil), p: modality.Params{"rate": 100, "gyro_in_degrees": 1}, kind: imagebind.Invalid, want: "gyro_in_degrees name different units of gyro_z"},
		{name: "too many columns", data: []byte("ax" + strings.Repeat(",", 100000)), kind: imagebind.Invalid, want: "more than 256 columns"},
		{name: "a comment of other width", data: []byte("# t gx [rad/s] gy gz ax ay az\n0,1,2,3,4,5,6\n"), kind: imagebind.Invalid, want: "names 8 columns, and they have 7"},
		{name: "a long name", data: []byte(strings.Repeat("ax", 1<<20) + ",ay\n"), kind: imagebind.Invalid, want: "names no acc_x"}, // and not after hours
		{name: "a long comment", data: []byte("#" + strings.Repeat("ax", 1<<20) + "\n1,2\n"), kind: imagebind.Invalid, want: "has 2 columns and no header"},
		{name: "five columns", data: []byte("1 2 3 4 5\n"), kind: imagebind.Invalid, want: "has 5 columns and no header"},
		{name: "eight columns", data: []byte("1\t2\t3\t4\t5\t6\t7\t8\n"), kind: imagebind.Invalid, want: "has 8 columns and no header"},
		{name: "no time, no rate", data: table("", ",", signal(100), nil), kind: imagebind.Invalid, want: "no time column; add one, or set rate"},
		{name: "rate too low", data: table("", ",", signal(100), nil), p: modality.Params{"rate": 2}, kind: imagebind.Invalid, want: "rate is 2; it is 5 to 10000"},
		{name: "cut line", data: lines("", 100, 99, func(s string) string { return s[:8] }), kind: imagebind.Invalid, want: "line 100 has 2 values, the first line 7"},
		{name: "a value too many", data: lines("", 100, 7, func(s string) string { return s + ",1" }), kind: imagebind.Invalid, want: "line 8 has 8 values"},
		{name: "empty value", data: lines(header, 100, 7, replace(4, "")), kind: imagebind.Invalid, want: `line 9: gyro_x is ""`},
		{name: "NaN", data: lines("", 100, 7, replace(1, "NaN")), kind: imagebind.Invalid, want: `line 8: acc_x is "NaN"`},
		{name: "infinite", data: lines("", 100, 7, replace(6, "-inf")), kind: imagebind.Invalid, want: `line 8: gyro_z is "-inf"`},
		{name: "too great", data: lines("", 100, 7, replace(6, "1e30")), kind: imagebind.Invalid, want: "numbers of up to a million"},
		{name: "decimal comma", data: []byte("0;1;2;3;4;5;6\n0,01;1;2;3;4;5;6\n"), kind: imagebind.Invalid, want: `line 2: the time is "0,01", no number`},
		{name: "decimal comma in a value", data: []byte("0;1;2;3;4;5;6\n0.01;1,5;2;3;4;5;6\n"), kind: imagebind.Invalid, want: "with a decimal point"},
		{name: "date", data: lines(header, 100, 0, replace(0, "2024-05-01T10:00:00Z")), kind: imagebind.Invalid, want: "set rate for times of other kinds"},
		{name: "infinite time", data: lines("", 100, 7, replace(0, "inf")), kind: imagebind.Invalid, want: `line 8: the time is "inf"`},
		{name: "time repeated", data: lines("", 100, 7, replace(0, "0.06")), kind: imagebind.Invalid, want: "time of sample 8, 0.06, is not after that of the one before, 0.06"},
		{name: "not sorted", data: lines("", 100, 7, replace(0, "0.01")), kind: imagebind.Invalid, want: "sort the samples by time"},
		{name: "no sample has a time", data: table(header, ",", signal(100), func(int) string { return "NULL" }), kind: imagebind.Invalid, want: "holds 0 samples"},
		{name: "gap", data: table("", ",", signal(100), late(0.6)), kind: imagebind.Invalid, want: "gap of 0.61 s before sample 51"},
		{name: "gap of years", data: table("", ",", signal(100), late(1e9)), kind: imagebind.Invalid, want: "gap of 1e+09 s before sample 51"},
		{name: "two samples a second, in nanoseconds", data: table(header, ",", signal(100), func(i int) string { return fmt.Sprint(i * 5e8) }), kind: imagebind.Invalid, want: "neither seconds nor"},
		{name: "minutes", data: table(strings.Replace(header, "time", "time_s", 1), ",", signal(100), func(i int) string { return fmt.Sprint(i) }), kind: imagebind.Invalid, want: "has 1 samples a second; 5 to 10000 are read"},
		{name: "wrong unit", data: table(strings.Replace(header, "time", "time_ns", 1), ",", signal(100), func(i int) string { return fmt.Sprint(i * 10) }), kind: imagebind.Invalid, want: "has 1e+08 samples a second"},
		{name: "far times", data: table("", ",", signal(3), func(i int) string { return fmt.Sprintf("%de307", i*5-5) }), kind: imagebind.Invalid, want: "neither seconds nor"},
		{name: "one sample", data: []byte("0,1,2,3,4,5,6\n"), kind: imagebind.Invalid, want: "holds 1 samples"},
		{name: "short", data: lines("", 40, 0, same), kind: imagebind.Invalid, want: "is 0.4 s long (40 samples at 100 Hz); at least 0.5 s are needed"},
		{name: "long", data: lines("", 100, 0, same), l: modality.Limits{Seconds: 0.9}, kind: imagebind.TooLarge, want: "longer than the 0.9 seconds allowed"},
		{name: "more rows than the seconds at the highest rate", data: lines("", 6100, 0, same), l: modality.Limits{Seconds: 0.6}, kind: imagebind.TooLarge, want: "longer than"},
		{name: "more rows than the seconds", data: lines("", 100, 99, func(string) string { return "not read any more" }), p: at100, l: modality.Limits{Seconds: 0.9}, kind: imagebind.TooLarge, want: "longer than"},

		{name: "npy without rate", data: array("<f4", "6, 100", make([]float32, 600)), kind: imagebind.Invalid, want: "says no times; set rate"},
		{name: "npy cut", data: array("<f4", "6, 100", make([]float32, 599)), p: at100, kind: imagebind.Invalid, want: "the file is cut"},
		{name: "npy lying", data: array("<f4", "6, 400000000000", make([]float32, 6)), p: at100, kind: imagebind.Invalid, want: ".npy file cannot be read"},
		{name: "npy of other width", data: array("<f4", "7, 100", make([]float32, 700)), p: at100, kind: imagebind.Invalid, want: "has shape [7 100]"},
		{name: "npy of three axes", data: array("<f4", "1, 6, 100", make([]float32, 600)), p: at100, kind: imagebind.Invalid, want: "has shape [1 6 100]"},
		{name: "npy of strings", data: array("<U1", "6, 100", make([]float32, 600)), p: at100, kind: imagebind.Invalid, want: "is not read"},
		{name: "npy NaN", data: array("<f4", "6, 100", nan), p: at100, kind: imagebind.Invalid, want: "acc_y of sample 1 is NaN"},
		{name: "npy empty", data: array("<f4", "6, 0", nil), p: at100, kind: imagebind.Invalid, want: "holds 0 samples"},
		{name: "npy long", data: array("<f4", "6, 100", nan), p: at100, l: modality.Limits{Seconds: 0.9}, kind: imagebind.TooLarge, want: "longer than the 0.9 seconds"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Spec.Check(tt.p); err != nil {
				t.Fatal(err)
			}
			x, err := Read(t.Context(), tt.data, modality.Options{Params: tt.p, Limits: tt.l})
			if imagebind.KindOf(err) != tt.kind || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v (%v, %v), want %v, %q in it", err, imagebind.KindOf(err), x.Shape, tt.kind, tt.want)
			}
		})
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, table("", ",", signal(100), nil), modality.Options{Params: modality.Params{"rate": 100}}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestMeaning(t *testing.T) {
	for _, tt := range []struct {
		name   string
		what   int
		factor float64
	}{
		{"acc_x", 0, 0}, {"ay", 1, 0}, {"Accel. Z", 2, 0}, {"accelerometerAccelerationX(G)", 0, gravity}, {"linear_acceleration.y", 1, 0},
		{"x_acc", 0, 0}, {"acc_z_g", 2, gravity}, {"acc_z_ms2", 2, 1}, {"accZ [m/s²]", 2, 1}, {"a_RS_S_y [m s^-2]", 1, 1},
		{"gyro_x", 3, 0}, {"gz", 5, 0}, {"wx", 3, 0}, {"Gyroscope Y (°/s)", 4, math.Pi / 180}, {"gyr_y_dps", 4, math.Pi / 180},
		{"gyro_z_rad_s", 5, 1}, {"angular_velocity.x", 3, 0}, {"gyroRotationX(rad/s)", 3, 1}, {"w_RS_S_z [rad s^-1]", 5, 1},
		{"t", timeColumn, 0}, {"Time", timeColumn, 0}, {"timestamps", timeColumn, 0}, {"canonical_timestamp_ms", timeColumn, 1e-3}, {"timestampNs", timeColumn, 1e-9},
		{"Time (s)", timeColumn, 1}, {"time_s", timeColumn, 1}, {"t s", timeColumn, 1}, {"ts", timeColumn, 0}, {"acc_x_", 0, 0}, {"t [µs]", timeColumn, 1e-6}, {"time_us", timeColumn, 1e-6}, {"seconds_elapsed", timeColumn, 1}, {"seconds", timeColumn, 1}, {"ms", timeColumn, 1e-3},
		{"component_timestamp_ms", extraColumn, 0}, {"mag_x", extraColumn, 0}, {"label (walk)", extraColumn, 0}, {"x", extraColumn, 0}, {"s", extraColumn, 0}, {"g", extraColumn, 0},
		{"", extraColumn, 0}, {"temperature (C)", extraColumn, 0}, {"gravity_x", extraColumn, 0}, {"((", extraColumn, 0}, {"é", extraColumn, 0},
	} {
		what, factor, err := meaning(tt.name)
		if what != tt.what || factor != tt.factor || err != nil {
			t.Errorf("%q means %d, %v (%v), want %d, %v", tt.name, what, factor, err, tt.what, tt.factor)
		}
	}
}

// check holds what Read promises of any bytes.
func check(t *testing.T, data []byte, p modality.Params) {
	t.Helper()
	x, err := Read(t.Context(), data, modality.Options{Params: p})
	if err != nil {
		if k := imagebind.KindOf(err); k != imagebind.Invalid && k != imagebind.TooLarge && k != imagebind.Unsupported {
			t.Errorf("%v: %v", k, err)
		}
		return
	}
	if len(x.Shape) != 3 || x.Shape[0] < 1 || x.Shape[0] > maxClips || len(x.Floats) != x.Shape[0]*channels*steps {
		t.Errorf("shape %v of %d values", x.Shape, len(x.Floats))
	}
	for i, v := range x.Floats {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			t.Fatalf("value %d is %v", i, v)
		}
	}
}

func FuzzCSV(f *testing.F) {
	f.Add("time,ax,ay,az,gx,gy,gz\n0,1,2,3,4,5,6\n0.1,1,2,3,4,5,6\n0.2,1,2,3,4,5,6\n0.3,1,2,3,4,5,6\n0.4,1,2,3,4,5,6\n0.5,1,2,3,4,5,6\n")
	f.Add("# t_ms gx [deg/s] gy gz ax [g] ay az\n0 1 2 3 4 5 6\n400 1 2 3 4 5 -6e5\n500 1 2 3 4 5 6\r\n600 1 2 3 4 5 6\n700 1 2 3 4 5 6\n")
	f.Add("\ufeff\"Time (s)\";\"Acc X\";\"Acc Y\";\"Acc Z\";\"Gyro X\";\"Gyro Y\";\"Gyro Z\"\nNULL;1;2;3;4;5;6\n")
	f.Add("1700000000000000000\t1\t2\t3\t4\t5\t6\n1700000000200000000\t1\t2\t3\t4\t5\t6\n")
	f.Fuzz(func(t *testing.T, text string) { check(t, []byte(text), nil) })
}

func FuzzRead(f *testing.F) {
	f.Add(array("<f4", "6, 10", make([]float32, 60)), 10.0, 1.0, 5.0)
	f.Add(array("<i2", "10, 6", make([]float32, 30)), 20.0, 0.0, 1.0)
	f.Add([]byte("1 2 3 4 5 6\n1 2 3 4 5 6\n1 2 3 4 5 6\n1 2 3 4 5 6\n"), 5.0, 1.0, 20.0)
	f.Fuzz(func(t *testing.T, data []byte, rate, units, window float64) {
		p := modality.Params{"rate": rate, "acc_in_g": units, "gyro_in_degrees": units, "window": window}
		if Spec.Check(p) == nil {
			check(t, data, p)
		}
	})
}

// BenchmarkRead is of a minute at 200 Hz, and of 32 MB, which is 53 minutes.
func BenchmarkRead(b *testing.B) {
	for _, tt := range []struct {
		name    string
		samples int
	}{{"minute", 60 * 200}, {"32MB", 53 * 60 * 200}} {
		data := table("time,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z\n", ",", signal(tt.samples), func(i int) string { return fmt.Sprint(float64(i) / 200) })
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Read(b.Context(), data, modality.Options{Limits: modality.Limits{Seconds: 1e5}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
