"""The inputs against the runner's goldens (runner/modality/*/testdata): what the trainer feeds is what the runner feeds."""

import json
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inputs

TESTDATA = Path(__file__).parents[2] / "runner" / "modality"
TYPES = {"F32": np.float32, "I16": np.int16, "U8": np.uint8}


def tensors(path):
    data = (TESTDATA / path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, t in json.loads(data[8:8 + n]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = np.frombuffer(data[8 + n + a:8 + n + b], TYPES[t["dtype"]]).reshape(t["shape"])
    return out


@pytest.mark.parametrize("name", ["exact_224x224.png", "near_225x226.png", "portrait_231x517.png"])
def test_image(name):
    golden = tensors("vision/testdata/image.safetensors")
    got = inputs.image(np.asarray(Image.open(TESTDATA / "vision/testdata/inputs" / name).convert("RGB")))
    want = np.stack([golden["normalized"][c][golden[name][c]] for c in range(3)])
    assert got.shape == (3, 2, 224, 224)
    for t in range(2):
        np.testing.assert_allclose(got[:, t], want, atol=1e-5)


@pytest.mark.parametrize("name", ["short_1s_16k_mono.wav", "blip_16k_0.1s.wav", "exact_2s_16k_mono.wav"])
def test_audio(name):
    want = tensors("audio/testdata/audio.safetensors")[name][0, 0]
    with wave.open(str(TESTDATA / "audio/testdata/inputs" / name)) as w:
        assert (w.getframerate(), w.getnchannels(), w.getsampwidth()) == (16000, 1, 2)
        x = np.frombuffer(w.readframes(w.getnframes()), np.int16).astype(np.float32) / 32768
    np.testing.assert_allclose(inputs.audio(inputs.filter_bank(x)), want, atol=2e-3)  # quiet bins: float32's rounding


@pytest.mark.parametrize("name", ["wide.png", "tall.png"])
def test_depth(name):
    metres = np.asarray(Image.open(TESTDATA / "depth/testdata" / name)).astype(np.float32) / 1000
    got = inputs.depth(metres)[0]
    np.testing.assert_allclose(got[::7, ::7], tensors("depth/testdata/depth.safetensors")[name], atol=1e-3)


def test_thermal():
    got = inputs.thermal(np.asarray(Image.open(TESTDATA / "thermal/testdata/grey.png").convert("L")))[0]
    np.testing.assert_allclose(got[::7, ::7], tensors("thermal/testdata/thermal.safetensors")["grey.png"], atol=1e-6)


def test_points():
    golden = tensors("point/testdata/groups.safetensors")
    cloud = np.load(TESTDATA / "point/testdata/cyl_1024.npy")
    centres, near = golden["small_start0/centres"][0], golden["small_start0/neighbours"][0]
    got = inputs.points(cloud, groups=64, size=16)
    np.testing.assert_allclose(got[:, 0], cloud[centres], atol=1e-6)
    for g in range(64):  # the golden's neighbours are in the order of their numbers, ours the nearest first
        want = cloud[near[g]] - cloud[centres[g]]
        np.testing.assert_allclose(np.sort(got[g, 1:], 0), np.sort(want, 0), atol=1e-5)


def test_points_fewer_than_a_group():
    got = inputs.points(np.random.default_rng(0).normal(size=(5, 3)), groups=8, size=4)
    assert got.shape == (8, 5, 3) and np.isfinite(got).all()


def test_imu_is_padded_with_zeros():
    got = inputs.imu(np.ones((1200, 6), np.float32))
    assert got.shape == (6, 2000) and got[:, 1199].all() and not got[:, 1200:].any()
