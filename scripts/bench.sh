#!/bin/sh
# make bench: this project beside named peers on this machine, as a table in
# markdown. Each row can be measured alone; all is all.
#
#   scripts/bench.sh                  # all
#   scripts/bench.sh decode serve     # these rows
#   scripts/bench.sh -threads 1 -rounds 9 decode
#   scripts/bench.sh files            # reading files: scripts/bench_files.sh
#   scripts/bench.sh -h               # the rows and the flags
#
# The peers come from package registries by scripts/peers.sh, once; a peer that is
# missing is a line that says so. BENCH_ROUNDS (5), BENCH_THREADS (1,2) and
# BENCH_LAYERS (32, of the 7B-shaped decoder; it needs 12 GB of disk) are the flags' defaults.
# Nothing else should run meanwhile: with two threads llama.cpp slows down by
# more than its share when something else wants a core.
set -eu
cd "$(dirname "$0")/.."
dir=.cache/bench
mkdir -p "$dir/bin"
go build -o "$dir/bin/" ./runner ./exporter ./internal/bench

flags="" rows=""
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) exec "$dir/bin/bench" -h ;;
	-*=* | -spin | -half) flags="$flags $1" ;;
	-*)
		flags="$flags $1 $2"
		shift
		;;
	*) rows="$rows $1" ;;
	esac
	shift
done
[ -n "$rows" ] || rows=all
case " $rows " in *" all "*) rows="decode serve join wide overhead encoders cold retrieval files" ;; esac

measured=
for row in $rows; do
	case $row in
	files) ;;
	*) measured="$measured $row" ;;
	esac
done
if [ -n "$measured" ]; then
	# shellcheck disable=SC2086 # words, all of them
	"$dir/bin/bench" -rounds "${BENCH_ROUNDS:-5}" -threads "${BENCH_THREADS:-1,2}" -layers "${BENCH_LAYERS:-32}" $flags $measured
fi
case " $rows " in *" files "*) scripts/bench_files.sh ;; esac
