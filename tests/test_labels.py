"""Images that each may show several things, or none: what is read, how folds are cut, what is trained on and scored, and what a record says."""
import json, zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from catscans.core.basics import UserError, hearing
from catscans.core.grid import Run, get_profile
from catscans.datasets.doctor import examine, label_facts, page
from catscans.datasets.images import Images, fingerprint
from catscans.datasets.own import from_csv, from_npz, from_path
from catscans.datasets.splits import make_splits, official_splits, single_split
from catscans.datasets.store import open_store
from catscans.metrics.scores import auc_ovr_macro, by_fold
from catscans.models.resnet import ARCHS
from catscans.recommend.ranking import load_target, rank
from catscans.records import store
from catscans.similarity.features import stratified_sample
from catscans.study import done, plan
from catscans.study.cli import main
from catscans.study.verify import prediction_problems
from catscans.task2vec.embedding import embed
from catscans.training.recipes import Recipe
from catscans.training.trainer import Trainer, fit
from catscans.transfer import run as transfer_run
from catscans.transfer.curves import subset
from catscans.transfer.extraction import classify
from catscans.transfer.folds import finetune, pretrain

N = 240


def two(unknown=0., name="toy-chest"):
    "label bright: the whole image is; label stripe: a white stripe lies across it; some of them not known"
    rng = np.random.default_rng(0)
    y = (rng.random((N, 2)) < [.4, .3]).astype(np.int64)
    x = rng.integers(60, 110, (N, 32, 32, 3)) + 60*y[:, 0, None, None, None]
    x[y[:, 1] == 1, 14:18] = 230
    y[rng.random(y.shape) < unknown] = -1
    groups = rng.integers(0, 60, N).astype(str)
    x = x.astype("uint8")
    return Images(x, y, groups, ["bright", "stripe"], None, fingerprint(x, y, groups, ["bright", "stripe"]), name, np.array([f"{i}.png" for i in range(N)]), labels=dict(uncertain="ignore"))


# reading

@pytest.fixture
def folder(tmp_path):
    "six pictures of different colours, and a function that writes a table beside them"
    for i in range(6): Image.new("RGB", (12, 12), (40*i, 10, 90)).save(tmp_path/f"{i}.png")
    def table(*rows, name="labels.csv"):
        (tmp_path/name).write_text("\n".join(rows) + "\n")
        return tmp_path/name
    table.folder = tmp_path
    return table


CHEXPERT = ("Path,Sex,Age,Edema,Fracture,Device", "0.png,F,61,1.0,,-1.0", "1.png,M,1,0.0,1.0,", "2.png,F,0,-1.0,1.0,1.0", "3.png,M,47,,,", "4.png,F,33,1.0,0.0,1.0", "5.png,M,52,,,0.0")


@pytest.mark.parametrize("how, edema, device", [(None, [1, 0, -1, 0, 1, 0], [-1, 0, 1, 0, 1, 0]), ("ignore", [1, 0, -1, 0, 1, 0], [-1, 0, 1, 0, 1, 0]), ("zeros", [1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0]), ("ones", [1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0])])
def test_uncertain_and_blank_labels_are_settled_by_the_rule_that_was_chosen(folder, how, edema, device):
    with hearing() as said: images = from_csv(folder(*CHEXPERT), 12, **({"uncertain": how} if how else {}))
    assert images.classes == ["Edema", "Fracture", "Device"]
    assert images.y.tolist() == np.stack([edema, [0, 1, 1, 0, 0, 0], device], 1).tolist()
    assert images.labels == dict(uncertain=how or "ignore", uncertain_labels=2, blank_labels=7)
    assert any("2 labels are uncertain (-1)" in s and "Irvin" in s for s in said) and any("7 labels are blank and taken as absent" in s for s in said)
    assert any("Edema, Fracture, Device are taken as the labels, of which an image can have several" in s for s in said)


def test_words_between_bars_are_labels(folder):
    with hearing() as said: images = from_csv(folder("Image Index,Finding Labels,Patient ID", "0.png,Effusion|Mass,1", "1.png,No Finding,1", "2.png,Mass,2", "3.png,Effusion,3", "4.png,No Finding,3", "5.png,Mass|Effusion|Nodule 2,4"), 12)
    assert (images.classes, images.y.tolist()) == (["Effusion", "Mass", "Nodule 2"], [[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert images.counts == {"Effusion": 3, "Mass": 3, "Nodule 2": 1} and images.of(1).tolist() == [0, 2, 5] and "3 labels" in repr(images)
    assert any("--group-col 'Patient ID'" in s for s in said)
    with hearing() as said: one = from_csv(folder("path,class", "0.png,a|b", "1.png,c", "2.png,c", "3.png,a|b"), 12)
    assert any("the | in 'a|b' is taken as part of the name of a class" in s for s in said)
    assert (one.classes, one.y.tolist()) == (["a|b", "c"], [0, 1, 1, 0])                # a bar in a name that is alone
    with pytest.raises(UserError, match="repair the row"), hearing(): from_csv(folder("path,class", "0.png,Mass|No Finding", "1.png,Mass"), 12)
    with pytest.raises(UserError, match=r"multi-label\) go into one cell, separated by \|"), hearing(): from_csv(folder("path,class", "0.png,a", "0.png,b", "1.png,a"), 12)


def test_a_single_one_in_each_row_is_a_class_as_before(folder):
    with hearing() as said: images = from_csv(folder("path,cat,dog", "0.png,1,0", "1.png,0,1", "2.png,0,1"), 12)
    assert (images.classes, images.y.tolist(), images.labels) == (["cat", "dog"], [0, 1, 1], None) and any("are taken as the classes" in s for s in said)
    with pytest.raises(UserError, match="each image has one class"), hearing(): from_path(folder("path,cat,dog", "0.png,1,0", "1.png,0,1"), 12, uncertain="ones")


def test_arrays_of_several_labels(tmp_path):
    x, rng = np.arange(5*64, dtype="uint8").reshape(5, 8, 8), np.random.default_rng(0)
    several, single = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]]), np.eye(3, dtype=int)[[2, 0]]
    np.savez(tmp_path/"a.npz", train_images=x[:3], train_labels=several, test_images=x[3:], test_labels=single)
    with hearing() as said: images = from_npz(tmp_path/"a.npz", 8)
    assert images.y.tolist() == [*several.tolist(), *single.tolist()] and images.split.tolist() == ["train"]*3 + ["test"]*2      # a part with single 1s by chance
    assert any("hold 3 labels, of which an image can have several" in s for s in said)
    np.savez(tmp_path/"b.npz", images=x[:2], labels=single)
    with hearing(): assert from_npz(tmp_path/"b.npz", 8).y.tolist() == [1, 0]                # numbered by those that are there
    np.savez(tmp_path/"c.npz", images=x[:3], labels=np.array([[1, np.nan], [0, -1], [0, 1]]))
    with hearing() as said: assert from_npz(tmp_path/"c.npz", 8, uncertain="ones").y.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert any("1 label is uncertain (-1), counted as present" in s for s in said)
    for labels, says in ((np.zeros((5, 4)), "multi-label"), (np.ones((5, 2)), "multi-label"), (rng.random((5, 2)), "multi-label"), (np.full((5, 2), 2), "multi-label")):
        np.savez(tmp_path/"d.npz", images=x, labels=labels)
        with pytest.raises(UserError, match=says), hearing(): from_npz(tmp_path/"d.npz", 8)
    np.savez(tmp_path/"e.npz", train_images=x[:3], train_labels=several, test_images=x[3:], test_labels=[0, 1])
    with pytest.raises(UserError, match="different kinds"), hearing(): from_npz(tmp_path/"e.npz", 8)


def test_folder_and_zip_agree_and_the_store_keeps_what_was_settled(folder, tmp_path):
    folder(*CHEXPERT)
    with zipfile.ZipFile(tmp_path/"all.zip", "w") as z: [z.write(f, f.name) for f in sorted(tmp_path.glob("*.png")) + [tmp_path/"labels.csv"]]
    with hearing(): a, b, c = from_path(tmp_path, 12), from_path(tmp_path/"all.zip", 12), from_path(tmp_path, 12, uncertain="ones")
    assert np.array_equal(a.y, b.y) and a.classes == b.classes and a.fingerprint != c.fingerprint and (a.y != c.y).any()
    a.save(tmp_path/"kept")
    again = open_store(tmp_path/"kept")
    assert (again.y.tolist(), again.labels, again.fingerprint) == (a.y.tolist(), a.labels, a.fingerprint)
    assert a.subset([0, 2]).labels == a.labels and a.subset([0, 2]).y.shape == (2, 3)


def test_notes_on_an_archive_that_is_added_name_the_archive(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"data")); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work")); (tmp_path/"data").mkdir()
    folder(*CHEXPERT)
    with zipfile.ZipFile(tmp_path/"all.zip", "w") as z: [z.write(f, f.name) for f in sorted(tmp_path.glob("*.png")) + [tmp_path/"labels.csv"]]
    assert main(["data", "add", str(tmp_path/"all.zip")]) == 0
    said = "".join(capsys.readouterr().err.split())
    assert f"{tmp_path}/all.zip/labels.csv:thecolumn" in said and ".adding-" not in said


# folds

@pytest.mark.parametrize("protocol", ["grouped", "described", "published"])
def test_every_fold_has_every_label_present_and_absent(protocol):
    images = two(unknown=.1)
    for part in [f.test for f in make_splits(images.y, images.groups, protocol)] + [single_split(images.y, images.groups, protocol).test]:
        assert all(set(np.unique(images.y[part, c])) >= {0, 1} for c in range(2))
    s = make_splits(images.y, images.groups, protocol, max_train=50)
    assert {len(f.train) for f in s} == {50} and s.fingerprint == make_splits(images.y, images.groups, protocol, max_train=50).fingerprint


def test_groups_are_never_split():
    images = two()
    parts = [(f.train, f.test) for f in make_splits(images.y, images.groups, "grouped")]
    parts += [(f.train, np.r_[f.valid, f.test]) for f in [single_split(images.y, images.groups)]]
    assert not any(set(images.groups[a]) & set(images.groups[b]) for a, b in parts)
    assert sorted(np.concatenate([f.test for f in make_splits(images.y, images.groups)]).tolist()) == list(range(N))


def test_what_a_fold_cannot_have_is_said():
    images = two()
    y = images.y.copy()
    y[:, 1] = 0
    y[:2, 1] = 1
    with hearing() as said: make_splits(y, images.groups, "grouped", 5, classes=images.classes, name="lungs")
    assert len(said) == 1 and said[0].startswith("lungs: part") and "holds no image with stripe (2 images of all)" in said[0]
    with pytest.raises(UserError, match="no label has 5 groups"): make_splits(np.where(np.arange(N)[:, None] < 2, 1, 0)*[1, 1], np.arange(N)//2, "grouped", 5)
    parts = replace(images, split=np.array(["train"]*200 + ["test"]*40), y=np.where(np.arange(N)[:, None] < 200, images.y, [0, 1]))
    with hearing() as said: official_splits(parts)
    assert len(said) == 1 and "the held-out part of fold 1 holds no image with bright" in said[0]


# training, scoring, the record

RECIPE = Recipe(lr=2e-3, epochs=4, batch=32, size=32, schedule="cosine")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "a run on two labels, of which a tenth is not known: its record, its images, what was said, and why its step would have to run again"
    with pytest.MonkeyPatch.context() as mp:
        for v in ("PROJECT", "WORK"): mp.setenv(f"CATSCANS_{v}", str(tmp_path_factory.mktemp(v)))
        mp.setattr(transfer_run, "set_threads", lambda n: n)
        images, run = two(unknown=.1), Run("random", "toy-chest")
        profile = replace(get_profile("toy"), folds=2, arch="resnet50-conv2", size=32)
        world = replace(transfer_run.HERE, images_of=lambda *a: images, profile=lambda name: profile, recipe_for=lambda *a: RECIPE)
        with hearing() as said: path = transfer_run.execute(run, None, world)
        step = next(s for s in plan.plan("toy") if s.slug == run.slug)
        return store.read(path), images, said, done.problem(step, world)


@pytest.mark.slow(40)
def test_both_labels_are_learned(trained):
    rec, *_ = trained
    for f in rec["folds"]: assert all(of["auc"] > .9 for of in f["per_class"].values()), f["per_class"]


@pytest.mark.slow(1)
def test_answers_are_probabilities_of_each_label_by_itself(trained):
    a = store.predictions(trained[0])
    assert a.y.shape == a.p.shape == (N, 2) and 0 <= a.p.min() and a.p.max() <= 1 and np.abs(a.p.sum(1) - 1).max() > .5


@pytest.mark.slow(1)
def test_the_record_is_valid_counts_as_done_and_says_what_its_predictions_give(trained):
    rec, images, _, problem = trained
    assert not problem and prediction_problems(rec) == [] and store.validate(json.loads(json.dumps(rec)))
    assert rec["data"]["target"]["labels"] == dict(uncertain="ignore", several=True) and rec["data"]["target"]["classes"] == images.classes
    a, f = store.predictions(rec), rec["folds"][0]
    y, p = a.y[a.fold == 1], a.p[a.fold == 1]
    auc = [roc_auc_score(y[y[:, c] >= 0, c], p[y[:, c] >= 0, c]) for c in range(2)]
    assert [of["auc"] for of in f["per_class"].values()] == pytest.approx(auc) and f["auc_ovr_macro"] == pytest.approx(np.mean(auc)) == auc_ovr_macro(y, p)
    assert sum(of["unknown"] for f in rec["folds"] for of in f["per_class"].values()) == (images.y < 0).sum() > 0
    assert by_fold(a).auc_ovr_macro[0] == f["auc_ovr_macro"]
    p = store.predictions(rec).p.copy()
    rec["predictions"]["p"] = transfer_run.pack(1 - p)
    assert prediction_problems(rec)


@pytest.mark.slow(2)
def test_a_record_of_several_labels_is_shown(trained):
    from catscans.figures import show
    rec, images, *_ = trained
    assert "240 images of 2 labels at 32 x 32" in str(show.heading(rec))
    assert len(show.curves(rec).axes[1].lines) == 3                                      # two labels and the diagonal
    title = show.samples(rec, images).axes[0].get_title()
    assert "→" in title and set(title.replace("→", "").replace(",", "").split()) <= {"bright", "stripe", "none"}


@pytest.fixture(scope="module")
def network():
    "ResNet50 cut after its first convolution, with a sigmoid for each of two labels"
    ARCHS["labels"] = "pool1_pool"
    yield Trainer(2, 32, Recipe(lr=1e-3, batch=32, epochs=3), arch="labels", head="sigmoid")
    del ARCHS["labels"]


def weights_after(network, y, checkpoint=None, on_epoch=None):
    images = two()
    network.use(Recipe(lr=1e-3, batch=32, epochs=3))
    fit(network, images.x, y, np.arange(96), 1, None, checkpoint, 0, on_epoch=on_epoch)
    return network.weights()


def same(a, b): return all(np.array_equal(v, b[k]) for k, v in a.items())


@pytest.mark.slow(5)
def test_unknown_labels_have_no_effect_on_the_weights(network, monkeypatch):
    y, engine = two(unknown=.3).y, network.engine
    first = weights_after(network, y)
    class Other(type(engine)):
        def steps(self, x, at, theta, y, w):
            assert all(np.array_equal(v == 0, b == -1) for b, v in zip(y, w))
            return super().steps(x, at, theta, [np.where(v == 0, 1 - b, b) for b, v in zip(y, w)], w)
    monkeypatch.setattr(network, "engine", Other(network))
    assert same(first, weights_after(network, y))
    monkeypatch.setattr(network, "engine", engine)
    assert not same(first, weights_after(network, np.where(y < 0, 0, y)))                 # as it would be if they counted as absent


@pytest.mark.slow(5)
def test_a_killed_training_goes_on_to_the_same_bits(network, tmp_path):
    class Killed(Exception): pass
    def kill(epoch, epochs, log):
        if epoch == 1: raise Killed
    y = two(unknown=.2).y
    whole = weights_after(network, y)
    with pytest.raises(Killed): weights_after(network, y, tmp_path/"c.npz", kill)
    network.reset(None, 9)
    assert same(whole, weights_after(network, y, tmp_path/"c.npz"))


@pytest.mark.slow(8)
def test_a_backbone_goes_from_labels_to_classes_and_back(network):
    labels, r = two(), Recipe(lr=1e-3, batch=32, epochs=1)
    classes = replace(labels, y=np.arange(N) % 2, fingerprint="classes", name="classes", labels=None)
    with hearing():
        one = pretrain(labels, r, trainer=network)
        with pytest.raises(UserError, match="head.*sigmoid.*softmax"): finetune(one.weights, classes, r, folds=2, trainer=network)
        two_ = finetune(one.weights, classes, r, folds=2, arch="labels")
        three = finetune({k: v for k, v in pretrain(classes, r, arch="labels").weights.items()}, labels, r, folds=2, trainer=network)
    assert one.evaluation["test"]["per_class"].keys() == {"bright", "stripe"} and one.predictions.shape[1] == 2
    assert np.allclose(two_.p.sum(1), 1, atol=1e-5) and two_.y.ndim == 1
    assert np.abs(three.p.sum(1) - 1).max() > .01 and three.y.shape == (N, 2)


@pytest.mark.slow(1)
@pytest.mark.parametrize("keeps, says", [(True, "the same call goes on where it was"), (False, "nothing is kept, as no workdir= was given")])
def test_ctrl_c_says_what_is_kept_and_not_what_the_backend_did(network, monkeypatch, tmp_path, keeps, says):
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr("catscans.transfer.folds.one_fold", stop)
    with hearing(), pytest.raises(KeyboardInterrupt, match=f"stopped in fold 1 of 2; {says}") as e:
        finetune(None, two(), Recipe(lr=1e-3, batch=32, epochs=3), folds=2, trainer=network, **(dict(workdir=tmp_path) if keeps else {}))
    assert e.value.__suppress_context__ and e.value.__cause__ is None


def test_labels_that_do_not_fit_the_head_are_refused(network):
    for y, says in ((two().y[:, 0], "allowed are rows of 2 labels"), (two().y + 1, "allowed are rows of 2 labels"), (np.full((N, 2), -1), "2 of 2 labels are known of none")):
        with pytest.raises(UserError, match=says): weights_after(network, y)


# what needs one class for each image, and what does not

def test_what_needs_one_class_says_so_in_a_line():
    images = two()
    class Probe: body = type("Body", (), dict(input_shape=(None, 32, 32, 3)))
    for ask in (lambda: stratified_sample(images.y, 10), lambda: subset(np.arange(9), images.y, None, .5, 1), lambda: classify(images.x.reshape(N, -1)[:, :9], images)):
        with pytest.raises(UserError, match="needs one class for each image, and these have several labels \\(2\\)"): ask()
    from catscans.models.probes import Probe as Real
    probe = Real.__new__(Real)
    with pytest.raises(UserError, match="toy-chest: Task2Vec needs one class"): embed(images, probe)


@pytest.mark.slow(3)
def test_commands_take_labels_and_say_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"data")); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work")); (tmp_path/"data").mkdir()
    images = two(unknown=.1)
    np.savez(tmp_path/"two.npz", images=images.x, labels=images.y, groups=images.groups)
    with hearing():
        r = examine(tmp_path/"two.npz", uncertain="ones")
        target, n = load_target(tmp_path/"two.npz", 32, most=100)
        found = rank(target, whole=n)
    text = page(r)
    assert r["labels"]["uncertain"] == "ones" and r["labels"]["unknown"] == 0 and "2 labels" in text and "images with none of them" in text and "by group" in text
    assert " bytes" not in text.split("files ")[0] and f"{N} images (100 used), 2 labels" in found.text()
    assert 0 < r["shortcuts"]["auc"]["brightness"]["by group"] <= 1
    assert (n, len(target), target.y.shape) == (N, 100, (100, 2)) and len(found.table) > 1 and any("several of 2 labels" in s for s in found.notes)
    assert main(["data", "add", str(tmp_path/"two.npz"), "--uncertain", "zeros"]) == 0
    out = capsys.readouterr().out
    assert "240 images, 2 labels" in out and "images with each label: 0 " in out
    assert main(["data", "check", "two"]) == 0


def test_label_columns_can_be_named(folder):
    "other columns of 0 and 1 are no labels then; a name that is none, or a column of other values, is refused"
    t = folder("path,male,covid,pneumonia,age", *(f"{i}.png,{i % 2},{int(i > 1)},{int(i > 3)},{30+i}" for i in range(6)))
    im = from_csv(t, size=9, class_col="covid,pneumonia")
    assert im.classes == ["covid", "pneumonia"] and im.y.tolist() == [[0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [1, 1]]
    assert "male" in from_csv(t, size=9).classes
    with pytest.raises(UserError, match="no column covd .*did you mean covid"): from_csv(t, size=9, class_col="covd,pneumonia")
    with pytest.raises(UserError, match="the column age is no label: allowed are 1, 0, -1"): from_csv(t, size=9, class_col="covid,age")


def test_who_has_none_of_the_labels_is_only_who_is_known_to_have_none():
    images = two(unknown=.3)
    assert label_facts(images)["none"] == int((images.y == 0).all(1).sum()) > 0
