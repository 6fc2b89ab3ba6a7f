"""Writes splits.json: what no training may see, and what choices are made with.

styles      drawing styles held out whole
pairs       [concept, style]: drawings held out, of a family of styles at once, as those share outlines; trained on
            are at least two families of the concept
validation  [concept, style], likewise: drawings to watch training by, not to report
voices      numbers of the held-out voices of speech.json
renderings  what scene.draw(..., held_out=True) draws: a window of one number a rule, and the motions
"""

import json

import numpy as np

import concepts
import scene
import speech
from sources import BY_NAME, HELD_OUT, OUT

SEED = 11
PAIRS, VALIDATION = 0.1, 0.05  # of the concepts, a family of each


def make(chosen):
    rng = np.random.default_rng(SEED)
    pairs, validation = [], []
    for c in chosen:
        families = {}
        for style in c["styles"]:
            if style != HELD_OUT:
                families.setdefault(BY_NAME[style].family, []).append(style)
        luck, which = rng.random(), int(rng.integers(len(families)))  # drawn for each, so that none moves the others
        if len(families) < 3 or luck >= PAIRS + VALIDATION:
            continue
        held = [[c["id"], s] for s in sorted(families.items())[which][1]]
        (pairs if luck < PAIRS else validation).extend(held)
    return {
        "seed": SEED, "styles": [HELD_OUT], "pairs": pairs, "validation": validation,
        "voices": [i for i, v in enumerate(speech.voices()) if v["held_out"]],
        "renderings": {rule: {"number": n, "from": a, "to": b} for rule, (n, a, b) in scene.HELD.items()}
        | {"video": {"motions": scene.HELD_MOTIONS}},
    }


def load():
    return json.loads((OUT / "splits.json").read_text())


def rows(concept, style, splits):
    """Of a picture index (pictures.load), the rows of each part: "train", "pairs", "validation", "styles"."""
    part = np.full(len(concept), "train", "U10")
    part[np.isin(style, splits["styles"])] = "styles"
    for name in ("pairs", "validation"):
        held = {tuple(p) for p in splits[name]}
        part[[(int(c), str(s)) in held for c, s in zip(concept, style)]] = name
    return {name: np.flatnonzero(part == name) for name in ("train", "pairs", "validation", "styles")}


if __name__ == "__main__":
    made = make(concepts.load())
    (OUT / "splits.json").write_text(json.dumps(made) + "\n")
    print(f"held out: {made['styles']}, {len(made['pairs'])} drawings and {len(made['validation'])} to watch by, {len(made['voices'])} voices")
