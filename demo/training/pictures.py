"""Draws every concept in every style once: pictures.npy [N, 128, 128, 4], uint8, RGBA, alpha not multiplied in, and pictures.json.

The index has {"packages", "side": 128, "concept": [N], "style": [N]}: row i of the array is concept[i] in style[i]. The
drawing fills the square as its maker wants, with a transparent ground. What the camera sees of it (ground, place, size, turn,
colours) is the trainer's, or rules.py's.
"""

import hashlib
import io
import json
import sys

import numpy as np
import resvg_py
from PIL import Image

import concepts
from sources import BY_NAME, HERE, OUT, raster_file, svg

SIDE = 128


def draw(style, concept):
    """One picture, [SIDE, SIDE, 4] uint8."""
    file = raster_file(style, concept["hex"])
    if file is None:
        text = svg(style, concept["hex"], concept["en"], concept["shortcodes"])
        png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=SIDE, height=SIDE))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
    else:
        picture = Image.open(file).convert("RGBA")
        # Multiplied while it is resized, so that colours of transparent pixels do not bleed in.
        picture = picture.convert("RGBa").resize((SIDE, SIDE), Image.LANCZOS).convert("RGBA")
    if picture.size != (SIDE, SIDE):  # a drawing that is not square keeps its shape
        square = Image.new("RGBA", (SIDE, SIDE))
        picture.thumbnail((SIDE, SIDE), Image.LANCZOS)
        square.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        picture = square
    return np.asarray(picture)


def main():
    chosen = concepts.load()
    rows = [(c["id"], s) for c in chosen for s in c["styles"]]
    packages = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()  # other drawings: draw again
    index = {"packages": packages, "side": SIDE, "concept": [r[0] for r in rows], "style": [r[1] for r in rows]}
    text = json.dumps(index) + "\n"
    done = OUT / "pictures.json"
    if done.exists() and done.read_text() == text:
        print("pictures are there")
        return
    done.unlink(missing_ok=True)
    out = np.lib.format.open_memmap(OUT / "pictures.npy", "w+", np.uint8, (len(rows), SIDE, SIDE, 4))
    empty = []
    for i, (concept, style) in enumerate(rows):
        out[i] = draw(BY_NAME[style], chosen[concept])
        if (out[i, ..., 3] > 127).mean() < 0.01:
            empty.append((chosen[concept]["en"], style))
        if i % 1000 == 999:
            print(f"{i + 1} of {len(rows)} pictures", flush=True)
    out.flush()
    if empty:
        sys.exit(f"these drawings are empty: {empty}; leave them out in sources.py")
    done.write_text(text)  # last: the array is whole
    print(f"{len(rows)} pictures, {out.nbytes / 1e6:.0f} MB")


def load():
    """The array, memory-mapped, and the index, with arrays in place of lists."""
    index = json.loads((OUT / "pictures.json").read_text())
    return np.load(OUT / "pictures.npy", mmap_mode="r"), np.array(index["concept"]), np.array(index["style"])


if __name__ == "__main__":
    main()
