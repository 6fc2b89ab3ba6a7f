package imu

import (
	"math"
	"strings"
	"unicode"

	imagebind "imagebind-llm"
)

// names are the channels, as errors and the manifest call them.
var names = [channels]string{"acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"}

// What a column holds: a channel's number, or one of these.
const (
	timeColumn  = channels
	extraColumn = -1
)

// What headers call the sensors, in lower case, letters only, without the axis:
// of phone loggers, of ROS (linear_acceleration.x), Ego4D (accl_x) and
// ASL/EuRoC (a_RS_S_x).
var (
	accelerometers = set("a acc accl accel acceleration accelerometer accelerometeracceleration linearacceleration linacc arss")
	gyroscopes     = set("g gyr gyro gyroscope gyrorotation gyrorotationrate rotation rotationrate motionrotationrate w omega angvel angularvelocity angularrate wrss")
	clocks         = set("t ts time times timestamp timestamps canonicaltimestamp elapsed elapsedtime timeelapsed unixtime unixtimestamp epoch loggingtime")
)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// A unit is of the accelerometer (0), the gyroscope (3) or time (timeColumn).
type unit struct {
	of     int
	factor float64 // to m/s², rad/s, s
}

// units are by their name as squeeze leaves it.
var units = map[string]unit{}

func init() {
	for _, u := range []struct {
		unit
		names string
	}{
		{unit{0, 1}, "ms2 mss mps2 msec2"},
		{unit{0, gravity}, "g gs"},
		{unit{3, 1}, "rads rads1 radsec radps rps"},
		{unit{3, math.Pi / 180}, "degs degs1 degsec degps dps"},
		{unit{timeColumn, 1}, "s sec secs second seconds"},
		{unit{timeColumn, 1e-3}, "ms msec msecs milli millis millisecond milliseconds"},
		{unit{timeColumn, 1e-6}, "us usec usecs micro micros microsecond microseconds"},
		{unit{timeColumn, 1e-9}, "ns nsec nsecs nano nanos nanosecond nanoseconds"},
	} {
		for n := range set(u.names) {
			units[n] = u.unit
		}
	}
}

const longestName = 100 // bytes, of a name that is looked at

// meaning returns what a column of that name holds, and how many m/s², rad/s or
// s its unit is, 0 where none is named: behind the name, as in time_ms, or in
// brackets, as in "Acc X (m/s²)". Case and signs are not looked at. An unknown
// name is an extra column; an unknown unit is Invalid.
func meaning(name string) (what int, factor float64, err error) {
	if len(name) > longestName {
		return extraColumn, 0, nil
	}
	plain, bracketed, boxed := unbox(name)
	key := squeeze(plain)
	what = named(key)
	if !boxed {
		if i := strings.LastIndexAny(plain, " _-."); i > 0 { // time_s; times may be many
			if w, u := suffixed(squeeze(plain[:i]), squeeze(plain[i:])); w != extraColumn {
				return w, u, nil
			}
		}
		for i := 1; i < len(key) && what == extraColumn; i++ { // timestampMs: the longest unit first
			if w, u := suffixed(key[:i], key[i:]); w != extraColumn {
				return w, u, nil
			}
		}
		if u, ok := units[strings.TrimSuffix(key, "elapsed")]; ok && u.of == timeColumn && len(key) > 1 { // seconds, secondsElapsed
			return timeColumn, u.factor, nil
		}
	}
	if !boxed || what == extraColumn {
		return what, 0, nil
	}
	u, ok := units[squeeze(bracketed)]
	if !ok || u.of != kind(what) {
		return 0, 0, imagebind.Errorf(imagebind.Invalid, "the unit of the column %.60q is not understood; s, ms, us, ns, m/s², g, rad/s and deg/s are", name)
	}
	return what, u.factor, nil
}

// isChannel says whether name is that of a channel, whatever its unit.
func isChannel(name string) bool {
	if len(name) > longestName {
		return false
	}
	plain, _, _ := unbox(name)
	what := named(squeeze(plain))
	return what != extraColumn && what != timeColumn
}

// suffixed is the meaning of a squeezed name with a unit behind it.
func suffixed(name, suffix string) (what int, factor float64) {
	what = named(name)
	if u, ok := units[suffix]; ok && what != extraColumn && u.of == kind(what) {
		return what, u.factor
	}
	return extraColumn, 0
}

// kind returns the first channel of a channel's sensor, or timeColumn.
func kind(what int) int { return what / 3 * 3 }

// named returns what a squeezed name without a unit means.
func named(key string) int {
	if clocks[key] {
		return timeColumn
	}
	if len(key) < 2 {
		return extraColumn
	}
	for _, split := range [][2]string{ // accx, xacc
		{key[:len(key)-1], key[len(key)-1:]}, {key[1:], key[:1]},
	} {
		axis := strings.Index("xyz", split[1])
		switch {
		case axis < 0:
		case accelerometers[split[0]]:
			return axis
		case gyroscopes[split[0]]:
			return 3 + axis
		}
	}
	return extraColumn
}

// unbox parts a name from what it has in brackets.
func unbox(name string) (plain, bracketed string, boxed bool) {
	i := strings.IndexAny(name, "[(")
	if i < 0 {
		return name, "", false
	}
	n := strings.IndexAny(name[i:], "])")
	if n < 0 {
		return name, "", false
	}
	return name[:i] + name[i+n+1:], name[i+1 : i+n], true
}

var plainLetters = strings.NewReplacer("²", "2", "°", "deg", "µ", "u", "μ", "u")

// squeeze returns the letters and digits of s, in lower case.
func squeeze(s string) string {
	s = plainLetters.Replace(strings.ToLower(s))
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, s)
}
