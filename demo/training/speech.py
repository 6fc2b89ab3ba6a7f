"""Says the name of every concept in many voices with espeak-ng, and keeps the log-mel filter bank that the audio encoder takes.

speech.npy    [F, 128] uint8, frames of 10 ms of all clips behind each other; log-mel = value / 10 - 16
speech_index.npy  [N, 4] int64: concept, voice, first frame, frames (of one clip; 1 to 198)
speech.json   the voices: language, accent, variant, words a minute, pitch (0 to 99), held_out

A clip is cut to what sounds, with 30 ms of silence about it; one of more than two seconds keeps its first two, which is the
first of the three clips that the runner makes. espeak-ng is a program that is run, one process for a hundred names.
"""

import json
import subprocess
import sys
import tempfile
import wave
from html import escape

import numpy as np
from scipy.signal import resample_poly

import concepts
from inputs import RATE, filter_bank
from sources import OUT

SEED = 7
ACCENTS = ["en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbcwmd", "en-gb-x-gbclan", "en-us-nyc"]
MANDARIN = "cmn-latn-pinyin"  # "cmn" of espeak-ng 1.51 reads the numbers of the tones aloud, in English
TRAINED = ("m1 m2 m3 m4 m5 m6 m8 f1 f2 f3 f4 klatt klatt2 klatt3 klatt4 Alex Alicia Andy Annie antonio belinda benjamin caleb "
           "david Denis Diogo ed edward Gene Henrique Hugo iven Jacky john Lee linda marcelo Marco Michael miguel Mike pablo paul "
           "pedro rob robert shelby steph2 travis victor zac anika").split()
UNHEARD = "f5 m7 Andrea max quincy sandro".split()  # held out
MOST = 2 * RATE  # samples of a clip
BATCH = 100  # names a process
GAP = 1.0  # seconds; silence between names that no name has within


def voices():
    """The settings, the same at every run: each English variant once, in an accent; some of them in Chinese too."""
    rng = np.random.default_rng(SEED)
    out = []
    for lang, trained, unheard in (("en", TRAINED, UNHEARD), ("zh", TRAINED[::5], UNHEARD[::3])):
        for i, variant in enumerate(trained + unheard):
            accent = MANDARIN if lang == "zh" else ACCENTS[i % len(ACCENTS)]
            out.append({"lang": lang, "accent": accent, "variant": variant, "words_a_minute": int(rng.integers(115, 185)) + 80 * (lang == "zh"),
                        "pitch": int(rng.integers(25, 76)), "held_out": variant in unheard})
    return out


def spoken(concept, lang):
    return concept[lang].replace("’", "'")


def say(voice, texts):
    """The texts in a voice: a list of waves of float32 in -1..1 at 16 kHz, cut to what sounds."""
    pause = f'<break time="{int(2500 * GAP)}ms"/>'  # espeak-ng shortens it
    with tempfile.TemporaryDirectory() as folder:
        ssml, wav = f"{folder}/in.ssml", f"{folder}/out.wav"
        with open(ssml, "w", encoding="utf-8") as f:
            f.write("<speak>" + pause.join(escape(t) for t in texts) + "</speak>")
        subprocess.run(["espeak-ng", "-m", "-b", "1", "-v", f"{voice['accent']}+{voice['variant']}", "-s", str(voice["words_a_minute"]),
                        "-p", str(voice["pitch"]), "-w", wav, "-f", ssml], check=True)
        with wave.open(wav) as w:
            hz, data = w.getframerate(), np.frombuffer(w.readframes(w.getnframes()), np.int16)
    loud = np.flatnonzero(np.abs(data) > 60)
    if not len(loud):
        raise ValueError(f"espeak-ng said nothing of {texts} with {voice}")
    cuts = np.flatnonzero(np.diff(loud) > GAP * hz)
    firsts, lasts = loud[np.r_[0, cuts + 1]], loud[np.r_[cuts, -1]]
    if len(firsts) != len(texts):
        if len(texts) == 1:
            firsts, lasts = firsts[:1], lasts[-1:]
        else:  # one of them has a pause of its own
            half = len(texts) // 2
            return say(voice, texts[:half]) + say(voice, texts[half:])
    margin = int(0.03 * hz)
    waves = [data[max(a - margin, 0):b + margin].astype(np.float64) / 32768 for a, b in zip(firsts, lasts)]
    return [resample_poly(x, RATE // 50, hz // 50).astype(np.float32) for x in waves]


def pack(bank):
    """Log-mel [F, 128] as bytes."""
    return np.clip(np.rint((bank + 16) * 10), 0, 255).astype(np.uint8)


def unpack(frames):
    """The log-mel [F, 128] float32 of bytes; inputs.audio makes the encoder's input of it."""
    return frames.astype(np.float32) / 10 - 16


def part(number, voice, chosen):
    """One voice: resumable, as each is a file."""
    path = OUT / "speech" / f"{number:03d}.npz"
    names = [spoken(c, voice["lang"]) for c in chosen]
    key = json.dumps([voice, names], ensure_ascii=False)
    if path.exists():
        with np.load(path) as z:
            if str(z["key"]) == key:
                return
    banks = []
    for i in range(0, len(names), BATCH):
        banks += [pack(filter_bank(w[:MOST])) for w in say(voice, names[i:i + BATCH])]
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, key=key, frames=np.concatenate(banks), lengths=[len(b) for b in banks])
    partial.rename(path)


def main():
    chosen, settings = concepts.load(), voices()
    (OUT / "speech").mkdir(parents=True, exist_ok=True)
    for n, v in enumerate(settings):
        part(n, v, chosen)
        print(f"voice {n + 1} of {len(settings)}: {v['accent']}+{v['variant']}", flush=True)
    parts, index, at = [], [], 0
    for n in range(len(settings)):
        with np.load(OUT / "speech" / f"{n:03d}.npz") as z:
            parts.append(z["frames"])
            for concept, length in enumerate(z["lengths"]):
                index.append((concept, n, at, length))
                at += int(length)
    out = np.lib.format.open_memmap(OUT / "speech.npy", "w+", np.uint8, (at, 128))
    np.concatenate(parts, out=out)
    out.flush()
    np.save(OUT / "speech_index.npy", np.array(index, np.int64))
    (OUT / "speech.json").write_text(json.dumps(settings, indent=1) + "\n")
    print(f"{len(index)} clips, {at / 100 / 3600:.1f} hours, {out.nbytes / 1e6:.0f} MB")


def load():
    """The frames, memory-mapped; the index; the voices."""
    return np.load(OUT / "speech.npy", mmap_mode="r"), np.load(OUT / "speech_index.npy"), json.loads((OUT / "speech.json").read_text())


if __name__ == "__main__":
    sys.exit(main())
