#!/bin/sh
# make demo: the demo model from its checkpoints to answers. Exports a bundle,
# builds the feature cache, starts retriever and runner, asks, and leaves them
# up (DEMO_ONCE=1: stops them and exits).
#
#   DEMO_PORT=8080 DEMO_RETRIEVER_PORT=8081 scripts/demo.sh
#   scripts/demo.sh stop
#
# DEMO_DIR (.cache/demo) is where bundle, data and logs go.
set -eu
cd "$(dirname "$0")/.."
work=${DEMO_DIR:-.cache/demo}
runner=127.0.0.1:${DEMO_PORT:-8080}
retriever=127.0.0.1:${DEMO_RETRIEVER_PORT:-8081}
licence="this project's own (demo/README.md)"
mkdir -p "$work"

stop() {
	for p in runner retriever; do
		[ -f "$work/$p.pid" ] || continue
		pid=$(cat "$work/$p.pid")
		kill "$pid" 2>/dev/null || true
		while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
		rm -f "$work/$p.pid"
	done
}

# start NAME ADDRESS ARGS…: in the background, its log in $work/NAME.log.
start() {
	name=$1 addr=$2
	shift 2
	if curl --silent --output /dev/null --max-time 2 "http://$addr/healthz"; then
		echo "make demo: something answers on $addr already; stop it, or set DEMO_PORT and DEMO_RETRIEVER_PORT" >&2
		exit 1
	fi
	# A session of its own, so that it outlives make and the terminal.
	if command -v setsid >/dev/null 2>&1; then
		setsid "bin/$name" serve --listen "$addr" "$@" >"$work/$name.log" 2>&1 </dev/null &
	else
		nohup "bin/$name" serve --listen "$addr" "$@" >"$work/$name.log" 2>&1 </dev/null &
	fi
	echo $! >"$work/$name.pid"
	for _ in $(seq 600); do
		if curl --silent --fail --output /dev/null --max-time 2 "http://$addr/readyz"; then
			echo "$name is up on http://$addr (log: $work/$name.log)"
			return
		fi
		kill -0 "$(cat "$work/$name.pid")" 2>/dev/null || break
		sleep 0.1
	done
	echo "make demo: $name did not get ready; the end of $work/$name.log:" >&2
	tail -n 20 "$work/$name.log" >&2
	exit 1
}

stop
[ "${1:-}" = stop ] && exit 0
trap 'code=$?; [ $code -eq 0 ] || stop; exit $code' EXIT

if [ ! -e "$work/bundle/bundle.json" ] || [ -n "$(find demo bin/exporter -maxdepth 2 -newer "$work/bundle/bundle.json" -type f | head -n 1)" ]; then
	bin/exporter model --name imagebind-llm-demo --imagebind demo/imagebind_demo.pth --heads-config demo/heads.json \
		--llama demo/llama --tokenizer demo/llama/tokenizer.model --adapter demo/adapter_demo.pth \
		--licence imagebind="$licence" --licence llama="$licence" --licence adapter="$licence" --out "$work/bundle"
fi

start retriever "$retriever" --data "$work/data" --source-root demo --runners "http://$runner,http://localhost:${runner#*:}"
bin/exporter cache --retriever "http://$retriever" --collection default --path features.npy
start runner "$runner" --bundle "$work/bundle" --retriever "http://$retriever"

ask() {
	printf '\n$ runner ask'
	for a in "$@"; do case $a in *[!A-Za-z0-9_./=-]*) printf " '%s'" "$a" ;; *) printf ' %s' "$a" ;; esac; done
	printf '\n'
	bin/runner ask --server "http://$runner" --neighbours --temperature 0 "$@"
}
samples=demo/samples/known-style
ask --image $samples/pizza-noto.png "What is this?"
ask --image $samples/pizza-noto.png "这是什么？"
ask --image $samples/owl-noto.png --image $samples/lemon-noto.png --weight image=0.7 --weight image=0.3 "What is this?"
ask --image $samples/owl-noto.png --image $samples/lemon-noto.png --weight image=0.3 --weight image=0.7 "这是什么？"
ask --bind-text strawberry "Describe it."
ask --bind-text strawberry "描述一下。"

if [ -n "${DEMO_ONCE:-}" ]; then
	stop
	exit 0
fi
cat <<EOF

The servers stay up: http://$runner is the page; ask with
  curl -F prompt='What is this?' -F image=@$samples/pizza-noto.png http://$runner/v1/ask
Stop them with: scripts/demo.sh stop
EOF
