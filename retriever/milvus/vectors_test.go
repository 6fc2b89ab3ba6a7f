package milvus

import (
	"math"
	"strings"
	"testing"

	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// Vectors come back from a column as they went in, in half precision rounded
// to the nearest: within 2⁻¹¹ of each value.
func TestVectorColumns(t *testing.T) {
	var in []imagebind.Embedding
	for _, r := range rows(0, 20, 33) {
		in = append(in, r.Vector)
	}
	in[3][5], in[3][6], in[3][7] = 0, 6e-8, -65504
	for _, half := range []bool{false, true} {
		got, err := readVectors(vectorColumn(in, 33, half), 33)
		if err != nil || len(got) != len(in) {
			t.Fatal(len(got), err)
		}
		for i, v := range in {
			for j, x := range v {
				if d := math.Abs(float64(got[i][j] - x)); !half && d != 0 || d > math.Abs(float64(x))/2048+3e-8 {
					t.Errorf("half %v, vector %d: %g came back as %g", half, i, x, got[i][j])
				}
			}
		}
		if _, err := readVectors(vectorColumn(in, 33, half), 32); err == nil {
			t.Error("33 values are taken for 32")
		}
	}
	long := make(imagebind.Embedding, 33)
	long[0], long[1] = 3e20, 4e20
	got, err := readVectors(entity.NewColumnFloat16Vector(fieldVector, 33, [][]byte{queryVector(long, true).(entity.Float16Vector)}), 33)
	if err != nil || math.Abs(float64(got[0][0])-0.6) > 1e-3 || long[0] != 3e20 {
		t.Errorf("a long query is asked for as %v", got)
	}
}

// A server without half precision refuses it before a row is written, and so
// does what half precision cannot hold.
func TestHalfRefused(t *testing.T) {
	big := rows(0, 1, 8)
	big[0].Vector[2] = 70000
	if err := check(big, 8, true); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("70000: %v", err)
	}
	if err := check(big, 8, false); err != nil {
		t.Error(err)
	}
	s := open(t)
	s.o.Half = true
	if _, err := s.Build(t.Context(), "half", store.Spec{Dim: 8}, "job"); imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "2.4") {
		t.Errorf("Milvus 2.3: %v", err)
	}
}
