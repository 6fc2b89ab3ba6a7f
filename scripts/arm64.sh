#!/bin/sh
# Cross-builds the three programs for arm64 Linux into bin/arm64/, and runs the
# tests of retriever/kernel (NEON) under qemu-user. On Debian:
#   apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user binutils-aarch64-linux-gnu
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
export GOARCH=arm64 GOOS=linux

if cc=$(command -v aarch64-linux-gnu-gcc); then
	CC=$cc CGO_ENABLED=1 $go build -ldflags "${LDFLAGS:-}" -o bin/arm64/ ./exporter ./runner ./retriever
	echo "make arm64: bin/arm64/ holds exporter, runner and retriever"
else
	echo "make arm64: the programs are not built, as aarch64-linux-gnu-gcc is not here (see $0)" >&2
fi

export CGO_ENABLED=0
$go vet ./retriever/kernel
if [ "$(uname -m)" = aarch64 ]; then
	$go test ./retriever/kernel
elif qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static); then
	$go test -exec "$qemu" ./retriever/kernel
else
	echo "make arm64: the kernels are not tested, as qemu-aarch64 is not here (see $0)" >&2
fi
