"""The encoders' inputs, as the runner makes them (runner/modality): what a trainer feeds must be what is served later.

Each function takes what rules.py makes (or a sound, or a picture) and returns float32. The clips of one input
are the first axis, as there; the trainer takes one of them, the runner averages their embeddings.
"""

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

SIDE = 224
RATE = 16000  # of sound, Hz
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def image(rgb):
    """RGB [H, W, 3] uint8 -> [3, T=2, 224, 224]: short side 224, bicubic as Pillow, centre, the frame twice."""
    x = (np.asarray(_fit(Image.fromarray(rgb)), np.float32) / 255 - MEAN) / STD
    return np.repeat(x.transpose(2, 0, 1)[:, None], 2, 1)


def _fit(picture):
    """Short side 224 (the long one rounded down, as torchvision), bicubic, centre."""
    w, h = picture.size
    size = (SIDE, int(SIDE * h / w)) if w <= h else (int(SIDE * w / h), SIDE)
    picture = picture.resize(size, Image.BICUBIC)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return picture.crop((left, top, left + SIDE, top + SIDE))


def video(first, last):
    """Two frames [H, W, 3] uint8, the first and the last of a clip of two seconds -> [3, T=2, 224, 224].

    Bilinear without antialiasing, the centre: for square frames that is the one crop there is.
    """
    frames = [_bilinear(f.astype(np.float32)) for f in (first, last)]
    return ((np.stack(frames) / 255 - MEAN) / STD).transpose(3, 0, 1, 2).astype(np.float32)


def _bilinear(x):
    """[H, W] or [H, W, C] -> short side 224, bilinear at pixel centres (align_corners false), centre."""
    h, w = x.shape[:2]
    size = (int(SIDE * h / w), SIDE) if w <= h else (SIDE, int(SIDE * w / h))
    for axis, (n, m) in enumerate(zip((h, w), size)):
        at = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, None)
        low = np.minimum(at.astype(int), n - 1)
        high = np.minimum(low + 1, n - 1)
        part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    top, left = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return x[top:top + SIDE, left:left + SIDE]


def depth(metres):
    """Metres [H, W], 0 where nothing was measured -> [1, 224, 224], as runner/modality/depth with its defaults."""
    with np.errstate(divide="ignore"):
        disparity = np.minimum(0.075 * 518.857901 / np.clip(metres * 8.0, 0.01, 50), 75) / 75
    disparity = np.where(metres > 0, disparity, 0.0418).astype(np.float32)
    return ((_bilinear(disparity) - np.float32(0.0418)) / np.float32(0.0295))[None]


def thermal(grey):
    """Grey [H, W] uint8 -> [1, 224, 224], 0 to 1."""
    return (np.asarray(_fit(Image.fromarray(grey)), np.float32) / 255)[None]


def imu(trace):
    """Samples [N, 6] at 400 Hz, at most 2000, m/s² and rad/s -> [6, 2000], zeros behind the end."""
    x = np.zeros((6, 2000), np.float32)
    x[:, :len(trace)] = trace.T
    return x


def points(cloud, groups=512, size=32):
    """Points [N, 3] -> [groups, size + 1, 3]: of each group its centre, then its nearest points less the centre.

    The norm comes first, as in the runner; N at most 8192 here. A turned cloud has the same groups, turned: a trainer may
    group a cloud once and turn the result.
    """
    x = normalise(cloud).astype(np.float32)
    columns = np.ascontiguousarray(x.T)
    centre, nearest = np.zeros(groups, int), np.full(len(x), np.inf, np.float32)
    for i in range(1, groups):
        d = columns - x[centre[i - 1]][:, None]
        d *= d
        np.minimum(nearest, d[0] + d[1] + d[2], out=nearest)
        centre[i] = nearest.argmax()
    near = cKDTree(x).query(x[centre], min(size, len(x)))[1].reshape(groups, -1)
    if len(x) < size:  # the nearest again, as often as it takes
        near = np.concatenate([near, np.repeat(near[:, :1], size - len(x), 1)], 1)
    return np.concatenate([x[centre][:, None], x[near] - x[centre][:, None]], 1)


def normalise(cloud):
    """Mean 0, largest distance 1, unless it is about so."""
    middle = cloud.mean(0)
    largest = np.linalg.norm(cloud - middle, axis=1).max()
    if np.abs(middle).max() <= 0.1 and 0.8 <= largest <= 1.25:
        return cloud
    return (cloud - middle) / (largest or 1)


def _mel():
    """The triangles, [256, 128]."""
    def mel(hz):
        return 1127 * np.log(1 + hz / 700)
    low, step = mel(20), (mel(RATE / 2) - mel(20)) / 129
    f, left = mel(np.arange(256)[:, None] * RATE / 512), low + np.arange(128) * step
    return np.maximum(0, np.minimum((f - left) / step, (left + 2 * step - f) / step))


_TRIANGLES, _HANN = _mel(), np.hanning(400).astype(np.float32)


def filter_bank(wave):
    """A sound [N] float32 in -1..1 at 16 kHz -> log-mel [F, 128] float32, F = 1 + (N - 400) // 160, as Kaldi's fbank.

    Hann window, pre-emphasis 0.97, no dither (runner/modality/audio/fbank.go). N is at least 400.
    """
    x = np.lib.stride_tricks.sliding_window_view((wave - wave.mean()).astype(np.float32), 400)[::160]
    x = x - x.mean(1, keepdims=True)
    x = (x - np.float32(0.97) * np.concatenate([x[:, :1], x[:, :-1]], 1)) * _HANN
    spectrum = np.fft.rfft(x.astype(np.float64), 512)[:, :256]
    power = spectrum.real ** 2 + spectrum.imag ** 2
    return np.log(np.maximum(power @ _TRIANGLES, np.float32(1.1920929e-07))).astype(np.float32)


def audio(bank):
    """Log-mel [F, 128] -> one clip, [1, 128, 204]; frames behind the sound's end are 0 before the norm, as in the reference."""
    x = np.zeros((128, 204), np.float32)
    x[:, :min(len(bank), 204)] = bank[:204].T
    return ((x + np.float32(4.268)) / np.float32(9.138))[None]
