#!/bin/sh
# Puts the onnxruntime library where the programs look for it: .cache/ort/.
# From the npm package onnxruntime-node, or, without npm, from the PyPI wheel.
#   ORT_FLAVOUR=cuda scripts/ort.sh    the CUDA build, from the wheel onnxruntime-gpu
set -eu
npm_version=1.30.0
pip_version=1.30.0
gpu_version=1.31.1
cd "$(dirname "$0")/.."
dir=$PWD/.cache/ort
flavour=${ORT_FLAVOUR:-cpu}
stamp="$dir/installed-$flavour"
[ -e "$stamp" ] && exit 0

case "$(uname -s)/$(uname -m)" in
Linux/x86_64) in=linux/x64 lib=libonnxruntime.so ;;
Linux/aarch64) in=linux/arm64 lib=libonnxruntime.so ;;
Darwin/arm64) in=darwin/arm64 lib=libonnxruntime.dylib ;;
*) echo "make ort: no onnxruntime package is known for $(uname -s)/$(uname -m); set ORT_LIB to a library of version 1.27 or newer" >&2; exit 1 ;;
esac

mkdir -p "$dir"
tmp=$(mktemp -d "$dir/tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"

# install FILE…: the first is the library, the others are what it loads.
install() {
	for f in "$@"; do mv "$f" "$dir/"; done
	main=$(basename "$1")
	[ "$main" = "$lib" ] || ln -sf "$main" "$dir/$lib"
}
wheel() { # wheel PACKAGE==VERSION
	python3 -m pip download --quiet --no-deps --only-binary=:all: --dest . "$1"
	python3 -m zipfile -e ./*.whl .
}
if [ "$flavour" = cuda ]; then
	wheel "onnxruntime-gpu==$gpu_version"
	install onnxruntime/capi/libonnxruntime.so.* onnxruntime/capi/libonnxruntime_providers_*.so
elif command -v npm >/dev/null 2>&1; then
	npm pack --silent "onnxruntime-node@$npm_version" >/dev/null
	tar -xzf onnxruntime-node-*.tgz "package/bin/napi-v6/$in"
	rm -f "package/bin/napi-v6/$in"/*.node
	install "package/bin/napi-v6/$in"/libonnxruntime*
elif command -v python3 >/dev/null 2>&1; then
	wheel "onnxruntime==$pip_version"
	install onnxruntime/capi/libonnxruntime.*
else
	echo "make ort: needs npm or python3 with pip to install onnxruntime; or set ORT_LIB to a library of version 1.27 or newer" >&2
	exit 1
fi
touch "$stamp"
echo "onnxruntime is in $dir"
