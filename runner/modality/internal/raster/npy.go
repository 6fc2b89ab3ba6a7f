package raster

import (
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/npy"
	"imagebind-llm/runner/modality/internal/foreign"
)

// readNPY reads numpy's array [H, W], with further axes of length 1 anywhere.
func readNPY(s source) (Plane, error) {
	t, err := npy.Parse(s.data)
	if err != nil {
		return Plane{}, err
	}
	shape := t.Shape
	if len(shape) > 2 {
		shape = slices.DeleteFunc(slices.Clone(shape), func(n int) bool { return n == 1 })
	}
	if len(shape) != 2 || t.DType == format.Bool {
		return Plane{}, imagebind.Errorf(imagebind.Invalid, "the array has shape %v of %s; %s is numbers [H, W] or [1, H, W]", t.Shape, t.DType, s.what)
	}
	p := Plane{W: shape[1], H: shape[0]}
	if err := s.check(p.W, p.H, t.DType.BlockBytes()); err != nil {
		return Plane{}, err
	}
	switch t.DType {
	case format.F64, format.F32, format.F16:
	default:
		p.Bits = 8 * t.DType.BlockBytes()
	}
	if p.Pix, err = t.Floats(); err != nil {
		return Plane{}, foreign.Broken(".npy", err)
	}
	return p, nil
}
