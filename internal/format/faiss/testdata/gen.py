"""Writes codes/: small indexes of faiss that keep codes or lists, and for each the
vectors that faiss itself rebuilds, in the order in which Open gives the rows.

Run in an environment with faiss-cpu 1.15.1 and numpy (scripts/peers.sh faiss makes
one): .cache/peers/faiss/bin/python internal/format/faiss/testdata/gen.py
"""
import os
import sys

import faiss
import numpy as np

faiss.omp_set_num_threads(1)
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "codes")
r = np.random.default_rng(11)


def data(n, d):
    x = r.normal(size=(n, d)).astype("f4")
    return x / np.linalg.norm(x, axis=1, keepdims=True)


N = 40
train, x = data(600, 16), data(N, 16)
odd_train, odd = data(300, 10), data(N, 10)  # no multiple of 4 or 8: the ends of packed codes
ids = r.permutation(1000)[:N].astype("i8")


def plain(index):
    """What holds the vectors: without the map of ids."""
    index = faiss.downcast_index(index)
    if isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        return plain(index.index)
    return index


def save(name, index, want, own=None):
    faiss.write_index(index, f"{out}/{name}.index")
    np.save(f"{out}/{name}.npy", want.astype("f4"))
    if own is not None:
        np.save(f"{out}/{name}.ids.npy", own.astype("i8"))


def ivf(index):
    return faiss.extract_index_ivf(index)


def put(name, index, x=x, train=train, ids=None, direct=None):
    if isinstance(index, str):
        index = faiss.index_factory(x.shape[1], index)
    if not index.is_trained:
        index.train(train)
    index.add(x) if ids is None else index.add_with_ids(x, ids)
    inner = plain(index)
    want = faiss.deserialize_index(faiss.serialize_index(inner))
    try:
        ivf(want).make_direct_map()
    except RuntimeError:
        pass  # no lists
    if direct is not None:
        ivf(index).set_direct_map_type(direct)
    save(name, index, want.reconstruct_n(0, want.ntotal), ids)


def stored(name, index):
    """An index of lists with ids of its own: the rows are in the order of the lists."""
    lists, own = index.invlists, []
    for i in range(lists.nlist):
        n = lists.list_size(i)
        if n:
            own.append(faiss.rev_swig_ptr(lists.get_ids(i), n).copy())
    own = np.concatenate(own)
    want = faiss.deserialize_index(faiss.serialize_index(index))
    want.set_direct_map_type(faiss.DirectMap.Hashtable)
    save(name, index, np.stack([want.reconstruct(int(i)) for i in own]), own)


SQ = faiss.ScalarQuantizer
scalar = lambda kind, d=16: faiss.IndexScalarQuantizer(d, getattr(SQ, kind), faiss.METRIC_INNER_PRODUCT)
put("sq8", "SQ8")
put("sq8_uniform", scalar("QT_8bit_uniform"))
put("sq4", "SQ4")
put("sq4_uniform", scalar("QT_4bit_uniform"))
put("sq6", "SQ6")
put("fp16", "SQfp16")
put("bf16", "SQbf16")
put("direct", scalar("QT_8bit_direct"), x=np.floor(r.uniform(0, 256, (N, 16))).astype("f4"))
put("signed", scalar("QT_8bit_direct_signed"), x=np.floor(r.uniform(-128, 128, (N, 16))).astype("f4"))
for kind in ("8bit", "4bit", "6bit"):
    put(f"odd_{kind}", scalar("QT_" + kind, 10), x=odd, train=odd_train)

put("pq8", "PQ4x8")
put("pq5", "PQ5x5", x=odd, train=odd_train)
put("pq4", "PQ8x4")
put("pq9", "PQ2x9", x=data(N, 2), train=data(600, 2))

put("ivf_flat", "IVF4,Flat")
put("ivf_flat_ip", faiss.index_factory(16, "IVF5,Flat", faiss.METRIC_INNER_PRODUCT))
put("ivf_array", "IVF4,Flat", direct=faiss.DirectMap.Array)
put("ivf_hash", "IVF4,Flat", direct=faiss.DirectMap.Hashtable)
put("ivf_sparse", "IVF40,Flat", x=x[:9])  # most lists are empty
put("ivf_hnsw", "IVF8_HNSW4,Flat")
put("ivf_sq8", "IVF4,SQ8")
put("ivf_fp16", "IVF4,SQfp16")
q = faiss.IndexFlatL2(16)
put("ivf_sq8_plain", faiss.IndexIVFScalarQuantizer(q, 16, 4, SQ.QT_8bit, faiss.METRIC_L2, False))
put("ivf_pq", "IVF4,PQ4x6")
i = faiss.index_factory(16, "IVF4,PQ8x4")
i.by_residual = False
put("ivf_pq_plain", i)
put("ivf_pq_ip", faiss.index_factory(16, "IVF4,PQ8x4", faiss.METRIC_INNER_PRODUCT))
put("fs", "PQ8x4fs")
put("fs_odd", "PQ5x4fs", x=odd, train=odd_train)
for name, what, residual in (("ivf_fs", "IVF4,PQ8x4", False), ("ivf_fsr", "IVF4,PQ8x4", True), ("opq_fsr", "OPQ4_16,IVF3,PQ4x4", True)):
    # faiss 1.15.1 crashes when it numbers the rows of a fast-scan index: ask the one that it is made of.
    i = faiss.index_factory(16, what)
    ivf(i).by_residual = residual
    i.train(train)
    i.add(x)
    ivf(i).make_direct_map()
    want = i.reconstruct_n(0, i.ntotal)
    lists = faiss.downcast_index(ivf(i))
    ivf(i).set_direct_map_type(faiss.DirectMap.NoMap)
    fast = faiss.IndexIVFPQFastScan(lists)
    save(name, fast if name != "opq_fsr" else faiss.IndexPreTransform(i.chain.at(0), fast), want)
put("hnsw_sq", "HNSW4_SQ8")
put("hnsw_pq", "HNSW4_PQ4x4")
put("idmap_sq", "IDMap,SQ8", ids=ids)
put("idmap2_ivf_pq", "IDMap2,IVF4,PQ8x4", ids=ids)
put("opq", "OPQ4_16,IVF4,PQ4x4")
put("opq_smaller", "OPQ4_8,PQ4x4")
put("idmap_opq", "IDMap,OPQ4_16,IVF4,PQ4x4", ids=ids)
put("pca", "PCA8,Flat")
put("rotated", "RR16,SQ8")
put("norm", "L2norm,Flat")
put("centred", faiss.IndexPreTransform(faiss.CenteringTransform(16), faiss.IndexFlatL2(16)))
put("refine_flat", "PQ8x4,RFlat")
put("refine_sq", "IVF4,PQ8x4,Refine(SQ8)")

i = faiss.index_factory(16, "IVF4,Flat")
i.train(train)
i.add_with_ids(x, ids)
stored("ivf_ids", i)
i = faiss.index_factory(16, "IVF4,SQ8")
i.train(train)
i.add(x)
i.remove_ids(np.array([3, 17, 39], "i8"))
stored("ivf_removed", i)

# Refused.
refused = {
    "fastscan_64": faiss.IndexPQFastScan(16, 8, 4, faiss.METRIC_L2, 64),
    "lsh": "LSH",
    "pqr": faiss.IndexIVFPQR(faiss.IndexFlatL2(16), 16, 4, 4, 4, 4, 4),
    "whitened": "PCAW8,Flat",
    "rq": "RQ2x4",
    "hadamard": faiss.IndexPreTransform(faiss.HadamardRotation(16), faiss.IndexFlatL2(16)),
}
for name, what in refused.items():
    i = faiss.index_factory(16, what) if isinstance(what, str) else what
    if not i.is_trained:
        i.train(train)
    i.add(x[:8])
    faiss.write_index(i, f"{out}/no_{name}.index")
print("faiss", faiss.__version__, "numpy", np.__version__, "python", sys.version.split()[0])
