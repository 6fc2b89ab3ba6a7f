package point

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// readXYZ reads text with a point on each line: x, y, z, and anything behind
// them (colours, normals, intensities), between spaces, tabs, commas or
// semicolons. The first line may name the columns, or be the number of points
// (.pts); # and // start comments.
func readXYZ(data []byte, w want) (cloud, error) {
	var c cloud
	said, first := -1, true
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	for n, line := range lines(data) {
		if line[0] == '#' || bytes.HasPrefix(line, []byte("//")) {
			continue
		}
		words := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == ';' })
		if first {
			first = false
			if count, err := strconv.Atoi(string(line)); err == nil {
				if said = count; said < 0 {
					return cloud{}, errors.New("it says that it has fewer than 0 points")
				}
				if err := w.check(said, "points"); err != nil {
					return cloud{}, err
				}
				continue
			}
			if heading(words) {
				continue
			}
		}
		var err error
		if c.points, err = appendPoint(c.points, words); err != nil {
			return cloud{}, fmt.Errorf("line %d, %.40q, is no x y z: %w", n, line, err)
		}
		if err := w.check(len(c.points)/3, "points"); err != nil {
			return cloud{}, err
		}
	}
	if said > len(c.points)/3 {
		return cloud{}, errCut
	}
	return c, nil
}

// heading reports whether words name three columns at least.
func heading(words [][]byte) bool {
	for _, w := range words {
		if _, err := parse(w); err == nil {
			return false
		}
	}
	return len(words) >= 3
}
