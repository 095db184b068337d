"Copies of one picture: the same are found by every command, in any order, at one size; and no fold parts them."
import io, json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from catscans.datasets import leaks
from catscans.datasets.doctor import examine, twins_of
from catscans.datasets.added import add
from catscans.datasets.images import Images
from catscans.datasets.loading import load
from catscans.datasets.own import from_folder, from_path
from catscans.datasets.splits import make_splits
from catscans.study.cli import main
from catscans.transfer.run import _describe

N = 30


def scene(rng, n=150):
    a = sum(w*np.asarray(Image.fromarray(rng.integers(0, 256, (k, k, 3), np.uint8)).resize((n, n), Image.Resampling.BICUBIC), float)
            for k, w in ((3, .35), (6, .25), (12, .2), (24, .12), (48, .08)))
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))


def file(im, quality=92):
    im.save(b := io.BytesIO(), "JPEG", quality=quality)
    return b.getvalue()


def cut(im, share, left, top):
    w, h = im.width*share, im.height*share
    return im.crop((round(w*left), round(h*top), round(im.width - w*(1 - left)), round(im.height - h*(1 - top))))


def resized(im, by): return im.resize((round(im.width*by),)*2, Image.Resampling.BICUBIC)


WAYS = dict(exact=lambda im: None, q50=lambda im: file(im, 50), q70=lambda im: file(im, 70), q95=lambda im: file(im, 95), smaller=lambda im: file(resized(im, .9)),
            larger=lambda im: file(resized(im, 1.1)), half=lambda im: file(resized(im, .5)), cut2=lambda im: file(cut(im, .02, 1, 0)), cut5=lambda im: file(cut(im, .05, .2, 1)),
            middle5=lambda im: file(cut(im, .05, .5, .5)), brighter=lambda im: file(ImageEnhance.Brightness(im).enhance(1.05)), darker=lambda im: file(ImageEnhance.Brightness(im).enhance(.95)),
            grey=lambda im: file(im.convert("L").convert("RGB")), mirrored=lambda im: file(im.transpose(0)), turned=lambda im: file(im.transpose(2)))


@lru_cache
def pictures(): return [file(scene(np.random.default_rng(i))) for i in range(N)]


def planted(d, order=None):
    "a folder of N pictures, one copy of each of the first ones, in two classes and with patients; the pairs that are there, by name"
    todo = [(f"{'ab'[i % 2]}/{i:02}.jpg", f"p{i}", b) for i, b in enumerate(pictures())]
    pairs = set()
    for k, (way, make) in enumerate(WAYS.items()):
        name = f"{'ab'[k//2 % 2]}/{way}.jpg"                                    # half of the copies are in another class
        todo.append((name, f"p{k}" if k % 3 == 0 else f"q{k}", make(Image.open(io.BytesIO(pictures()[k]))) or pictures()[k]))      # every third is known to be of the same patient
        pairs.add((todo[k][0], name))
    for k in order if order is not None else range(len(todo)):
        (d/todo[k][0]).parent.mkdir(parents=True, exist_ok=True)
        (d/todo[k][0]).write_bytes(todo[k][2])
    rows = [todo[k] for k in order] if order is not None else todo
    (d/"labels.csv").write_text("path,class,patient\n" + "".join(f"{n},{n[0]},{p}\n" for n, p, _ in rows))
    return pairs


def found(images): return {tuple(sorted(images.paths[list(p)].tolist())) for p in leaks.duplicate_pairs(images)}


def parts(images):
    out = {}
    for p, g in zip(images.paths.tolist(), images.groups.tolist()): out.setdefault(g, set()).add(p)
    return {g: frozenset(v) for g, v in out.items()}


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"data"))
    (tmp_path/"data").mkdir()
    return tmp_path


@pytest.mark.parametrize("size", [32, 112])
def test_planted_copies_are_found_and_nothing_else_whatever_the_size(work, size):
    want = {tuple(sorted(p)) for p in planted(work/"set")}
    assert found(from_path(work/"set", size=size)) == want


def test_the_order_of_the_images_does_not_matter(work):
    planted(work/"one")
    planted(work/"two", np.random.default_rng(3).permutation(N + len(WAYS)))
    a, b = (from_path(work/n, size=48, group_duplicates=True) for n in ("one", "two"))
    assert a.paths.tolist() != b.paths.tolist() and found(a) == found(b) and parts(a) == parts(b)      # the names of the groups, too
    one = leaks.near_duplicates(a)
    back = leaks.near_duplicates(leaks.compared(a)[::-1])
    n = len(a) - 1
    assert {(r.a, r.b, r.correlation) for r in one.itertuples()} == {(n - r.b, n - r.a, r.correlation) for r in back.itertuples()}


def test_a_pair_is_asked_the_same_in_both_orders_and_beside_any_others(work):
    planted(work/"set")
    x = leaks.compared(from_path(work/"set", size=48))
    f = leaks.near_duplicates(x)
    assert len(f) == len(WAYS)
    for r in f.itertuples():
        for pair in (x[[r.a, r.b]], x[[r.b, r.a]]): assert leaks.near_duplicates(pair).correlation.tolist() == pytest.approx([r.correlation], abs=1e-4)


def test_every_command_finds_the_same(work, capsys):
    planted(work/"set")
    r = examine(work/"set")
    line = next(s for s in r["notes"] if "near duplicates" in s)
    assert "at 64 px details correlate by 0.8 or more" in line and (r["exact"]["pairs"], r["near"]["pairs"]) == (1, len(WAYS) - 1)
    assert line in add(work/"set", "mine")["checks"]
    for size in (32, 100):
        t = twins_of(from_path(work/"set", size=size))
        assert (t["exact"], t["near"]) == (r["exact"], r["near"])
    assert main(["rank", str(work/"set"), "--json", "--no-group-duplicates"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert line in out["notes"] and "group_duplicates" not in out["target"]


def test_finetune_says_the_same(work, recwarn):
    from catscans.transfer.folds import _say_checks
    planted(work/"set")
    line = next(s for s in examine(work/"set")["notes"] if "near duplicates" in s)
    _say_checks(from_path(work/"set", size=40))
    assert any(line in str(w.message) for w in recwarn)


def test_a_sample_is_told_of_all_images(work, capsys, monkeypatch):
    from catscans.recommend import ranking
    planted(work/"set")
    line = next(s for s in examine(work/"set")["notes"] if "near duplicates" in s)
    small = ranking.load_target
    monkeypatch.setattr(ranking, "load_target", lambda *a, **kw: small(*a, **kw, most=24))
    assert main(["rank", str(work/"set"), "--json", "--no-group-duplicates"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["target"]["used"] < len(WAYS) + N and line in out["notes"]


# ---- groups ----

def joined_right(images, pairs):
    of = dict(zip(images.paths.tolist(), images.groups.tolist()))
    assert all(of[a] == of[b] for a, b in pairs)
    assert len({of[f"{'ab'[i % 2]}/{i:02}.jpg"] for i in range(N)}) == N, "pictures of different patients stay apart"


def test_copies_are_one_group_with_their_patients_in_every_command(work, capsys):
    pairs = planted(work/"set")
    images = load(work/"set", size=48, group_duplicates=True)
    joined_right(images, pairs)
    assert images.joined["images"] == 2*len(WAYS) and images.joined["groups"] == N and images.joined["groups_before"] == N + sum(k % 3 > 0 for k in range(len(WAYS)))
    assert images.joined["said"] in images.notes and images.card.group_key == "patient and duplicates"
    assert _describe(images)["group_duplicates"] == images.joined and "group_duplicates" not in _describe(load(work/"set", size=48))
    assert main(["data", "add", str(work/"set"), "--name", "mine", "--group-duplicates"]) == 0
    assert images.joined["said"] in capsys.readouterr().err
    for other in (load("mine", size=48), load("mine", size=32)): assert parts(other) == parts(images)
    assert main(["rank", str(work/"set"), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["target"]["group_duplicates"] == images.joined and images.joined["said"] in out["notes"]
    assert main(["data", "check", "mine"]) == 0


def test_what_was_added_with_its_copies_together_is_looked_at_so(work, capsys):
    pairs = planted(work/"set")
    assert main(["data", "add", str(work/"set"), "--name", "mine", "--group-duplicates"]) == 0
    capsys.readouterr()
    pages = []
    for what in (["mine"], [str(work/"set"), "--group-duplicates"]):
        assert main(["data", "doctor", *what, "--json"]) == 0
        pages.append(json.loads(capsys.readouterr().out))
    for r in pages:
        assert r["groups"]["key"] == "patient and duplicates" and r["groups"]["groups"] == N
        assert r["exact"]["across"]["groups"] == r["near"]["across"]["groups"] == 0, "copies lie in one group now"
        assert r["exact"]["pairs"] + r["near"]["pairs"] == len(pairs) and not any("keep twins in one group" in n for n in r["notes"])


def test_no_fold_parts_a_group_and_one_did_before(work):
    pairs = planted(work/"set")
    for kw, parted in ((dict(), True), (dict(group_duplicates=True), False)):
        im = from_path(work/"set", size=32, group_col=False, **kw)
        at = {p: i for i, p in enumerate(im.paths.tolist())}
        over = [(a, b) for f in make_splits(im.y, im.groups, "grouped", 4) for a, b in pairs if (at[a] in f.test) != (at[b] in f.test)]
        assert bool(over) == parted


def test_a_part_holds_all_copies_or_none(work):
    pairs = planted(work/"set")
    for seed in range(4):
        there = set(from_path(work/"set", size=32, max_images=20, seed=seed, group_duplicates=True).paths.tolist())
        assert all((a in there) == (b in there) for a, b in pairs)


def test_that_nobody_named_patients_is_still_said(work, recwarn):
    from catscans.transfer.folds import _warn_of_siblings
    planted(work/"set")
    for group_col, said in ((False, True), (None, False)):
        recwarn.clear()
        _warn_of_siblings(from_path(work/"set", size=32, group_col=group_col, group_duplicates=True), "grouped")
        about = [str(w.message) for w in recwarn if "siblings" in str(w.message)]
        assert len(about) == said and not any("drawn by image" in s for s in about), "folds are drawn by the groups of copies"
        assert all("no groups but those of copies are known" in s for s in about)


def test_without_copies_nothing_changes(work):
    for i, b in enumerate(pictures()[:12]):
        (work/"set"/"ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (work/"set"/"ab"[i % 2]/f"{i}.jpg").write_bytes(b)
    a, b = from_folder(work/"set", size=32), from_folder(work/"set", size=32, group_duplicates=True)
    assert a.fingerprint == b.fingerprint and b.groups is None and "no duplicates were found" in b.joined["said"]


def test_what_was_found_is_kept_with_the_files_and_not_taken_for_others(work, monkeypatch):
    planted(work/"set")
    want = found(from_path(work/"set", size=32))
    calls, find = [], leaks.near_duplicates
    monkeypatch.setattr(leaks, "near_duplicates", lambda *a: calls.append(1) or find(*a))
    assert found(from_path(work/"set", size=48)) == want and not calls
    (work/"set"/"a"/"exact.jpg").write_bytes(file(scene(np.random.default_rng(99))))
    assert len(found(from_path(work/"set", size=48))) == len(want) - 1 and calls


def test_where_the_files_are_gone_the_images_themselves_are_looked_at(work):
    import shutil
    planted(work/"set")
    images = from_path(work/"set", size=112)
    shutil.rmtree(work/"set")
    assert leaks.compared(images) is images.x and len(leaks.near_duplicates(images)) == len(WAYS)


# ---- what is not a copy ----

def test_of_clean_pictures_hardly_any_pair_is_called():
    rng = np.random.default_rng(5)
    x = np.stack([np.asarray(scene(rng, 64)) for _ in range(400)])
    assert len(leaks.near_duplicates(x)) == 0


CLEAN = dict(xray_knee_kl_128=0, medical_chest_kermany_224=0, medical_ham10000_200x150=0, cells_pbcmat_128=0)     # CT and ultrasound sets hold copies under two names


@pytest.mark.slow(20)
@pytest.mark.parametrize("name", CLEAN)
def test_real_images_of_different_people_are_not_copies(name, tmp_path, monkeypatch):
    from catscans.core.files import data_dir
    at = data_dir() and next((p for p in (data_dir()/f"{name}.zip", data_dir()/"lite"/f"{name}.zip") if p.exists()), None)
    if at is None: pytest.skip(f"SKIPPED: {name}.zip is not under CATSCANS_DATA, real images were not looked at")
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path))
    images = from_path(at, size=64, max_images=1200)
    f = leaks.near_duplicates(images)
    g = images.paths if images.groups is None else images.groups
    assert (g[f.a] != g[f.b]).sum() <= CLEAN[name]


def test_images_are_compared_by_the_rule_that_is_said():
    assert (leaks.SIDE, leaks.CORRELATION) == (64, .8)
    rng = np.random.default_rng(0)
    x = np.stack([np.asarray(scene(rng, 64)) for _ in range(3)])
    images = replace(Images(x, np.array([0, 1, 0]), None, ["a", "b"], None, "", "x", np.arange(3).astype(str)), x=np.concatenate([x[:2], x[:1]]))
    assert leaks.group_duplicates(images).groups.tolist() == ["0", "1", "0"]
