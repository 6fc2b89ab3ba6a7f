package kernel

import "testing"

// FuzzSwap: broken models end with an error, not with the program.
func FuzzSwap(f *testing.F) {
	node := appendBytes(appendBytes(appendBytes(nil, nodeIn, []byte("x")), nodeOut, []byte("y")), nodeOp, []byte("Mul"))
	f.Add(appendBytes(nil, modelGraph, appendBytes(nil, graphNode, node)))
	f.Add(appendBytes(nil, modelGraph, appendBytes(nil, graphNode, appendBytes(nil, nodeOp, []byte("Mul")))))
	f.Add([]byte{0x3a, 0xff})
	f.Fuzz(func(t *testing.T, model []byte) {
		if _, _, err := Swap(model); err != nil {
			t.Skip()
		}
	})
}
