package constrain

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// rational reads a JSON number that is not too long to be exact.
func rational(s string) (*big.Rat, bool) {
	if x, err := strconv.ParseFloat(s, 64); err != nil || math.Abs(x) > 1e30 || x != 0 && math.Abs(x) < 1e-30 || len(s) > 60 {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

// A bound is an end of a range of magnitudes.
type bound struct {
	whole, decimals string // digits; whole without zeros before it, "0" alone, decimals without any at its end
	exclusive       bool
}

// newBound returns |x|.
func newBound(x *big.Rat, exclusive bool) *bound {
	whole, decimals, _ := strings.Cut(new(big.Rat).Abs(x).FloatString(64), ".")
	return &bound{whole, strings.TrimRight(decimals, "0"), exclusive}
}

// digit returns the i-th digit of decimals.
func (b *bound) digit(i int) byte {
	if i < len(b.decimals) {
		return b.decimals[i]
	}
	return '0'
}

// over reports whether no digit but 0 follows the first i decimals.
func (b *bound) over(i int) bool { return i >= len(b.decimals) }

// numbers returns the node of a number within the schema's bounds.
func (c *compiler) numbers(v *value, whole bool, path string, next int32) int32 {
	var ends [2]*big.Rat // lowest, most; nil for none
	var exclusive [2]bool
	for _, k := range []struct {
		key       string
		end       int
		exclusive bool
	}{{"minimum", 0, false}, {"exclusiveMinimum", 0, true}, {"maximum", 1, false}, {"exclusiveMaximum", 1, true}} {
		n := v.get(k.key)
		if n == nil {
			continue
		}
		x, ok := rational(n.text)
		if n.kind != '0' || !ok {
			fail(path+"."+k.key, "%s is a number, up to 1e30 and of no more than 60 characters", k.key)
		}
		if old := ends[k.end]; old != nil {
			order := x.Cmp(old) // the narrower end counts
			if k.end == 1 {
				order = -order
			}
			if order < 0 || order == 0 && !k.exclusive {
				continue
			}
		}
		ends[k.end], exclusive[k.end] = x, k.exclusive
	}
	switch lowest, most := ends[0], ends[1]; {
	case lowest == nil && most == nil && whole:
		return c.integer(next)
	case lowest == nil && most == nil:
		return c.number(next)
	}
	// Magnitudes of both signs; that of a negative number is more than 0.
	zero := new(big.Rat)
	var signs []int32
	if lowest, most := ends[0], ends[1]; most == nil || most.Sign() >= 0 {
		r := ranges{c: c, whole: whole, next: next, lo: newBound(zero, false)}
		if lowest != nil && lowest.Sign() >= 0 {
			r.lo = newBound(lowest, exclusive[0])
		}
		if most != nil {
			r.hi = newBound(most, exclusive[1])
		}
		signs = append(signs, r.start())
	}
	if lowest, most := ends[0], ends[1]; lowest == nil || lowest.Sign() < 0 {
		r := ranges{c: c, whole: whole, next: next, lo: newBound(zero, true)}
		if most != nil && most.Sign() < 0 {
			r.lo = newBound(most, exclusive[1])
		}
		if lowest != nil {
			r.hi = newBound(lowest, exclusive[0])
		}
		signs = append(signs, c.byte('-', r.start()))
	}
	if len(signs) == 0 {
		return c.on()
	}
	return c.either(signs...)
}

// ranges makes the node of magnitudes from lo to hi, without exponents. It
// reads digits from the left: as long as they are those of an end ("tight"),
// that end bounds the next.
type ranges struct {
	c      *compiler
	whole  bool // no decimals
	next   int32
	lo, hi *bound // hi may be nil
	memo   map[place]int32
}

// A place is how far a number is read.
type place struct {
	length         int // digits before the point
	at             int // of those, or -1-at decimals
	tightL, tightH bool
}

func (r *ranges) start() int32 {
	r.memo = map[place]int32{}
	var lengths []int32
	for n := 1; n <= maxDigits; n++ {
		if n < len(r.lo.whole) || r.hi != nil && n > len(r.hi.whole) {
			continue
		}
		lengths = append(lengths, r.before(n, 0, n == len(r.lo.whole), r.hi != nil && n == len(r.hi.whole)))
	}
	if len(lengths) == 0 {
		return r.c.on()
	}
	return r.c.either(lengths...)
}

// step returns the edges of the next digit, from lowest on; lo and hi are the
// ends' digits where they are tight.
func step(lowest byte, tightL, tightH bool, lo, hi byte, to func(tightL, tightH bool) int32) []edge {
	most := byte('9')
	if tightL {
		lowest = max(lowest, lo)
	}
	if tightH {
		most = hi
	}
	var edges []edge
	loose := false // the last edge is
	for d := lowest; d <= most; d++ {
		l, h := tightL && d == lo, tightH && d == hi
		if loose && !l && !h {
			edges[len(edges)-1].hi = d
			continue
		}
		edges = append(edges, edge{d, d, to(l, h), none})
		loose = !l && !h
	}
	return edges
}

// before returns the node in front of digit at of n before the point.
func (r *ranges) before(n, at int, tightL, tightH bool) int32 {
	key := place{n, at, tightL, tightH}
	if !tightL && !tightH {
		key.length, key.at = 0, n-at // all that matters is how many follow, and whether one stands before
		if at == 0 {
			key.length = 1
		}
	}
	if id, ok := r.memo[key]; ok {
		return id
	}
	var id int32
	if at == n {
		id = r.behind(0, tightL, tightH)
	} else {
		lowest := byte('0')
		if at == 0 && n > 1 {
			lowest = '1'
		}
		lo, hi := byte('0'), byte('9')
		if tightL {
			lo = r.lo.whole[at]
		}
		if tightH {
			hi = r.hi.whole[at]
		}
		id = r.c.on(step(lowest, tightL, tightH, lo, hi, func(l, h bool) int32 { return r.before(n, at+1, l, h) })...)
	}
	r.memo[key] = id
	return id
}

// behind returns the node behind n decimals. The number may end there if zeros
// from there on would keep it within the ends.
func (r *ranges) behind(n int, tightL, tightH bool) int32 {
	key := place{0, -1 - n, tightL, tightH}
	if id, ok := r.memo[key]; ok {
		return id
	}
	at := node{call: none}
	enough := !tightL || r.lo.over(n) && !r.lo.exclusive
	tooMuch := tightH && r.hi.over(n) && r.hi.exclusive
	if enough && !tooMuch {
		at.eps = []int32{r.next}
	}
	if !r.whole && n < maxDecimals {
		lo, hi := byte('0'), byte('9')
		if tightL {
			lo = r.lo.digit(n)
		}
		if tightH {
			hi = r.hi.digit(n)
		}
		digit := func() []edge {
			return step('0', tightL, tightH, lo, hi, func(l, h bool) int32 { return r.behind(n+1, l, h) })
		}
		if n == 0 { // a point, with at least one digit behind it
			point := r.c.add(node{call: none})
			edges := digit()
			r.c.nodes[point].edges = edges
			at.edges = []edge{{'.', '.', point, none}}
		} else {
			at.edges = digit()
		}
	}
	id := r.c.add(at)
	r.memo[key] = id
	return id
}
