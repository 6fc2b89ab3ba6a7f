package point

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Sizes of binary STL, in bytes: a title and the number of triangles, then of
// each a normal, three corners and two bytes of attributes.
const (
	stlHead = 84
	stlFace = 50
)

// readSTL reads triangles, in text or binary. Corners in one place are one vertex.
func readSTL(data []byte, w want) (cloud, error) {
	s := solid{w: w, vertices: map[[3]float64]int32{}}
	s.mesh = true
	if n, ok := stlCount(data); ok {
		if err := w.check(n, "triangles"); err != nil {
			return cloud{}, err
		}
		for i := range n {
			face := data[stlHead+i*stlFace+12:]
			for k := range 9 {
				s.corner[k%3] = f32.value(binary.LittleEndian, face[4*k:])
				if k%3 == 2 {
					if err := s.add(); err != nil {
						return cloud{}, err
					}
				}
			}
		}
		return s.cloud, nil
	}
	for n, line := range lines(data) {
		words := bytes.Fields(line)
		if string(words[0]) != "vertex" {
			continue
		}
		point, err := appendPoint(s.corner[:0], words[1:])
		if err == nil {
			s.corner = [3]float64(point)
			err = s.add()
		}
		if err != nil {
			return cloud{}, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if len(s.faces)%3 != 0 {
		return cloud{}, fmt.Errorf("it is cut: it ends within a triangle")
	}
	return s.cloud, nil
}

// stlCount returns the number of triangles of a binary file.
func stlCount(data []byte) (int, bool) {
	if len(data) < stlHead {
		return 0, false
	}
	n := int(binary.LittleEndian.Uint32(data[stlHead-4:]))
	return n, len(data)-stlHead == n*stlFace
}

// A solid gathers triangles corner by corner.
type solid struct {
	cloud
	w        want
	vertices map[[3]float64]int32
	corner   [3]float64
}

func (s *solid) add() error {
	at, ok := s.vertices[s.corner]
	if !ok {
		at = int32(len(s.points) / 3)
		s.points = append(s.points, s.corner[:]...)
		s.vertices[s.corner] = at
	}
	s.faces = append(s.faces, at)
	if err := s.w.check(len(s.points)/3, "points"); err != nil {
		return err
	}
	return s.w.check(len(s.faces)/3, "triangles")
}
