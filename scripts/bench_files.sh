#!/bin/sh
# scripts/bench.sh files: how long each kind of file takes to become an
# encoder's input, beside the reference's own loaders in Python.
#
#   BENCH_IMAGEBIND=/path/to/ImageBind BENCH_LLM=/path/to/LLaMA-Adapter scripts/bench_files.sh
#
# BENCH_IMAGEBIND  a checkout of github.com/facebookresearch/ImageBind
# BENCH_LLM        a checkout of github.com/OpenGVLab/LLaMA-Adapter
# BENCH_PYTHON     the Python that has their packages (python3)
# BENCH_ROUNDS     how often everything is measured (5)
# BENCH_SECONDS    how long each file is read in a round (0.3)
#
# Ours and the reference take turns, each on one thread (and on one and the same
# processor core, where there is taskset). A time is the median of the rounds.
set -eu
cd "$(dirname "$0")/.."
rounds=${BENCH_ROUNDS:-5}
export BENCH_SECONDS="${BENCH_SECONDS:-0.3}"
python=${BENCH_PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

pin=
core=$(taskset -cp $$ 2>/dev/null | sed 's/.*[:,-] *//') || core=
[ -z "$core" ] || pin="taskset -c $core"

hint=
if [ -z "${BENCH_IMAGEBIND:-}${BENCH_LLM:-}" ]; then
	hint="For the reference's times set BENCH_IMAGEBIND and BENCH_LLM: see scripts/bench_files.sh."
elif ! "$python" -c 'import torch' 2>"$work/why"; then
	hint="No times of the reference: $python cannot import torch ($(tail -n 1 "$work/why")); set BENCH_PYTHON to one that can."
fi

go test -c -o "$work/all.test" ./runner/modality/all
export BENCH_FILES="$work/files" GOMAXPROCS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
mkdir "$BENCH_FILES"
for round in $(seq "$rounds"); do
	echo "round $round of $rounds" >&2
	if ! (cd runner/modality/all && $pin "$work/all.test" -test.run '^$' -test.bench '^BenchmarkRead$' -test.benchtime "${BENCH_SECONDS}s") >"$work/go"; then
		cat "$work/go" >&2
		exit 1
	fi
	cat "$work/go" >>"$work/times"
	if [ -z "$hint" ]; then
		$pin "$python" scripts/bench_reference.py "$BENCH_FILES" >>"$work/times" 2>"$work/stderr" || {
			cat "$work/stderr" >&2
			exit 1
		}
	fi
done

echo
echo "A file to an encoder's input, milliseconds, one thread each${pin:+ on one core}, median of $rounds rounds; ratio: theirs over ours."
sed -n 's/^cpu: */Processor: /p' "$work/times" | head -n 1
echo "Ours: $(go env GOVERSION)"
awk '
	function field(name) { # of a JSON line
		if (!match($0, "\"" name "\": (\"[^\"]*\"|[0-9.e+-]+)")) return ""
		v = substr($0, RSTART, RLENGTH)
		sub(/^[^:]*: /, "", v)
		gsub(/"/, "", v)
		return v
	}
	function median(list,   a, n, i, j, t) {
		n = split(list, a, " ")
		for (i = 2; i <= n; i++)
			for (j = i; j > 1 && a[j-1]+0 > a[j]+0; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
		return n % 2 ? a[(n+1)/2] : (a[n/2] + a[n/2+1]) / 2
	}
	function number(x) { return x < 1 ? sprintf("%.3f", x) : x < 100 ? sprintf("%.1f", x) : sprintf("%.0f", x) }
	/^BenchmarkRead\// {
		split($1, name, "/")
		key = name[2] " " name[3]
		if (!(key in ours)) order[++n] = key
		ours[key] = ours[key] " " $3 / 1e6
	}
	/^\{"versions"/ { versions = field("versions") }
	/^\{"modality"/ {
		key = field("modality") " " field("file")
		peer = key SUBSEP field("by")
		if (!(peer in by)) { by[peer] = field("by"); peers[key] = peers[key] "\n" peer }
		if (field("ms") != "") theirs[peer] = theirs[peer] " " field("ms")
		else why[peer] = field("why")
	}
	END {
		if (versions) print "Reference: " versions
		print ""
		line = "%-12s %-28s %9s %9s %6s  %s\n"
		printf line, "modality", "file", "ours", "reference", "ratio", versions ? "the reference is" : ""
		for (i = 1; i <= n; i++) {
			split(order[i], name, " ")
			us = median(ours[order[i]])
			k = split(peers[order[i]], list, "\n") # the first is empty
			if (k == 0) printf line, name[1], name[2], number(us), "-", "-", ""
			for (j = 2; j <= k; j++) {
				p = list[j]
				if (p in theirs) {
					them = median(theirs[p])
					printf line, name[1], name[2], number(us), number(them), sprintf("%.1f", them / us), by[p]
				} else printf line, name[1], name[2], number(us), "-", "-", by[p] (by[p] ? ": " : "") why[p]
			}
		}
	}' "$work/times" | sed 's/ *$//'
[ -z "$hint" ] || printf '\n%s\n' "$hint"
