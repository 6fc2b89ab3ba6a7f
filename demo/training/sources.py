"""The drawings: which package holds each style, under which licence, and how a style's picture of an emoji is found in it.

A style is a way of drawing: "noto", "twemoji", ... A family is a group of styles by the same hand, which share outlines.
Everything is read from the npm packages of package.json; ../LICENSES.md names each with its licence (a test compares).
"""

import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).parent
OUT = Path(os.environ.get("DEMO_TRAINING", HERE.parent.parent / ".cache" / "demo-training"))  # all output; git ignores it
PACKAGES = OUT / "npm" / "node_modules"


@dataclass(frozen=True)
class Style:
    name: str
    family: str
    package: str  # of npm
    licence: str  # of the drawings, SPDX
    credit: str
    mono: bool = False  # black lines or areas only


STYLES = [
    Style("fluent-flat", "fluent", "@iconify-json/fluent-emoji-flat", "MIT", "Microsoft"),
    Style("fluent-modern", "fluent", "@iconify-json/fluent-emoji", "MIT", "Microsoft"),
    Style("fluent-3d", "fluent", "@lobehub/fluent-emoji-3d", "MIT", "Microsoft, packed by LobeHub"),
    Style("fluent-contrast", "fluent", "@iconify-json/fluent-emoji-high-contrast", "MIT", "Microsoft", mono=True),
    Style("noto", "noto", "@iconify-json/noto", "Apache-2.0", "Google"),
    Style("noto-blob", "noto-blob", "@iconify-json/noto-v1", "Apache-2.0", "Google"),
    Style("openmoji", "openmoji", "openmoji", "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd"),
    Style("openmoji-black", "openmoji", "openmoji", "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd", mono=True),
    Style("emojitwo", "emojione", "@iconify-json/emojione", "CC-BY-4.0", "Emoji One 2 and EmojiTwo"),
    Style("emojione-mono", "emojione", "@iconify-json/emojione-monotone", "CC-BY-4.0", "Emoji One 2", mono=True),
    Style("emojione-v1", "emojione-v1", "@iconify-json/emojione-v1", "CC-BY-SA-4.0", "Emoji One 1"),
    Style("fxemoji", "fxemoji", "@iconify-json/fxemoji", "Apache-2.0", "Mozilla"),
    Style("twemoji", "twemoji", "@iconify-json/twemoji", "CC-BY-4.0", "Twitter and contributors"),
]
BY_NAME = {s.name: s for s in STYLES}
HELD_OUT = "twemoji"  # never trained on


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def slug(label):
    """'woman’s hat' -> 'womans-hat', as icon names are made."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


@lru_cache(maxsize=None)
def _icons(package):
    """The icon set of an Iconify package: names -> (body, width, height), code points -> name, squashed names -> name."""
    data = read_json(PACKAGES / package / "icons.json")
    size = data.get("width", 16), data.get("height", 16)
    icons = {n: (i["body"], i.get("width", size[0]), i.get("height", size[1])) for n, i in data["icons"].items()}
    for name, alias in data.get("aliases", {}).items():
        if set(alias) == {"parent"} and alias["parent"] in icons:  # turned ones are not wanted
            icons.setdefault(name, icons[alias["parent"]])
    chars = PACKAGES / package / "chars.json"
    return icons, read_json(chars) if chars.exists() else {}, {n.replace("-", ""): n for n in icons}


def svg(style, hexcode, label, shortcodes):
    """The SVG text of an emoji (hexcode as "1F9D1-200D-1F3A8") in a style, or None where it has no drawing of it."""
    if style.package == "openmoji":
        path = PACKAGES / "openmoji" / ("black" if style.mono else "color") / "svg" / f"{hexcode}.svg"
        return path.read_text(encoding="utf-8") if path.exists() else None
    if style.name == "fluent-3d":
        return None
    icons, chars, squashed = _icons(style.package)
    codes = hexcode.lower()
    name = next((n for n in (chars.get(codes), chars.get(codes.replace("-fe0f", "")), slug(label)) if n in icons), None)
    if name is None:  # the older sets have names of their own; what fits one of the emoji's known names is it
        wanted = [slug(label), *shortcodes] if style.name == "fxemoji" else [slug(label)]
        name = next((squashed[k] for w in wanted if (k := re.sub(r"[-_]", "", w)) in squashed), None)
    if name is None:
        return None
    body, w, h = icons[name]
    body = body.replace("currentColor", "#000")
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {w} {h}">{body}</svg>'


def raster_file(style, hexcode):
    """The picture file of a style that has no SVG, or None."""
    if style.name != "fluent-3d":
        return None
    for codes in (hexcode.lower(), hexcode.lower() + "-fe0f"):
        path = PACKAGES / style.package / "assets" / f"{codes}.webp"
        if path.exists():
            return path
    return None
