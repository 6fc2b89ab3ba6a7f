//go:build !amd64 && !arm64

package kernel

// sets are the kernels that this machine can run, the best first.
func sets() []set { return []set{plain} }
