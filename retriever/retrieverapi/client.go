package retrieverapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
)

// Options of a Client. The zero value works.
type Options struct {
	HTTP    *http.Client  // default: a client of its own without a timeout: contexts bound every call
	Key     string        // sent as a bearer token when set
	Timeout time.Duration // of one try; default 10 s, and 5 min for writes
	Retries int           // more tries of reads that failed before Timeout; default 2, negative for none
	// After BreakAfter reads and writes in a row that the retriever did not
	// answer, calls fail at once for BreakFor. Defaults 5 and 2 s.
	BreakAfter uint
	BreakFor   time.Duration
}

// A Client talks to one retriever. Its methods may be called concurrently.
// Errors are imagebind's: Unavailable when the retriever does not answer.
type Client struct {
	peer    *httpapi.Peer
	timeout time.Duration
	reads   failsafe.Executor[any] // retried: searches and gets change nothing
	once    failsafe.Executor[any]
}

// NewClient returns a client of the retriever at base, as in
// "http://localhost:8081". It does not connect yet.
func NewClient(base string, o Options) (*Client, error) {
	peer, err := httpapi.NewPeer("retriever", base, "http://localhost:8081", o.Key, o.HTTP)
	if err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Retries == 0 {
		o.Retries = 2
	}
	if o.BreakAfter == 0 {
		o.BreakAfter = 5
	}
	if o.BreakFor == 0 {
		o.BreakFor = 2 * time.Second
	}
	down := func(_ any, err error) bool {
		switch imagebind.KindOf(err) {
		case imagebind.Unavailable, imagebind.Timeout, imagebind.Internal:
			return err != nil
		}
		return false
	}
	breaker := circuitbreaker.NewBuilder[any]().HandleIf(down).
		WithFailureThreshold(o.BreakAfter).WithDelay(o.BreakFor).Build()
	retry := retrypolicy.NewBuilder[any]().
		HandleIf(func(r any, err error) bool { // what took too long once would again, and the caller waits
			kind := imagebind.KindOf(err)
			return err != nil && kind != imagebind.Timeout && (down(r, err) || kind == imagebind.Busy)
		}).
		AbortOnErrors(circuitbreaker.ErrOpen).
		WithMaxRetries(max(0, o.Retries)).
		WithBackoff(50*time.Millisecond, time.Second).WithJitterFactor(0.5).
		ReturnLastFailure().Build()
	return &Client{
		peer: peer, timeout: o.Timeout,
		reads: failsafe.With[any](retry, breaker),
		once:  failsafe.With[any](breaker),
	}, nil
}

// call is one request: what is sent, where the answer goes, and how.
type call struct {
	method, path string
	body         []byte
	contentType  string // default application/json
	out          any
	read         bool // changes nothing, so it may be tried again
	slow         bool // writes may take long
}

func (c *Client) do(ctx context.Context, k call) error {
	exec, timeout := c.once, c.timeout
	if k.read {
		exec = c.reads
	}
	if k.slow {
		timeout = max(timeout, 5*time.Minute)
	}
	err := exec.WithContext(ctx).Run(func() error {
		try, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		resp, err := c.send(try, k, "application/json")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if k.out == nil {
			return nil
		}
		if err := json.NewDecoder(resp.Body).Decode(k.out); err != nil {
			return c.peer.Broken(try, err)
		}
		return nil
	})
	if errors.Is(err, circuitbreaker.ErrOpen) {
		return imagebind.Errorf(imagebind.Unavailable, "the retriever at %s did not answer lately; it is tried again soon: %w", c.peer.Base(), err)
	}
	return err
}

// send returns an answer below 400, or an error.
func (c *Client) send(ctx context.Context, k call, accept string) (*http.Response, error) {
	content := k.contentType
	if content == "" && len(k.body) > 0 {
		content = "application/json"
	}
	return c.peer.Send(ctx, k.method, k.path, bytes.NewReader(k.body), content, accept)
}

func collectionPath(name, verb string) string {
	p := "/v1/collections/" + url.PathEscape(name)
	if verb != "" {
		p += "/" + verb
	}
	return p
}

// marshal encodes a request; NaN and infinity cannot be.
func marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "the request cannot be written as JSON: %w", err)
	}
	return b, nil
}

// Collections lists the collections.
func (c *Client) Collections(ctx context.Context) ([]Collection, error) {
	var out CollectionList
	err := c.do(ctx, call{method: "GET", path: "/v1/collections", out: &out, read: true})
	return out.Collections, err
}

// Collection describes one.
func (c *Client) Collection(ctx context.Context, name string) (Collection, error) {
	var out Collection
	err := c.do(ctx, call{method: "GET", path: collectionPath(name, ""), out: &out, read: true})
	return out, err
}

// Create makes a collection, or finds it when it exists with the same dim.
func (c *Client) Create(ctx context.Context, name string, r CreateCollection) (Collection, error) {
	var out Collection
	body, err := marshal(r)
	if err != nil {
		return out, err
	}
	err = c.do(ctx, call{method: "PUT", path: collectionPath(name, ""), body: body, out: &out, slow: true})
	return out, err
}

// Drop removes a collection with its rows.
func (c *Client) Drop(ctx context.Context, name string) error {
	return c.do(ctx, call{method: "DELETE", path: collectionPath(name, ""), slow: true})
}

// Generations lists those of a collection that can serve: the one that does,
// then those that are kept, the one that served last first.
func (c *Client) Generations(ctx context.Context, name string) ([]Generation, error) {
	var out GenerationList
	err := c.do(ctx, call{method: "GET", path: collectionPath(name, "generations"), out: &out, read: true})
	return out.Generations, err
}

// Rollback makes a kept generation serve, in one step; 0 is the one that served
// last. The one that served before is kept.
func (c *Client) Rollback(ctx context.Context, name string, generation int) (Collection, error) {
	var out Collection
	body, err := marshal(RollbackRequest{generation})
	if err != nil {
		return out, err
	}
	err = c.do(ctx, call{method: "POST", path: collectionPath(name, "rollback"), body: body, out: &out, slow: true})
	return out, err
}

// Forget removes a kept generation; the one that serves is a Conflict.
func (c *Client) Forget(ctx context.Context, name string, generation int) error {
	return c.do(ctx, call{method: "DELETE", path: collectionPath(name, "generations/"+strconv.Itoa(generation)), slow: true})
}

// Export writes the rows that serve to w as a .parquet file, which a rebuild
// reads. ctx alone bounds it. After an error w holds a part of a file, which
// no reader takes for a whole one: it lacks the footer.
func (c *Client) Export(ctx context.Context, name string, w io.Writer) error {
	resp, err := c.send(ctx, call{method: "GET", path: collectionPath(name, "export")}, "application/vnd.apache.parquet")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out := &sink{w: w}
	if _, err := io.Copy(out, resp.Body); err != nil {
		if out.err != nil {
			return fmt.Errorf("write the export: %w", out.err)
		}
		return c.peer.Broken(ctx, err)
	}
	return nil
}

// A sink remembers whether it was w that failed.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.err = err
	return n, err
}

// Upsert stores rows, at most MaxItems a call, and returns their ids.
func (c *Client) Upsert(ctx context.Context, name string, items []Item) ([]string, error) {
	body, err := marshal(UpsertRequest{items})
	if err != nil {
		return nil, err
	}
	var out UpsertResponse
	err = c.do(ctx, call{method: "POST", path: collectionPath(name, "vectors"), body: body, out: &out, slow: true})
	return out.IDs, err
}

// UpsertRows stores rows [N, E] without metadata, as bytes. Their ids are
// prefix and the row's number, or made when prefix is empty.
func (c *Client) UpsertRows(ctx context.Context, name, prefix string, rows [][]float32) ([]string, error) {
	var body []byte
	for i, row := range rows {
		if len(row) != len(rows[0]) {
			return nil, imagebind.Errorf(imagebind.Invalid, "row %d has %d values, the first has %d", i, len(row), len(rows[0]))
		}
		for _, v := range row {
			body = binary.LittleEndian.AppendUint32(body, math.Float32bits(v))
		}
	}
	path := collectionPath(name, "vectors")
	if prefix != "" {
		path += "?id_prefix=" + url.QueryEscape(prefix)
	}
	var out UpsertResponse
	err := c.do(ctx, call{method: "POST", path: path, body: body, contentType: "application/octet-stream", out: &out, slow: true})
	return out.IDs, err
}

// Delete removes rows and returns how many there were.
func (c *Client) Delete(ctx context.Context, name string, ids []string) (int, error) {
	body, err := marshal(DeleteRequest{ids})
	if err != nil {
		return 0, err
	}
	var out DeleteResponse
	err = c.do(ctx, call{method: "DELETE", path: collectionPath(name, "vectors"), body: body, out: &out, slow: true})
	return out.Deleted, err
}

// Search returns for each query the k rows of the largest inner product, best
// first. include may name IncludeVector and IncludeMetadata.
func (c *Client) Search(ctx context.Context, name string, queries []imagebind.Embedding, k int, filter map[string]any, include ...string) ([][]imagebind.Neighbour, error) {
	body, err := marshal(packedSearch{SearchRequest{K: &k, Filter: filter, Include: include}, wire(queries)})
	if err != nil {
		return nil, err
	}
	var out SearchResponse
	if err := c.do(ctx, call{method: "POST", path: collectionPath(name, "search") + packedAnswer, body: body, out: &out, read: true}); err != nil {
		return nil, err
	}
	return domain(out.Neighbours, len(queries))
}

// Enhance moves each query towards the features near it that pass the filter
// (docs/api.md, "Cache enhancement"; nil: all do) and returns the enhanced unit vectors with the neighbours that
// made them.
func (c *Client) Enhance(ctx context.Context, name string, queries []imagebind.Embedding, p imagebind.EnhanceParams, filter map[string]any, include ...string) ([]imagebind.Embedding, [][]imagebind.Neighbour, error) {
	body, err := marshal(packedEnhance{EnhanceRequest{K: &p.K, Temperature: &p.Temperature, Weight: &p.Weight, Filter: filter, Include: include}, wire(queries)})
	if err != nil {
		return nil, nil, err
	}
	var out EnhanceResponse
	if err := c.do(ctx, call{method: "POST", path: collectionPath(name, "enhance") + packedAnswer, body: body, out: &out, read: true}); err != nil {
		return nil, nil, err
	}
	if len(out.Vectors) != len(queries) {
		return nil, nil, imagebind.Errorf(imagebind.Unavailable, "the retriever answered %d vectors for %d queries", len(out.Vectors), len(queries))
	}
	enhanced := make([]imagebind.Embedding, len(queries))
	for i, v := range out.Vectors {
		if len(v) != len(queries[i]) {
			return nil, nil, imagebind.Errorf(imagebind.Unavailable, "the retriever answered a vector of %d values for one of %d", len(v), len(queries[i]))
		}
		enhanced[i] = imagebind.Embedding(v)
	}
	n, err := domain(out.Neighbours, len(queries))
	return enhanced, n, err
}

// Vectors go as base64 both ways. A retriever that does not know of encoding
// answers with arrays, which are read as well.
const packedAnswer = "?encoding=" + EncodingBase64

type packedSearch struct {
	SearchRequest
	Vectors []Packed `json:"vectors"`
}

type packedEnhance struct {
	EnhanceRequest
	Vectors []Packed `json:"vectors"`
}

func wire(queries []imagebind.Embedding) []Packed {
	v := make([]Packed, len(queries))
	for i, q := range queries {
		v[i] = Packed(q)
	}
	return v
}

func domain(lists [][]Neighbour, want int) ([][]imagebind.Neighbour, error) {
	if len(lists) != want {
		return nil, imagebind.Errorf(imagebind.Unavailable, "the retriever answered %d lists for %d queries", len(lists), want)
	}
	out := make([][]imagebind.Neighbour, want)
	for i, list := range lists {
		for _, n := range list {
			d := imagebind.Neighbour{ID: n.ID, Similarity: n.Score, Caption: n.Caption, URI: n.URI, Metadata: n.Metadata, Prototype: imagebind.Embedding(n.Vector)}
			if n.Weight != nil {
				d.Weight = *n.Weight
			}
			out[i] = append(out[i], d)
		}
	}
	return out, nil
}

// Ready is nil when the retriever can answer a search now.
func (c *Client) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, call{method: "GET", path: "/readyz"}, "application/json")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Start begins a rebuild.
func (c *Client) Start(ctx context.Context, r JobRequest) (Job, error) {
	var out Job
	body, err := marshal(r)
	if err != nil {
		return out, err
	}
	err = c.do(ctx, call{method: "POST", path: "/v1/jobs", body: body, out: &out})
	return out, err
}

// Jobs lists the jobs, newest first.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	var out JobList
	err := c.do(ctx, call{method: "GET", path: "/v1/jobs", out: &out, read: true})
	return out.Jobs, err
}

// Job says how far a job is.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	var out Job
	err := c.do(ctx, call{method: "GET", path: "/v1/jobs/" + url.PathEscape(id), out: &out, read: true})
	return out, err
}

// Cancel stops a job; the generation that served before still does.
func (c *Client) Cancel(ctx context.Context, id string) (Job, error) {
	var out Job
	err := c.do(ctx, call{method: "DELETE", path: "/v1/jobs/" + url.PathEscape(id), out: &out, slow: true})
	return out, err
}

// Wait follows a job to its end, through restarts of the retriever, and calls
// progress (which may be nil) on each change. The job that comes back is over;
// whether it is done, failed or cancelled is in its State. It gives up when ctx
// ends, when the job is unknown, or after the retriever was away for patience.
func (c *Client) Wait(ctx context.Context, id string, patience time.Duration, progress func(Job)) (Job, error) {
	var last Job
	away := time.Time{}
	for {
		err := c.events(ctx, id, func(j Job) {
			last, away = j, time.Time{}
			if progress != nil {
				progress(j)
			}
		})
		if last.Over() {
			return last, nil
		}
		switch kind := imagebind.KindOf(err); {
		case ctx.Err() != nil:
			return last, ctx.Err()
		case err != nil && kind != imagebind.Unavailable && kind != imagebind.Timeout && kind != imagebind.Internal:
			return last, err
		}
		if away.IsZero() {
			away = time.Now()
		} else if time.Since(away) > patience {
			return last, fmt.Errorf("job %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// events reads the job's event stream until it ends.
func (c *Client) events(ctx context.Context, id string, f func(Job)) error {
	resp, err := c.send(ctx, call{method: "GET", path: "/v1/jobs/" + url.PathEscape(id) + "/events"}, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var j Job
		if err := json.Unmarshal([]byte(data), &j); err != nil {
			return imagebind.Errorf(imagebind.Unavailable, "event of job %s: %w", id, err)
		}
		f(j)
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return c.peer.Broken(ctx, err)
}
