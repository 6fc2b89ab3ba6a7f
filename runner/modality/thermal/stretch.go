package thermal

import (
	"context"
	"math"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/raster"
	"imagebind-llm/runner/modality/vision"
)

// picture returns a file's picture in grey: red, green and blue are equal.
func picture(ctx context.Context, data []byte, o modality.Options) (vision.Picture, error) {
	from, to := o.Value(low), o.Value(high)
	said := from != 0 || to != 0
	if raster.Deep(data) {
		p, err := raster.Decode(ctx, data, o, "a thermal picture")
		switch {
		case err != nil:
			return vision.Picture{}, err
		case said && to <= from:
			return vision.Picture{}, imagebind.Errorf(imagebind.Invalid, "low is %v and high %v; high is the larger", from, to)
		case !said && p.Bits == 8:
			from, to = 0, 255
		case !said:
			from, to = percentiles(p.Pix)
		}
		if math.IsInf(from, 0) {
			return vision.Picture{}, imagebind.Errorf(imagebind.Invalid, "no pixel of the thermal picture is a number")
		}
		return stretch(p, from, to), nil
	}
	if said {
		return vision.Picture{}, imagebind.Errorf(imagebind.Invalid, "low and high are for files of 16 bits or floats; this one has 8 bits a channel, whose range is known")
	}
	p, err := vision.Decode(ctx, data, o)
	for i := 0; i < len(p.Pix); i += 3 { // Pillow, libImaging/Convert.c, L24
		l := byte((uint32(p.Pix[i])*19595 + uint32(p.Pix[i+1])*38470 + uint32(p.Pix[i+2])*7471 + 1<<15) >> 16)
		p.Pix[i], p.Pix[i+1], p.Pix[i+2] = l, l, l
	}
	return p, err
}

// stretch makes values of from or less black, of to or more white; what is no
// number is black.
func stretch(p raster.Plane, from, to float64) vision.Picture {
	out := vision.Picture{W: p.W, H: p.H, Pix: make([]byte, 3*p.W*p.H)}
	for i, v := range p.Pix {
		x := (float64(v) - from) / (to - from)
		if x > 0 { // and not NaN
			l := byte(math.Round(255 * min(x, 1)))
			out.Pix[3*i], out.Pix[3*i+1], out.Pix[3*i+2] = l, l, l
		}
	}
	return out
}

// percentiles returns the 1st and 99th of the finite values, as cameras that
// write 8 bits leave the outermost out: a hot spot or a dead pixel would make
// all else grey. Of a picture that is flat but for those it returns the range.
// They are infinite where no value is finite.
func percentiles(pix []float32) (from, to float64) {
	least, most := math.Inf(1), math.Inf(-1)
	n := 0
	for _, f := range pix {
		if v := float64(f); !math.IsInf(v, 0) && !math.IsNaN(v) {
			least, most = min(least, v), max(most, v)
			n++
		}
	}
	if n == 0 || least == most {
		return least, most
	}
	const bins = 1 << 16
	_, e := math.Frexp((most - least) / bins)
	step := math.Ldexp(1, e) // a power of two of 1 at most for 16-bit values, which are exact so
	var count [bins]int
	for _, f := range pix {
		if v := float64(f); !math.IsInf(v, 0) && !math.IsNaN(v) {
			count[int((v-least)/step)]++
		}
	}
	at := func(share float64) float64 {
		left := share * float64(n)
		for b, c := range count {
			if left -= float64(c); left < 0 {
				return least + step*float64(b)
			}
		}
		return most
	}
	if from, to = at(0.01), at(0.99); from == to {
		return least, most
	}
	return from, to
}
