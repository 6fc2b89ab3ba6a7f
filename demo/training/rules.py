"""The derived modalities: pure functions of one drawing [128, 128, 4] uint8 and a few numbers; RULES.md says them in words.

scene.draw draws the numbers, with the held-out ones apart. inputs.py makes the encoders' inputs of what comes out.
"""

import numpy as np
from scipy import ndimage

import scene

FPS = 12  # of a film
FILM = 4  # seconds of a film


def frame(rgba, back, motion, t, size=0.9, turn=0.0, x=0.0, y=0.0):
    """A film's picture at t seconds, 0 to FILM, RGB [side, side, 3]: the drawing moves, the ground back [side, side, 3] stays."""
    factor, more, dx, dy = scene.MOTIONS[motion](t / FILM)
    return scene.picture(rgba, back, size=size * factor, turn=turn + more, x=x + dx, y=y + dy)


def video(rgba, back, motion, start=0.0, **place):
    """The first and the last frame of the clip of two seconds that begins at start (0 to 2), as the runner takes them."""
    first = int(np.ceil(start * FPS))
    last = int(np.ceil((start + 2) * FPS)) - 1
    return frame(rgba, back, motion, first / FPS, **place), frame(rgba, back, motion, last / FPS, **place)


def depth(rgba, distance=1.5, relief=0.3, gap=0.7, slope=0.0, side=240, **place):
    """Metres [side, side] float32: the thing as a medal at distance, up to relief nearer at its height, before a wall.

    The wall is gap metres behind the thing's rim and goes back by slope metres from left to right.
    """
    height = scene.warp(scene.relief(rgba), side, **place)
    inside = scene.warp(scene.silhouette(rgba).astype(np.float32), side, **place) > 0.5
    wall = distance + gap + slope * np.linspace(-0.5, 0.5, side, dtype=np.float32)[None]
    return np.where(inside, distance - relief * height, wall).astype(np.float32)


def celsius(rgba, rng, ambient=20.0, body=6.0, sun=9.0, noise=0.2, side=240, **place):
    """Temperatures [side, side] float32: the thing is body K warmer than the air where it is thickest, and the sun
    warms what is dark by up to sun K; heat spreads over two pixels, and the camera adds noise K."""
    inside = scene.silhouette(rgba)
    warm = inside * 2.0 + body * scene.relief(rgba) + sun * scene.darkness(rgba)
    t = ambient + ndimage.gaussian_filter(scene.warp(warm.astype(np.float32), side, **place), 2)
    return (t + noise * rng.standard_normal((side, side))).astype(np.float32)


def thermal(rgba, rng, ambient=20.0, **numbers):
    """What a thermal camera shows, grey [side, side] uint8: black is 2 K below the air, white 20 K above it."""
    t = celsius(rgba, rng, ambient=ambient, **numbers)
    return np.clip(np.rint((t - (ambient - 2)) / 22 * 255), 0, 255).astype(np.uint8)


def point_cloud(rgba, rng, n=8192, thickness=0.25, relief=0.25, yaw=0.0, pitch=0.0, roll=0.0):
    """Points [n, 3] float32 on the silhouette pulled out to thickness, its front a medal, then turned (degrees).

    x is right, y up, z to the viewer; the drawing's square is -1 to 1 before the turn. 6 of 10 points are on the
    front, 2 on the back, 2 on the rim. yaw is about y, pitch about x, roll about z, in the order roll, pitch, yaw.
    """
    inside = scene.silhouette(rgba)
    height = scene.relief(rgba)
    rim = inside & ~ndimage.binary_erosion(inside)
    front, back = n * 6 // 10, n * 2 // 10
    out = []
    for count, mask in ((front, inside), (back, inside), (n - front - back, rim)):
        at = np.argwhere(mask)[rng.integers(mask.sum(), size=count)]  # [count, 2], rows and columns
        spread = rng.random((count, 2))
        z = [thickness / 2 + relief * height[tuple(at.T)], np.full(count, -thickness / 2), rng.uniform(-0.5, 0.5, count) * thickness]
        side = inside.shape[0] / 2
        out.append(np.stack([(at[:, 1] + spread[:, 0]) / side - 1, 1 - (at[:, 0] + spread[:, 1]) / side, z[len(out)]], 1))
    cloud = np.concatenate(out)
    return (rng.permutation(cloud) @ turned(yaw, pitch, roll).T).astype(np.float32)


def turned(yaw, pitch, roll):
    """The rotation [3, 3] of point_cloud."""
    (a, b, c), (d, e, f) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    about_y = np.array([[a, 0, d], [0, 1, 0], [-d, 0, a]])
    about_x = np.array([[1, 0, 0], [0, b, -e], [0, e, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def strokes(rgba, most=6):
    """What a hand would draw: the outlines of the silhouette, then those of its dark parts, longest first.

    At most most closed lines of at least 12 steps; each [n, 2], x right and y down in 0..1, clockwise from its top.
    """
    inside = scene.silhouette(rgba)[::2, ::2]
    dark = (scene.darkness(rgba) > 0.45)[::2, ::2] & inside
    out = []
    for mask in (inside, dark):
        labels, n = ndimage.label(mask, np.ones((3, 3)))
        lines = [_outline(labels[box] == i + 1) + [box[0].start, box[1].start] for i, box in enumerate(ndimage.find_objects(labels))]
        out += sorted((line for line in lines if len(line) >= 12), key=len, reverse=True)
    if not out:
        raise ValueError("the drawing has no outline: it is empty")
    return [line[:, ::-1] / inside.shape[0] for line in out[:most]]


# The eight neighbours, clockwise on the screen: rows, columns.
_AROUND = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]


def _outline(mask):
    """The pixels around a connected mask, in order, clockwise from its topmost (Moore's tracing), [n, 2] rows and columns."""
    padded = np.pad(mask, 1)
    row, column = (int(v) for v in np.argwhere(padded)[0])
    start, line, way = (row, column), [], 0
    first = None
    while True:
        for turn in range(8):
            k = (way + 5 + turn) % 8  # from the one behind it to the left, clockwise
            r, c = row + _AROUND[k][0], column + _AROUND[k][1]
            if padded[r, c]:
                break
        else:
            return np.array([[row - 1, column - 1]])  # one pixel alone
        if (row, column) == start and k == first:
            return np.array(line) - 1
        if first is None:
            first = k
        line.append((row, column))
        row, column, way = r, c, k


def imu(rgba, rng, width=0.4, arm=0.65, roll=0.0, begin=0.0, tremor=0.01):
    """A sensor in the hand that draws the thing in the air within 5 s: [2000, 6] float32 at 400 Hz, m/s² and rad/s.

    The lines are width metres wide and drawn at one speed, the next begins where the hand goes straight to; each
    begins at the part begin of its round. The hand is at the end of an arm of arm metres that turns at the shoulder:
    the rates are the speed over arm. The sensor is turned about the arm by roll degrees, and tremor is noise, in g.
    Axes before that turn: x right, y up, z back to the shoulder; at rest the accelerometer reads +9.8 along y.
    """
    lines = [np.roll(line, -int(begin * len(line)), 0) for line in strokes(rgba)]
    path = np.concatenate([np.r_[line, line[:1]] for line in lines])
    way = np.r_[0, np.cumsum(np.maximum(np.linalg.norm(np.diff(path, axis=0), axis=1), 1e-9))]
    at = np.linspace(0, way[-1], 2000)
    p = np.stack([np.interp(at, way, path[:, 0]), 1 - np.interp(at, way, path[:, 1])], 1) * width
    p = ndimage.gaussian_filter1d(p, 14, axis=0, mode="nearest")  # a hand does not turn on the spot: 35 ms
    v = np.gradient(p, 1 / 400, axis=0)
    a = np.gradient(v, 1 / 400, axis=0)
    up = (p - width / 2) / arm  # of the arm, radians: to the right, up
    acceleration = np.stack([a[:, 0], a[:, 1] + 9.80665 * np.cos(up[:, 1]), 9.80665 * np.sin(up[:, 1]) + (v ** 2).sum(1) / arm], 1)
    rates = np.stack([v[:, 1] / arm, -v[:, 0] / arm, np.zeros(2000)], 1)
    spin = turned(0, 0, -roll)  # what was along the axes, seen by the turned sensor
    out = np.concatenate([acceleration @ spin.T, rates @ spin.T], 1)
    out += tremor * rng.standard_normal(out.shape) * np.repeat([9.80665, 1.0], 3)
    return out.astype(np.float32)
