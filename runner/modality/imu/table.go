package imu

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

const maxColumns = 256

// A layout says what the columns of a table hold.
type layout struct {
	width int
	at    [channels + 1]int     // the column of each channel, and of time; -1 where there is none
	scale [channels + 1]float64 // of its unit to m/s², rad/s, s; 0 where none is named
}

// decodeTable reads text of a sample a line: fields between tabs, semicolons,
// commas or blanks, whichever of these the first line has, in this order.
// Without a header they are the accelerometer's x, y, z and the gyroscope's,
// with the time before them where there are seven. With one, columns of any
// order and further ones. Lines behind a # are comments, but for the last before
// the samples where that is a header, as numpy and EuRoC write it. Samples whose
// time is missing are left out, as Ego4D's are where its video was cut.
func decodeTable(ctx context.Context, text string, o modality.Options) (trace, error) {
	var (
		t       trace
		l       *layout // nil until the first line that is no comment
		sep     byte
		comment string // the last before that
		row     []string
		limit   = most(o)
	)
	text = strings.TrimPrefix(text, "\ufeff")
	for n := 1; len(text) > 0; n++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		if line = strings.Trim(line, " \r"); strings.TrimSpace(line) == "" {
			continue
		}
		if line[0] == '#' {
			comment = line[1:]
			continue
		}
		if l == nil {
			sep = separator(line)
			row = fields(row, line, sep)
			found, header, err := first(row, fields(nil, comment, separator(comment)))
			if err != nil {
				return trace{}, err
			}
			l = &found
			if t, err = l.trace(min(len(text)/len(line)+1, limit), o); err != nil {
				return trace{}, err
			}
			if header {
				continue
			}
		}
		row = fields(row[:0], line, sep)
		switch {
		case len(row) != l.width:
			return trace{}, imagebind.Errorf(imagebind.Invalid, "line %d has %d values, the first line %d", n, len(row), l.width)
		case t.len() == limit:
			return trace{}, tooLong(o)
		case n%(1<<14) == 0 && ctx.Err() != nil:
			return trace{}, ctx.Err()
		}
		if err := t.add(l, row, n); err != nil {
			return trace{}, err
		}
	}
	return t, nil
}

// first returns the layout of a table whose first line is row, and whether that
// is a header. The comment before it is one where it names channels.
func first(row, comment []string) (l layout, isHeader bool, err error) {
	if slices.ContainsFunc(row, func(s string) bool {
		_, err := strconv.ParseFloat(s, 64)
		return err != nil && !missing(s)
	}) {
		l, err = header(row)
		return l, true, err
	}
	if slices.ContainsFunc(comment, isChannel) {
		l, err = header(comment)
		switch {
		case len(comment) == len(row):
			return l, false, err
		case err == nil:
			return l, false, imagebind.Errorf(imagebind.Invalid, "the comment before the samples names %d columns, and they have %d: %.200q", len(comment), len(row), strings.Join(comment, " "))
		}
	}
	switch len(row) {
	case channels:
		return layout{width: channels, at: [...]int{0, 1, 2, 3, 4, 5, -1}}, false, nil
	case channels + 1:
		return layout{width: channels + 1, at: [...]int{1, 2, 3, 4, 5, 6, 0}}, false, nil
	}
	return l, false, imagebind.Errorf(imagebind.Invalid, "the motion trace has %d columns and no header; without one they are accelerometer x, y, z, gyroscope x, y, z, and before them the time, or none", len(row))
}

// header returns the layout that the names of columns give. Of several times
// the first counts.
func header(row []string) (layout, error) {
	l := layout{width: len(row), at: [...]int{-1, -1, -1, -1, -1, -1, -1}}
	if len(row) > maxColumns {
		return l, imagebind.Errorf(imagebind.Invalid, "the motion trace has more than %d columns", maxColumns)
	}
	for i, name := range row {
		what, factor, err := meaning(name)
		switch {
		case err != nil:
			return l, err
		case what == extraColumn || what == timeColumn && l.at[timeColumn] >= 0:
			continue
		case l.at[what] >= 0:
			return l, imagebind.Errorf(imagebind.Invalid, "the header names %s twice: %.60q and %.60q", names[what], row[l.at[what]], name)
		}
		l.at[what], l.scale[what] = i, factor
	}
	for c, name := range names {
		if l.at[c] < 0 {
			return l, imagebind.Errorf(imagebind.Invalid, "the first line is a header that names no %s: %.200q; the columns are called acc_x, acc_y, acc_z, gyro_x, gyro_y, gyro_z and time", name, strings.Join(row, " "))
		}
	}
	return l, nil
}

// trace returns an empty trace of the layout, with room for n samples.
func (l *layout) trace(n int, o modality.Options) (trace, error) {
	t := trace{unit: l.scale[timeColumn]}
	for c := range t.values {
		t.values[c] = make([]float32, 0, n)
		t.scale[c] = l.scale[c]
	}
	if o.Value(rate) == 0 {
		if l.at[timeColumn] < 0 {
			return t, imagebind.Errorf(imagebind.Invalid, "the motion trace has no time column; add one, or set rate, its samples a second")
		}
		t.times = make([]float64, 0, n)
	}
	return t, nil
}

// add appends the sample of a line.
func (t *trace) add(l *layout, row []string, line int) error {
	if t.times != nil {
		s := row[l.at[timeColumn]]
		if missing(s) {
			return nil
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsInf(v, 0) {
			return imagebind.Errorf(imagebind.Invalid, "line %d: the time is %.40q, no number; set rate for times of other kinds", line, s)
		}
		t.times = append(t.times, v)
	}
	for c := range t.values {
		s := row[l.at[c]]
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !believable(v) {
			return imagebind.Errorf(imagebind.Invalid, "line %d: %s is %.40q; values are numbers of up to a million, with a decimal point", line, names[c], s)
		}
		t.values[c] = append(t.values[c], float32(v))
	}
	return nil
}

// missing says that a field holds no value, as tables of pandas and of
// databases say it.
func missing(s string) bool {
	return s == "" || strings.EqualFold(s, "nan") || strings.EqualFold(s, "null")
}

// separator returns what stands between the fields of a line; ' ' is blanks.
func separator(line string) byte {
	for _, sep := range []byte("\t;,") {
		if strings.IndexByte(line, sep) >= 0 {
			return sep
		}
	}
	return ' '
}

// fields appends the fields of a line to row, without blanks and quotation
// marks around them: not more than one over maxColumns.
func fields(row []string, line string, sep byte) []string {
	for more := true; more && len(row) <= maxColumns; {
		var f string
		if sep == ' ' {
			line = strings.TrimLeft(line, " ")
		}
		f, line, more = strings.Cut(line, string(rune(sep)))
		row = append(row, strings.Trim(f, " \t\""))
	}
	return row
}
