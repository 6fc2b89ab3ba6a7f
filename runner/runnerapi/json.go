package runnerapi

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	imagebind "imagebind-llm"
)

// A request may hold tens of megabytes of base64, so its parts are found as
// slices of the body and not copied on every level, as json.RawMessage would be.

// Decode reads the JSON object of a request. Its errors are Invalid and name
// the field at fault; unknown fields are ignored.
func Decode(body []byte, v any) error {
	if k := kind(body); k != '{' {
		if k == 0 {
			return imagebind.Errorf(imagebind.Invalid, "the body is empty; a JSON object is wanted")
		}
		return imagebind.Errorf(imagebind.Invalid, "the body is no JSON object")
	}
	return decode(body, v, "")
}

// decode is json.Unmarshal whose errors are typed and name the field below at.
// A missing value, b == nil, leaves v as it is.
func decode(b []byte, v any, at string) error {
	if b == nil {
		return nil
	}
	err := json.Unmarshal(b, v)
	var typed *imagebind.Error
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &typed):
		return under(typed, at)
	case errors.As(err, &wrong):
		got := wrong.Value
		if !strings.HasPrefix(got, "number ") { // which says the number
			got = "a JSON " + got
		}
		name := join(at, wrong.Field)
		if name == "" {
			name = "the value"
		}
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%s is %s; it should be %s", name, got, goType(wrong.Type.Kind().String())), join(at, wrong.Field))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &syntax) && strings.HasPrefix(err.Error(), "unexpected end"):
		return imagebind.Errorf(imagebind.Invalid, "the body's JSON ends too early")
	}
	return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "no valid JSON: %w", err), at)
}

// goType is a Go kind in JSON's words.
func goType(k string) string {
	switch {
	case k == "string":
		return "a string"
	case k == "bool":
		return "true or false"
	case strings.HasPrefix(k, "int"), strings.HasPrefix(k, "uint"):
		return "an integer"
	case strings.HasPrefix(k, "float"):
		return "a number that float holds"
	case k == "slice":
		return "an array"
	}
	return "an object"
}

// under puts the field that err names below another.
func under(err error, parent string) error {
	var e *imagebind.Error
	if parent == "" || !errors.As(err, &e) {
		return err
	}
	c := *e
	c.Param = join(parent, e.Param)
	return &c
}

func join(parent, field string) string {
	if parent == "" || field == "" || field[0] == '[' {
		return parent + field
	}
	return parent + "." + field
}

func index(name string, i int) string { return fmt.Sprintf("%s[%d]", name, i) }

const space = " \t\r\n"

// kind returns the first byte of a value: " [ { t f n or a number's; 0 for none.
func kind(b []byte) byte {
	if b = bytes.TrimLeft(b, space); len(b) == 0 {
		return 0
	}
	return b[0]
}

// elements returns the values of a valid array, as slices of b.
func elements(b []byte, want string) ([][]byte, error) {
	if kind(b) != '[' {
		return nil, imagebind.Errorf(imagebind.Invalid, "%s is wanted", want)
	}
	return split(b), nil
}

// members returns the fields of a valid object, as slices of b. Of a name that
// is there twice the last counts, as in encoding/json.
func members(b []byte) (map[string][]byte, error) {
	if kind(b) != '{' {
		return nil, imagebind.Errorf(imagebind.Invalid, "an object is wanted")
	}
	m := map[string][]byte{}
	for _, item := range split(b) {
		n := value(item)
		var name string
		if err := json.Unmarshal(item[:n], &name); err != nil {
			return nil, imagebind.Errorf(imagebind.Invalid, "no valid JSON: %w", err)
		}
		rest, ok := bytes.CutPrefix(bytes.TrimLeft(item[n:], space), []byte{':'})
		if !ok {
			return nil, imagebind.Errorf(imagebind.Invalid, "no valid JSON: a field without a value")
		}
		m[name] = bytes.Trim(rest, space)
	}
	return m, nil
}

// inner reads one string field of an object, or the string alone.
func inner(b []byte, field string, s *string, at string) error {
	if kind(b) == '"' {
		return decode(b, s, at)
	}
	fields, err := members(b)
	if err != nil {
		return under(err, at)
	}
	v, ok := fields[field]
	if !ok {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%s has no %s", at, field), at)
	}
	return decode(v, s, join(at, field))
}

// split cuts a valid array or object at its commas. encoding/json has checked b
// before it calls an UnmarshalJSON.
func split(b []byte) [][]byte {
	if b = bytes.Trim(b, space); len(b) < 2 {
		return nil
	}
	b = bytes.Trim(b[1:len(b)-1], space)
	var items [][]byte
	for len(b) > 0 {
		n := 0
		for n < len(b) && b[n] != ',' {
			n += max(1, value(b[n:]))
		}
		items = append(items, bytes.Trim(b[:n], space))
		b = b[min(n+1, len(b)):]
	}
	return items
}

// value returns the length of the string, array or object that b begins with,
// or 1: what else there is has no commas inside.
func value(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		}
		if depth <= 0 {
			return min(i+1, len(b))
		}
	}
	return len(b)
}

// MaxDim bounds the values of a Vector.
const MaxDim = 32768

// A Vector is an embedding on the wire: written as an array, read from an array
// or from base64 of little-endian float32.
type Vector []float32

// UnmarshalJSON reads an array of numbers or a base64 string of 1 to MaxDim
// values, all finite.
func (v *Vector) UnmarshalJSON(b []byte) error {
	var x []float32
	switch kind(b) {
	case '[':
		if n := bytes.Count(b, []byte{','}) + 1; n > MaxDim {
			return imagebind.Errorf(imagebind.Invalid, "an embedding of %d values; at most %d are read", n, MaxDim)
		}
		if err := decode(b, &x, ""); err != nil {
			return err
		}
	case '"':
		if len(b) > base64.StdEncoding.EncodedLen(4*MaxDim)+2 {
			return imagebind.Errorf(imagebind.Invalid, "an embedding of %d base64 characters; at most %d values are read", len(b)-2, MaxDim)
		}
		var s string
		if err := decode(b, &s, ""); err != nil {
			return err
		}
		raw, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return imagebind.Errorf(imagebind.Invalid, "an embedding given as a string is base64 of little-endian float32: %w", err)
		}
		if len(raw)%4 != 0 {
			return imagebind.Errorf(imagebind.Invalid, "an embedding of %d bytes; float32 values are 4 bytes each", len(raw))
		}
		x = make([]float32, len(raw)/4)
		for i := range x {
			x[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	default:
		return imagebind.Errorf(imagebind.Invalid, "an embedding is an array of numbers or a base64 string of little-endian float32")
	}
	if len(x) == 0 {
		return imagebind.Errorf(imagebind.Invalid, "an embedding has no values")
	}
	if !imagebind.Embedding(x).Finite() {
		return imagebind.Errorf(imagebind.Invalid, "an embedding holds NaN or infinity")
	}
	*v = x
	return nil
}

// Base64 returns v as base64 of little-endian float32.
func (v Vector) Base64() string {
	raw := make([]byte, 0, 4*len(v))
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(raw)
}
