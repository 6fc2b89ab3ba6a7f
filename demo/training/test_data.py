"""The rules, splits, texts and sources, on drawings made here: nothing needs the data."""

import re

import numpy as np
import pytest

import dialogues
import inputs
import phonemes
import rules
import scene
import sources
import speech
import splits


@pytest.fixture
def drawing():
    """A dark ring with a nose that looks right, RGBA."""
    y, x = np.mgrid[:128, :128] - 63.5
    r = np.hypot(x, y)
    out = np.zeros((128, 128, 4), np.uint8)
    out[(r < 40) & (r > 25)] = (20, 20, 60, 255)
    out[(abs(y) < 6) & (x > 38) & (x < 58)] = (250, 200, 0, 255)
    return out


def things():
    """Two things, as concepts.json has them."""
    make = dict(subgroup="animal-mammal", styles=["noto", "twemoji", "fluent-flat", "fluent-3d", "openmoji"], shortcodes=[])
    return [dict(id=3, en="owl", zh="猫头鹰", tags_en=["owl", "bird", "wise", "night", "animal"], tags_zh=["鸟"], group="animals-nature", **make),
            dict(id=1, en="scissors", zh="剪刀", tags_en=[], tags_zh=[], group="objects", **make)]


@pytest.mark.parametrize("rule", scene.RANGES)
def test_draw_keeps_the_held_out_apart(rule):
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        for _ in range(200):
            numbers = scene.draw(rule, rng, held_out)
            if rule == "video":
                assert (numbers["motion"] in scene.HELD_MOTIONS) == held_out
                continue
            name, low, high = scene.HELD[rule]
            assert (low <= numbers[name] <= high) == held_out
            assert all(scene.RANGES[rule][k][0] <= v <= scene.RANGES[rule][k][1] for k, v in numbers.items())


def test_rules_give_the_same_twice(drawing):
    def make():
        rng = np.random.default_rng(5)
        return (*rules.video(drawing, scene.ground(rng, 96), **scene.draw("video", rng)), rules.depth(drawing, **scene.draw("depth", rng)),
                rules.thermal(drawing, rng, **scene.draw("thermal", rng)), rules.point_cloud(drawing, rng, n=500, **scene.draw("point_cloud", rng)),
                rules.imu(drawing, rng, **scene.draw("imu", rng)))
    for a, b in zip(make(), make()):
        np.testing.assert_array_equal(a, b)


def test_video_moves_as_its_name_says(drawing):
    back = np.full((96, 96, 3), 255, np.uint8)
    first, last = rules.video(drawing, back, "slide-right")
    middle = [np.argwhere(f.min(2) < 128).mean(0) for f in (first, last)]  # row, column
    assert middle[1][1] - middle[0][1] == pytest.approx(0.3 * 96 * (23 / 12) / 4, abs=0.5)
    assert middle[1][0] == pytest.approx(middle[0][0], abs=0.5)


def test_depth_is_nearest_in_the_thick_of_it(drawing):
    metres = rules.depth(drawing, distance=1.5, relief=0.3, gap=0.7)
    assert metres[5, 5] == pytest.approx(2.2, abs=0.01)  # the wall
    assert 1.15 < metres.min() < 1.5
    assert metres[120, 120] < 1.35  # the hole is filled: the cushion's middle


def test_thermal_is_warm_where_dark(drawing):
    grey = rules.thermal(drawing, np.random.default_rng(0), ambient=20, noise=0).astype(int)
    assert abs(grey[5, 5] - 23) <= 1  # the air is 2 K above black
    ring, nose = grey[120, 120 - 55], grey[120, 120 + 80]
    assert ring > nose > 40


def test_point_cloud_turns(drawing):
    flat = rules.point_cloud(drawing, np.random.default_rng(0), n=1000)
    assert flat.shape == (1000, 3) and flat.dtype == np.float32
    assert flat[:, 0].max() > -flat[:, 0].min() + 0.1  # the nose is to the right
    turned = rules.point_cloud(drawing, np.random.default_rng(0), n=1000, yaw=90)
    np.testing.assert_allclose(turned[:, 2], -flat[:, 0], atol=1e-5)  # right is behind then
    upright = rules.point_cloud(drawing, np.random.default_rng(0), n=1000, roll=90)
    np.testing.assert_allclose(upright[:, 1], flat[:, 0], atol=1e-5)  # anticlockwise: right is up then


def test_groups_turn_with_the_cloud(drawing):
    cloud = inputs.normalise(rules.point_cloud(drawing, np.random.default_rng(0), n=1000))
    r = rules.turned(30, 10, -5)
    np.testing.assert_allclose(inputs.points(cloud, 32, 8) @ r.T, inputs.points(cloud @ r.T, 32, 8), atol=1e-5)


def test_outline_goes_clockwise_from_the_top():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:7] = True
    line = rules._outline(mask)
    assert line.tolist() == [[2, 3], [2, 4], [2, 5], [2, 6], [3, 6], [4, 6], [4, 5], [4, 4], [4, 3], [3, 3]]
    assert len(rules._outline(np.ones((1, 1), bool))) == 1
    assert rules._outline(np.ones((1, 3), bool)).tolist() == [[0, 0], [0, 1], [0, 2], [0, 1]]


def test_imu_draws_the_outline(drawing):
    trace = rules.imu(drawing, np.random.default_rng(0), arm=0.65, tremor=0)
    assert trace.shape == (2000, 6) and np.isfinite(trace).all()
    assert trace[:, 1].mean() == pytest.approx(9.8, abs=0.3)  # gravity
    path = np.cumsum(trace[:, 4:2:-1] * [-0.65, 0.65], 0) / 400  # the rates, back to where the hand was: x, y
    want = max(rules.strokes(drawing), key=len)
    assert np.ptp(path[:, 0]) == pytest.approx(np.ptp(want[:, 0]) * 0.4, rel=0.1)


def test_an_empty_drawing_is_refused():
    with pytest.raises(ValueError, match="empty"):
        rules.strokes(np.zeros((128, 128, 4), np.uint8))


def test_answers_follow_from_the_thing():
    owl, scissors = things()
    assert dialogues.ask("what", [owl], "en", 3) == ("What is shown here?", "This is an owl.")
    assert dialogues.ask("what", [scissors], "en")[1] == "This is scissors."
    assert dialogues.ask("keywords", [owl], "en")[1] == "bird, wise, night."
    assert dialogues.ask("is", [owl], "en", other=scissors) == ("Is this scissors?", "No, this is an owl.")
    assert dialogues.ask("is-group", [owl], "zh") == ("它属于动物和自然吗？", "是的，它属于动物和自然。")
    assert dialogues.ask("both", [owl, scissors], "en")[1] == dialogues.ask("both", [scissors, owl], "en")[1] == "These are scissors and an owl."
    assert dialogues.ask("same", [owl, scissors], "zh")[1] == "不是，剪刀属于物品，猫头鹰属于动物和自然。"
    assert dialogues.ask("count", [owl], "en", count=1)[1] == "1 question."


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_dialogues(lang):
    both = things()
    for kind, ways in dialogues.QUESTIONS[lang].items():
        assert len(set(ways)) == 10, kind
    make = [dialogues.dialogue(np.random.default_rng(1), both[:n], both, lang, turns=4) for n in (1, 2, 1)]
    assert make[0] == make[2] and len(make[1]) == 4
    assert len(set(dialogues.captions(both[0], lang))) == 10
    assert all("{" not in text for turns in make for turn in turns for text in turn)


def test_splits_hold_out_whole_families():
    some = [dict(things()[0], id=i, styles=[s.name for s in sources.STYLES]) for i in range(300)]
    made = splits.make(some)
    concept = np.repeat(np.arange(300), len(sources.STYLES))
    style = np.tile([s.name for s in sources.STYLES], 300)
    rows = splits.rows(concept, style, made)
    assert sum(map(len, rows.values())) == len(concept)
    assert set(style[rows["styles"]]) == {"twemoji"} and "twemoji" not in style[rows["train"]]
    family = np.array([sources.BY_NAME[s].family for s in style])
    trained = {(c, f) for c, f in zip(concept[rows["train"]], family[rows["train"]])}
    assert not trained & {(c, f) for c, f in zip(concept[rows["pairs"]], family[rows["pairs"]])}
    assert 15 < len({c for c in concept[rows["pairs"]]}) < 50
    assert made == splits.make(some)


def test_voices():
    voices = speech.voices()
    english = [v for v in voices if v["lang"] == "en"]
    assert len({v["variant"] for v in english}) == len(english) >= 24
    assert sum(v["held_out"] for v in english) >= 4 and any(v["lang"] == "zh" and v["held_out"] for v in voices)
    heard = {v["variant"] for v in voices if not v["held_out"]}
    assert not heard & {v["variant"] for v in voices if v["held_out"]}


def test_speech_is_kept_and_found_again(tmp_path, monkeypatch):
    """With a voice that hums: what is said is in the index's order, and a second run says nothing anew."""
    def hum(voice, texts):
        said.append(len(texts))
        return [np.sin(np.arange(1600 * len(t)) * 0.1).astype(np.float32) for t in texts]  # as long as its text
    said = []
    monkeypatch.setattr(speech, "OUT", tmp_path)
    monkeypatch.setattr(speech, "say", hum)
    monkeypatch.setattr(speech, "voices", lambda: [dict(lang="en", accent="en-us", variant=v) for v in ("m1", "f1")])
    monkeypatch.setattr(speech.concepts, "load", things)
    speech.main()
    speech.main()
    frames, index, voices = speech.load()
    assert said == [2, 2] and len(voices) == 2
    lengths = [1 + (1600 * n - 400) // 160 for n in (len("owl"), len("scissors"))]
    assert index.tolist() == [[i, v, v * sum(lengths) + i * lengths[0], lengths[i]] for v in (0, 1) for i in (0, 1)]
    assert frames.shape == (2 * sum(lengths), 128) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames[index[2, 2]:][:lengths[0]], speech.pack(speech.filter_bank(hum(None, ["owl"])[0])))


def test_phonemes_are_cleaned():
    assert phonemes.clean("h '0 t | 'e@ | | b @ _ l 'u: n |") == "h 0 t | e@ | b @ l u: n"


def test_packed_speech_is_close():
    bank = np.random.default_rng(0).uniform(-15.9, 9, (50, 128)).astype(np.float32)
    assert np.abs(speech.unpack(speech.pack(bank)) - bank).max() < 0.051


def test_licences_name_every_source():
    page = (sources.HERE.parent / "LICENSES.md").read_text(encoding="utf-8")
    packages = sources.read_json(sources.HERE / "package.json")["dependencies"]
    for s in sources.STYLES:
        assert re.search(rf"\| `{s.name}` \| {s.package} \|.*\| {s.licence} \|", page), s
        assert s.package in packages
    assert "emojibase-data" in page
    assert not re.search(r'"resolved"', (sources.HERE / "package-lock.json").read_text())
