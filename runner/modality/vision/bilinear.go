package vision

// A lerp is where a row or column of a resized picture comes from:
// (1-w)·source[i] + w·source[j].
type lerp struct {
	i, j int
	w    float32
}

// lerps returns those of the n rows from first on, of size rows that are made
// of from, as torch.nn.functional.interpolate(mode="bilinear",
// align_corners=False) has them: two neighbours however much it shrinks, and
// positions in float32 (aten/src/ATen/native/UpSample.h).
func lerps(from, size, first, n int) []lerp {
	scale := float32(from) / float32(size)
	out := make([]lerp, n)
	for k := range out {
		at := max(float32(scale*(float32(first+k)+0.5))-0.5, 0)
		i := min(int(at), from-1)
		out[k] = lerp{i, min(i+1, from-1), min(at-float32(i), 1)}
	}
	return out
}

// A cut is a square [224, 224] of a resized picture.
type cut struct{ rows, cols []lerp }

// newCuts returns the squares of pictures w × h once their short side is 224:
// from the start, the centre and the end of the long side, or the centre alone
// where n is 1 (ImageBind, data.py, SpatialCrop; pytorchvideo, uniform_crop).
func newCuts(w, h, n int) []cut {
	rw, rh := Side, Side // not as a still picture's: pytorchvideo, short_side_scale
	if w < h {
		rh = int(float64(h) / float64(w) * Side)
	} else {
		rw = int(float64(w) / float64(h) * Side)
	}
	left, top := (rw-Side+1)/2, (rh-Side+1)/2 // of the centre, rounded up
	at := [][2]int{{left, top}}
	switch {
	case n == 1:
	case rh > rw:
		at = [][2]int{{left, 0}, {left, top}, {left, rh - Side}}
	default:
		at = [][2]int{{0, top}, {left, top}, {rw - Side, top}}
	}
	var cuts []cut
	for _, xy := range at {
		cuts = append(cuts, cut{rows: lerps(h, rh, xy[1], Side), cols: lerps(w, rw, xy[0], Side)})
	}
	return cuts
}

// resizeTo writes the square of p, normalized as NormalizeTo does, to dst: three
// planes [224, 224], each begins stride values behind the one before.
func (k cut) resizeTo(dst []float32, stride int, p Picture) {
	var gain, bias [3]float32
	for c := range 3 {
		gain[c], bias[c] = 1/(255*std[c]), mean[c]/std[c]
	}
	r, g, b := dst[:Side*Side], dst[stride:][:Side*Side], dst[2*stride:][:Side*Side]
	at := 0
	for _, y := range k.rows {
		above, below := p.Pix[3*p.W*y.i:][:3*p.W], p.Pix[3*p.W*y.j:][:3*p.W]
		v, u := y.w, 1-y.w
		for _, x := range k.cols {
			nw, ne, sw, se := above[3*x.i:][:3], above[3*x.j:][:3], below[3*x.i:][:3], below[3*x.j:][:3]
			w00, w01, w10, w11 := u*(1-x.w), u*x.w, v*(1-x.w), v*x.w
			r[at] = (w00*float32(nw[0])+w01*float32(ne[0])+w10*float32(sw[0])+w11*float32(se[0]))*gain[0] - bias[0]
			g[at] = (w00*float32(nw[1])+w01*float32(ne[1])+w10*float32(sw[1])+w11*float32(se[1]))*gain[1] - bias[1]
			b[at] = (w00*float32(nw[2])+w01*float32(ne[2])+w10*float32(sw[2])+w11*float32(se[2]))*gain[2] - bias[2]
			at++
		}
	}
}

// FitPlane writes the centre [224, 224] of a plane [H, W] whose short side is
// resized to 224, to dst: as torchvision's Resize(224) and CenterCrop(224) did
// to tensors before release 0.17, bilinear without antialiasing.
// It panics if src holds fewer than w·h values or dst fewer than 224².
func FitPlane(dst, src []float32, w, h int) {
	rw, rh := resized(w, h)
	c := centre(rw, rh)
	rows, cols := lerps(h, rh, c.top, c.h), lerps(w, rw, c.left, c.w)
	dst = dst[:Side*Side]
	for _, y := range rows {
		above, below := src[w*y.i:][:w], src[w*y.j:][:w]
		for i, x := range cols {
			dst[i] = (1-y.w)*((1-x.w)*above[x.i]+x.w*above[x.j]) + y.w*((1-x.w)*below[x.i]+x.w*below[x.j])
		}
		dst = dst[Side:]
	}
}
