#!/usr/bin/env bash
# A real Milvus for tests and laptops: the 2.3.5 standalone build (etcd, rocksmq
# and local files in one process) out of the PyPI package "milvus" (Apache-2.0),
# without Docker. Python is needed to fetch and unpack it, not to run it.
#
#   scripts/milvus.sh install       fetch and unpack it to .cache/milvus (57 MB, 250 MB unpacked)
#   scripts/milvus.sh start DIR     run it with its data in DIR; returns when it answers
#   scripts/milvus.sh stop DIR      stop it (its data stays)
#   scripts/milvus.sh status DIR    prints the address and exits 0 when it answers
#
# MILVUS_PORT     port of the service (19530); its other ports move along with it
# MILVUS_METRICS  port of health and metrics (9091)
# MILVUS_CACHE    where it is unpacked (.cache/milvus in the project)
#
# Ports it takes: 19530 19529 19531 9091 53100 13333 21121 21123 21124 on all
# interfaces and 2379 on loopback, all but 9091 shifted by MILVUS_PORT - 19530;
# etcd's peer port 2380 is fixed. Not for production: no authentication, and
# index types without raw vectors (IVF_SQ8, IVF_PQ) lose data on local storage.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${MILVUS_CACHE:-$root/.cache/milvus}
version=2.3.5
port=${MILVUS_PORT:-19530}
metrics=${MILVUS_METRICS:-9091}

die() { echo "milvus.sh: $*" >&2; exit 1; }

install() {
  [ -x "$cache/bin/milvus" ] && return
  [ "$(uname -sm)" = "Linux x86_64" ] || die "milvus $version comes for Linux x86-64 only; set IMAGEBIND_MILVUS=HOST:PORT to use a server of your own"
  command -v python3 >/dev/null || die "python3 with pip is needed to fetch milvus $version"
  mkdir -p "$cache"
  local tmp; tmp=$(mktemp -d "$cache/unpack.XXXXXX")
  trap "rm -rf '$tmp'" EXIT
  echo "fetching milvus $version" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --platform manylinux2014_x86_64 "milvus==$version" -d "$tmp" >&2
  python3 - "$tmp" >&2 <<'PY'
import glob, lzma, os, shutil, sys, zipfile
tmp = sys.argv[1]
os.makedirs(tmp + "/bin")
with zipfile.ZipFile(glob.glob(tmp + "/milvus-*.whl")[0]) as z:
    for n in z.namelist():
        if n.startswith("milvus/data/bin/") and n.endswith(".lzma"):
            out = tmp + "/bin/" + os.path.basename(n)[:-5]
            with z.open(n) as f, lzma.LZMAFile(f) as r, open(out, "wb") as w:
                shutil.copyfileobj(r, w, 1 << 20)
            os.chmod(out, 0o755)
        elif n in ("milvus/data/config.yaml.template", "milvus/data/glog.conf"):
            open(tmp + "/" + os.path.basename(n), "wb").write(z.read(n))
PY
  mv "$tmp/config.yaml.template" "$tmp/glog.conf" "$cache/"
  rm -rf "$cache/bin"
  mv "$tmp/bin" "$cache/bin" # last: its presence says that the rest is there
}

# configure DIR fills the template as the package's own launcher would.
configure() {
  local dir=$1
  mkdir -p "$dir"/{configs,data/etcd,data/storage,data/rocksmq,logs,run}
  # The C++ side logs where glog.conf says, relative to DIR.
  cp "$cache/glog.conf" "$dir/configs/"
  awk -v shift="$((port - 19530))" -v dir="$dir" '
    {
      while (match($0, /\{\{[^}]*\}\}/)) {
        item = substr($0, RSTART + 2, RLENGTH - 4)
        i = index(item, ":")
        key = i ? substr(item, 1, i - 1) : item
        value = i ? substr(item, i + 1) : ""
        gsub(/^ +| +$/, "", value); gsub(/ /, "", key)
        if (key ~ /_port\(int\)$/) value = value + shift
        if (key == "etcd_data_dir") value = dir "/data/etcd"
        if (key == "etcd_log_path") value = dir "/logs/etcd.log"
        if (key == "local_storage_dir") value = dir "/data/storage"
        if (key == "rocksmq_data_dir") value = dir "/data/rocksmq"
        if (key == "system_log_path") value = dir "/logs"
        $0 = substr($0, 1, RSTART - 1) value substr($0, RSTART + RLENGTH)
      }
      print
    }' "$cache/config.yaml.template" >"$dir/configs/milvus.yaml"
}

healthy() { curl -fsS -m 2 "http://127.0.0.1:$metrics/healthz" 2>/dev/null | grep -q OK; }

# running PID: it is there, and no zombie that nobody waited for.
running() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

alive() { [ -f "$1/milvus.pid" ] && running "$(cat "$1/milvus.pid")"; }

start() {
  local dir; mkdir -p "$1"; dir=$(cd "$1" && pwd)
  install
  alive "$dir" && { healthy && return; die "it runs from $dir but is not healthy yet"; }
  healthy && die "port $metrics is taken by another Milvus; set MILVUS_METRICS and MILVUS_PORT"
  configure "$dir"
  (
    cd "$dir"
    export DEPLOY_MODE=STANDALONE METRICS_PORT=$metrics MILVUS_RUN_DIR=$dir/run LD_LIBRARY_PATH=$cache/bin
    exec setsid "$cache/bin/milvus" run standalone >logs/out.log 2>logs/err.log </dev/null
  ) &
  echo $! >"$dir/milvus.pid"
  disown
  for _ in $(seq 600); do
    if healthy; then
      echo "127.0.0.1:$port"
      return
    fi
    alive "$dir" || { tail -5 "$dir/logs/err.log" "$dir/logs/out.log" >&2; die "it ended at once; a port may be taken"; }
    sleep 0.2
  done
  die "it did not get healthy in 2 minutes; see $dir/logs"
}

stop() {
  alive "$1" || return 0
  local pid; pid=$(cat "$1/milvus.pid")
  kill "$pid"
  for _ in $(seq 100); do
    running "$pid" || { rm -f "$1/milvus.pid"; return 0; }
    sleep 0.1
  done
  kill -9 "$pid"
  rm -f "$1/milvus.pid"
}

case ${1:-} in
  install) install ;;
  start) start "${2:?start needs a data folder}" ;;
  stop) stop "${2:?stop needs the data folder}" ;;
  status) alive "${2:?status needs the data folder}" && healthy && echo "127.0.0.1:$port" ;;
  *) sed -n '2,21s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
