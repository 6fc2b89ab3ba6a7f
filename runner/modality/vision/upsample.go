package vision

import "image"

// jpegRows are the planes of a JPEG. A row becomes RGB as libjpeg-turbo makes
// it, which Pillow uses: chroma is interpolated ("fancy upsampling", jdsample.c),
// where Go's own conversion repeats it, and the colour conversion rounds as jdcolor.c.
type jpegRows struct {
	*image.YCbCr
	rgb, cb, cr []byte // of the latest row
}

func (p *jpegRows) size() (w, h int) { return p.Rect.Dx(), p.Rect.Dy() }

func (p *jpegRows) row(y, first, last int) []byte {
	w, h := p.size()
	hs, vs := ratio(p.SubsampleRatio)
	cw, ch := (w+hs-1)/hs, (h+vs-1)/vs
	if p.rgb == nil {
		p.rgb, p.cb, p.cr = make([]byte, 3*w), make([]byte, hs*cw), make([]byte, hs*cw)
	}
	near, far := y/vs, y/vs
	if vs == 2 { // the row above for the upper half of a sample, else below
		far = min(max(near-1+y&1*2, 0), ch-1)
	}
	c0 := p.COffset(p.Rect.Min.X, p.Rect.Min.Y)
	n, f := c0+near*p.CStride, c0+far*p.CStride
	lo, hi := first/hs, (last+hs-1)/hs
	upsample(p.cb, p.Cb[n:][:cw], p.Cb[f:][:cw], lo, hi, hs, vs, y)
	upsample(p.cr, p.Cr[n:][:cw], p.Cr[f:][:cw], lo, hi, hs, vs, y)
	luma := p.Y[p.YOffset(p.Rect.Min.X, p.Rect.Min.Y+y):][first:last]
	cb, cr, rgb := p.cb[first:][:len(luma)], p.cr[first:][:len(luma)], p.rgb[:3*len(luma)]
	for x, l := range luma {
		d := rgb[3*x:][:3]
		d[0], d[1], d[2] = ycc(l, cb[x], cr[x])
	}
	return rgb
}

// ratio returns how many luma samples one chroma sample covers, across and down.
func ratio(r image.YCbCrSubsampleRatio) (h, v int) {
	switch r {
	case image.YCbCrSubsampleRatio422:
		return 2, 1
	case image.YCbCrSubsampleRatio420:
		return 2, 2
	case image.YCbCrSubsampleRatio440:
		return 1, 2
	case image.YCbCrSubsampleRatio411:
		return 4, 1
	case image.YCbCrSubsampleRatio410:
		return 4, 2
	}
	return 1, 1
}

// upsample writes to dst [hs·cw] the chroma of the picture's row y, of its
// samples lo..hi. Those that cover two columns or rows are interpolated with
// weights 3/4 and 1/4 (h2v1, h2v2 and h1v2_fancy_upsample), the outermost with
// themselves; others, and planes at most two samples wide, are repeated. near
// [cw] are the samples of the row, far those of the next nearest: near itself,
// where one covers one row.
func upsample(dst, near, far []byte, lo, hi, hs, vs, y int) {
	sum := func(x int) int32 {
		x = min(max(x, 0), len(near)-1)
		return 3*int32(near[x]) + int32(far[x])
	}
	switch {
	case hs == 2 && vs <= 2 && len(near) > 2:
		left, right := int32(8), int32(7) // round
		if vs == 1 {
			left, right = 4, 8
		}
		before, s := sum(lo-1), sum(lo)
		for x := lo; x < hi; x++ {
			after := sum(x + 1)
			dst[2*x], dst[2*x+1] = byte((3*s+before+left)>>4), byte((3*s+after+right)>>4)
			before, s = s, after
		}
	case hs == 1 && vs == 2:
		for x := lo; x < hi; x++ {
			dst[x] = byte((sum(x) + int32(1+y&1)) >> 2)
		}
	default:
		for x := lo; x < hi; x++ {
			for i := range hs {
				dst[hs*x+i] = near[x]
			}
		}
	}
}

// The tables of jdcolor.c, build_ycc_rgb_table: 16 fraction bits.
var crR, cbB, crG, cbG = func() (crR, cbB, crG, cbG [256]int32) {
	fix := func(x float64) int32 { return int32(x*65536 + 0.5) }
	for i := range int32(256) {
		x := i - 128
		crR[i] = (fix(1.40200)*x + 1<<15) >> 16
		cbB[i] = (fix(1.77200)*x + 1<<15) >> 16
		crG[i] = -fix(0.71414) * x
		cbG[i] = -fix(0.34414)*x + 1<<15
	}
	return
}()

// ycc converts one pixel of full-range Y'CbCr.
func ycc(y, cb, cr byte) (r, g, b byte) {
	l := int32(y)
	return limited[uint32(l+crR[cr])%1024], limited[uint32(l+(cbG[cb]+crG[cr])>>16)%1024], limited[uint32(l+cbB[cb])%1024]
}

// limited is clamp of -512..511, modulo 1024.
var limited = func() (t [1024]byte) {
	for v := range int32(1024) {
		t[v] = clamp((v+512)%1024 - 512)
	}
	return
}()

func clamp(v int32) byte { return byte(min(max(v, 0), 255)) }

// webpRGB turns the 4:2:0 planes of a lossy WebP into RGB as libwebp does:
// chroma interpolated with weights 9, 3, 3, 1 (src/dsp/upsampling.c), then
// BT.601 with 14 fraction bits (src/dsp/yuv.h).
func webpRGB(img *image.YCbCr) Picture {
	b := img.Bounds()
	p := Picture{b.Dx(), b.Dy(), make([]byte, 3*b.Dx()*b.Dy())}
	cw, ch := (p.W+1)/2, (p.H+1)/2
	u, v := make([]byte, 2*cw), make([]byte, 2*cw)
	c0 := img.COffset(b.Min.X, b.Min.Y)
	for y := range p.H {
		near := y / 2 * img.CStride
		far := min(max(y/2-1+y&1*2, 0), ch-1) * img.CStride
		webpRow(u, img.Cb[c0+near:][:cw], img.Cb[c0+far:][:cw])
		webpRow(v, img.Cr[c0+near:][:cw], img.Cr[c0+far:][:cw])
		luma, dst := img.Y[img.YOffset(b.Min.X, b.Min.Y+y):][:p.W], p.Pix[3*p.W*y:][:3*p.W]
		for x, l := range luma {
			ly, uu, vv := int32(l)*19077>>8, int32(u[x]), int32(v[x])
			dst[3*x] = clamp((ly + vv*26149>>8 - 14234) >> 6)
			dst[3*x+1] = clamp((ly - uu*6419>>8 - vv*13320>>8 + 8708) >> 6)
			dst[3*x+2] = clamp((ly + uu*33050>>8 - 17685) >> 6)
		}
	}
	return p
}

// webpRow interpolates a chroma row between the sample rows near and far. The
// outermost columns have one neighbour across only.
func webpRow(dst, near, far []byte) {
	n := len(near)
	edge := func(i int) byte { return byte((3*int32(near[i]) + int32(far[i]) + 2) >> 2) }
	dst[0], dst[2*n-1] = edge(0), edge(n-1)
	for x := 1; x < n; x++ {
		a, b := int32(near[x-1]), int32(near[x])
		c, d := int32(far[x-1]), int32(far[x])
		sum := a + b + c + d + 8
		dst[2*x-1] = byte(((sum+2*(b+c))>>3 + a) >> 1)
		dst[2*x] = byte(((sum+2*(a+d))>>3 + b) >> 1)
	}
}
