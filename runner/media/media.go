// Package media gets the bytes behind the URL of a request's part: data: URLs,
// file: URLs below a root, and http(s) URLs of allowed hosts. The URL comes from
// whoever asks, so everything but data: is off until it is configured, sizes
// are bounded before memory is spent, and an address is checked when it is
// connected to, not when it is named.
package media

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	imagebind "imagebind-llm"
)

// Options of a Fetcher. The zero value reads data: URLs only.
type Options struct {
	Root string // folder that file: URLs may name; empty: none
	// Hosts that http and https URLs may name: example.com on the scheme's own
	// port, example.com:8443, *.example.com for all below it, or * for all. None: off.
	Hosts []string
	// Private lets those hosts have private, loopback and other addresses that
	// are not of the public Internet. Not together with *.
	Private   bool
	Timeout   time.Duration // of one http fetch; default 10 s
	MaxBytes  int64         // of any of them; default 32 MiB
	Redirects int           // that are followed, each to an allowed host; default none
}

// A Fetcher fetches what URLs name. Its methods may be called concurrently.
type Fetcher struct {
	o      Options
	root   *os.Root // nil: no file: URLs
	path   string   // of root, absolute
	client *http.Client
}

// New returns a Fetcher. The root must exist.
func New(o Options) (*Fetcher, error) {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 32 << 20
	}
	if o.Private && slices.Contains(o.Hosts, "*") {
		return nil, errors.New("media: hosts that may be private must be named; * names them all")
	}
	for _, h := range o.Hosts {
		if h == "" || strings.ContainsAny(h, "/@ ") || h != "*" && strings.Contains(strings.TrimPrefix(h, "*."), "*") {
			return nil, fmt.Errorf("media: host %q; it looks like example.com, example.com:8443, *.example.com or *", h)
		}
	}
	f := &Fetcher{o: o}
	if o.Root != "" {
		var err error
		if f.path, err = filepath.Abs(o.Root); err != nil {
			return nil, fmt.Errorf("media root: %w", err)
		}
		if f.root, err = os.OpenRoot(f.path); err != nil {
			return nil, fmt.Errorf("media root: %w", err)
		}
	}
	dialer := &net.Dialer{Timeout: o.Timeout}
	if !o.Private {
		dialer.Control = publicOnly
	}
	f.client = &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext, // no Proxy: it would connect in our place, unchecked
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        30 * time.Second,
			TLSHandshakeTimeout:    o.Timeout,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > o.Redirects {
				return imagebind.Errorf(imagebind.Invalid, "the url redirects to %s, which is not followed: send that one", r.URL.Redacted())
			}
			return f.allowed(r.URL)
		},
	}
	return f, nil
}

// Close lets go of the root and of idle connections.
func (f *Fetcher) Close() error {
	f.client.CloseIdleConnections()
	if f.root == nil {
		return nil
	}
	return f.root.Close()
}

// Fetch returns what rawURL names, at most MaxBytes. Errors that are not the
// caller's leaving are Invalid, NotFound or TooLarge.
func (f *Fetcher) Fetch(ctx context.Context, rawURL string) ([]byte, error) {
	return f.FetchWithin(ctx, rawURL, func(int64) error { return nil })
}

// FetchWithin is Fetch that asks take for the bytes that it is about to hold,
// before it does, in pieces as they are needed; an error of take is its own.
func (f *Fetcher) FetchWithin(ctx context.Context, rawURL string, take func(int64) error) ([]byte, error) {
	scheme, _, ok := strings.Cut(rawURL, ":")
	switch scheme = strings.ToLower(scheme); {
	case !ok || rawURL == "":
		return nil, imagebind.Errorf(imagebind.Invalid, "%q is no URL; data:, file: and http(s): are read", short(rawURL))
	case scheme == "data":
		if err := take(min(DecodedLen(rawURL), f.o.MaxBytes)); err != nil { // more than that is refused
			return nil, err
		}
		return ParseData(rawURL, f.o.MaxBytes)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "%q is no URL; data:, file: and http(s): are read", short(rawURL))
	}
	switch scheme {
	case "file":
		return f.file(u, take)
	case "http", "https":
		return f.get(ctx, u, take)
	}
	return nil, imagebind.Errorf(imagebind.Invalid, "URLs of scheme %s: are not read; data:, file: and http(s): are", short(scheme))
}

// short is s for an error.
func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// ParseData returns the bytes of a data: URL (RFC 2397), base64 in either
// alphabet, or percent-encoded. More than max is refused before it is decoded.
// The media type is not looked at: what a file is, its content tells.
func ParseData(s string, max int64) ([]byte, error) {
	if len(s) < 5 || !strings.EqualFold(s[:5], "data:") {
		return nil, imagebind.Errorf(imagebind.Invalid, "a data: URL begins with data:")
	}
	s = s[5:]
	comma := strings.IndexByte(s[:min(len(s), 1024)], ',')
	if comma < 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "a data: URL has a comma before its data, as in data:image/png;base64,iVBO…")
	}
	head, s := s[:comma], s[comma+1:]
	if !strings.EqualFold(head[strings.LastIndexByte(head, ';')+1:], "base64") || !strings.Contains(head, ";") {
		if int64(len(s)) > 3*max {
			return nil, tooLarge(max)
		}
		text, err := url.PathUnescape(s)
		if err != nil {
			return nil, imagebind.Errorf(imagebind.Invalid, "the data: URL's percent-encoding is broken; is ;base64 missing before the comma?")
		}
		if int64(len(text)) > max {
			return nil, tooLarge(max)
		}
		return []byte(text), nil
	}
	return Base64(s, max)
}

// DecodedLen returns the bytes that a data: URL's or a base64 text's data have
// at most, were it base64.
func DecodedLen(s string) int64 { return int64(base64.StdEncoding.DecodedLen(len(s))) }

// Base64 decodes s, in either alphabet, padded or not, with line breaks and
// percent-encoded signs let pass. More than max bytes are refused before.
func Base64(s string, max int64) ([]byte, error) {
	if strings.IndexByte(s, '%') >= 0 && int64(len(s))/4 <= max {
		if plain, err := url.PathUnescape(s); err == nil {
			s = plain
		}
	}
	s = strings.TrimRight(s, "=\r\n")
	if int64(base64.RawStdEncoding.DecodedLen(len(s))) > max {
		return nil, tooLarge(max)
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		encoding = base64.RawURLEncoding
	}
	b, err := encoding.DecodeString(s)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "the base64 is broken: %w", err)
	}
	return b, nil
}

func tooLarge(max int64) error {
	return imagebind.Errorf(imagebind.TooLarge, "the file has more than %d bytes, which is the limit", max)
}

// file reads below the root. An absolute path that begins with the root's own
// is taken as one; every other is relative to the root.
func (f *Fetcher) file(u *url.URL, take func(int64) error) ([]byte, error) {
	if f.root == nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "file: URLs are off: the server has no media root; send the file in a data: URL")
	}
	if u.Host != "" && !strings.EqualFold(u.Host, "localhost") {
		return nil, imagebind.Errorf(imagebind.Invalid, "file: URLs have no host; write file:%s", short(u.Host+u.Path))
	}
	path := u.Path
	if u.Opaque != "" { // file:dog.jpg
		var err error
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return nil, imagebind.Errorf(imagebind.Invalid, "the file: URL's percent-encoding is broken")
		}
	}
	name := filepath.FromSlash(path)
	if rel, err := filepath.Rel(f.path, filepath.Clean(name)); filepath.IsAbs(name) && err == nil && filepath.IsLocal(rel) {
		name = rel
	}
	name = strings.TrimLeft(name, string(filepath.Separator))
	if !filepath.IsLocal(name) {
		return nil, imagebind.Errorf(imagebind.Invalid, "%q is not below the media root", short(path))
	}
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a named pipe must not block
	if err != nil {
		return nil, fileError(path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fileError(path, err)
	case !info.Mode().IsRegular():
		return nil, imagebind.Errorf(imagebind.Invalid, "%q is no regular file", short(path))
	case info.Size() > f.o.MaxBytes:
		return nil, tooLarge(f.o.MaxBytes)
	}
	return f.read(file, info.Size(), take)
}

func fileError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &imagebind.Error{Kind: imagebind.NotFound, Message: fmt.Sprintf("no file %q in the media root", short(path)), Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &imagebind.Error{Kind: imagebind.Invalid, Message: fmt.Sprintf("the file %q may not be read", short(path)), Err: err}
	}
	return &imagebind.Error{Kind: imagebind.Invalid, Message: fmt.Sprintf("%q cannot be opened, or leaves the media root", short(path)), Err: err}
}

// read reads r to its end; size is what it should have, or less than 0.
func (f *Fetcher) read(r io.Reader, size int64, take func(int64) error) ([]byte, error) {
	first := max(512, min(size+1, 1<<20))
	if err := take(first); err != nil {
		return nil, err
	}
	buf := make([]byte, 0, first)
	limited := io.LimitReader(r, f.o.MaxBytes+1)
	for {
		if len(buf) == cap(buf) {
			if err := take(int64(len(buf))); err != nil {
				return nil, err
			}
			buf = append(make([]byte, 0, 2*len(buf)), buf...)
		}
		n, err := limited.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > f.o.MaxBytes {
			return nil, tooLarge(f.o.MaxBytes)
		}
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// get fetches over http. The answer must be 200.
func (f *Fetcher) get(ctx context.Context, u *url.URL, take func(int64) error) ([]byte, error) {
	if err := f.allowed(u); err != nil {
		return nil, err
	}
	try, cancel := context.WithTimeout(ctx, f.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(try, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "%q cannot be fetched", short(u.Redacted()))
	}
	req.Header.Set("User-Agent", "imagebind-llm")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, f.fetchError(ctx, u, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, imagebind.Errorf(imagebind.Invalid, "%s answered %d", u.Host, resp.StatusCode)
	case resp.ContentLength > f.o.MaxBytes:
		return nil, tooLarge(f.o.MaxBytes)
	}
	b, err := f.read(resp.Body, resp.ContentLength, take)
	if err != nil {
		return nil, f.fetchError(ctx, u, err)
	}
	return b, nil
}

// allowed says whether a URL's host is on the list.
func (f *Fetcher) allowed(u *url.URL) error {
	if len(f.o.Hosts) == 0 {
		return imagebind.Errorf(imagebind.Invalid, "http and https URLs are off: the server fetches from no host; send the file in a data: URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return imagebind.Errorf(imagebind.Invalid, "URLs of scheme %s: are not fetched", short(u.Scheme))
	}
	if u.User != nil {
		return imagebind.Errorf(imagebind.Invalid, "the url has a user name in it; those are not sent")
	}
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	own := port == "" || port == map[string]string{"http": "80", "https": "443"}[u.Scheme]
	for _, h := range f.o.Hosts {
		h = strings.ToLower(h)
		name, p, err := net.SplitHostPort(h)
		if err != nil { // it has none
			name, p = strings.Trim(h, "[]"), ""
		}
		suffix, below := strings.CutPrefix(name, "*")
		if (name == host || below && strings.HasSuffix(host, suffix) && len(host) > len(suffix)) && (p == port || p == "" && own) {
			return nil
		}
	}
	return imagebind.Errorf(imagebind.Invalid, "the server does not fetch from %s; send the file in a data: URL", short(u.Host))
}

func (f *Fetcher) fetchError(ctx context.Context, u *url.URL, err error) error {
	var typed *imagebind.Error
	var timeout interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &typed):
		return typed
	case errors.As(err, &timeout) && timeout.Timeout():
		return &imagebind.Error{Kind: imagebind.Invalid, Message: fmt.Sprintf("fetching from %s took longer than %s", u.Host, f.o.Timeout), Err: err}
	}
	return &imagebind.Error{Kind: imagebind.Invalid, Message: "cannot fetch from " + u.Host, Err: err}
}

// special are networks that are no part of the public Internet, beside those
// that netip knows (IANA's special-purpose registries), and those that wrap
// IPv4 addresses.
var special = func() (p []netip.Prefix) {
	for _, s := range []string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10"} {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}()

// publicOnly refuses to connect to an address that is not of the public
// Internet. It sees the resolved one, so that a name cannot point elsewhere.
func publicOnly(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !public(a.Addr()) {
		return imagebind.Errorf(imagebind.Invalid, "the url's host has an address that is private or special; the server does not fetch from those")
	}
	return nil
}

func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsGlobalUnicast() && !a.IsPrivate() && !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}
