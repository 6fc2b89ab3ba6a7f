package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/x448/float16"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
)

// sum hashes a file.
func (r *reader) sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return sumOf(r.ctx, f)
}

func sumOf(ctx context.Context, src io.Reader) (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := src.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// weightSum hashes a weight of a graph as it is stored.
func (r *reader) weightSum(dir string, w onnx.Tensor) (string, error) {
	x := w.External
	if x == nil {
		return sumOf(r.ctx, bytes.NewReader(w.Raw))
	}
	if !filepath.IsLocal(filepath.FromSlash(x.Location)) {
		return "", fmt.Errorf("its data lie in %q, outside of the graph's folder", x.Location)
	}
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(x.Location)))
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if x.Offset < 0 || x.Length < 0 || x.Length > info.Size() || x.Offset > info.Size()-x.Length {
		return "", fmt.Errorf("its data are said to be %d bytes at %d of %s, which has %d", x.Length, x.Offset, x.Location, info.Size())
	}
	return sumOf(r.ctx, io.NewSectionReader(f, x.Offset, x.Length))
}

// exact is up to where float32, as which tensors are read, holds every integer.
const exact = 1 << 24

// tensorSum hashes a tensor's elements: see Tensor.SHA256.
func (r *reader) tensorSum(t format.Tensor) (string, error) {
	if t.DType == format.F64 {
		return "", nil
	}
	h := sha256.New()
	values := make([]float32, min(t.Len(), 1<<16))
	var raw []byte
	for from := 0; from < t.Len(); from += len(values) {
		if err := r.ctx.Err(); err != nil {
			return "", err
		}
		v := values[:min(len(values), t.Len()-from)]
		if err := t.Read(v, from); imagebind.KindOf(err) == imagebind.Unsupported {
			return "", nil // a type that is listed and not read
		} else if err != nil {
			return "", err
		}
		var ok bool
		if raw, ok = appendAs(raw[:0], v, t.DType); !ok {
			return "", nil
		}
		h.Write(raw)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// appendAs appends values as elements of type d, block types as float32. It
// reports false where a value may not be the stored one.
func appendAs(b []byte, values []float32, d format.DType) ([]byte, bool) {
	for _, v := range values {
		switch d {
		case format.F16:
			b = binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(v).Bits())
		case format.BF16:
			b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(v)>>16))
		case format.I64, format.I32:
			if v >= exact || v <= -exact {
				return b, false
			}
			if b = binary.LittleEndian.AppendUint32(b, uint32(int32(v))); d == format.I64 {
				b = binary.LittleEndian.AppendUint32(b, uint32(int32(v)>>31)) // the sign
			}
		case format.I16:
			b = binary.LittleEndian.AppendUint16(b, uint16(int16(v)))
		case format.I8:
			b = append(b, byte(int8(v)))
		case format.U8, format.Bool:
			b = append(b, byte(v))
		default:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	return b, true
}
