// Package point turns files of points into the input of Point-Bind's encoder:
// read, bring to the origin and the unit sphere, thin out to 8192 points, group.
// What the reference does within its network, choosing centres and their
// neighbours (pointbert/dvae.py, Group), is done here.
//
// ply.go, pcd.go, xyz.go, obj.go, stl.go, glb.go and array.go know the file
// formats, surface.go draws points from a mesh, index.go finds farthest and
// nearest points, group.go makes the encoder's groups of them.
package point

import (
	"context"
	"errors"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/foreign"
)

// Sizes of the released encoder (pointbert/PointTransformer_8192point.yaml).
const (
	groups  = 512  // G
	size    = 32   // K, points of a group
	trained = 8192 // points of a cloud in training
)

var input = []int{groups, size + 1, 3}

var (
	normalise = modality.Param{Name: "normalise", IsSwitch: true, Default: 1, Max: 1,
		Doc: "move the cloud to the origin and scale it to the unit sphere, unless it is about there"}
	faces = modality.Param{Name: "faces", IsSwitch: true, Max: 1,
		Doc: "draw the points from the mesh's surface, where the file has faces, not its vertices; on for STL and GLB unless said"}
	start = modality.Param{Name: "start", Integer: true, Max: 1<<31 - 1,
		Doc: "the point, counted from 0, at which the choice of centres starts"}
)

// Spec is a point cloud: groups of neighbours, [S=1, G=512, K+1=33, 3].
// application/zip is PyTorch's .pt; text/plain is any table of numbers.
var Spec = modality.Spec{
	Name: "point_cloud",
	Part: "point_cloud_url",
	Media: []string{"model/ply", "model/pcd", "model/obj", "model/stl", "model/gltf-binary",
		"application/x-npy", "application/zip", "text/plain"},
	Params: []modality.Param{normalise, faces, start},
	Encoder: modality.Encoder{
		Name:  "point",
		Heads: 6, // PointTransformer_8192point.yaml, num_heads
		Input: input,
		Stem:  modality.Groups{},
		Preprocessing: map[string]any{
			"points": trained, "start_index": int(start.Default),
			"normalise": "mean 0, largest norm 1, unless every mean is within 0.1 and the largest norm 0.8 to 1.25",
			"centres":   "farthest points, float32, the first of equals", "row_0": "centre", "other_rows": "nearest points less the centre",
		},
	},
	Read: Read,
}

// readers are the formats by media type.
var readers = map[string]struct {
	name string // for people
	read func(data []byte, w want) (cloud, error)
}{
	"model/ply":         {"PLY", readPLY},
	"model/pcd":         {"PCD", readPCD},
	"model/obj":         {"OBJ", readOBJ},
	"model/stl":         {"STL", readSTL},
	"model/gltf-binary": {"GLB", readGLB},
	"application/x-npy": {".npy", readNPY},
	"application/zip":   {".pt", readPT},
	"text/plain":        {"text", readXYZ},
}

// A want is what is asked of a reader, besides the vertices.
type want struct {
	limits modality.Limits
	faces  bool // of formats that may have them
}

// check returns an error when there are more than allowed.
func (w want) check(n int, what string) error {
	if n > w.limits.Points {
		return imagebind.Errorf(imagebind.TooLarge, "the point cloud has %d %s; at most %d are read: send fewer", n, what, w.limits.Points)
	}
	return nil
}

// A cloud is what a file holds.
type cloud struct {
	points []float64 // [N, 3]: as float32 a map's coordinates would lose what is small beside their distance to the origin
	faces  []int32   // [F, 3] points, counted from 0; often none
	mesh   bool      // the format's vertices say little without the faces
}

// Read turns a file into [S=1, G=512, K+1=33, 3], or as many groups as
// Options.Input says: of each the centre, and its nearest points less the
// centre. Centres are chosen as in the
// reference, but for its random start.
//
// A cloud of more than 8192 points is thinned out to as many farthest points,
// as the training data was (ULIP, data/dataset_3d.py), and one of fewer is taken
// as it is; start counts the points that are left. Options.Reference never
// thins out, and normalises only when asked to.
func Read(ctx context.Context, data []byte, o modality.Options) (imagebind.Tensor, error) {
	c, err := decode(data, o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	points, from := c.points, int(o.Value(start))
	norm := o.On(normalise)
	if _, said := o.Params[normalise.Name]; o.Reference && !said {
		norm = false
	}
	if norm {
		normaliseTo(points, points)
	}
	if len(points) > 3*trained && !o.Reference {
		if err := ctx.Err(); err != nil {
			return imagebind.Tensor{}, err
		}
		few := make([]float64, 0, 3*trained)
		for _, i := range newIndex(floats(points)).farthest(trained, 0) {
			few = append(few, points[3*i:3*i+3]...)
		}
		if points = few; norm {
			normaliseTo(points, points)
		}
	}
	if n := len(points) / 3; from >= n {
		return imagebind.Tensor{}, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "start is %d; the cloud has %d points, counted from 0", from, n), start.Name)
	}
	if err := ctx.Err(); err != nil {
		return imagebind.Tensor{}, err
	}
	shape := o.Input
	if shape == nil {
		shape = input
	}
	return imagebind.Tensor{Shape: append([]int{1}, shape...), Floats: Group(floats(points), shape[0], shape[1]-1, from)}, nil
}

// decode returns the points of a file, all finite, or those drawn from its surface.
func decode(data []byte, o modality.Options) (cloud, error) {
	if len(data) == 0 {
		return cloud{}, imagebind.Errorf(imagebind.Invalid, "the point cloud file is empty")
	}
	media := modality.Sniff(data)
	format, ok := readers[media]
	if !ok {
		return cloud{}, imagebind.Errorf(imagebind.Unsupported, "a file of type %s is no point cloud; PLY, PCD, OBJ, STL, GLB, .npy, .pt and text with x y z on each line are read", media)
	}
	_, said := o.Params[faces.Name]
	w := want{o.Limits.OrDefault(), o.On(faces)}
	c, err := format.read(data, w)
	var typed *imagebind.Error
	switch {
	case errors.As(err, &typed):
		return cloud{}, err
	case err != nil:
		return cloud{}, foreign.Broken(format.name, err)
	}
	if err := c.check(format.name); err != nil {
		return cloud{}, err
	}
	if w.faces || c.mesh && !said {
		c.points = surface(c, trained)
	}
	return c, nil
}

// check returns an error unless there are points, all finite, and every face has its corners.
func (c cloud) check(format string) error {
	if len(c.points) == 0 {
		return imagebind.Errorf(imagebind.Invalid, "the %s file holds no points", format)
	}
	for i, v := range c.points {
		if !(v >= -farthest && v <= farthest) { // NaN too
			return imagebind.Errorf(imagebind.Invalid, "point %d of the %s file, counted from 0, has the coordinate %v; all must be finite and within ±%g", i/3, format, v, farthest)
		}
	}
	for i, at := range c.faces {
		if at < 0 || int(at) >= len(c.points)/3 {
			return imagebind.Errorf(imagebind.Invalid, "triangle %d of the %s file, counted from 0, has the corner %d; the file has %d vertices", i/3, format, at, len(c.points)/3)
		}
	}
	return nil
}
