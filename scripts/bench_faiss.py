#!/usr/bin/env python3
"""Times faiss-cpu or onnxruntime on the rows of a .npy file: for make bench.

bench_faiss.py ENGINE FEATURES.npy QUERIES.npy THREADS ROUNDS [ROWS]

ENGINE: flat, sq8, hnsw32 (faiss), matmul (onnxruntime, MatMul and TopK in float32).
Prints JSON: seconds to build, to search for one query and for sixteen (a
value a round, k = 10), and bytes of memory.
"""
import json
import os
import sys
import time

engine, features, queries, threads, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
os.environ["OMP_NUM_THREADS"] = str(threads)
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
import numpy as np  # noqa: E402

rows = np.load(features, mmap_mode="r")
n = int(sys.argv[6]) if len(sys.argv) > 6 else rows.shape[0]
rows, dim = rows[:n], rows.shape[1]
asked = np.load(queries)
k = 10

start = time.perf_counter()
if engine == "matmul":
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_prepacking", "1")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "q"], ["s"]), helper.make_node("TopK", ["s", "k"], ["v", "i"], axis=0)], "scan",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, dim]), helper.make_tensor_value_info("q", TensorProto.FLOAT, [dim, "B"])],
        [helper.make_tensor_value_info("i", TensorProto.INT64, [k, "B"])], [numpy_helper.from_array(np.array([k], np.int64), "k")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.asarray(rows))
    name = "onnxruntime " + ort.__version__

    def search(q):
        binding.bind_cpu_input("q", np.ascontiguousarray(q.T))
        binding.bind_output("i")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0].T
else:
    import faiss

    faiss.omp_set_num_threads(threads)
    name = "faiss " + faiss.__version__
    if engine == "flat":
        index = faiss.IndexFlatIP(dim)
    elif engine == "sq8":
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        index.train(np.array(rows[: min(n, 50000)]))
    elif engine == "hnsw32":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 128
    else:
        sys.exit(f"no engine {engine}")
    for at in range(0, n, 50000):
        index.add(np.array(rows[at : at + 50000]))

    def search(q):
        return index.search(q, k)[1]


built = time.perf_counter() - start
search(asked[:16])  # what is read for the first time is
one, sixteen = [], []
for r in range(rounds):
    for times, b in ((one, 1), (sixteen, 16)):
        q = np.ascontiguousarray(asked[r * 17 : r * 17 + b])
        start = time.perf_counter()
        search(q)
        times.append(time.perf_counter() - start)
out = {"peer": name, "build": built, "one": one, "sixteen": sixteen, "rss": int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")}
print(json.dumps(out))
