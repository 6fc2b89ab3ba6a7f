#!/bin/sh
# Makes the training data of the demo model, in .cache/demo-training (or $DEMO_TRAINING); what is there is kept.
# Wants python3 with venv, node's npm, espeak-ng, and ffmpeg for the samples.
# CONCEPTS=30 makes a small set, to try things.
set -eu
cd "$(dirname "$0")"
out=${DEMO_TRAINING:-$(cd ../.. && pwd)/.cache/demo-training}
export DEMO_TRAINING="$out" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
for program in python3 npm espeak-ng ffmpeg; do
	command -v "$program" >/dev/null || { echo "$program is missing; install it (Debian: apt install python3-venv npm espeak-ng ffmpeg)" >&2; exit 1; }
done
mkdir -p "$out/npm"
if ! cmp -s requirements.txt "$out/requirements.done"; then
	python3 -m venv "$out/venv"
	"$out/venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
	cp requirements.txt "$out/requirements.done"
fi
if ! cmp -s package-lock.json "$out/npm/package-lock.done"; then
	cp package.json package-lock.json "$out/npm/"
	(cd "$out/npm" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
	cp package-lock.json "$out/npm/package-lock.done"
fi
python="$out/venv/bin/python"
"$python" concepts.py ${CONCEPTS:-}
"$python" pictures.py
"$python" speech.py
"$python" phonemes.py
"$python" splits.py
