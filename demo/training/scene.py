"""What the rules share: a drawing placed before a ground, its silhouette and relief, and the draw of a rule's numbers."""

import numpy as np
from PIL import Image
from scipy import ndimage

# The numbers of each rule and their ranges. RULES.md says what they do.
PLACE = {"size": (0.7, 0.95), "turn": (-15, 15), "x": (-0.06, 0.06), "y": (-0.06, 0.06)}
RANGES = {
    "video": PLACE | {"start": (0, 2)},
    "depth": PLACE | {"distance": (0.9, 2.1), "relief": (0.2, 0.4), "gap": (0.4, 1.0), "slope": (-0.3, 0.3)},
    "thermal": PLACE | {"ambient": (5, 30), "body": (4, 8), "sun": (6, 12), "noise": (0, 0.4)},
    "point_cloud": {"thickness": (0.15, 0.4), "relief": (0.15, 0.35), "yaw": (-60, 60), "pitch": (-20, 20), "roll": (-15, 15)},
    "imu": {"width": (0.3, 0.5), "arm": (0.55, 0.75), "roll": (-30, 30), "begin": (0, 0.25), "tremor": (0, 0.02)},
}
# The rendering that is never trained on: a window of one number, or some of the motions.
HELD = {"depth": ("distance", 1.4, 1.6), "thermal": ("turn", 5, 9), "point_cloud": ("yaw", 20, 35), "imu": ("roll", 8, 16)}
MOTIONS = {  # name -> size factor, turn in degrees, x, y in widths, at u = 0..1 of the film
    "slide-right": lambda u: (1, 0, 0.3 * (u - 0.5), 0), "slide-left": lambda u: (1, 0, 0.3 * (0.5 - u), 0),
    "slide-down": lambda u: (1, 0, 0, 0.3 * (u - 0.5)), "slide-up": lambda u: (1, 0, 0, 0.3 * (0.5 - u)),
    "zoom-in": lambda u: (0.6 + 0.5 * u, 0, 0, 0), "zoom-out": lambda u: (1.1 - 0.5 * u, 0, 0, 0),
    "turn-right": lambda u: (0.9, 80 * (u - 0.5), 0, 0), "turn-left": lambda u: (0.9, 80 * (0.5 - u), 0, 0),
    "bounce": lambda u: (0.9, 0, 0, 0.15 - 0.3 * abs(np.sin(3 * np.pi * u))),
    "circle": lambda u: (0.8, 0, 0.14 * np.cos(2 * np.pi * u), 0.14 * np.sin(2 * np.pi * u)),
    "swing": lambda u: (0.9, 30 * np.sin(3 * np.pi * u), 0.1 * np.sin(3 * np.pi * u), 0),
    "spiral": lambda u: (0.6 + 0.4 * u, 60 * (u - 0.5), 0.1 * (1 - u), 0.1 * u),
    "slide-and-zoom": lambda u: (0.7 + 0.3 * u, 0, 0.2 * (u - 0.5), 0.2 * (0.5 - u)),
}
HELD_MOTIONS = ["swing", "spiral", "slide-and-zoom"]


def draw(rule, rng, held_out=False):
    """The numbers of one rendering by a rule of RANGES, and for a video its motion.

    held_out: the rendering that no training sees; without it, anything but that. Sounds are not made here: speech.py.
    """
    out = {name: float(rng.uniform(*r)) for name, r in RANGES[rule].items()}
    if rule == "video":
        names = HELD_MOTIONS if held_out else [m for m in MOTIONS if m not in HELD_MOTIONS]
        return out | {"motion": names[int(rng.integers(len(names)))]}
    name, low, high = HELD[rule]
    if held_out:
        out[name] = float(rng.uniform(low, high))
    while not held_out and low <= out[name] <= high:
        out[name] = float(rng.uniform(*RANGES[rule][name]))
    return out


def warp(plane, side, size=0.9, turn=0.0, x=0.0, y=0.0):
    """A picture [h, w, 4] uint8 or a plane [h, w] float32, in a square of side pixels: size of its width, turned by turn
    degrees clockwise, its middle x to the right and y down of the square's, in widths. Bilinear; nothing around it is 0."""
    h = plane.shape[0]
    k = h / (size * side)  # pixels of the drawing a pixel of the square
    c, s = k * np.cos(np.radians(turn)), k * np.sin(np.radians(turn))
    mx, my = side * (0.5 + x), side * (0.5 + y)
    coefficients = (c, s, h / 2 - c * mx - s * my, -s, c, h / 2 + s * mx - c * my)
    picture = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(picture.transform((side, side), Image.AFFINE, coefficients, Image.BILINEAR))


def ground(rng, side):
    """A ground [side, side, 3] uint8: one colour, or one that goes over into another."""
    a, b = rng.integers(60, 256, (2, 3))
    if rng.random() < 0.5:
        b = a
    angle = rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.5, 0.5, side)
    u = np.clip(np.cos(angle) * t[None] + np.sin(angle) * t[:, None] + 0.5, 0, 1)[..., None]
    return np.rint(a * (1 - u) + b * u).astype(np.uint8)


def picture(rgba, back, **place):
    """A drawing before a ground [side, side, 3], as RGB uint8; place as warp's."""
    x = warp(rgba, back.shape[0], **place)
    alpha = x[..., 3:].astype(np.uint16)
    return ((x[..., :3] * alpha + back * (255 - alpha) + 127) // 255).astype(np.uint8)


def luma(rgba):
    """Brightness 0 to 1 [h, w] (ITU-R 601), of transparent pixels too."""
    return rgba[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255


def silhouette(rgba):
    """Where the thing is, [h, w] bool: opaque, holes filled, so that drawings of lines have an inside."""
    return ndimage.binary_fill_holes(rgba[..., 3] > 127)


def darkness(rgba):
    """0 to 1 [h, w]: opaque and black is 1, white or transparent 0; blurred by a pixel."""
    return ndimage.gaussian_filter(rgba[..., 3].astype(np.float32) / 255 * (1 - luma(rgba)), 1)


def relief(rgba):
    """The thing as a medal: height 0 to 1 [h, w] float32, 0 outside.

    Two thirds are a cushion, the root of the distance to the silhouette's edge; a third is the drawing, dark is high.
    """
    inside = silhouette(rgba)
    far = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    cushion = np.sqrt(far / max(far.max(), 1))
    return (inside * (2 * cushion + darkness(rgba)) / 3).astype(np.float32)
