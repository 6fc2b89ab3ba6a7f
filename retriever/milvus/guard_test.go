package milvus

import (
	"context"
	"io"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/milvus-io/milvus-proto/go-api/v2/commonpb"
	"github.com/milvus-io/milvus-proto/go-api/v2/milvuspb"
	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// fails is a server whose calls end in the codes given, the last of them for
// ever; it counts them by method.
type fails struct {
	mu    sync.Mutex
	calls map[string]int
	codes []codes.Code
}

func (f *fails) serve(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[path.Base(method)]++
	code := f.codes[0]
	if len(f.codes) > 1 {
		f.codes = f.codes[1:]
	}
	if code != codes.OK {
		return status.Error(code, "as asked for")
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	return stream.SendMsg(&emptypb.Empty{})
}

func (f *fails) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// dialFails connects to a server that fails with these codes.
func dialFails(t *testing.T, ends ...codes.Code) (*fails, func(method string) error) {
	t.Helper()
	f := &fails{calls: map[string]int{}, codes: ends}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(f.serve))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), append(dialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return f, func(method string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return conn.Invoke(ctx, "/milvus.proto.milvus.MilvusService/"+method, &emptypb.Empty{}, &emptypb.Empty{})
	}
}

// What may be repeated is, where the connection broke; nothing else is, and
// nothing whose answer says that the server got it.
func TestRetries(t *testing.T) {
	for _, tt := range []struct {
		method string
		ends   []codes.Code
		want   codes.Code
		calls  int
	}{
		{"Search", []codes.Code{codes.Unavailable, codes.Unavailable, codes.OK}, codes.OK, 3},
		{"Upsert", []codes.Code{codes.Unavailable, codes.OK}, codes.OK, 2},
		{"Search", []codes.Code{codes.Unavailable}, codes.Unavailable, 1 + retries},
		{"Insert", []codes.Code{codes.Unavailable, codes.OK}, codes.Unavailable, 1},
		{"AlterAlias", []codes.Code{codes.Unavailable, codes.OK}, codes.Unavailable, 1},
		{"Upsert", []codes.Code{codes.ResourceExhausted, codes.OK}, codes.ResourceExhausted, 1}, // a message too large: the SDK tries for 22 s
		{"Search", []codes.Code{codes.Internal, codes.OK}, codes.Internal, 1},
	} {
		f, call := dialFails(t, tt.ends...)
		if err := call(tt.method); status.Code(err) != tt.want {
			t.Errorf("%s of %v: %v", tt.method, tt.ends, err)
		}
		if n := f.count(tt.method); n != tt.calls {
			t.Errorf("%s of %v was called %d times, want %d", tt.method, tt.ends, n, tt.calls)
		}
	}
}

// After some calls in a row without an answer the next ones fail at once and
// do not reach the server; a while later one is let through, and when it is
// answered all are.
func TestBreaker(t *testing.T) {
	ends := []codes.Code{}
	for range breakAfter {
		ends = append(ends, codes.Unavailable)
	}
	f, call := dialFails(t, append(ends, codes.OK)...)
	for range breakAfter {
		if err := call("CreateAlias"); status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for range 100 {
		if err := call("Search"); status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); f.count("Search") != 0 || d > breakFor/2 {
		t.Errorf("%d searches reached a server that does not answer, in %v", f.count("Search"), d)
	}
	deadline := time.After(3 * breakFor)
	for call("Search") != nil {
		select {
		case <-deadline:
			t.Fatal("the circuit stays open though the server answers")
		case <-time.After(20 * time.Millisecond):
		}
	}
	if d := time.Since(start); d < breakFor/2 {
		t.Errorf("it closed after %v", d)
	}
}

// A relay passes bytes to a server until it is told to hold them back, as a
// network does that lost its way: connections stay, nothing arrives.
type relay struct {
	net.Listener
	to     string
	frozen atomic.Bool
	thaw   chan struct{}
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: to, thaw: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			for _, d := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(d[0], reader(func(p []byte) (int, error) {
						n, err := d[1].Read(p)
						if r.frozen.Load() {
							<-r.thaw
						}
						return n, err
					}))
					d[0].Close()
				}()
			}
		}
	}()
	return r
}

type reader func(p []byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// A server that takes connections and answers nothing fails each call when its
// time is up, the first as well, then at once, and is found again.
func TestServerHangs(t *testing.T) {
	direct := open(t)
	n, ctx := name(t, direct), t.Context()
	if _, err := direct.Create(ctx, n, store.Spec{Dim: 8}); err != nil {
		t.Fatal(err)
	}
	all := rows(0, 5, 8)
	if err := direct.Upsert(ctx, n, all); err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, direct.o.Address)
	s, err := Open(Options{Address: r.Addr().String(), Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	find := func(ctx context.Context) error {
		_, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{all[2].Vector}, K: 1})
		return err
	}
	answers := func() { // a busy machine may need more than one try
		t.Helper()
		deadline := time.After(30 * time.Second)
		for find(ctx) != nil {
			select {
			case <-deadline:
				t.Fatal(find(ctx))
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	answers()
	b, err := s.Build(ctx, n, store.Spec{Dim: 8}, "hangs")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, all); err != nil {
		t.Fatal(err)
	}
	r.frozen.Store(true)
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	start := time.Now()
	if _, err := b.Commit(short); imagebind.KindOf(err) != imagebind.Timeout || time.Since(start) > time.Second {
		t.Errorf("a commit with a deadline of 300 ms: %v after %v", err, time.Since(start))
	}
	cancel()
	start = time.Now()
	for range breakAfter {
		if err := find(ctx); imagebind.KindOf(err) != imagebind.Unavailable {
			t.Errorf("search: %v", err)
		}
	}
	if d := time.Since(start); d > breakAfter*s.o.Timeout+time.Second {
		t.Errorf("%d searches took %v", breakAfter, d)
	}
	start = time.Now()
	if err := find(ctx); imagebind.KindOf(err) != imagebind.Unavailable || time.Since(start) > 100*time.Millisecond {
		t.Errorf("with the circuit open: %v after %v", err, time.Since(start))
	}
	r.frozen.Store(false)
	close(r.thaw)
	answers()
	if err := b.Abort(ctx); err != nil {
		t.Error(err)
	}
}

// The first connection to a server that does not speak is given up as well.
func TestNobodySpeaks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Open(Options{Address: l.Addr().String(), Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := s.Ready(context.WithoutCancel(t.Context())); imagebind.KindOf(err) != imagebind.Unavailable || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// limited is a Milvus whose quota refuses everything.
type limited struct {
	milvuspb.UnimplementedMilvusServiceServer
	calls atomic.Int32
}

func (l *limited) Connect(context.Context, *milvuspb.ConnectRequest) (*milvuspb.ConnectResponse, error) {
	return &milvuspb.ConnectResponse{Status: &commonpb.Status{}}, nil
}

func (l *limited) ReleaseCollection(context.Context, *milvuspb.ReleaseCollectionRequest) (*commonpb.Status, error) {
	l.calls.Add(1)
	return &commonpb.Status{ErrorCode: commonpb.ErrorCode_RateLimit, Reason: "over the quota"}, nil
}

// What a quota refused is tried some times and then given up, where the SDK
// goes on for minutes.
func TestRateLimited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, m := grpc.NewServer(), &limited{}
	milvuspb.RegisterMilvusServiceServer(server, m)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	c, err := client.NewClient(t.Context(), client.Config{Address: l.Addr().String(), DialOptions: dialOptions(), RetryRateLimit: rateLimit})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	start := time.Now()
	err = c.ReleaseCollection(t.Context(), "pets")
	if err == nil || !strings.Contains(err.Error(), "over the quota") || m.calls.Load() != int32(rateLimit.MaxRetry) || time.Since(start) > 10*time.Second {
		t.Errorf("%v after %d calls and %v", err, m.calls.Load(), time.Since(start))
	}
}
