"""Writes files of every modality for some concepts, as people would send them, to a folder (default samples in the output folder).

    python samples.py [--out FOLDER] [--held-out] [--check] NAME ...

NAME is an English name ("dog"), the default six things. --held-out takes the style, voice and renderings that are not trained
on. Drawings under a share-alike licence are left out. Each thing has .png (image), .mp4 (video), .wav (audio), .txt (bind_text),
-depth.png (16-bit millimetres), -thermal.png, .csv (imu) and .ply (point_cloud); samples.json lists them, with what was drawn.
--check writes an .npy beside each: the input that inputs.py makes of it, for a comparison with the runner.
"""

import argparse
import json
import subprocess
import wave
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

import concepts
import dialogues
import inputs
import pictures
import rules
import scene
import speech
import splits
from sources import BY_NAME, HELD_OUT, OUT, STYLES, slug

THINGS = ["dog", "owl", "banana", "guitar", "sailboat", "scissors"]
SIDE = 240  # of pictures, films and planes


def film(path, frames):
    """Frames [H, W, 3] at rules.FPS as MP4."""
    h, w = frames[0].shape[:2]
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}", "-r", str(rules.FPS), "-i", "-",
                    "-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-threads", "1", "-bitexact", str(path)], input=b"".join(f.tobytes() for f in frames), check=True)


def sound(path, samples):
    """Samples of -1..1 at 16 kHz as WAV."""
    with wave.open(str(path), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(inputs.RATE)
        w.writeframes(np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes())


def trace(path, samples):
    """Samples [N, 6] at 400 Hz as CSV with times."""
    head = "time_s,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z"
    np.savetxt(path, np.concatenate([np.arange(len(samples))[:, None] / 400, samples], 1), "%.4f", ",", header=head, comments="")


def cloud(path, points):
    """Points [N, 3] as binary PLY."""
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    path.write_bytes(head.encode() + points.astype("<f4").tobytes())


def write(folder, thing, rgba, voice, rng, held_out):
    """All files of one thing; yields (modality, file, numbers drawn, the encoder's input)."""
    name = slug(thing["en"])

    def numbers(rule):
        return {k: v if isinstance(v, str) else round(v, 4) for k, v in scene.draw(rule, rng, held_out).items()}
    back = scene.ground(rng, SIDE)
    place = {k: v for k, v in numbers("depth").items() if k in scene.PLACE}
    rgb = scene.picture(rgba, back, **place)
    Image.fromarray(rgb).save(folder / f"{name}.png")
    yield "image", f"{name}.png", place, inputs.image(rgb)

    drawn = numbers("video")
    drawn.pop("start")
    frames = [rules.frame(rgba, back, t=t / rules.FPS, **drawn) for t in range(rules.FILM * rules.FPS)]
    film(folder / f"{name}.mp4", frames)
    yield "video", f"{name}.mp4", drawn, inputs.video(frames[0], frames[2 * rules.FPS - 1])  # the first of the runner's clips

    said = speech.say(voice, [speech.spoken(thing, voice["lang"])])[0]
    sound(folder / f"{name}.wav", said)
    yield "audio", f"{name}.wav", {k: voice[k] for k in ("accent", "variant", "words_a_minute", "pitch")}, inputs.audio(inputs.filter_bank(said[:speech.MOST]))

    text = dialogues.captions(thing, "en")[2]
    (folder / f"{name}.txt").write_text(text)
    yield "text", f"{name}.txt", {}, None

    drawn = numbers("depth")
    millimetres = np.rint(rules.depth(rgba, side=SIDE, **drawn) * 1000).astype(np.uint16)
    Image.fromarray(millimetres).save(folder / f"{name}-depth.png")
    yield "depth", f"{name}-depth.png", drawn, inputs.depth(millimetres.astype(np.float32) / 1000)

    drawn = numbers("thermal")
    grey = rules.thermal(rgba, rng, side=SIDE, **drawn)
    Image.fromarray(grey).save(folder / f"{name}-thermal.png")
    yield "thermal", f"{name}-thermal.png", drawn, inputs.thermal(grey)

    drawn = numbers("imu")
    samples = rules.imu(rgba, rng, **drawn)
    trace(folder / f"{name}.csv", samples)
    yield "imu", f"{name}.csv", drawn, inputs.imu(samples)

    drawn = numbers("point_cloud")
    points = rules.point_cloud(rgba, rng, **drawn)
    cloud(folder / f"{name}.ply", points)
    yield "point_cloud", f"{name}.ply", drawn, inputs.points(points)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("names", nargs="*", default=THINGS, metavar="NAME")
    args.add_argument("--out", type=Path, default=OUT / "samples")
    args.add_argument("--held-out", action="store_true")
    args.add_argument("--check", action="store_true")
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    array, concept, style = pictures.load()
    by_name = {c["en"]: c for c in concepts.load()}
    held = splits.load()
    untrained = {(c, s) for c, s in held["pairs"] + held["validation"]}
    voices = [v for v in speech.voices() if v["lang"] == "en" and v["held_out"] == args.held_out]
    listed = []
    for name in args.names:
        if name not in by_name:
            raise SystemExit(f"no concept is called {name!r}; the names are in {OUT / 'concepts.json'}")
        thing = by_name[name]
        rng = np.random.default_rng([zlib.crc32(name.encode()), args.held_out])
        free = [s.name for s in STYLES if (s.name == HELD_OUT) == args.held_out and s.name in thing["styles"] and not s.mono
                and not s.licence.startswith("CC-BY-SA") and (thing["id"], s.name) not in untrained]
        chosen = free[int(rng.integers(len(free)))]
        rgba = np.asarray(array[np.flatnonzero((concept == thing["id"]) & (style == chosen))[0]])
        for modality, file, drawn, tensor in write(args.out, thing, rgba, voices[int(rng.integers(len(voices)))], rng, args.held_out):
            listed.append({"file": file, "modality": modality, "concept": thing["id"], "en": thing["en"], "zh": thing["zh"],
                           "held_out": args.held_out, "numbers": drawn}
                          | ({"style": chosen, "licence": BY_NAME[chosen].licence} if modality not in ("audio", "text") else {}))
            if args.check and tensor is not None:
                np.save(args.out / f"{file}.npy", tensor)
    (args.out / "samples.json").write_text(json.dumps(listed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(listed)} files in {args.out}")


if __name__ == "__main__":
    main()
