"One path, one answer: rank, add, doctor and finetune read the same images, labels and groups, and say which split they use."
import json, subprocess, sys, warnings, zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from catscans.core.basics import UserError
from catscans.core.grid import Run
from catscans.records import store
from catscans.datasets.doctor import checks
from catscans.datasets.images import Images
from catscans.datasets.loading import load
from catscans.datasets.own import from_path
from catscans.datasets.splits import official_splits
from catscans.recommend.ranking import load_target
from catscans.models.weights import save_weights
from catscans.study.cli import main
from catscans.study import done, plan
from catscans.training.recipes import Recipe
from catscans.transfer import folds, run as transfer_run

N, SIZE = 48, 24
LABELS = np.array(["cat", "kitty", "dog"])[np.r_[np.zeros(12, int), np.ones(12, int), np.full(24, 2)]]      # two names of a class
PARTS = np.array(["train", "train", "test"])[np.arange(N) % 3]
PEOPLE = np.array([f"p{i//4}" for i in range(N)])
KINDS = ("folder", "zip", "csv", "npz", "table zip")

pytestmark = pytest.mark.slow(10)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    for k in ("data", "work"): monkeypatch.setenv(f"CATSCANS_{k.upper()}", str(tmp_path/k))
    (tmp_path/"data").mkdir()


def pixels(deep):
    "noise that differs from image to image; deep: of 10 bits, in 16"
    v = np.random.default_rng(3).integers(0, 1000 if deep else 256, (N, SIZE, SIZE))
    return v.astype(np.uint16 if deep else np.uint8)


def packed(root, to):
    with zipfile.ZipFile(to, "w") as z: [z.write(f, f.relative_to(root)) for f in sorted(root.rglob("*")) if f.is_file()]
    return to


def written(kind, root, deep=False):
    "the images as a user has them, and how they are to be read"
    span, x, twins = (["--range=0,765"] if deep else []), pixels(deep), ["--rename", "kitty=cat"]
    if kind == "npz":
        words = np.where(LABELS == "kitty", "cat", LABELS)
        np.savez(root/"mine.npz", train_images=x, train_labels=words, train_groups=PEOPLE)
        return root/"mine.npz", [*span, "--rename", "dog=hound"]
    flat = kind in ("csv", "table zip")
    d = root/"mine"
    names = [f"{i:02}.png" if flat else f"{p}/{c}/{i:02}.png" for i, (p, c) in enumerate(zip(PARTS, LABELS))]
    for n, v in zip(names, x):
        (d/n).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(v).save(d/n)
    if flat:
        rows = "\n".join(f"{n},{c},{p}" for n, c, p in zip(names, LABELS, PEOPLE))
        (d/"labels.csv").write_text(f"path,class,subject\n{rows}\n")
    how = [*span, *twins, *(["--group-col", "subject"] if flat else ["--parts", "pool"])]
    return {"folder": d, "csv": d/"labels.csv"}.get(kind) or packed(d, root/"mine.zip"), how


def options(words):
    "the words of a command line as Python's"
    out, words = {}, iter(words)
    for w in words:
        if w.startswith("--range"): out["range"] = w.split("=")[1]
        elif w == "--rename": out["rename"] = dict([next(words).split("=")])
        else: out[w[2:].replace("-", "_")] = next(words)
    return out


@pytest.mark.parametrize("kind, deep", [*((k, True) for k in KINDS), ("csv", False), ("zip", False)])
def test_every_command_reads_the_same_of_a_path(kind, deep, tmp_path, capsys):
    path, how = written(kind, tmp_path, deep)
    kw = options(how)
    images = from_path(path, 64, **kw)
    asked = [load(path, 64, **kw), load_target(path, 64, **kw)[0]]
    assert main(["data", "add", str(path), "--name", "own", *how]) == 0
    asked += [load("own", 64), load_target("own", 64)[0]]
    for other in asked:
        assert (other.fingerprint, other.classes, other.counts) == (images.fingerprint, images.classes, images.counts)
        np.testing.assert_array_equal(other.x, images.x)
        assert other.y.tolist() == images.y.tolist() and (other.groups is None) == (images.groups is None)
        if images.groups is not None: assert other.groups.tolist() == images.groups.tolist()
    capsys.readouterr()
    assert main(["data", "doctor", str(path), "--json", *how]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["fingerprint"], told["classes"]) == (images.fingerprint, images.counts)
    if kind in ("folder", "csv"):            # the command's words, as far as they are not those of load_target
        assert main(["rank", str(path), "--json", *how]) == 0
        assert json.loads(capsys.readouterr().out)["target"]["fingerprint"] == from_path(path, 112, **kw).fingerprint
    # and it is what was written, whatever it came in
    cat, dog = images.classes
    assert (cat, dog) == ("cat", "hound" if kind == "npz" else "dog") and images.counts == {cat: 24, dog: 24}
    want = pixels(deep)
    want = (np.clip(want/765, 0, 1)*255).round().astype(np.uint8) if deep else want
    small = from_path(path, SIZE, **kw)      # as large as they are: nothing is resized
    key = lambda x, y, g: sorted((int(c), str(p), v.tobytes()) for v, c, p in zip(x, y, g))
    assert key(small.x[..., 0], small.y, small.groups if small.groups is not None else PEOPLE[:1].repeat(N)) == key(
        want, LABELS == "dog", PEOPLE if small.groups is not None else PEOPLE[:1].repeat(N))
    assert (small.groups is None) == (kind in ("folder", "zip"))


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
def test_a_column_where_there_is_no_table_is_refused_by_all(kind, tmp_path, capsys):
    path, how = written(kind, tmp_path)
    how = [*how, "--group-col", "subject"]
    lines = []
    for command in (["data", "add"], ["data", "doctor"], ["rank"]):
        assert main([*command, str(path), *how]) == 2
        lines.append(capsys.readouterr().err)
    assert all("--group-col" in s and "holds no table" in s for s in lines), lines
    with pytest.raises(UserError, match="holds no table"): from_path(path, 24, **options(how))


def test_ways_of_reading_are_for_paths(tmp_path, capsys):
    path, how = written("csv", tmp_path)
    assert main(["data", "add", str(path), "--name", "own", *how]) == 0
    assert main(["rank", "own", "--range", "12"]) == 2 and "received --range with own" in capsys.readouterr().err
    assert main(["rank", "own", "--group-col", "x"]) == 2 and "received --group-col with own" in capsys.readouterr().err


# ---- what a training says before it begins

def mine(name="mine", split=None, groups=None, twins=False):
    x = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    if twins: x[7] = x[2]
    return Images(x=x, y=np.arange(40) % 2, groups=groups, classes=["a", "b"], card=SimpleNamespace(collection=None, licence=""), fingerprint=f"{name}{twins}",
                  name=name, paths=np.array([f"{i}.png" for i in range(40)]), split=split)


class Fake:
    n_classes, size, arch, precision, recipe, head = 2, 32, "tiny", "float32", None, SimpleNamespace(name="softmax")
    def use(self, recipe): return self
    def recalibrate(self, x, index, seed): pass
    def predict(self, x, index): return np.full((len(index), 2), .5, "float32")
    def weights(self): return dict(a=np.zeros(1, "float32"))


@pytest.fixture
def said(monkeypatch):
    "runs a training that does nothing; what it gives, and its notes"
    monkeypatch.setattr(folds, "fit", lambda *a, **kw: [dict(loss=1., accuracy=.5, lr=.1, seconds=0.)])
    monkeypatch.setattr(folds, "_SAID", {})
    def go(f, *args, **kw):
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter("always")
            out = f(*args, Recipe(epochs=1), trainer=Fake(), **kw)
        return out, [str(v.message) for v in w]
    return go


OFFICIAL = np.array(["train"]*24 + ["val"]*6 + ["test"]*10)


def test_a_fine_tuning_says_its_split_and_what_the_doctor_finds_once(said):
    images = mine(twins=True, split=OFFICIAL)
    got, notes = said(folds.finetune, None, images, folds=2)
    assert len(got.splits) == 2 and sum("2 folds cut anew, protocol grouped, seed 1; the official split that the data carry is not used" in n for n in notes) == 1
    assert [n for n in notes if n not in notes[:2]] == [f"mine: {s}" for s in checks(images, official=False)] and any("2.png and 7.png" in n for n in notes)
    again, notes = said(folds.finetune, None, images, folds=2)
    assert got.notes == again.notes == tuple(checks(images, official=False)), "what is not said again stays with the result"
    again = notes
    assert not any("2.png" in n for n in again) and any("2 folds cut anew" in n for n in again)
    assert any("one split (" in n and "cut anew" in n for n in said(folds.pretrain, images)[1])


def test_the_official_split_is_trained_on_when_it_is_asked_for(said):
    images = mine(split=OFFICIAL)
    got, notes = said(folds.finetune, None, images, split="official")
    fold, = got.splits
    assert (fold.train.tolist(), fold.valid.tolist(), got.index.tolist()) == (list(range(24)), list(range(24, 30)), list(range(30, 40)))
    assert notes[0] == "mine: the official split of the data: 24 train, 6 val, 10 test" and not any("drawn by image" in n for n in notes)
    less, _ = said(folds.finetune, None, images, split="official", max_train=8)
    assert less.folds[0]["n_train"] == 8 and set(less.splits.folds[0].train) < set(range(24)) and less.splits.fingerprint != got.splits.fingerprint
    out, _ = said(folds.pretrain, images, split="official")
    assert (out.split.train.tolist(), out.split.test.tolist()) == (list(range(24)), list(range(30, 40)))
    without, _ = said(folds.pretrain, replace(images, split=np.array(["train"]*30 + ["test"]*10)), split="official")
    assert set(without.evaluation) == {"train", "test"}
    with pytest.raises(UserError, match="carries no official split"): said(folds.finetune, None, mine(), split="official")
    with pytest.raises(UserError, match="did you mean official"): said(folds.finetune, None, images, split="offical")
    with pytest.raises(UserError, match="its official split has 4 folds"): said(folds.pretrain, mine(split=np.repeat(list("1234"), 10)), split="official")


def test_a_run_on_the_official_split_says_so_in_its_record_and_does_not_count_as_the_studys(said, tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    run, images, world = Run("random", "toy-chest"), mine("toy-chest", OFFICIAL), transfer_run.HERE
    world = replace(world, images_of=lambda *a: images, trainer=lambda *a: Fake())
    monkeypatch.setattr(transfer_run, "set_threads", lambda n: n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rec = world.read(transfer_run.execute(run, None, world))
        assert not {"split"} & {*rec["settings"], *rec["splits"]} and rec["settings"]["folds"] == rec["splits"]["k"] == 5
        step = next(s for s in plan.plan("toy") if s.slug == run.slug)
        assert not done.problem(step)
        with pytest.raises(UserError, match="holds this run on folds cut anew"): transfer_run.execute(run, None, world, "official")
        run.record.unlink()
        rec = world.read(transfer_run.execute(run, None, world, "official"))
    assert (rec["settings"]["split"], rec["settings"]["folds"], rec["splits"]["fingerprint"]) == ("official", 1, official_splits(images, seed=run.seed).fingerprint)
    assert "split was official, is now folds" in done.problem(step)
    with pytest.raises(UserError, match="is for fine-tunings"): transfer_run.execute(Run("toy-dtd"), None, world, "official")


def test_a_source_that_saw_the_targets_own_images_is_noticed_and_recorded(said, tmp_path, monkeypatch):
    "by the images, whatever they are called, also after the weights lay in a file; and it stands in the record"
    source, target = mine("theirs"), mine("ours")
    weights = said(folds.pretrain, source)[0].weights
    save_weights(weights, tmp_path/"w.h5")
    trained_on = weights.seen.n
    assert trained_on < 40      # the held-out tenths were not seen
    for w in (weights, tmp_path/"w.h5"):
        got, notes = said(folds.finetune, w, target, folds=2)
        assert got.source_saw == dict(source="theirs", images=trained_on)
        assert sum(f"ours: its source was pretrained on {trained_on} of its 40 images (source theirs)" in n for n in notes) == 1
    other = replace(target, x=255 - target.x)
    got, notes = said(folds.finetune, weights, other, folds=2)
    assert got.source_saw == {} and not any("pretrained on" in n for n in notes)

    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    monkeypatch.setattr(transfer_run, "set_threads", lambda n: n)
    world = replace(transfer_run.HERE, images_of=lambda name, *a: replace(source if name == "toy-dtd" else target, name=name), trainer=lambda *a: Fake())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transfer_run.execute(Run("toy-dtd"), None, world)
        rec = world.read(transfer_run.execute(Run("toy-dtd", "toy-chest"), None, world))
        alone = world.read(transfer_run.execute(Run("random", "toy-chest"), None, world))
    assert rec["settings"]["source_saw"]["source"] == "toy-dtd" and 0 < rec["settings"]["source_saw"]["images"] < 40
    assert "source_saw" not in alone["settings"]


def test_the_record_of_a_run_holds_what_the_doctor_says(said, tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    images = mine("toy-chest", twins=True)
    world = replace(transfer_run.HERE, images_of=lambda *a: images, trainer=lambda *a: Fake())
    monkeypatch.setattr(transfer_run, "set_threads", lambda n: n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [world.read(transfer_run.execute(run, None, world)) for run in (Run("toy-chest"), Run("random", "toy-chest"))]
    for rec in found:
        assert rec["notes"] == checks(images, official=False) and any("2.png and 7.png" in s for s in rec["notes"])
        older = {k: v for k, v in rec.items() if k not in ("notes", "checksum")}
        assert store.validate(older) and store.equal(older, rec), "a record without notes is valid, and the same run"


def test_a_machine_without_scikit_learn_or_pandas_says_what_it_leaves_out(monkeypatch):
    images = mine(groups=np.array([f"g{i//2}" for i in range(40)]), twins=True)
    for lib in ("sklearn", "sklearn.model_selection", "pandas"): monkeypatch.setitem(sys.modules, lib, None)
    got = checks(images)
    assert "whether every fold can have every class was not tried: scikit-learn is not installed here" in got
    assert "near duplicates were not looked for: pandas is not installed here" in got and any("2.png and 7.png" in s for s in got)


def test_importing_what_trains_needs_no_pandas():
    code = "import sys\nfrom catscans.transfer import folds, run\nassert not {'pandas', 'sklearn', 'matplotlib'} & set(sys.modules), sorted(set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
