package milvus

import (
	"context"
	"errors"
	"path"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	grpcretry "github.com/grpc-ecosystem/go-grpc-middleware/retry"
	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	breakAfter = 5 // calls in a row that the server did not answer
	breakFor   = 2 * time.Second
	retries    = 3 // more tries of a call that may be repeated
)

// repeatable are the calls that do nothing more the second time. Insert is not
// among them, nor is what makes, drops or points: the first may have been done.
var repeatable = map[string]bool{
	"Search": true, "Query": true, "Upsert": true, "Delete": true, "Flush": true, "GetFlushState": true,
	"DescribeCollection": true, "ShowCollections": true, "HasCollection": true, "GetCollectionStatistics": true,
	"DescribeIndex": true, "GetLoadState": true, "GetLoadingProgress": true, "LoadCollection": true,
	"GetVersion": true, "DescribeAlias": true, "ListAliases": true,
}

// dialOptions are the SDK's own (setting others replaces them, and with them
// its keepalive and its message sizes), with guard in place of the SDK's
// retries: it repeats every call, also one that was done and whose answer was
// lost, six times without jitter, and one that is too large as well.
func dialOptions() []grpc.DialOption {
	return append(append([]grpc.DialOption(nil), client.DefaultGrpcOpts...),
		grpc.WithDefaultCallOptions(grpcretry.Disable()),
		grpc.WithChainUnaryInterceptor(guard()))
}

// rateLimit bounds the SDK's tries of a call that the server's quota refused,
// which did nothing; it would make 75.
var rateLimit = &client.RetryRateLimitOption{MaxRetry: 6, MaxBackoff: 2 * time.Second}

// guard makes calls fail at once for breakFor after breakAfter in a row did
// not reach the server or had no answer in time, and repeats those that may be
// where the connection broke.
func guard() grpc.UnaryClientInterceptor {
	breaker := circuitbreaker.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool {
			code := status.Code(err)
			return code == codes.Unavailable || code == codes.DeadlineExceeded
		}).
		WithFailureThreshold(breakAfter).WithDelay(breakFor).Build()
	retry := retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool { return status.Code(err) == codes.Unavailable }).
		AbortOnErrors(circuitbreaker.ErrOpen).
		WithMaxRetries(retries).WithBackoff(50*time.Millisecond, time.Second).WithJitterFactor(0.5).
		ReturnLastFailure().Build()
	once, again := failsafe.With[any](breaker), failsafe.With[any](retry, breaker)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		exec := once
		if repeatable[path.Base(method)] {
			exec = again
		}
		err := exec.WithContext(ctx).Run(func() error { return invoke(ctx, method, req, reply, cc, opts...) })
		if errors.Is(err, circuitbreaker.ErrOpen) {
			return status.Error(codes.Unavailable, "it did not answer lately; it is tried again soon")
		}
		return err
	}
}
