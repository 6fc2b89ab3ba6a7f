"""How long the reference's own loaders take for the files of scripts/bench_files.sh.

    bench_reference.py DIR

DIR/MODALITY/FILE are the files. The loaders come out of checkouts of yours:

    BENCH_IMAGEBIND  github.com/facebookresearch/ImageBind: pictures, sounds, texts, videos
    BENCH_LLM        github.com/OpenGVLab/LLaMA-Adapter (or its imagebind_LLM): point clouds, and videos by PyAV

Their packages: torch, torchvision, torchaudio, pytorchvideo, timm, ftfy, regex,
einops, iopath, setuptools that has pkg_resources; for videos decord or av.

Prints one JSON object a line: {"modality", "file", "by", "ms"}, or "why" for
"ms" where there is nothing to measure. ms is the mean over BENCH_SECONDS (0.3)
of calls, on one thread; a first call that is faster than that is not counted.

What the checkouts cannot do with the packages of today is bridged here, and
changes nothing of the work that is timed:

- pytorchvideo imports torchvision.transforms.functional_tensor, which newer
  versions call _functional_tensor, and does not take the sample_rate of a
  video without sound, which ImageBind passes and nothing reads.
- open3d, knn_cuda and matplotlib are imported by the LLM's code and not used
  for .npy and .obj, so that they may be absent.
"""

import functools
import importlib
import json
import logging
import os
import pathlib
import sys
import time
import unittest.mock
import warnings

SECONDS = float(os.environ.get("BENCH_SECONDS") or 0.3)


def say(**line):
    print(json.dumps(line), flush=True)


def stand_in(*names):
    """Puts an empty module where one is absent."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # open3d raises other things than ImportError too
            sys.modules[name] = unittest.mock.MagicMock()


def checkout(variable, holds):
    """The folder of a checkout that has the file or folder `holds`."""
    root = os.environ.get(variable)
    if not root:
        raise RuntimeError(variable + " is not set")
    for path in (pathlib.Path(root), pathlib.Path(root, "imagebind_LLM")):
        if (path / holds).exists():
            return path.resolve()
    raise RuntimeError(variable + " has no " + holds)


def bridge_pytorchvideo():
    try:
        importlib.import_module("torchvision.transforms.functional_tensor")
    except ImportError:
        new = importlib.import_module("torchvision.transforms._functional_tensor")
        sys.modules["torchvision.transforms.functional_tensor"] = new


@functools.lru_cache
def imagebind():
    """ImageBind's data.py."""
    sys.path.insert(0, str(checkout("BENCH_IMAGEBIND", "imagebind/data.py")))
    bridge_pytorchvideo()
    data = importlib.import_module("imagebind.data")
    whole = data.EncodedVideo.from_path

    class Video:
        @staticmethod
        def from_path(path, sample_rate=None, **options):
            return whole(path, **options)

    data.EncodedVideo = Video
    return data


@functools.lru_cache
def llm():
    """ImageBind-LLM's data.py."""
    sys.path.insert(0, str(checkout("BENCH_LLM", "ImageBind/data.py")))
    bridge_pytorchvideo()
    stand_in("open3d")
    return importlib.import_module("ImageBind.data")


def point_groups():
    """Point-Bind's grouping, with the sizes of PointTransformer_8192point.yaml."""
    llm()
    stand_in("knn_cuda", "matplotlib", "matplotlib.pyplot", "mpl_toolkits", "mpl_toolkits.mplot3d")
    return importlib.import_module("ImageBind.models.pointbert.dvae").Group(num_group=512, group_size=32)


# Each peer returns, for a path, the call that is timed.


def image(path):
    load = imagebind().load_and_transform_vision_data
    return lambda: load([path], "cpu")


def audio(path):
    load = imagebind().load_and_transform_audio_data
    return lambda: load([path], "cpu")


def text(path):
    words, load = pathlib.Path(path).read_text("utf-8"), imagebind().load_and_transform_text
    return lambda: load([words], "cpu")


def text_kept(path):
    words = pathlib.Path(path).read_text("utf-8")
    tokenizer = imagebind().SimpleTokenizer(bpe_path=imagebind().return_bpe_path())
    return lambda: tokenizer(words)


def video_decord(path):
    importlib.import_module("decord")
    load = imagebind().load_and_transform_video_data
    return lambda: load([path], "cpu")


def video_pyav(path):
    importlib.import_module("av")
    load = llm().load_and_transform_video_data
    return lambda: load([path], "cpu")


def point_cloud(path):
    load, group = llm().load_and_transform_point_cloud_data, point_groups()
    return lambda: group(load([path], "cpu"))


PEERS = {  # modality: what the reference is called, and the peer
    "image": [("ImageBind", image)],
    "audio": [("ImageBind", audio)],
    "text": [("ImageBind, reads its vocabulary at each call", text), ("ImageBind, tokenizer kept", text_kept)],
    "video": [("ImageBind, decord", video_decord), ("ImageBind-LLM, PyAV", video_pyav)],
    "point_cloud": [("ImageBind-LLM, loader and groups", point_cloud)],
}


def measure(call):
    start = time.perf_counter()
    call()
    if (took := time.perf_counter() - start) > SECONDS:
        return took * 1000
    start, n = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < SECONDS:
        call()
        n += 1
    return took / n * 1000


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    versions = ["Python " + sys.version.split()[0]]
    for module, name in (("torch", "torch"), ("torchvision", "torchvision"), ("torchaudio", "torchaudio"), ("PIL", "Pillow"), ("av", "PyAV"), ("decord", "decord")):
        try:
            versions.append(name + " " + importlib.import_module(module).__version__)
        except Exception:
            pass  # the line of what needs it says so
    say(versions=", ".join(versions))
    for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
        for path in sorted(folder.iterdir()):
            about = {"modality": folder.name, "file": path.name}
            if folder.name not in PEERS:
                say(**about, by="", why="no loader")
            for by, peer in PEERS.get(folder.name, []):
                try:
                    say(**about, by=by, ms=round(measure(peer(str(path))), 4))
                except Exception as e:
                    say(**about, by=by, why=(str(e) or type(e).__name__).replace('"', "'").replace("\\", "/").splitlines()[0])


main()
