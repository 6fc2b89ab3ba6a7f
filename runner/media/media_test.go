package media

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	imagebind "imagebind-llm"
)

func fetcher(t *testing.T, o Options) *Fetcher {
	t.Helper()
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// wants holds an error against the kind and words that it should have.
func wants(t *testing.T, err error, kind imagebind.Kind, words string) {
	t.Helper()
	if err == nil || imagebind.KindOf(err) != kind || !strings.Contains(imagebind.MessageOf(err), words) {
		t.Errorf("got %v, want an error of kind %d with %q", err, kind, words)
	}
}

func TestParseData(t *testing.T) {
	raw := []byte{0xfb, 0xff, 0xfe, 'x', 0}
	std, web := base64.StdEncoding.EncodeToString(raw), base64.URLEncoding.EncodeToString(raw)
	for _, tt := range []struct{ name, url, want string }{
		{"base64", "data:image/png;base64," + std, string(raw)},
		{"URL alphabet", "data:image/png;base64," + web, string(raw)},
		{"no padding", "data:;base64," + strings.TrimRight(std, "="), string(raw)},
		{"upper case, parameters", "DATA:text/plain;charset=utf-8;BASE64,aGk=", "hi"},
		{"escaped", "data:;base64,aGk%3D", "hi"},
		{"line breaks", "data:;base64,aG\r\nk=\n", "hi"},
		{"percent", "data:text/plain,a%20dog%2C", "a dog,"},
		{"no media type", "data:,hi", "hi"},
		{"plus stays", "data:,a+b", "a+b"},
		{"nothing", "data:;base64,", ""},
	} {
		got, err := ParseData(tt.url, 10)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	for _, tt := range []struct {
		name, url string
		kind      imagebind.Kind
		words     string
	}{
		{"no comma", "data:image/png;base64", imagebind.Invalid, "comma"},
		{"a comma too far", "data:" + strings.Repeat("a", 2000) + ",x", imagebind.Invalid, "comma"},
		{"broken base64", "data:;base64,a!b", imagebind.Invalid, "base64"},
		{"a rest of one", "data:;base64,aGkx2", imagebind.Invalid, "base64"},
		{"broken escape", "data:,%zz", imagebind.Invalid, "percent"},
		{"long base64", "data:;base64," + base64.StdEncoding.EncodeToString(make([]byte, 11)), imagebind.TooLarge, "10 bytes"},
		{"long text", "data:,12345678901", imagebind.TooLarge, "10 bytes"},
		{"long escapes", "data:," + strings.Repeat("%41", 11), imagebind.TooLarge, "10 bytes"},
		{"another scheme", "date:,x", imagebind.Invalid, "data:"},
	} {
		_, err := ParseData(tt.url, 10)
		t.Run(tt.name, func(t *testing.T) { wants(t, err, tt.kind, tt.words) })
	}
}

// TestDataLimitComesFirst has a data URL far over the limit refused without
// memory of its size.
func TestDataLimitComesFirst(t *testing.T) {
	big := "data:;base64," + strings.Repeat("A", 8<<20)
	if n := testing.AllocsPerRun(1, func() {
		if _, err := ParseData(big, 1<<20); imagebind.KindOf(err) != imagebind.TooLarge {
			t.Error(err)
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseData(f *testing.F) {
	for _, s := range []string{"data:image/png;base64,iVBORw0KGgo=", "data:,a%20b", "DATA:;base64,_-8", "data:;base64,%%%", "data:;;,", "data:base64,aaaa"} {
		f.Add(s)
	}
	const most = 64
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseData(s, most)
		if err == nil && len(b) > most {
			t.Errorf("%d bytes", len(b))
		}
		if k := imagebind.KindOf(err); err != nil && k != imagebind.Invalid && k != imagebind.TooLarge {
			t.Error(err)
		}
		// What is written as a data URL is read back.
		if len(s) <= most {
			if got, err := ParseData("data:;base64,"+base64.StdEncoding.EncodeToString([]byte(s)), most); err != nil || string(got) != s {
				t.Errorf("%q came back as %q, %v", s, got, err)
			}
		}
	})
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "media")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "sub dir"), 0o755))
	must(os.WriteFile(filepath.Join(root, "dog.jpg"), []byte("dog"), 0o644))
	must(os.WriteFile(filepath.Join(root, "sub dir", "猫.png"), []byte("cat"), 0o644))
	must(os.WriteFile(filepath.Join(root, "big"), make([]byte, 101), 0o644))
	must(os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o644))
	must(os.Symlink("dog.jpg", filepath.Join(root, "inner")))
	must(os.Symlink("../secret", filepath.Join(root, "outer")))
	must(os.Symlink("..", filepath.Join(root, "up")))
	must(os.Symlink(filepath.Join(dir, "secret"), filepath.Join(root, "absolute")))
	must(syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644))
	f := fetcher(t, Options{Root: root, MaxBytes: 100})
	for url, want := range map[string]string{
		"file:dog.jpg": "dog", "file:///dog.jpg": "dog", "file://localhost/dog.jpg": "dog", "FILE:dog.jpg": "dog", "file:./dog.jpg": "dog",
		"file://" + root + "/dog.jpg": "dog", "file:sub%20dir/%E7%8C%AB.png": "cat", "file:///sub%20dir/猫.png": "cat", "file:inner": "dog",
		"file:sub%20dir/../dog.jpg": "dog",
	} {
		if got, err := f.Fetch(t.Context(), url); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", url, got, err)
		}
	}
	for _, tt := range []struct {
		url   string
		kind  imagebind.Kind
		words string
	}{
		{"file:../secret", imagebind.Invalid, "media root"},
		{"file:///../secret", imagebind.Invalid, "media root"},
		{"file:sub%20dir/../../secret", imagebind.Invalid, "media root"},
		{"file:%2e%2e/secret", imagebind.Invalid, "media root"},
		{"file:..%2fsecret", imagebind.Invalid, "media root"},
		{"file://" + dir + "/secret", imagebind.NotFound, "media root"},
		{"file:///etc/passwd", imagebind.NotFound, "media root"},
		{"file:outer", imagebind.Invalid, "leaves"},
		{"file:absolute", imagebind.Invalid, "leaves"},
		{"file:up/secret", imagebind.Invalid, "leaves"},
		{"file:dog.jpg%00.png", imagebind.Invalid, ""},
		{"file://elsewhere/dog.jpg", imagebind.Invalid, "host"},
		{"file:nothing", imagebind.NotFound, "nothing"},
		{"file:", imagebind.Invalid, ""},
		{"file:///", imagebind.Invalid, ""},
		{"file:sub%20dir", imagebind.Invalid, "regular"},
		{"file:pipe", imagebind.Invalid, "regular"},
		{"file:big", imagebind.TooLarge, "100 bytes"},
	} {
		_, err := f.Fetch(t.Context(), tt.url)
		t.Run(tt.url, func(t *testing.T) { wants(t, err, tt.kind, tt.words) })
	}
	_, err := fetcher(t, Options{}).Fetch(t.Context(), "file:dog.jpg")
	wants(t, err, imagebind.Invalid, "off")
	if _, err := New(Options{Root: filepath.Join(dir, "nowhere")}); err == nil {
		t.Error("a root that is not there is taken")
	}
}

func TestOtherSchemes(t *testing.T) {
	f := fetcher(t, Options{})
	for _, u := range []string{"", "dog.jpg", "/etc/passwd", "ftp://example.com/x", "gopher://x", "http://\x00", "HTTP:", "://"} {
		_, err := f.Fetch(t.Context(), u)
		wants(t, err, imagebind.Invalid, "")
	}
	for _, u := range []string{"http://example.com/x", "https://example.com/x"} {
		_, err := f.Fetch(t.Context(), u)
		wants(t, err, imagebind.Invalid, "off")
	}
}

// site serves what the paths say.
func site(t *testing.T) (*httptest.Server, string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/dog":
			fmt.Fprint(w, "dog")
		case "/big":
			w.Header().Set("Content-Length", "101")
			_, _ = w.Write(make([]byte, 101))
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/slow":
			<-r.Context().Done()
		case "/cut":
			w.Header().Set("Content-Length", "50")
			fmt.Fprint(w, "x")
		case "/to-dog":
			http.Redirect(w, r, "/dog", http.StatusFound)
		case "/twice":
			http.Redirect(w, r, "/to-dog", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
		case "/to-file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv, strings.TrimPrefix(srv.URL, "http://")
}

func TestHTTP(t *testing.T) {
	srv, host := site(t)
	f := fetcher(t, Options{Hosts: []string{host}, Private: true, MaxBytes: 100, Timeout: 200 * time.Millisecond})
	if got, err := f.Fetch(t.Context(), srv.URL+"/dog"); err != nil || string(got) != "dog" {
		t.Fatalf("%q, %v", got, err)
	}
	for _, tt := range []struct {
		path  string
		kind  imagebind.Kind
		words string
	}{
		{"/big", imagebind.TooLarge, "100 bytes"},
		{"/endless", imagebind.TooLarge, "100 bytes"},
		{"/slow", imagebind.Invalid, "longer than"},
		{"/cut", imagebind.Invalid, "cannot fetch"},
		{"/nothing", imagebind.Invalid, "404"},
		{"/to-dog", imagebind.Invalid, "redirects"},
		{"/away", imagebind.Invalid, "redirects"},
	} {
		_, err := f.Fetch(t.Context(), srv.URL+tt.path)
		t.Run(tt.path, func(t *testing.T) { wants(t, err, tt.kind, tt.words) })
	}
	_, err := f.Fetch(t.Context(), strings.Replace(srv.URL, "http://", "http://me:secret@", 1)+"/dog")
	wants(t, err, imagebind.Invalid, "user name")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Fetch(ctx, srv.URL+"/dog"); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller left: %v", err)
	}

	hops := fetcher(t, Options{Hosts: []string{host}, Private: true, Redirects: 1})
	if got, err := hops.Fetch(t.Context(), srv.URL+"/to-dog"); err != nil || string(got) != "dog" {
		t.Errorf("one hop: %q, %v", got, err)
	}
	for path, words := range map[string]string{"/twice": "redirects", "/away": "does not fetch from", "/to-file": "scheme"} {
		_, err := hops.Fetch(t.Context(), srv.URL+path)
		t.Run("one hop "+path, func(t *testing.T) { wants(t, err, imagebind.Invalid, words) })
	}
}

// TestPrivate asks a listed host that is on this machine: it is refused when it
// is connected to, without a request.
func TestPrivate(t *testing.T) {
	var asked bool
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer srv.Close()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(srv.URL, "http://"))
	f := fetcher(t, Options{Hosts: []string{"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port}})
	for _, host := range []string{"127.0.0.1", "localhost"} {
		_, err := f.Fetch(t.Context(), "http://"+host+":"+port+"/")
		wants(t, err, imagebind.Invalid, "private")
	}
	t.Setenv("HTTP_PROXY", srv.URL) // it would connect in our place
	_, err := f.Fetch(t.Context(), "http://localhost:"+port+"/")
	wants(t, err, imagebind.Invalid, "private")
	if asked {
		t.Error("a request arrived")
	}
	if _, err := New(Options{Hosts: []string{"*"}, Private: true}); err == nil {
		t.Error("all hosts, private ones too")
	}
}

func TestAllowed(t *testing.T) {
	f := fetcher(t, Options{Hosts: []string{"example.com", "Media.example.org:8443", "*.cdn.example", "[2001:4860::1]", "10.0.0.1:80"}})
	for u, want := range map[string]bool{
		"https://example.com/x": true, "http://EXAMPLE.com:80/x": true, "https://example.com:443": true, "https://example.com./x": true,
		"https://example.com:8443/x": false, "https://www.example.com": false, "https://example.com.evil.test": false, "http://example.com:443": false,
		"https://media.example.org:8443/": true, "https://media.example.org/": false,
		"https://a.cdn.example": true, "https://a.b.cdn.example": true, "https://cdn.example": false, "https://evilcdn.example": false,
		"https://[2001:4860::1]/x": true, "https://[2001:4860::2]/x": false, "http://10.0.0.1:80": true, "http://": false,
		"http://example.com@evil.test/": false, "http://evil.test#example.com": false,
	} {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.allowed(parsed); (err == nil) != want {
			t.Errorf("%s: %v", u, err)
		}
	}
	all := fetcher(t, Options{Hosts: []string{"*"}})
	if err := all.allowed(&url.URL{Scheme: "https", Host: "example.com"}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "http://example.com", "a*.example.com", "user@example.com", "*.*"} {
		if _, err := New(Options{Hosts: []string{bad}}); err == nil {
			t.Errorf("host %q is taken", bad)
		}
	}
}

func TestPublic(t *testing.T) {
	for s, want := range map[string]bool{
		"8.8.8.8": true, "2001:4860:4860::8888": true, "2606:4700::1": true, "1.1.1.1": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "0.0.0.0": false, "0.1.2.3": false,
		"100.64.0.1": false, "192.0.0.8": false, "198.18.0.1": false, "224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false, "203.0.113.5": false,
		"::1": false, "::": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false, "::ffff:127.0.0.1": false, "::ffff:8.8.8.8": true,
		"64:ff9b::7f00:1": false, "2002:7f00:1::": false, "::7f00:1": false, "2001:db8::1": false, "fec0::1": false, "2001:0:1::": false,
	} {
		if got := public(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}

// TestReadGrows reads more than the size that was promised.
func TestReadGrows(t *testing.T) {
	f := fetcher(t, Options{MaxBytes: 1 << 20})
	want := bytes.Repeat([]byte("abc"), 100000)
	for _, size := range []int64{-1, 0, 10, int64(len(want)), 1 << 40} {
		var taken int64
		got, err := f.read(bytes.NewReader(want), size, func(n int64) error { taken += n; return nil })
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("promised %d: %d bytes, %v", size, len(got), err)
		}
		if taken < int64(len(want)) || taken > 1<<20 {
			t.Errorf("promised %d: %d bytes are taken for %d", size, taken, len(want))
		}
		full := errors.New("full")
		if _, err := f.read(bytes.NewReader(want), size, func(int64) error { return full }); !errors.Is(err, full) {
			t.Errorf("promised %d: %v", size, err)
		}
	}
}
