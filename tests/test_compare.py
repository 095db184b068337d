"`catscans compare`: the answer is honest, the command says what is wrong, and what is done is kept."
import json, shutil
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import compare_honest, compare_regret
from catscans.compare import nested
from catscans.study.cli import main


@pytest.fixture(scope="module")
def rows():
    "a few simulated folders, smaller than those of the study"
    return [compare_honest.answer("permuted", i, n=100, repeats=1) for i in range(2)]


@pytest.mark.slow(8)
def test_a_choice_among_starts_that_know_nothing_is_worth_a_half(rows):
    assert all(r["lo"] <= .5 <= r["hi"] for r in rows), rows


def test_the_mean_of_the_best_start_is_too_high_and_the_nested_one_is_not():
    "forty starts of noise: the highest mean lies far above a half; what is stated is the AUC of the start that was chosen without the fold"
    rng = np.random.default_rng(0)
    m = nested.Measured(tuple(map(str, range(40))), rng.normal(.5, .06, (10, 40)), rng.normal(.5, .06, (10, 40)), 5)
    assert m.of(m.best).mean() > .53 and abs(m.nested.mean() - .5) < .04
    assert nested.worth(m)["lo"] < .5 < nested.worth(m)["hi"]


def test_the_labels_of_held_out_images_move_no_choice():
    "inside AUC and strength of a fold are the same whatever its held-out labels are; its AUC is not"
    images, f = compare_honest.folder("planted", 0, 120)
    fold = nested.outer_folds(images, 0).folds[0]
    wrong = SimpleNamespace(**{**vars(images), "y": images.y.copy()})
    wrong.y[fold.test] = 1 - wrong.y[fold.test]
    keep = nested.outer_folds
    try:
        nested.outer_folds = lambda *a: [fold]
        a, b = nested.one_start(f["A"], images, 0), nested.one_start(f["A"], wrong, 0)
    finally: nested.outer_folds = keep
    assert a.inside == b.inside and a.strength == b.strength and np.array_equal(a.p, b.p)
    assert b.auc[0] == pytest.approx(1 - a.auc[0])


def test_the_study_of_honesty_goes_on_and_sums_up(tmp_path, monkeypatch, capsys):
    asked = []
    def answer(kind, i, n=None, repeats=4):
        asked.append((kind, i))
        return dict(kind=kind, folder=i, named="AB"[i % 2], probability=.8, nested=.5, lo=.45, hi=.55 if i else .4)
    monkeypatch.setattr(compare_honest, "answer", answer)
    for n in (1, 2): compare_honest.main(["--folders", str(n), "--out", str(tmp_path/"h.csv")])
    assert len(asked) == len(set(asked)) == 2*len(compare_honest.KINDS), "nothing is done twice"
    said = capsys.readouterr().out
    assert "covered 0.5" in said and "a_named 0.5, told 2, right 0.5" in said and "same_choice 1.0" in said


@pytest.mark.slow(8)
def test_regret_is_what_the_choice_lacks_to_the_best_on_images_that_were_not_drawn(tmp_path, monkeypatch, capsys):
    from catscans.datasets.images import Images
    made, f = compare_honest.folder("planted", 0, 240)
    images = Images(np.zeros((240, 2, 2, 3), "uint8"), made.y, made.groups.astype(str), made.classes, None, "f", "toy", np.arange(240).astype(str))
    features = dict(zip(("imagenet", "squeezenet", "random", "pixels"), f.values()))
    row = compare_regret.answer("busi", 1, features, images, np.arange(120), np.arange(120, 240))
    real = {k: float(v) for k, v in (t.split() for t in row["truth"].split("; "))}
    assert row["best"] == max(real, key=real.get) and row["regret"] == pytest.approx(100*(max(real.values()) - real[row["chosen"]]), abs=.02)
    assert row["regret_imagenet"] == pytest.approx(100*(max(real.values()) - real["imagenet"]), abs=.02) and row["regret_blind"] > 0
    asked = []
    monkeypatch.setattr(compare_regret, "rows_of", lambda t, draws: [asked.append((t, d)) or row | dict(target=t, draw=d) for d in draws])
    for targets in (["busi"], ["busi", "knee"]): compare_regret.main(["--targets", *targets, "--draws", "1", "2", "--out", str(tmp_path/"r.csv")])
    assert asked == [("busi", 1), ("busi", 2), ("knee", 1), ("knee", 2)], "nothing is done twice"
    assert f"targets 2, choices 4, right {row['chosen'] == row['best']:.2f}, compare {row['regret']:.2f}" in capsys.readouterr().out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "two classes of 30 soft images, of which some are there twice"
    from PIL import Image
    for k in ("CATSCANS_DATA", "CATSCANS_PROBE"): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    rng = np.random.default_rng(0)
    for i in range(60):
        x = rng.normal(120, 40, (6, 6, 3))
        x[:, :3] += 30*(i % 2)
        (d := tmp_path/"mine"/"ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).resize((48, 48), Image.Resampling.BICUBIC).save(d/f"{i}.png")
        if i < 4: shutil.copy(d/f"{i}.png", d/f"copy{i}.png")
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(60)] + [f"{'ab'[i % 2]}/copy{i}.png" for i in range(4)]
    y = np.array([n[0] == "b" for n in names])
    np.savez(tmp_path/"dino.npz", ids=np.array(names), features=rng.standard_normal((64, 8)) + 2*y[:, None])
    return tmp_path


@pytest.mark.slow(20)
def test_a_folder_is_answered(folder, capsys, monkeypatch):
    from catscans.compare import comparing
    monkeypatch.setattr(comparing, "at_hand", lambda: [])
    line = ["compare", str(folder/"mine"), "--features", f"dino={folder/'dino.npz'}", "--minutes", "0.01"]
    assert main([*line, "--json"]) == 0
    r = json.loads(capsys.readouterr().out)
    assert r["best"] == "dino" and [s["start"] for s in r["starts"]] == ["dino", "random", "pixels"]
    assert r["target"]["groups"] == 60 and r["target"]["images"] == 64, "a copy is in the group of its original"
    assert r["worth"]["imagenet"] is None and r["settings"]["repeats"] == 1
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "Start from: features from dino.npz" in said and "ImageNet was not measured" in said and said.splitlines()[-1].startswith("Code: train on from")
    assert main([*line, "--test", str(folder/"mine")]) == 2 and "says nothing of images from elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("line, says", [
    ("--minutes 0", "received '0', allowed is a number of minutes above 0"),
    ("--minutes soon", "received 'soon'"),
    ("--sources squeezenit", "did you mean squeezenet?"),
    ("--features dino", "received 'dino', allowed is NAME=FILE.npz"),
    ("--features dino=nowhere.npz", "features dino: there is no file nowhere.npz"),
    ("--keep net.h5", "keep: received net.h5"),
    ("--group-col patient", ""),
])
def test_what_is_wrong_is_said_in_a_line(folder, capsys, line, says):
    path = folder/"nowhere" if not says else folder/"mine"
    assert main(["compare", str(path), *line.split()]) == 2
    err = [l for l in capsys.readouterr().err.splitlines() if l.startswith("catscans: error:")]
    assert len(err) == 1 and (says or "compare: there is no") in err[0]


def test_ctrl_c_says_what_is_kept(folder, capsys, monkeypatch):
    from catscans.compare import comparing
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr(comparing, "at_hand", lambda: [])
    monkeypatch.setattr(comparing, "one_start", stop)
    assert main(["compare", str(folder/"mine"), "--features", f"dino={folder/'dino.npz'}"]) == 130
    err = capsys.readouterr().err
    assert "stopped at: folds, cut 1 of at most 4: features from dino.npz; what is done is kept in" in err and "the same command goes on" in err
