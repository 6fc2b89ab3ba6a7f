package source

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/retrieverapi"
)

// RunnerOptions are how runners are asked. The zero value works.
type RunnerOptions struct {
	Key      string        // sent as a bearer token when set
	Timeout  time.Duration // of one try. Default 10 min
	Retries  int           // more tries of what may come right by itself. Default 6, negative for none
	Backoff  time.Duration // before the second try, doubled each time up to 32-fold. Default 250 ms
	Requests int           // under way at a time. Default 3
	Batch    int           // media in one request. Default 32
	Bytes    int64         // of one request; a file that is larger goes alone. Default 24 MiB; the runner reads 64 (limits.body)
	File     int64         // largest medium, bytes, at most the runner's limits.file. Default 32 MiB
}

// Runners are those that jobs may have media embedded by: a request names one
// of them, and no other address is ever called.
type Runners struct {
	o    RunnerOptions
	list map[string]*runner // by normalized URL
}

// NewRunners returns the runners at the URLs. It does not connect yet.
func NewRunners(urls []string, o RunnerOptions) (*Runners, error) {
	o.Timeout = cmp.Or(o.Timeout, 10*time.Minute)
	o.Retries = cmp.Or(o.Retries, 6)
	o.Backoff = cmp.Or(o.Backoff, 250*time.Millisecond)
	o.Requests = cmp.Or(o.Requests, 3)
	o.Batch = cmp.Or(o.Batch, 32)
	o.Bytes = cmp.Or(o.Bytes, 24<<20)
	o.File = cmp.Or(o.File, 32<<20)
	rs := &Runners{o, map[string]*runner{}}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = o.Requests
	client := &http.Client{
		Transport: transport,
		// A redirect could lead anywhere, and would take the key along.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, u := range urls {
		base, err := normalize(u)
		if err != nil {
			return nil, err
		}
		if rs.list[base], err = newRunner(base, o, client); err != nil {
			return nil, err
		}
	}
	return rs, nil
}

// normalize writes a runner's URL in the one way that is compared.
func normalize(raw string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", imagebind.Errorf(imagebind.Invalid, "%q is no runner's URL; it looks like http://localhost:8080", raw)
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && port != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host += ":" + port
	}
	return u.Scheme + "://" + host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func (rs *Runners) find(raw string) (*runner, error) {
	if len(rs.list) == 0 {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "this retriever asks no runner: start it with --runners http://localhost:8080"), "source.runner")
	}
	base, err := normalize(raw)
	if err != nil {
		return nil, imagebind.WithParam(err, "source.runner")
	}
	r := rs.list[base]
	if r == nil {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%s is none of the runners that this retriever may ask; --runners names them", base), "source.runner")
	}
	return r, nil
}

// Check says what is wrong with a source of media, as far as that can be seen
// without asking the runner.
func (rs *Runners) Check(s retrieverapi.Source) error {
	if _, err := rs.find(s.Runner); err != nil {
		return err
	}
	if s.Modality != "" && !nameRE.MatchString(s.Modality) {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "modality %q is no name of one, as depth is", s.Modality), "source.modality")
	}
	return imagebind.WithParam(CheckParams(s.Modality, s.Params), "source.params")
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// CheckParams holds parameters of media to what the runner's API can carry.
func CheckParams(modality string, params map[string]any) error {
	if modality == textModality && len(params) > 0 {
		return imagebind.Errorf(imagebind.Invalid, "texts have no parameters")
	}
	for name, v := range params {
		switch v.(type) {
		case float64, bool:
		default:
			return imagebind.Errorf(imagebind.Invalid, "parameter %q is neither a number nor true or false", name)
		}
		if !nameRE.MatchString(name) || name == "url" || name == "type" || name == "weight" {
			return imagebind.Errorf(imagebind.Invalid, "%q is no name of a parameter, as rate is", name)
		}
	}
	return nil
}

// A runner is the client half of what a source needs of a runner's API
// (docs/api.md, "Runner HTTP"). What may come right by itself is tried again:
// a runner that does not answer, is overloaded, or fails.
type runner struct {
	peer  *httpapi.Peer
	o     RunnerOptions
	retry failsafe.Executor[any]
}

func newRunner(base string, o RunnerOptions, client *http.Client) (*runner, error) {
	peer, err := httpapi.NewPeer("runner", base, "http://localhost:8080", o.Key, client)
	if err != nil {
		return nil, err
	}
	policy := retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool {
			switch imagebind.KindOf(err) {
			case imagebind.Unavailable, imagebind.Busy, imagebind.Internal:
				return err != nil
			}
			return false
		}).
		WithMaxRetries(max(0, o.Retries)).WithBackoff(o.Backoff, 32*o.Backoff).WithJitterFactor(0.25).ReturnLastFailure().Build()
	return &runner{peer, o, failsafe.With[any](policy)}, nil
}

// call sends a request until it is answered, and decodes at most limit bytes.
func (r *runner) call(ctx context.Context, method, path string, body []byte, limit int64, out any) error {
	err := r.retry.WithContext(ctx).Run(func() error {
		try, cancel := context.WithTimeout(ctx, r.o.Timeout)
		defer cancel()
		err := r.once(try, method, path, body, limit, out)
		if try.Err() != nil && ctx.Err() == nil { // no answer, unlike a runner that says that it took too long
			err = imagebind.Errorf(imagebind.Unavailable, "the runner at %s did not answer within %v", r.peer.Base(), r.o.Timeout)
		}
		return err
	})
	switch imagebind.KindOf(err) {
	case imagebind.Busy:
		return imagebind.Errorf(imagebind.Unavailable, "the runner at %s is overloaded: %w", r.peer.Base(), err)
	case imagebind.Unauthorized:
		return imagebind.Errorf(imagebind.Unauthorized, "the runner at %s does not accept this retriever's key (--runner-key)", r.peer.Base())
	}
	return err
}

func (r *runner) once(ctx context.Context, method, path string, body []byte, limit int64, out any) error {
	content := ""
	if len(body) > 0 {
		content = "application/json"
	}
	resp, err := r.peer.Send(ctx, method, path, bytes.NewReader(body), content, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return imagebind.Errorf(imagebind.Invalid, "the runner at %s answered %s; --runners names a runner itself, without a redirect", r.peer.Base(), resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, limit)).Decode(out); err != nil {
		return r.peer.Broken(ctx, err)
	}
	return nil
}

// A model is what a runner serves.
type model struct {
	ID         string `json:"id"`
	Dimensions int    `json:"dimensions"` // of an embedding
	// Fingerprint is of its encoders' weights; older runners have none.
	Fingerprint string   `json:"fingerprint"`
	Modalities  []string `json:"modalities"` // that it embeds
	Inputs      []struct {
		Modality string `json:"modality"`
		Part     string `json:"part"` // the type of its content part
	} `json:"inputs"`
}

// model asks what is served. Errors are Unsupported where nothing embeds.
func (r *runner) model(ctx context.Context) (model, error) {
	var out struct {
		Data []model `json:"data"`
	}
	if err := r.call(ctx, http.MethodGet, "/v1/models", nil, 1<<20, &out); err != nil {
		return model{}, err
	}
	i := slices.IndexFunc(out.Data, func(m model) bool { return m.Dimensions > 0 && m.Dimensions <= retrieverapi.MaxDim && m.ID != "" })
	if i < 0 {
		return model{}, imagebind.Errorf(imagebind.Unsupported, "the runner at %s serves no encoders; it cannot embed", r.peer.Base())
	}
	return out.Data[i], nil
}

// part returns the type of the content part of a modality; "" is any file.
func (m model) part(modality string) (string, error) {
	if modality == "" {
		return "media_url", nil
	}
	for _, in := range m.Inputs {
		if in.Modality == modality && slices.Contains(m.Modalities, modality) && nameRE.MatchString(in.Part) {
			return in.Part, nil
		}
	}
	return "", imagebind.WithParam(imagebind.Errorf(imagebind.Unsupported, "the runner's model %s has no encoder for %s; it has %s", m.ID, modality, strings.Join(m.Modalities, ", ")), "source.modality")
}

// An item is one input of an embeddings request, as JSON.
type item []byte

// textItem and fileItem write one; the part's type is the runner's word.
func textItem(part, text string) item {
	quoted, _ := json.Marshal(text) // of a string, which never fails
	return fmt.Appendf(nil, `{"content":[{"type":%q,%q:{"text":%s}}]}`, part, part, quoted)
}

func fileItem(part string, data []byte, params map[string]any) item {
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+256)
	b = fmt.Appendf(b, `{"content":[{"type":%q,%q:{"url":"data:application/octet-stream;base64,`, part, part)
	b = append(base64.StdEncoding.AppendEncode(b, data), '"')
	for name, v := range params {
		b = fmt.Appendf(b, `,%q:%v`, name, v) // numbers and switches, as CheckParams saw to
	}
	return append(b, "}}]}"...)
}

// embed returns what comes of each item. An item that the runner refuses has its
// reason, and the others are asked for again without it; errors are of the whole.
func (r *runner) embed(ctx context.Context, m model, items []item) ([]result, error) {
	if len(items) == 0 {
		return nil, nil
	}
	out, err := r.ask(ctx, m, items)
	if err == nil {
		return out, nil
	}
	kind, at := imagebind.KindOf(err), named(err)
	switch {
	case kind == imagebind.Unavailable || kind == imagebind.Unauthorized || kind == imagebind.Canceled:
		return nil, err
	case at >= 0 && at < len(items): // this one is at fault
	case kind != imagebind.TooLarge && kind != imagebind.Timeout && kind != imagebind.Internal:
		return nil, fmt.Errorf("embed %d files: %w", len(items), err)
	case len(items) == 1:
		at = 0
	default: // too much at once, or one that cannot be told: halves
		return r.around(ctx, m, items, -1, result{})
	}
	why := imagebind.MessageOf(err)
	if kind == imagebind.Internal {
		why = "the runner failed on it"
	}
	return r.around(ctx, m, items, at, result{why: why})
}

// around embeds all items but the one at skip, whose result is known; -1 is
// none. It asks for them in halves: many bad ones then cost a request each, of
// ever fewer items, and not of all the others.
func (r *runner) around(ctx context.Context, m model, items []item, skip int, known result) ([]result, error) {
	rest := items
	if skip >= 0 {
		rest = slices.Concat(items[:skip], items[skip+1:])
	}
	half := (len(rest) + 1) / 2
	out, err := r.embed(ctx, m, rest[:half])
	if err != nil {
		return nil, err
	}
	more, err := r.embed(ctx, m, rest[half:])
	if err != nil {
		return nil, err
	}
	out = append(out, more...)
	if skip >= 0 {
		out = slices.Insert(out, skip, known)
	}
	return out, nil
}

// inputRE finds the item that an error's param names, as in input[3].content[0].
var inputRE = regexp.MustCompile(`^input\[(\d{1,9})\]`)

func named(err error) int {
	if f := inputRE.FindStringSubmatch(imagebind.ParamOf(err)); f != nil {
		n, _ := strconv.Atoi(f[1])
		return n
	}
	return -1
}

// ask is one request.
func (r *runner) ask(ctx context.Context, m model, items []item) ([]result, error) {
	id, _ := json.Marshal(m.ID) // of a string, which never fails
	head := fmt.Sprintf(`{"model":%s,"encoding_format":"base64","input":[`, id)
	size := len(head) + 2
	for _, it := range items {
		size += len(it) + 1
	}
	body := append(make([]byte, 0, size), head...)
	for i, it := range items {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, it...)
	}
	body = append(body, "]}"...)
	var out struct {
		Data []struct {
			Index     int    `json:"index"`
			Embedding []byte `json:"embedding"` // base64 of little-endian float32
		} `json:"data"`
	}
	if err := r.call(ctx, http.MethodPost, "/v1/embeddings", body, int64(len(items)*(8*m.Dimensions+1024)+1<<16), &out); err != nil {
		return nil, err
	}
	results := make([]result, len(items))
	for _, d := range out.Data {
		if d.Index < 0 || d.Index >= len(items) || len(d.Embedding) != 4*m.Dimensions || results[d.Index].embedding != nil {
			return nil, r.strange(m)
		}
		row, err := retrieverapi.DecodeRow(d.Embedding)
		if err != nil {
			return nil, err
		}
		results[d.Index].embedding = row
	}
	if len(out.Data) != len(items) {
		return nil, r.strange(m)
	}
	return results, nil
}

func (r *runner) strange(m model) error {
	return imagebind.Errorf(imagebind.Conflict, "the runner at %s did not answer an embedding of %d values for each item", r.peer.Base(), m.Dimensions)
}
