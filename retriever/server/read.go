package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

const (
	maxRawRows    = 100000  // of an upload of bytes; its size is bounded before
	maxStart      = 1 << 53 // an id_start that JSON numbers hold exactly
	maxNeighbours = 1 << 16 // of one answer, over all its vectors
	maxPrototypes = 1 << 13 // held at once, and of one answer: 32 MiB of 1024 values each
)

func mediaType(r *http.Request) string {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// readError says why a body could not be read: too large, or broken.
func readError(err error) error {
	var tooLarge *http.MaxBytesError
	var typed *imagebind.Error
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return imagebind.Errorf(imagebind.TooLarge, "the body has more than %d bytes; send the rows in several requests", tooLarge.Limit)
	case errors.As(err, &typed):
		return err
	case errors.As(err, &wrong):
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%s is a JSON %s, not a %s", wrong.Field, wrong.Value, wrong.Type), wrong.Field)
	case errors.Is(err, io.EOF):
		return imagebind.Errorf(imagebind.Invalid, "the body is empty; a JSON object is wanted")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return imagebind.Errorf(imagebind.Invalid, "the body's JSON ends too early")
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		name, _ := strconv.Unquote(field)
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "unknown field %s", field), name)
	}
	return imagebind.Errorf(imagebind.Invalid, "the body is no valid JSON: %w", err)
}

// readJSON decodes the body into v, and refuses fields that v does not have.
func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return readError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return imagebind.Errorf(imagebind.Invalid, "the body goes on after its JSON object")
	}
	return nil
}

// readItems reads the rows of a JSON body. Absent ids stay empty.
func readItems(r *http.Request) ([]store.Row, error) {
	var req retrieverapi.UpsertRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	if len(req.Items) == 0 || len(req.Items) > retrieverapi.MaxItems {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%d items; a request has 1 to %d", len(req.Items), retrieverapi.MaxItems), "items")
	}
	rows := make([]store.Row, len(req.Items))
	for i, it := range req.Items {
		rows[i] = store.Row{ID: it.ID, Vector: imagebind.Embedding(it.Vector), Caption: it.Caption, URI: it.URI, Metadata: it.Metadata}
		if err := checkItem(it); err != nil {
			return nil, imagebind.WithParam(err, fmt.Sprintf("items[%d]", i))
		}
	}
	return rows, nil
}

func checkItem(it retrieverapi.Item) error {
	switch {
	case len(it.Vector) == 0:
		return imagebind.Errorf(imagebind.Invalid, "an item without a vector")
	case len(it.ID) > retrieverapi.MaxID:
		return imagebind.Errorf(imagebind.Invalid, "an id of %d bytes; it has at most %d", len(it.ID), retrieverapi.MaxID)
	case len(it.Caption) > retrieverapi.MaxText:
		return imagebind.Errorf(imagebind.Invalid, "a caption of %d bytes; it has at most %d", len(it.Caption), retrieverapi.MaxText)
	case len(it.URI) > retrieverapi.MaxText:
		return imagebind.Errorf(imagebind.Invalid, "a uri of %d bytes; it has at most %d", len(it.URI), retrieverapi.MaxText)
	case imagebind.Embedding(it.Vector).Norm() == 0:
		return imagebind.Errorf(imagebind.Invalid, "a vector of length 0 has no direction and cannot be stored")
	}
	if it.Metadata != nil {
		if b, err := json.Marshal(it.Metadata); err != nil || len(b) > retrieverapi.MaxText {
			return imagebind.Errorf(imagebind.Invalid, "%d bytes of metadata; it has at most %d", len(b), retrieverapi.MaxText)
		}
	}
	return nil
}

// readRows reads a body of little-endian float32 rows [N, dim]. Their ids are
// id_prefix and a number from id_start on, or left empty.
func readRows(r *http.Request, dim int) ([]store.Row, error) {
	start := 0
	if v := r.URL.Query().Get("id_start"); v != "" {
		var err error
		if start, err = strconv.Atoi(v); err != nil || start < 0 || start > maxStart {
			return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "id_start is %q; it is a number from 0 to %d", v, maxStart), "id_start")
		}
	}
	prefix := r.URL.Query().Get("id_prefix")
	if prefix == "" {
		prefix = r.Header.Get("X-Id-Prefix")
	}
	if !utf8.ValidString(prefix) {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "id_prefix %q is not UTF-8", prefix), "id_prefix")
	}
	if len(prefix) > retrieverapi.MaxID-20 {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "id_prefix has %d bytes; it has at most %d", len(prefix), retrieverapi.MaxID-20), "id_prefix")
	}
	raw, err := io.ReadAll(r.Body) // at most Options.MaxBody
	if err != nil {
		return nil, readError(err)
	}
	n := len(raw) / (4 * dim)
	if n == 0 || n > maxRawRows || len(raw)%(4*dim) != 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "a body of %d bytes; it is 1 to %d rows of %d bytes, little-endian float32 values, %d a row", len(raw), maxRawRows, 4*dim, dim)
	}
	rows := make([]store.Row, n)
	for i := range rows {
		v, err := retrieverapi.DecodeRow(raw[i*4*dim : (i+1)*4*dim])
		if err != nil {
			return nil, err
		}
		e := imagebind.Embedding(v)
		if !e.Finite() || e.Norm() == 0 {
			return nil, imagebind.Errorf(imagebind.Invalid, "row %d is zero or holds NaN or infinity; nothing was stored", i)
		}
		rows[i].Vector = e
		if prefix != "" {
			rows[i].ID = prefix + strconv.Itoa(start+i)
		}
	}
	return rows, nil
}

type include struct{ vector, metadata bool }

func includes(names []string) (include, error) {
	var inc include
	for _, n := range names {
		switch n {
		case retrieverapi.IncludeVector:
			inc.vector = true
		case retrieverapi.IncludeMetadata:
			inc.metadata = true
		default:
			return inc, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "include names %q; it may name %q and %q", n, retrieverapi.IncludeVector, retrieverapi.IncludeMetadata), "include")
		}
	}
	return inc, nil
}

// packs says whether an answer's vectors are to be base64.
func packs(c *gin.Context) (bool, error) {
	switch e := c.Query("encoding"); e {
	case "", retrieverapi.EncodingFloat:
		return false, nil
	case retrieverapi.EncodingBase64:
		return true, nil
	default:
		return false, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "encoding %q: it is %s or %s", e, retrieverapi.EncodingFloat, retrieverapi.EncodingBase64), "encoding")
	}
}

// embeddings reads the vectors of a request that asks for k neighbours of each,
// and bounds what the answer may hold.
func embeddings(vectors []retrieverapi.Vector, k int, inc include) ([]imagebind.Embedding, error) {
	if len(vectors) == 0 || len(vectors) > retrieverapi.MaxQueries {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%d vectors; a request has 1 to %d", len(vectors), retrieverapi.MaxQueries), "vectors")
	}
	limit := maxNeighbours
	if inc.vector {
		limit = maxPrototypes
	}
	if n := len(vectors) * k; n > limit {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%d vectors with k = %d are %d neighbours; an answer has at most %d: send fewer vectors, or a smaller k", len(vectors), k, n, limit), "vectors")
	}
	out := make([]imagebind.Embedding, len(vectors))
	for i, v := range vectors {
		if len(v) == 0 {
			return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "vector %d has no values", i), fmt.Sprintf("vectors[%d]", i))
		}
		out[i] = imagebind.Embedding(v)
	}
	return out, nil
}
