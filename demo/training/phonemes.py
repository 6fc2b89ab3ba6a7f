"""Writes phonemes.json, what each name sounds like: {accent: [a name's phonemes, ...]}, in the order of the concepts.

espeak-ng's own signs, blank between them and " | " between words, stress marks left out: targets for a frame-wise
pre-training of the audio encoder (CTC). Variants (m3, f5, ...) change a voice and not its phonemes, so that an accent is enough.
"""

import json
import subprocess
import tempfile

import concepts
from sources import OUT
from speech import ACCENTS, MANDARIN, spoken


def phonemes(accent, names):
    """One line of phonemes a name. espeak-ng breaks lines within a name too, so that each is ended by a word of its own."""
    end = "beep"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as f:
        f.write("".join(f"{name}\n\n{end}\n\n" for name in names))
        f.flush()
        run = subprocess.run(["espeak-ng", "-q", "-x", "--sep= ", "-v", accent, "-f", f.name], check=True, capture_output=True, text=True)
    lines = [" | ".join(part.strip() for part in line.split("  ")) for line in run.stdout.splitlines() if line.strip()]
    out, here, stop = [], [], lines[-1]
    for line in lines:
        if line == stop:
            out.append(clean(" | ".join(here)))
            here = []
        else:
            here.append(line)
    if len(out) != len(names) or not all(out):
        raise ValueError(f"espeak-ng gave {len(out)} lines for {len(names)} names in {accent}; a name sounds like {end!r}, or like nothing")
    return out


def clean(line):
    """Without the signs for stress and pauses, and each gap between words once."""
    words = ([s for sign in word.split() if (s := sign.lstrip("',%_=").rstrip("_="))] for word in line.split("|"))
    return " | ".join(" ".join(w) for w in words if w)


if __name__ == "__main__":
    chosen = concepts.load()
    made = {a: phonemes(a, [spoken(c, "zh" if a == MANDARIN else "en") for c in chosen]) for a in [*ACCENTS, MANDARIN]}
    (OUT / "phonemes.json").write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")
    signs = {s for lines in made.values() for line in lines for s in line.split()}
    print(f"phonemes of {len(chosen)} names in {len(made)} accents, {len(signs)} signs")
