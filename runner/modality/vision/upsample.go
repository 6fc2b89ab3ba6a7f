package vision

import "image"

// jpegRGB turns the planes of a JPEG into RGB as libjpeg-turbo does, which
// Pillow uses: chroma is interpolated ("fancy upsampling", jdsample.c), where
// Go's own conversion repeats it, and the colour conversion rounds as jdcolor.c.
func jpegRGB(img *image.YCbCr) Picture {
	b := img.Bounds()
	p := Picture{b.Dx(), b.Dy(), make([]byte, 3*b.Dx()*b.Dy())}
	hs, vs := ratio(img.SubsampleRatio)
	cw, ch := (p.W+hs-1)/hs, (p.H+vs-1)/vs
	cb, cr, sums := make([]byte, hs*cw), make([]byte, hs*cw), make([]int32, cw)
	c0 := img.COffset(b.Min.X, b.Min.Y)
	for y := range p.H {
		upsampleRow(cb, sums, img.Cb[c0:], img.CStride, cw, ch, hs, vs, y)
		upsampleRow(cr, sums, img.Cr[c0:], img.CStride, cw, ch, hs, vs, y)
		luma, dst := img.Y[img.YOffset(b.Min.X, b.Min.Y+y):][:p.W], p.Pix[3*p.W*y:][:3*p.W]
		for x, l := range luma {
			dst[3*x], dst[3*x+1], dst[3*x+2] = ycc(l, cb[x], cr[x])
		}
	}
	return p
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

// upsampleRow writes to dst [hs·cw] the chroma of the picture's row y. Samples
// that cover two columns or rows are interpolated with weights 3/4 and 1/4
// (h2v1, h2v2 and h1v2_fancy_upsample); others, and planes at most two samples
// wide, are repeated. sums [cw] is scratch space.
func upsampleRow(dst []byte, sums []int32, plane []byte, stride, cw, ch, hs, vs, y int) {
	near := plane[y/vs*stride:][:cw]
	fancy := hs <= 2 && vs <= 2 && (hs == 1 || cw > 2)
	if !fancy {
		for x, v := range near {
			for i := range hs {
				dst[hs*x+i] = v
			}
		}
		return
	}
	if vs == 1 {
		if hs == 1 {
			copy(dst, near)
			return
		}
		dst[0], dst[1] = near[0], byte((3*int32(near[0])+int32(near[1])+2)>>2)
		for x := 1; x < cw-1; x++ {
			v := 3 * int32(near[x])
			dst[2*x], dst[2*x+1] = byte((v+int32(near[x-1])+1)>>2), byte((v+int32(near[x+1])+2)>>2)
		}
		dst[2*cw-2], dst[2*cw-1] = byte((3*int32(near[cw-1])+int32(near[cw-2])+1)>>2), near[cw-1]
		return
	}
	other := y/2 - 1 + y&1*2 // the row above for the upper half of a sample, else below
	far := plane[min(max(other, 0), ch-1)*stride:][:cw]
	for x := range near {
		sums[x] = 3*int32(near[x]) + int32(far[x])
	}
	if hs == 1 {
		bias := int32(1 + y&1)
		for x, s := range sums {
			dst[x] = byte((s + bias) >> 2)
		}
		return
	}
	dst[0], dst[1] = byte((4*sums[0]+8)>>4), byte((3*sums[0]+sums[1]+7)>>4)
	for x := 1; x < cw-1; x++ {
		v := 3 * sums[x]
		dst[2*x], dst[2*x+1] = byte((v+sums[x-1]+8)>>4), byte((v+sums[x+1]+7)>>4)
	}
	last := sums[cw-1]
	dst[2*cw-2], dst[2*cw-1] = byte((3*last+sums[cw-2]+8)>>4), byte((4*last+7)>>4)
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
	return clamp(l + crR[cr]), clamp(l + (cbG[cb]+crG[cr])>>16), clamp(l + cbB[cb])
}

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
