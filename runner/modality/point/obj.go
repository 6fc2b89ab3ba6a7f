package point

import (
	"bytes"
	"fmt"
	"strconv"
)

// readOBJ reads Wavefront's vertices ("v x y z", and what follows left out), as
// the reference does, and the faces, if they are wanted: "f 1/2/3 …", whose
// first numbers are vertices, from 1 on or back from the last.
func readOBJ(data []byte, w want) (cloud, error) {
	var c cloud
	var corners []int32
	for n, line := range lines(data) {
		words := bytes.Fields(line)
		switch {
		case string(words[0]) == "v":
			var err error
			if c.points, err = appendPoint(c.points, words[1:]); err != nil {
				return cloud{}, fmt.Errorf("line %d: %w", n, err)
			}
			if err := w.check(len(c.points)/3, "points"); err != nil {
				return cloud{}, err
			}
		case string(words[0]) == "f" && w.faces:
			corners = corners[:0]
			for _, word := range words[1:] {
				first, _, _ := bytes.Cut(word, []byte("/"))
				v, err := strconv.ParseInt(string(first), 10, 32)
				if err != nil || v == 0 {
					return cloud{}, fmt.Errorf("line %d: %.20q is no vertex", n, word)
				}
				if v < 0 {
					v += int64(len(c.points)/3) + 1
				}
				corners = append(corners, int32(v-1))
			}
			c.faces = fan(c.faces, corners)
			if err := w.check(len(c.faces)/3, "triangles"); err != nil {
				return cloud{}, err
			}
		}
	}
	return c, nil
}
