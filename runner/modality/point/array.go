package point

import (
	"fmt"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/npy"
	"imagebind-llm/internal/format/torch"
)

// readNPY reads numpy's array [N, C], C at least 3 and x, y, z first.
func readNPY(data []byte, w want) (cloud, error) {
	t, err := npy.Parse(data)
	if err != nil {
		return cloud{}, err
	}
	return readArray(t, w)
}

// readPT reads the tensor [N, C] that torch.save wrote, alone or as the only
// one of a dict or list. No pickle is run.
func readPT(data []byte, w want) (cloud, error) {
	f, err := torch.Parse(data)
	if err != nil {
		return cloud{}, err
	}
	t := f.Tensors()
	if len(t) != 1 {
		return cloud{}, fmt.Errorf("it has %d tensors; send one alone, [N, 3]", len(t))
	}
	return readArray(t[0], w)
}

// readArray takes a batch of one, [1, N, C], too. Values are read as float32.
func readArray(t format.Tensor, w want) (cloud, error) {
	shape := t.Shape
	if len(shape) == 3 && shape[0] == 1 {
		shape = shape[1:]
	}
	if len(shape) != 2 || shape[1] < 3 || shape[1] > 1024 {
		return cloud{}, fmt.Errorf("its shape is %v; [N, 3] is read, or wider with x, y, z first", t.Shape)
	}
	n, width := shape[0], shape[1]
	if err := w.check(n, "points"); err != nil {
		return cloud{}, err
	}
	c := cloud{points: make([]float64, 3*n)}
	rows := make([]float32, width*min(n, 4096))
	for i := 0; i < n; {
		part := rows[:width*min(n-i, 4096)]
		if err := t.Read(part, i*width); err != nil {
			return cloud{}, err
		}
		for ; len(part) > 0; part, i = part[width:], i+1 {
			for a := range 3 {
				c.points[3*i+a] = float64(part[a])
			}
		}
	}
	return c, nil
}
