package point

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	imagebind "imagebind-llm"
)

// A gltf is what is read of the JSON in a .glb
// (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html).
type gltf struct {
	Scene  *int
	Scenes []struct{ Nodes []int }
	Nodes  []struct {
		Mesh                         *int
		Children                     []int
		Matrix                       []float64 // 4×4, column after column
		Translation, Rotation, Scale []float64 // rotation is a quaternion x y z w
	}
	Meshes []struct {
		Primitives []struct {
			Attributes map[string]int
			Indices    *int
			Mode       *int
		}
	}
	Accessors []struct {
		BufferView, ByteOffset *int
		ComponentType, Count   int
		Normalized             bool
		Type                   string
		Sparse                 json.RawMessage
	}
	BufferViews []struct {
		Buffer, ByteOffset, ByteLength int
		ByteStride                     *int
	}
	Buffers            []struct{ URI string }
	ExtensionsRequired []string
}

// Modes of a primitive (5.24.4); points and lines have no surface.
const (
	triangles     = 4
	triangleStrip = 5
	triangleFan   = 6
)

// componentTypes are glTF's names, with the divisor of those that are normalized.
var componentTypes = map[int]struct {
	number
	whole float64
}{
	5120: {i8, 127}, 5121: {u8, 255}, 5122: {i16, 32767}, 5123: {u16, 65535}, 5125: {u32, 1}, 5126: {f32, 1},
}

// readGLB reads the meshes of the default scene of a binary glTF 2, each where
// its node stands. Skins and morphs are not applied, and buffers in other files
// and compressed meshes are refused.
func readGLB(data []byte, w want) (cloud, error) {
	text, bin, err := glbChunks(data)
	if err != nil {
		return cloud{}, err
	}
	g := glb{w: w, bin: bin}
	g.mesh = true
	if err := json.Unmarshal(text, &g.gltf); err != nil {
		return cloud{}, fmt.Errorf("its JSON is broken: %w", err)
	}
	for _, e := range g.ExtensionsRequired {
		if strings.Contains(e, "compression") {
			return cloud{}, imagebind.Errorf(imagebind.Unsupported, "the GLB file's meshes are compressed (%.40s), which is not read: export it without compression", e)
		}
	}
	var roots []int
	switch {
	case g.Scene != nil && (*g.Scene < 0 || *g.Scene >= len(g.Scenes)):
		return cloud{}, fmt.Errorf("it has no scene %d", *g.Scene)
	case g.Scene != nil:
		roots = g.Scenes[*g.Scene].Nodes
	case len(g.Scenes) > 0:
		roots = g.Scenes[0].Nodes
	default:
		return cloud{}, errors.New("it has no scene")
	}
	g.seen = make([]bool, len(g.Nodes))
	for _, n := range roots {
		if err := g.node(n, identity, 0); err != nil {
			return cloud{}, err
		}
	}
	return g.cloud, nil
}

// glbChunks returns the JSON and the binary buffer, if there is one (4.4).
func glbChunks(data []byte) (text, bin []byte, err error) {
	le := binary.LittleEndian
	if len(data) < 12 {
		return nil, nil, errCut
	}
	if v := le.Uint32(data[4:]); v != 2 {
		return nil, nil, fmt.Errorf("it is of version %d; 2 is read", v)
	}
	for rest := data[12:]; len(rest) >= 8; {
		size, kind := uint64(le.Uint32(rest)), string(rest[4:8])
		rest = rest[8:]
		if size > uint64(len(rest)) {
			return nil, nil, errors.New("it is cut: it ends within a chunk")
		}
		switch {
		case kind == "JSON" && text == nil:
			text = rest[:size]
		case kind == "BIN\x00" && bin == nil:
			bin = rest[:size]
		}
		rest = rest[size:]
	}
	if text == nil {
		return nil, nil, errors.New("it has no JSON")
	}
	return text, bin, nil
}

// A glb gathers the meshes.
type glb struct {
	gltf
	cloud
	w    want
	bin  []byte
	seen []bool // nodes; each has one parent
}

// A matrix is 4×4, column after column; the last row is 0 0 0 1.
type matrix [16]float64

var identity = matrix{0: 1, 5: 1, 10: 1, 15: 1}

func (m matrix) times(n matrix) (p matrix) {
	for c := range 4 {
		for r := range 4 {
			for k := range 4 {
				p[4*c+r] += m[4*k+r] * n[4*c+k]
			}
		}
	}
	return p
}

func (g *glb) node(i int, parent matrix, depth int) error {
	if i < 0 || i >= len(g.Nodes) || g.seen[i] || depth > 1000 {
		return fmt.Errorf("its node %d is missing, has two parents or is nested too deep", i)
	}
	g.seen[i] = true
	n := g.Nodes[i]
	local, err := place(n.Matrix, n.Translation, n.Rotation, n.Scale)
	if err != nil {
		return fmt.Errorf("node %d: %w", i, err)
	}
	m := parent.times(local)
	if n.Mesh != nil {
		if *n.Mesh < 0 || *n.Mesh >= len(g.Meshes) {
			return fmt.Errorf("node %d: it has no mesh %d", i, *n.Mesh)
		}
		for _, p := range g.Meshes[*n.Mesh].Primitives {
			position, ok := p.Attributes["POSITION"]
			if !ok {
				continue
			}
			mode := triangles
			if p.Mode != nil {
				mode = *p.Mode
			}
			if err := g.primitive(position, p.Indices, mode, m); err != nil {
				return fmt.Errorf("mesh %d: %w", *n.Mesh, err)
			}
		}
	}
	for _, c := range n.Children {
		if err := g.node(c, m, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// place returns a node's own matrix: given, or translation × rotation × scale (3.5).
func place(m, t, r, s []float64) (matrix, error) {
	given := func(v []float64, or ...float64) []float64 {
		if v == nil {
			return or
		}
		return v
	}
	if len(m) == 16 {
		return matrix(m), nil
	}
	t, r, s = given(t, 0, 0, 0), given(r, 0, 0, 0, 1), given(s, 1, 1, 1)
	if m != nil || len(t) != 3 || len(r) != 4 || len(s) != 3 {
		return matrix{}, errors.New("its matrix, translation, rotation or scale has another number of values")
	}
	x, y, z, w := r[0], r[1], r[2], r[3]
	return matrix{
		s[0] * (1 - 2*(y*y+z*z)), s[0] * 2 * (x*y + w*z), s[0] * 2 * (x*z - w*y), 0,
		s[1] * 2 * (x*y - w*z), s[1] * (1 - 2*(x*x+z*z)), s[1] * 2 * (y*z + w*x), 0,
		s[2] * 2 * (x*z + w*y), s[2] * 2 * (y*z - w*x), s[2] * (1 - 2*(x*x+y*y)), 0,
		t[0], t[1], t[2], 1,
	}, nil
}

func (g *glb) primitive(position int, indices *int, mode int, m matrix) error {
	base := len(g.points) / 3
	v, err := g.values(position, "VEC3", 3)
	if err == nil {
		err = g.w.check(base+len(v)/3, "points")
	}
	if err != nil {
		return err
	}
	for i := 0; i < len(v); i += 3 {
		for a := range 3 {
			g.points = append(g.points, m[a]*v[i]+m[4+a]*v[i+1]+m[8+a]*v[i+2]+m[12+a])
		}
	}
	if mode < triangles || mode > triangleFan {
		return nil
	}
	var order []int32
	if indices == nil {
		for i := range len(v) / 3 {
			order = append(order, int32(base+i))
		}
	} else {
		in, err := g.values(*indices, "SCALAR", 1)
		if err != nil {
			return err
		}
		for _, i := range in {
			at := corner(i)
			if at < 0 || int(at) >= len(v)/3 {
				return fmt.Errorf("a triangle has the corner %v; the mesh has %d vertices", i, len(v)/3)
			}
			order = append(order, int32(base)+at)
		}
	}
	switch mode {
	case triangles:
		g.faces = append(g.faces, order[:len(order)/3*3]...)
	case triangleStrip:
		for i := 2; i < len(order); i++ {
			g.faces = append(g.faces, order[i-2:i+1]...)
		}
	case triangleFan:
		g.faces = fan(g.faces, order)
	}
	return g.w.check(len(g.faces)/3, "triangles")
}

// values reads an accessor of the given type, width numbers an element.
func (g *glb) values(i int, kind string, width int) ([]float64, error) {
	if i < 0 || i >= len(g.Accessors) {
		return nil, fmt.Errorf("it has no accessor %d", i)
	}
	a := g.Accessors[i]
	typ, ok := componentTypes[a.ComponentType]
	if a.Type != kind || !ok || a.Count < 0 {
		return nil, fmt.Errorf("accessor %d has %d values of type %.20q and component type %d; %s is wanted", i, a.Count, a.Type, a.ComponentType, kind)
	}
	if a.BufferView == nil || a.Sparse != nil {
		return nil, imagebind.Errorf(imagebind.Unsupported, "the GLB file's accessor %d is sparse or compressed, which is not read: export it without", i)
	}
	if *a.BufferView < 0 || *a.BufferView >= len(g.BufferViews) {
		return nil, fmt.Errorf("it has no buffer view %d", *a.BufferView)
	}
	b := g.BufferViews[*a.BufferView]
	if b.Buffer != 0 || len(g.Buffers) == 0 || g.Buffers[0].URI != "" || g.bin == nil {
		return nil, imagebind.Errorf(imagebind.Unsupported, "the GLB file keeps values in another file, which is not read: export it with everything inside")
	}
	if b.ByteOffset < 0 || b.ByteLength < 0 || b.ByteOffset > len(g.bin) || b.ByteLength > len(g.bin)-b.ByteOffset {
		return nil, errCut
	}
	bytes := g.bin[b.ByteOffset : b.ByteOffset+b.ByteLength]
	if a.ByteOffset != nil {
		if *a.ByteOffset < 0 || *a.ByteOffset > len(bytes) {
			return nil, errCut
		}
		bytes = bytes[*a.ByteOffset:]
	}
	element := width * typ.size
	stride := element
	if b.ByteStride != nil && *b.ByteStride != 0 {
		stride = *b.ByteStride
	}
	if stride < element {
		return nil, fmt.Errorf("buffer view %d has elements of %d bytes every %d", *a.BufferView, element, stride)
	}
	if a.Count > 0 && (len(bytes) < element || a.Count-1 > (len(bytes)-element)/stride) {
		return nil, errCut
	}
	out := make([]float64, 0, width*a.Count)
	for n := range a.Count {
		for k := range width {
			v := typ.value(binary.LittleEndian, bytes[n*stride+k*typ.size:])
			if a.Normalized {
				v = max(v/typ.whole, -1)
			}
			out = append(out, v)
		}
	}
	return out, nil
}
