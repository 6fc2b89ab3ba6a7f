"""Chooses the concepts, things that every training style can draw, and writes concepts.json.

One entry a concept: {"id", "hex", "en", "zh", "tags_en", "tags_zh", "group", "subgroup", "shortcodes", "styles"}. Names and keywords are
Unicode CLDR's, by emojibase-data. Order is emojibase's, and ids are positions in it, so that they hold while the
rules below and the pinned packages do.
"""

import json
import sys

from sources import HELD_OUT, OUT, PACKAGES, STYLES, raster_file, read_json, svg

# Groups that are kept whole, and subgroups of others that are things too.
GROUPS = ["animals-nature", "food-drink", "travel-places", "activities", "objects"]
SUBGROUPS = ["face-costume", "monkey-face", "body-parts", "hand-fingers-open", "hand-fingers-partial", "hand-single-finger",
             "hand-fingers-closed", "hands", "hand-prop", "person-role", "person-fantasy", "person-activity", "person-sport"]
GROUP_NAMES = {  # for the questions; two languages
    "animals-nature": ("animals and nature", "动物和自然"), "food-drink": ("food and drink", "食物和饮料"),
    "travel-places": ("travel and places", "旅行和地点"), "activities": ("activities", "活动"), "objects": ("objects", "物品"),
    "people-body": ("people and body", "人物和身体"), "smileys-emotion": ("faces", "表情"),
}
LEAST = 4  # styles, the one held out not counted


def wanted(e, group, subgroup):
    label = e["label"]
    if group not in GROUPS and subgroup not in SUBGROUPS:
        return False
    # 24 clocks that differ in a hand; the same person facing right; a rude gesture
    if "o’clock" in label or label.endswith("-thirty") or ":" in label or label == "middle finger":
        return False
    # Of people one drawing each, not one a gender too: their outlines are almost the same.
    return not (subgroup.startswith("person-") and label.split()[0] in ("man", "woman", "men", "women", "man:", "woman:"))


def choose():
    data = PACKAGES / "emojibase-data"
    meta = read_json(data / "meta" / "groups.json")
    zh = {e["hexcode"]: e for e in read_json(data / "zh" / "data.json")}
    codes = {}
    for file in sorted((data / "en" / "shortcodes").glob("*.json")):
        for hexcode, names in read_json(file).items():
            codes.setdefault(hexcode, []).extend([names] if isinstance(names, str) else names)
    out, names = [], set()
    for e in read_json(data / "en" / "data.json"):
        if "group" not in e or e["hexcode"] not in zh:
            continue
        group, subgroup = meta["groups"][str(e["group"])], meta["subgroups"][str(e["subgroup"])]
        chinese = zh[e["hexcode"]]
        if not wanted(e, group, subgroup) or {e["label"], chinese["label"]} & names:
            continue
        shortcodes = codes.get(e["hexcode"], [])
        styles = [s.name for s in STYLES if raster_file(s, e["hexcode"]) or svg(s, e["hexcode"], e["label"], shortcodes)]
        if HELD_OUT not in styles or len(styles) <= LEAST:
            continue
        names |= {e["label"], chinese["label"]}
        out.append({
            "id": len(out), "hex": e["hexcode"], "en": e["label"], "zh": chinese["label"], "tags_en": e.get("tags", []),
            "tags_zh": chinese.get("tags", []), "group": group, "subgroup": subgroup, "shortcodes": sorted(set(shortcodes)), "styles": styles,
        })
    return out


def load(path=None):
    """The list of concepts, as written."""
    return read_json(path or OUT / "concepts.json")


if __name__ == "__main__":
    chosen = choose()
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else len(chosen)
    chosen = chosen[:limit]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "concepts.json").write_text(json.dumps(chosen, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(chosen)} concepts")
