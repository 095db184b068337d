"""Faults that once passed every test: each test here is for a change of the code that nobody noticed.

The networks are ResNet50 cut after its first convolution and the images are noise: what is held here depends on neither."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from catscans.core.grid import PROFILES, Run
from catscans.core.basics import UserError, pack, unpack
from catscans.datasets import splits, store as image_store
from catscans.datasets.images import Images, Listing
from catscans.models.resnet import ARCHS
from catscans.records import examples, frames, store
from catscans.training import augmentation
from catscans.training.recipes import Recipe
from catscans.training.trainer import Trainer
from catscans.transfer import folds, run as transfer_run
from fakes import similarity_record


def noise(n=60, classes=2, name="noise", groups=None, seed=0, collection=None):
    rng = np.random.default_rng(seed)
    groups = np.array([f"g{i//3}" for i in range(n)]) if groups is None else np.array(groups)
    return Images(x=rng.integers(0, 256, (n, 32, 32, 3)).astype("uint8"), y=np.arange(n) % classes, groups=groups, classes=list("abcdef"[:classes]),
                  card=SimpleNamespace(collection=collection, licence=""), fingerprint=name, name=name, paths=np.array([f"{name}/{i}" for i in range(n)]))


@pytest.fixture(scope="module")
def trainer():
    ARCHS["tiny"] = "pool1_pool"
    yield Trainer(2, 32, Recipe(lr=1e-12, batch=16, epochs=1), arch="tiny")
    del ARCHS["tiny"]


# ---- what a fine-tuning starts from

def test_a_fine_tuning_starts_from_its_sources_backbone_and_a_new_head(trainer):
    "at a learning rate of next to nothing the network after a fold is the one before it"
    source = {k: np.random.default_rng(1).normal(size=v.shape).astype("float32") for k, v in trainer.weights().items()}
    source |= {k: np.abs(v) for k, v in source.items() if "variance" in k}
    folds.finetune(source, noise(), Recipe(lr=1e-12, batch=16, epochs=1, batchnorm="keras"), folds=2, trainer=trainer, seed=3)
    got = trainer.weights()
    learned = [k for k in got if "moving" not in k]                  # BatchNorm's averages are of the target's images
    assert {k.split("/")[0] for k in learned} >= {"conv1_conv", "predictions"}
    for k in learned:
        if k.startswith("predictions/"): assert not np.allclose(got[k], source[k], atol=.1), f"{k} is the source's head"
        else: np.testing.assert_allclose(got[k], source[k], atol=1e-6, err_msg=f"{k} is not the source's")


def test_what_a_target_holds_out_is_not_seen_by_its_source(tmp_path, monkeypatch):
    "self pairs: each fold's held-out groups; shared sources: every shared group"
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    seen = []
    monkeypatch.setattr(transfer_run, "pretrain", lambda images, *a, split, **kw: seen.append((images, split)) or SimpleNamespace(weights=dict(a=np.zeros(1, "float32"))))
    job = transfer_run.Job(Run("toy-dtd", "toy-chest"), PROFILES["toy"], None, 32, world=SimpleNamespace(recipe_for=lambda *a: Recipe()))
    source, target = noise(60, collection="one"), noise(60, name="target", collection="one")     # of the same groups
    start = transfer_run._starting_point(job, source, target)
    assert (start.relation, start.weights) == ("self", None)
    cut = splits.make_splits(target.y, target.groups, "grouped", 5, 1)
    for i, fold in enumerate(cut): start.per_fold(None, fold, i)
    assert len(seen) == 5
    for (images, split), fold in zip(seen, cut):
        held_out, learned = set(target.groups[fold.test]), set(source.groups[split.train])
        assert images is source and held_out and not held_out & learned and learned == set(source.groups) - held_out
    seen.clear()
    target = noise(30, name="other", groups=[f"g{i//3 + 15}" for i in range(30)], collection="one")     # g15 to g24: five of them are the source's
    start = transfer_run._starting_point(job, source, target)
    assert (start.relation, start.per_fold) == ("shared", None) and start.weights is not None
    [(images, split)] = seen
    assert set(source.groups[split.train]) == {f"g{i}" for i in range(15)}
    start = transfer_run._starting_point(replace(job, run=Run("toy-dtd", "toy-chest", protocol="published"), world=None), None, target)
    assert start.relation == "none" and len(seen) == 1


# ---- an epoch

class Told:
    "an engine that writes down what it is given"
    keeps_images = False
    def __init__(self, trainer): self.told, self.rates, self.trainer = [], [], trainer
    def steps(self, x, at, theta, y, w):
        self.told.append((at, theta, y, w))
        self.rates.append(float(self.trainer.optimizer.learning_rate))
        return [(0., 0.)]*len(at)
    def forget(self): pass


@pytest.fixture
def told(trainer, monkeypatch):
    "a function that goes through epochs and gives what the engine was told in each, and the state of dropout"
    engine, state = Told(trainer), []
    monkeypatch.setattr(trainer, "engine", engine)
    def go(images, times, index=None, **recipe):
        trainer.use(replace(Recipe(batch=16), **recipe))
        for e in range(times):
            trainer.epoch(images.x, images.y, np.arange(len(images.y)) if index is None else index, e, seed=5)
            state.append([np.asarray(l.seed_generator.state.value).copy() for l in trainer.model.layers if l.__class__.__name__ == "Dropout"])
        return engine.told, state
    go.engine = engine
    return go


def test_rare_classes_weigh_more_and_only_where_that_is_asked_for(told):
    images = replace(noise(64), y=np.r_[np.zeros(48, int), np.ones(16, int)])
    for asked in (True, False):
        told_, _ = told(images, 1, class_weight=asked)
        y, w = (np.concatenate(v) for v in told_.pop()[2:])
        assert set(np.round(w[y == 1]/w[y == 0][0], 5)) == {3. if asked else 1.}


def test_class_weights_are_those_of_training_images(told):
    "the rare class of those that are trained on, not of all"
    told_, _ = told(replace(noise(64), y=np.r_[np.zeros(24, int), np.ones(40, int)]), 1, index=np.arange(32))
    y, w = (np.concatenate(v) for v in told_[0][2:])
    assert len(y) == 32 and (w[y == 1]/w[y == 0][0]).round(5).tolist() == [3.]*8


def test_every_epoch_has_its_own_order_its_own_shifts_and_its_own_dropout(told):
    (a, b), (c, d) = told(noise(64), 2)
    assert sorted(np.concatenate(a[0])) == sorted(np.concatenate(b[0])) and not all(np.array_equal(i, j) for i, j in zip(a[0], b[0]))
    assert not np.array_equal(a[1][0], b[1][0])
    assert c and all(not np.array_equal(i, j) for i, j in zip(c, d))


@pytest.mark.parametrize("schedule, rates", [("constant", [.1]*4), ("step:0.5:2", [.1, .1, .05, .05]), ("compound:0.5:2", [.1, .1, .05, .025]), ("cosine", [.1, .0853553391, .05, .0146446609])])
def test_steps_are_as_long_as_the_schedule_says(told, schedule, rates):
    "what the optimizer holds while an epoch's steps are made"
    told(noise(32), 4, lr=.1, schedule=schedule, epochs=4)
    np.testing.assert_allclose(told.engine.rates, rates, rtol=1e-6)


def test_the_published_protocol_keeps_its_sources_dropout(monkeypatch):
    from catscans.training import recipes
    of = recipes.RECIPES["paper"]["pretrain"]
    monkeypatch.setitem(of, "dtd", replace(of["dtd"], dropout=.25))
    assert [recipes.recipe_for("paper", "finetune", "chest", p, "dtd").dropout for p in ("published", "described")] == [.25, .5]
    assert recipes.recipe_for("paper", "finetune", "chest", "published", "stl10").dropout == .5


def test_averages_are_those_of_training_images(monkeypatch):
    "BatchNorm's are estimated again on what was learned from, never on what is held out, and each part is scored on its own images"
    seen, scored, images = [], [], noise(60)
    class Fake:
        n_classes, size, arch, precision, recipe, head = 2, 32, "tiny", "float32", None, SimpleNamespace(name="softmax")
        def use(self, recipe): return self
        def recalibrate(self, x, index, seed): seen.append(set(index.tolist()))
        def predict(self, x, index):
            scored.append(index.tolist())
            return np.full((len(index), 2), .5, "float32")
        def weights(self): return dict(a=np.zeros(1, "float32"))
    seeds = []
    monkeypatch.setattr(folds, "fit", lambda trainer, x, y, index, seed, *a, **kw: seeds.append(seed) or [dict(loss=1., accuracy=.5, lr=.1, seconds=0.)])
    recipe = Recipe(batchnorm="recalibrate", epochs=1)
    got = folds.finetune(None, images, recipe, folds=3, trainer=Fake())
    assert len(set(seeds)) == 3, "each fold has weights and an order of its own"
    assert seen == [set(f.train.tolist()) for f in got.splits] and all(not i & set(f.test.tolist()) for i, f in zip(seen, got.splits))
    assert [(f["n_train"], f["n_test"]) for f in got.folds] == [(len(f.train), len(f.test)) for f in got.splits]
    assert scored == [f.test.tolist() for f in got.splits for _ in range(2)]         # as trained, and with averages estimated again
    scored.clear()
    out = folds.pretrain(images, recipe, trainer=Fake())
    assert seen[3:] == [set(out.split.train.tolist())]
    assert scored == [getattr(out.split, part).tolist() for part in ("train", "valid", "test")]


def test_averages_are_the_statistics_of_training_images(trainer):
    "what is learned from is dark and what is held out is bright: after a fold, and after a pretraining, BatchNorm's averages are of the dark"
    import keras
    images, recipe = noise(60), Recipe(lr=1e-12, batch=16, epochs=1, batchnorm="recalibrate")
    cut = splits.make_splits(images.y, images.groups, "grouped", 2, 7)
    one = splits.single_split(images.y, images.groups, "grouped", 7)
    def as_seen(index):
        x = np.full_like(images.x, 30)
        x[index] = 220
        return replace(images, x=x)
    body = keras.Model(trainer.model.input, trainer.model.get_layer("conv1_conv").output)
    def expected(value): return np.asarray(body(np.full((1, 32, 32, 3), value, "uint8"), training=False)).mean((0, 1, 2))
    folds.finetune(None, as_seen(cut.folds[-1].test), recipe, folds=2, trainer=trainer, seed=7)
    norm, dark, bright = trainer.model.get_layer("conv1_bn"), expected(30), expected(220)
    np.testing.assert_allclose(norm.moving_mean, dark, atol=1e-3*np.abs(bright).max())
    assert np.abs(bright - dark).max() > .1*np.abs(bright).max()
    folds.pretrain(as_seen(np.concatenate([one.valid, one.test])), recipe, trainer=trainer, seed=7)
    np.testing.assert_allclose(norm.moving_mean, expected(30), atol=1e-3*np.abs(bright).max())


def test_shifts_go_both_ways_in_both_directions_and_not_together():
    theta = augmentation.draw_affine(500, Recipe(rotation=0., shift=.1, flip=False), 40, np.random.default_rng(0))
    dy, dx = theta[:, 2], theta[:, 5]
    for d in (dy, dx): assert d.min() < -3 and d.max() > 3 and np.abs(d).max() <= 4 and abs(d.mean()) < .5
    assert abs(np.corrcoef(dy, dx)[0, 1]) < .2


def test_a_source_that_saw_other_images_is_refused(monkeypatch):
    "its weights are compared with the record, and the record with the images at hand"
    source, loaded = noise(name="now"), []
    rec = dict(settings=dict(size=32), data=dict(source=dict(fingerprint="then")), folds=[dict(weights_sha256="abc")])
    monkeypatch.setattr(transfer_run, "load_weights", lambda path, sha: loaded.append(sha))
    job = transfer_run.Job(Run("toy-dtd", "toy-chest"), PROFILES["toy"], None, 32, world=SimpleNamespace(read=lambda path: rec))
    with pytest.raises(UserError, match="other images than those at hand"): transfer_run._source_weights(job, source)
    rec["data"]["source"]["fingerprint"] = "now"
    transfer_run._source_weights(job, source)
    assert loaded == ["abc"]


# ---- what is kept of it

def test_a_finished_fold_is_that_of_its_settings_only(tmp_path):
    folds.keep_fold(tmp_path/"fold1.npz", "mine", dict(metrics=dict(a=1)), np.ones((2, 2)))
    assert folds.kept_fold(tmp_path/"fold1.npz", "another's") is None
    out, p = folds.kept_fold(tmp_path/"fold1.npz", "mine")
    assert out == dict(metrics=dict(a=1)) and p.tolist() == [[1, 1], [1, 1]]


def test_both_deviations_of_a_record_have_the_divisor_they_name():
    from catscans.metrics.scores import HEADLINES
    got = transfer_run.fold_means([dict.fromkeys(HEADLINES, v) for v in (.7, .8, .9)])
    for k in HEADLINES: np.testing.assert_allclose([got[f"{k}_{n}"] for n in ("mean", "sd_sample", "sd_population")], [.8, .1, .1*np.sqrt(2/3)])


def test_predictions_stand_beside_the_images_they_are_of(trainer, tmp_path, monkeypatch):
    "a record's y is that of the images at its index, and probabilities keep the digits they were computed with"
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    rng = np.random.default_rng(3)
    target, y = noise(60, name="target"), rng.permutation(np.arange(60) % 2)
    target = replace(target, y=y)
    said = {}
    def fake(weights, images, recipe, protocol, k, **kw):
        cut = splits.make_splits(images.y, images.groups, protocol, k, 1)
        p = rng.dirichlet(np.ones(2), 60).astype("float32")
        said["p"] = p
        one = {m: .5 for m in store.FOLD_KEYS} | dict(weights_sha256="")
        return folds.all_folds([(dict(metrics=dict(one), history=dict(loss=[1.], seconds=[0.])), p[i*12:(i+1)*12] if k == 5 else p) for i in range(k)], cut, images, {})
    monkeypatch.setattr(transfer_run, "finetune", fake)
    job = transfer_run.Job(Run("random", "toy-chest"), PROFILES["toy"], Recipe(), 32, world=SimpleNamespace(images_of=lambda *a: target))
    pred = {k: unpack(v) for k, v in transfer_run._finetune_run(job)["predictions"].items()}
    assert sorted(pred["index"]) == list(range(60)) and np.array_equal(target.y[pred["index"]], pred["y"])
    assert pred["p"].dtype == np.float32 and np.array_equal(pred["p"], said["p"])


def test_no_part_of_a_record_is_changed_in_silence():
    "each by itself, predictions among them; and its mean is that of its folds"
    rec = examples.example_record(Run("random", "toy-chest"))
    rec |= dict(checksum=store.checksum(rec))
    assert store.whole(rec) is rec and {"predictions", "folds", "metrics", "history", "env"} <= set(rec)
    for k in set(rec) - {"checksum"}:
        assert store.checksum(rec | {k: [rec[k], "changed"]}) != rec["checksum"], k
    y = store.predictions(rec).y
    with pytest.raises(UserError, match="changed since it was written"): store.whole(rec | dict(predictions=rec["predictions"] | dict(y=pack(1 - y))))
    off = rec["metrics"]["auc_ovr_weighted_mean"] + 1e-6
    with pytest.raises(UserError, match="its folds give"): store.validate(rec | dict(metrics=rec["metrics"] | dict(auc_ovr_weighted_mean=off)))


def test_real_records_keep_the_digits_of_their_predictions():
    from catscans.core.files import project_dir
    rec = store.read(next((project_dir()/"results"/"lite"/"records").glob("finetune-*.json")))
    a = store.predictions(rec)
    assert a.p.dtype == np.float32 and not np.array_equal(a.p, a.p.astype("float16").astype("float32")) and len(set(a.index.tolist())) == len(a.index)
    assert np.any(np.diff(a.index) < 0), "images stand in the order of their folds"


def test_seeds_cut_folds_otherwise():
    "indices, not fingerprints, which hold the seed itself"
    im = noise(90)
    for groups in (im.groups, None):
        protocol = "grouped" if groups is not None else "published"
        a, b, again = ([f.test for f in splits.make_splits(im.y, groups, protocol, 5, s)] for s in (1, 2, 1))
        assert all(np.array_equal(i, j) for i, j in zip(a, again)) and not any(np.array_equal(i, j) for i, j in zip(a, b))
        one = [splits.single_split(im.y, groups, protocol, s) for s in (1, 2)]
        assert not np.array_equal(one[0].test, one[1].test)


def test_parts_keep_the_shares_of_their_classes():
    "of training images that are cut to a few, and of a subset, in which a rare class stays; a source is trained on no group that it must not see"
    from catscans.datasets.own import pick
    from catscans.training.recipes import balanced_weights
    y = np.r_[np.zeros(180, int), np.ones(20, int)]
    for seed in range(5): assert np.bincount(y[splits.cap(np.arange(200), y, 20, seed)]).tolist() == [18, 2]
    rare = np.r_[np.zeros(198, int), np.ones(2, int)]
    for groups in (None, np.arange(200)): assert np.bincount(rare[pick(rare, groups, 20, np.random.default_rng(0))], minlength=2)[1] == 1
    np.testing.assert_allclose(balanced_weights(np.array([0, 0, 0, 2]), 3), [2/3, 0, 2])
    im = noise(120)
    fold, out = splits.single_split(im.y, im.groups, "grouped", 1, exclude=["g0", "g1"]), {"g0", "g1"}
    assert {g for part in (fold.train, fold.valid, fold.test) for g in im.groups[part]} == set(im.groups) - out


def test_classes_and_lesions_are_those_of_their_images(tmp_path):
    "labels of two digits count as numbers; a table of lesions stands in an order of its own"
    import pandas as pd
    from catscans.datasets import layouts, readers
    df = pd.DataFrame(dict(path=[f"{i}.png" for i in range(12)], **{"class": list("lkjihgfedcba")}, label=[str(i) for i in range(12)]))
    assert readers._class_order(df, "class") == list("lkjihgfedcba")
    (tmp_path/"ISIC2018_Task3_Training_LesionGroupings.csv").write_text("image,lesion_id\nA,l1\nB,l2\nC,l1\n")
    assert layouts._lesions(tmp_path, ["C", "B", "A"], "train").tolist() == ["l1", "l2", "l1"] and layouts._lesions(tmp_path, ["B", "A"], "train").tolist() == ["l2", "l1"]


def test_a_dataset_is_no_distance_from_itself_in_the_record():
    from catscans.records import authors
    for name in ("task2vec_same_index", "task2vec_all_cross"):
        d = authors.distances(name)
        own = d[[s == t for s, t in d.index]]
        assert len(own) == 3 and (own == 0).all() and (d[[s != t for s, t in d.index]] > 0).all()


def test_colours_in_front_keep_their_order(tmp_path):
    from catscans.datasets.readers import read_npz_listing
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 9, 9), dtype="uint8")
    np.savez(tmp_path/"a.npz", train_images=x, train_labels=np.arange(4) % 2)
    items = read_npz_listing(tmp_path/"a.npz", "a").items
    for i in range(4): assert np.array_equal(items[i](), np.moveaxis(x[i], 0, -1))


def test_simulated_studies_take_their_cuts_in_turn():
    from catscans.transfer import level
    w = level.gaussian_world(240, d=3)
    both = level.cut(w, (None,), 5, 2)
    a, b = (level.simulate(w, folds, replicates=3) for folds in (both, both[:1]))
    assert [np.array_equal(i, j) for i, j in zip(a, b)] == [True, False, True]


def test_a_store_is_that_of_its_labels_too(tmp_path):
    def listing(y, **kw): return Listing(**dict(items=[str(tmp_path/f"{i}.png") for i in range(4)], y=np.array(y), groups=None, classes=["a", "b"], name="x", paths=list("pqrs"), signs=[(1, 2)]*4) | kw)
    from PIL import Image
    for i in range(4): Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path/f"{i}.png")
    keys = [image_store.store_key(l, 8) for l in (listing([0, 1, 0, 1]), listing([1, 0, 0, 1]), listing([0, 1, 0, 1], classes=["b", "a"]), listing([0, 1, 0, 1], groups=np.array(list("aabb"))))]
    assert len(set(keys)) == 4 and keys[0] == image_store.store_key(listing([0, 1, 0, 1]), 8)


def test_subsets_of_different_seeds_are_different():
    "a study with three seeds and a hundred subsets each has three hundred of them"
    from catscans.similarity.distances import subset_seed
    assert len({subset_seed(s, k) for s in range(1, 4) for k in range(100)}) == 300


@pytest.mark.parametrize("how, row", [("draft", [0, 75, 25, 32, 223, 255, 255, 255]), ("bilinear", [0, 75, 25, 32, 223, 255, 255, 255]), ("nearest", [0, 200, 0, 0, 255, 255, 255, 255])])
def test_images_become_smaller_by_the_filter_that_is_named(how, row):
    "a line and an edge at half the size: 75 and 32 are bilinear's, a bicubic filter gives 86 and 15, a box 100 and 0"
    from catscans.datasets.images import decode
    x = np.zeros((16, 16, 3), "uint8")
    x[:, 8:], x[:, 3] = 255, 200
    assert decode(x, 8, how)[4, :, 0].tolist() == row


def test_folds_and_epochs_stand_in_their_order():
    "of tidy and histories: fold i is that of the record, and so are its numbers"
    with examples.example_project("toy"):
        recs = [store.read(Run(s, t).record) for s, t in PROFILES["toy"].pairs[:4]]
        tidy, hist = frames.tidy("toy"), frames.histories("toy")
        for rec in recs:
            t = tidy[(tidy.source == rec["source"]) & (tidy.target == rec["target"])]
            assert t.fold.tolist() == [1, 2, 3, 4, 5] and t.auc_ovr_weighted.tolist() == [f["auc_ovr_weighted"] for f in rec["folds"]]
            assert t.n_test.tolist() == [f["n_test"] for f in rec["folds"]]
            for i, h in enumerate(rec["history"], 1):
                e = hist[(hist.slug == rec["slug"]) & (hist.fold == i)]
                assert e.epoch.tolist() == list(range(1, len(h["loss"]) + 1)) and e.loss.tolist() == h["loss"]


def test_a_learning_curve_is_trained_on_nothing_that_it_holds_out():
    "at every share, and at all of it on the whole training part"
    from catscans.transfer import curves
    im = noise(90)
    cut = splits.make_splits(im.y, im.groups, "grouped", 5, 1)
    parts = curves._parts(im, "grouped", 5, 1, (.2, 1.))
    assert len(parts) == 10
    for share, i, fold, full in parts:
        assert fold.test.tolist() == cut.folds[i].test.tolist() and full == len(cut.folds[i].train)
        assert len(fold.train) and not set(im.groups[fold.train]) & set(im.groups[fold.test])
        assert set(fold.train) <= set(cut.folds[i].train) and (share < 1) == (len(fold.train) < full)


def test_a_probe_of_features_does_not_know_a_patient_again():
    "nearly the same features for all images of a patient, whose class was drawn by lot: nobody can tell the class of a new one"
    from sklearn.neighbors import KNeighborsClassifier
    from catscans.similarity.features import held_out
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(40), 3)
    x, y = rng.normal(size=(40, 8))[of] + 1e-6*rng.normal(size=(120, 8)), rng.permutation(np.arange(40) % 2)[of]
    right = {name: (p.argmax(1) == truth).mean() for name, g in (("patients", of), ("images", None)) for truth, p in [held_out(KNeighborsClassifier(1), x, y, g)]}
    assert right["patients"] < .7 and right["images"] > .95


def test_no_source_is_estimated_on_images_that_it_has_seen():
    "not on all of them and not on some; the authors' own baseline is such a pair"
    from catscans.similarity.measure import _network_of
    source, far = noise(60, collection="one"), noise(60, name="far", collection="two")
    all_of = noise(60, name="all", collection="one")
    some = noise(30, name="some", groups=[f"g{i//3 + 15}" for i in range(30)], collection="one")
    images = dict(source=source, all=all_of, some=some, far=far)
    networks = {("source", t): dict(features=t) for t in images}
    got = {t: _network_of(networks, "source", t, images, "grouped") for t in images}
    assert got == dict(source={}, all={}, some={}, far=dict(features="far"))
    assert _network_of(networks, "source", "some", images, "published") == dict(features="some")


# ---- metrics and comparisons

def test_the_auc_that_counts_is_weighted_by_class_share():
    "three classes of 40, 8 and 4 images: the averages over classes differ"
    from sklearn.metrics import roc_auc_score
    from catscans.metrics.scores import summarise
    y = np.repeat([0, 1, 2], [40, 8, 4])
    p = np.random.default_rng(10).dirichlet(np.ones(3), 52)
    got, want = summarise(y, p), {a: roc_auc_score(y, p, multi_class="ovr", average=a) for a in ("weighted", "macro")}
    assert abs(want["weighted"] - want["macro"]) > .05
    for a in want: assert got[f"auc_ovr_{a}"] == pytest.approx(want[a], abs=1e-12)


def test_calibration_errors_of_two_bins_do_not_cancel():
    from catscans.metrics.scores import ece
    p, y = np.array([[.6, .4]]*10 + [[.9, .1]]*10), np.r_[np.zeros(9, int), 1, np.zeros(6, int), np.ones(4, int)]     # 0.3 too low, 0.3 too high
    assert ece(y, p) == pytest.approx(.3, abs=1e-9)


def test_comparisons_with_the_baseline_are_corrected_for_their_number():
    import pandas as pd
    from catscans.metrics.comparisons import holm, minus_baseline
    rng = np.random.default_rng(2)
    f = pd.DataFrame([dict(target="t", source=s, fold=i, auc_ovr_weighted=.7 + d + .02*rng.normal()) for s, d in (("random", 0), ("a", .06), ("b", .04), ("c", .01)) for i in range(1, 6)])
    g = minus_baseline(f, n_train=80, n_test=20)
    g = g[g.source != "mean of sources"].sort_values("p").reset_index(drop=True)
    want = np.minimum(1, np.maximum.accumulate(g.p*np.array([3, 2, 1])))
    np.testing.assert_allclose(g.p_holm, want, rtol=1e-12)
    np.testing.assert_allclose(g.p_holm, holm(g.p), rtol=1e-12)
    assert g.p_holm[0] > 2.9*g.p[0]


def test_ranks_and_wins_by_hand():
    "three sources, four folds: the best has mean rank 1, a tie is nobody's win"
    import pandas as pd
    from catscans.metrics.comparisons import pairwise_tests, ranking
    scores = dict(a=[.9, .8, .9, .9], b=[.8, .8, .7, .7], c=[.1, .2, .3, .4])
    f = pd.DataFrame([dict(target="t", source=s, fold=i, auc_ovr_weighted=v) for s, vs in scores.items() for i, v in enumerate(vs, 1)])
    assert ranking(f).set_index("source").mean_rank.to_dict() == dict(a=1.125, b=1.875, c=3.)
    assert pairwise_tests(f).set_index(["a", "b"]).wins.to_dict() == {("a", "b"): 3, ("a", "c"): 4, ("b", "c"): 4}


def test_intervals_and_power_of_a_rank_correlation_are_its_own():
    "Bonett and Wright's interval is wider than Pearson's by the root of 1 + rho²/2; the power is that of pairs whose rank correlation is rho"
    from scipy.stats import rankdata
    from catscans.metrics.correlation import fisher_interval, spearman_power
    z = np.arctanh(.6) + 1.959963985*np.sqrt(1.18/21)*np.array([-1, 1])
    np.testing.assert_allclose(fisher_interval(.6, 24, "spearman_rho"), np.tanh(z), atol=1e-8)
    np.testing.assert_allclose(fisher_interval(.6, 24), np.tanh(np.arctanh(.6) + 1.959963985/np.sqrt(21)*np.array([-1, 1])), atol=1e-8)
    x, y = np.moveaxis(np.random.default_rng(1).multivariate_normal([0, 0], [[1, 2*np.sin(np.pi/20)], [2*np.sin(np.pi/20), 1]], (4000, 60)), -1, 0)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(rankdata(x, axis=1), rankdata(y, axis=1))]
    seen = np.mean(np.abs(r)*np.sqrt(58/(1 - np.square(r))) > 2.00172)                                 # the t distribution's, 58 degrees of freedom
    assert spearman_power(60, .3) == pytest.approx(seen, abs=.025)


def test_what_is_shown_is_so_after_holm_and_what_is_similar_is_so_at_its_upper_end():
    from catscans.published import effects
    import pandas as pd
    asked, intervals = [("a", "b", t) for t in ("chest", "isic2018")], dict(chest=(-.01, .01), isic2018=(-.01, .05))
    of = lambda **p: SimpleNamespace(p=lambda a, b, t: p[t], mean=lambda s, t: dict(a=.8, b=.7)[s], interval=lambda a, b, t: intervals[t], auc=pd.DataFrame(dict(fold=range(5))))
    assert list(effects.shown(of(chest=.03, isic2018=.04), asked).values()) == [0, 0], "0.03 is 0.06 after Holm"
    assert list(effects.shown(of(chest=.02, isic2018=.04), asked).values()) == [1, 1]
    parts, *_ = effects.similar_or_lower(of(chest=.5, isic2018=.5), asked)
    assert list(parts.values()) == [True, None]


def test_the_rate_of_a_pair_is_held_against_its_targets_own():
    "in a copy of the record, where one target was trained at another rate"
    from catscans.published.pairs import pairs
    from catscans.records import authors
    rec, table = authors.record(), authors.record().finetune_settings
    table.loc[(table.source == "chest") & (table.target == "chest"), "lr"] = .25
    p = pairs(replace(rec, frames=rec.frames | dict(finetune_settings=table)))
    own = p[p.self_pair].set_index("target").lr
    assert own["chest"] == .25 and own.nunique() == 2
    np.testing.assert_allclose(p.lr_ratio, p.lr/own[p.target].to_numpy())


def test_sources_that_are_equal_share_the_better_rank():
    from catscans.published.evidence import from_record
    ev = from_record()
    first, second, third = ev.sources("chest")[:3]
    assert [ev.rank(s, "chest") for s in (first, second, third)] == [1, 2, 3]
    at = ev.auc.set_index(["source", "target", "fold"]).auc_ovr_weighted.copy()
    for fold in range(1, 6): at[second, "chest", fold] = at[first, "chest", fold]
    tied = replace(ev, auc=at.reset_index())
    assert [tied.rank(s, "chest") for s in (first, second, third)] == [1, 1, 3]


def test_a_saturated_row_is_one_of_decisions_only():
    from catscans.metrics.scores import summarise
    y, p = np.array([0, 1, 2, 0]), np.array([[1, 0, 0], [0, .5, .5], [0, .1, .9], [.8, .1, .1]])
    assert summarise(y, p)["saturated"] == .25


def test_gains_of_a_seed_are_that_seeds():
    import pandas as pd
    from catscans.figures.auc import gain_frame
    from catscans.records.view import Study
    frame = pd.DataFrame([dict(source=s, target="t", fold=i, seed=k, folds=5, auc_ovr_weighted=.7 + (.1*k if s == "a" else 0) + .01*(i % 2)*(s == "a"))
                          for s in ("a", "random") for k in (1, 2) for i in range(5)])
    class Two(Study):
        def fold_auc(self): return frame
    g = gain_frame(Two("toy", "grouped", ("a",), ("t",), (("a", "t"), ("random", "t")), "random"))
    assert g[g.source == "a"].set_index("seed").mean_difference.round(3).to_dict() == {1: .104, 2: .204}


# ---- what counts as done

def test_distances_through_another_probe_are_not_those_asked_for(tmp_path, monkeypatch):
    from catscans.study import done, plan
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    p, [step] = PROFILES["toy"], [s for s in plan.plan("toy") if s.notebook == "similarity"]
    rec = similarity_record("toy", p.protocol, p.seed) | dict(settings=dict(subsets=p.subsets, threads=p.threads, probe=dict(name=p.probe)))
    store.write(rec)
    assert done.problem(step) == ""
    for k, v in dict(probe=dict(name="source:toy-stl10"), subsets=p.subsets + 1, threads=9).items():
        store.write(rec | dict(settings=rec["settings"] | {k: v}))
        assert done.problem(step).kind == "settings" and f"{k} was" in done.problem(step)


def test_records_that_do_not_count_are_not_counted(tmp_path, monkeypatch):
    "in catscans status"
    from catscans.study import done, plan, status
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    monkeypatch.setattr(done, "other_images", lambda steps: {})
    for s in [s for s in plan.plan("toy", ["random"]) if s.run]:
        rec, now = examples.example_record(s.run), done.expected_settings(s.run)
        store.write(rec | dict(settings=rec["settings"] | now | dict(epochs=99 if "chest" in s.slug else now["epochs"])))
    text = status.status("toy", most=None)
    assert "toy: 2 of 38 steps are done" in text and "finetune      2 of 27 done" in text
    assert "left: finetune random -> toy-chest (made with other settings: epochs was 99" in text and "left: finetune random -> toy-isic2018" not in text


def test_figures_are_old_when_a_record_or_their_notebook_is_newer(tmp_path, monkeypatch):
    from catscans.study import done, plan
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    (book := tmp_path/"results.ipynb").write_text('{"cells": [{"cell_type": "code", "source": ["1"]}]}')
    monkeypatch.setattr(done, "notebook", lambda name: book)
    monkeypatch.setattr(done, "files", lambda name: tmp_path/"package")
    [step] = [s for s in plan.plan("toy") if s.notebook == "results"]
    store.write(rec := examples.example_record(Run("random", "toy-chest")))
    now = done.drawn_from(step)
    assert now == done.drawn_from(step) and done._drawing_problem(step, dict(drawn_from=now), None) == ""
    store.write(rec | dict(notes=["another"]))
    newer = done.drawn_from(step)
    assert newer != now and done._drawing_problem(step, dict(drawn_from=now), None).kind == "drawn"
    book.write_text('{"cells": [{"cell_type": "code", "source": ["2"]}]}')
    assert done.drawn_from(step) != newer


def test_time_that_a_step_has_run_is_no_longer_left():
    import time
    from catscans.study.status import Watch
    w = object.__new__(Watch)
    w.left, w.jobs, w.expected, w.state = [SimpleNamespace(slug=k) for k in "abc"], 2, dict(a=100., b=60., c=20.), dict(a=dict(state="running", time=time.time() - 90), b=dict(state="done"))
    assert 19 <= w.eta() <= 21, "20 s of c; of a 10 are left, beside it"


# ---- what comes home from another machine

def test_what_travels_is_what_comes_home(tmp_path):
    "predictions that are left out of a record are put back fold by fold; a run of no grid, and pixels that were damaged, are refused"
    from catscans.core.basics import plain
    from catscans.slices import parcels, run as slices_run
    rng = np.random.default_rng(0)
    y, p, fold = np.arange(12, dtype="int16") % 2, rng.dirichlet(np.ones(2), 12).astype("float32"), np.repeat(np.array([1, 2, 3], "int8"), 4)
    rec = dict(kind="finetune", predictions=dict(fold=pack(fold), y=pack(y), p=pack(p)),
               folds=[dict(fold=k, later=dict(y=pack(y[fold == k]), p=pack(p[fold == k]), classes=["a", "b"])) for k in (1, 2, 3)])
    import copy
    slim = slices_run.slim(copy.deepcopy(rec))
    assert all(f["later"]["p"] is None for f in slim["folds"]) and slices_run.fat(plain(slim)) == plain(rec)
    of = dict(source="toy-dtd", target="toy-chest", profile="toy", protocol="grouped", seed=1)
    for change, said in ((dict(), ""), (dict(target="toy-dtd"), "no run of the profile"), (dict(protocol="odd"), "no run of the profile")):
        run = Run(**of | change)
        if not said: assert slices_run._in_grid(run.slug, of, "toy") == run
        else:
            with pytest.raises(UserError, match=said): slices_run._in_grid(run.slug, of | change, "toy")
    im, at = noise(12), np.arange(12, dtype="int32")
    inputs = object.__new__(parcels.Inputs)
    from catscans.datasets.images import fingerprint
    d = parcels._set_of("noise", 32, replace(im, fingerprint=fingerprint(im.x, im.y, im.groups, im.classes)), at)
    inputs.sets, pixels = {("noise", 32): d}, im.x.copy()
    inputs.pixels = lambda size: pixels
    assert inputs.images("noise", 32).fingerprint == d["fingerprint"]
    parcels.Inputs.images.cache_clear()
    pixels[3, 4, 5, 0] ^= 1
    with pytest.raises(UserError, match="packed was"): inputs.images("noise", 32)


def test_hashes_and_small_p_say_what_they_are_of():
    from catscans.core.basics import digest, p_text
    assert len({digest(np.zeros(s)) for s in ((2, 3), (3, 2), 6)} | {digest(np.zeros(6, "float32"))}) == 4
    assert [p_text(v) for v in (.005, .0011, .0009)] == ["p = 0.005", "p = 0.0011", "p < 0.001"]


# ---- the recommender learns nothing from the family that it is asked about

@pytest.fixture(scope="module")
def outcomes():
    "six targets of six families, five sources of the first five of them; siblings are no candidates"
    import pandas as pd
    rng = np.random.default_rng(0)
    return pd.DataFrame([dict(target=f"t{t}", source=f"s{i}", auc=.7 + .02*rng.normal(), sim=rng.normal(), group=f"g{t}", family=f"g{i}", log_images=float(i))
                         for t in range(6) for i in range(5) if i != t])


def test_a_familys_own_source_teaches_nothing_about_the_familys_targets(outcomes):
    "whatever s0, of family g0, does on the other targets: not a bit of what is said of g0's target changes"
    from catscans.recommend import model
    own = ((outcomes.family == "g0") & (outcomes.group != "g0")).to_numpy()
    of, alone = (outcomes.group == "g0").to_numpy(), (1., 1.)
    r = model.rows(outcomes, ["sim"])
    a, b = (model._outside(replace(r, z=z), [alone])[alone] for z in (r.z, np.where(own, 50., r.z)))
    assert np.array_equal(a[of], b[of]) and not np.array_equal(a, b)
    wild = outcomes.assign(auc=np.where(own, .99, outcomes.auc))
    (_, c), (_, d) = (model.validate(f, ["sim"], imagenet="s4", prior=(1.,), trust=(1.,)) for f in (outcomes, wild))
    said = lambda pairs: pairs[pairs.target == "t0"].predicted.to_numpy()
    assert np.array_equal(said(c), said(d)) and not np.array_equal(c.predicted, d.predicted)


def test_a_dropped_familys_targets_teach_the_ranking_nothing(monkeypatch):
    "the record's outcomes on BloodMNIST say nothing about images that are BloodMNIST's; those on another set do"
    from catscans.recommend import ranking, transfers
    images, real = replace(noise(40, name="bloodmnist"), groups=None, card=None), transfers.candidates
    def table(group):
        def other(*a, **kw):
            d = real(*a, **kw).reset_index(drop=True)
            at = np.flatnonzero(d.group == group)
            assert group is None or len(at)
            d.loc[at, "auc"] = np.random.default_rng(1).permutation(np.array(d.auc[at]))
            return d
        monkeypatch.setattr(transfers, "candidates", other)
        r = ranking.rank(images, known={})
        assert set(r.dropped) == {"bloodmnist"}
        return r.table.sort_index()
    as_is = table(None)
    assert table("bloodmnist").expected.equals(as_is.expected)
    assert not table("kermany").expected.equals(as_is.expected)


def test_the_rule_of_mean_ranks_does_not_know_the_outcomes_it_is_asked_about(monkeypatch):
    import pandas as pd
    from catscans.recommend import model
    d = pd.DataFrame([dict(target=t, source=s, auc=.7 if s == best else .5, log_images=1.) for t, best in (("t", "b"), ("u", "a"), ("v", "b")) for s in "ab"])
    monkeypatch.setattr(model, "candidates", lambda *a: d)
    assert model.known().mean_rank.round(6).to_dict() == dict(t=10., u=20., v=10.), "of t the other two say nothing, of u both say b"


def test_a_source_that_was_never_tried_is_last_and_a_new_familys_interval_is_wider():
    import pandas as pd
    from scipy.stats import t as student
    from catscans.recommend import model
    train = pd.DataFrame(dict(target=["t", "t", "u", "u"], source=["a", "b"]*2, auc=[.9, .8, .7, .6]))
    assert model.mean_rank(train, ["b", "new", "a"]).tolist() == [-2, -3, -1]
    gains = [.01, .03, .02, .04]                                     # of a over b, in four families
    d = pd.DataFrame([dict(group=f"g{i}", target=f"t{i}", source=s, auc=.7 + (g if s == "a" else 0)) for i, g in enumerate(gains) for s in "ab"])
    half = student.ppf(.9, 3)*np.std([1, 3, 2, 4], ddof=1)*np.sqrt(1 + 1/4)
    np.testing.assert_allclose(model.gap(d, "a", "b", .8), [2.5, 2.5 - half, 2.5 + half])


# ---- figures

@pytest.fixture(scope="module")
def drawn():
    "Fig. 3 and 4 of the authors' record"
    from catscans.figures import auc, distance
    return auc.fig3("published"), distance.fig4("published")


def test_figure_3_has_the_divisor_and_the_labels_it_names(drawn):
    from catscans.core.grid import PAPER_SOURCES, PAPER_TARGETS
    from catscans.datasets.catalogue import label
    from catscans.records import authors
    fig, auc = drawn[0], authors.fold_auc()
    panels = [a for a in fig.axes if a.get_title(loc="left") in [label(t) for t in PAPER_TARGETS]]
    assert [a.get_title(loc="left") for a in panels] == [label(t) for t in PAPER_TARGETS]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == [label(s) for s in PAPER_SOURCES]
    for ax, target in zip(panels, PAPER_TARGETS):
        of = auc[auc.target == target].groupby("source").auc_ovr_weighted
        want = {i: (m, s) for i, name in enumerate(PAPER_SOURCES) if name in of.groups for m, s in [(of.get_group(name).mean(), of.get_group(name).std(ddof=0))]}
        bars = [c for c in ax.collections if hasattr(c, "get_segments") and len(c.get_segments()) == len(want)]
        assert bars, "no error bars"
        got = {round(float(s[0][1])): (float(s[:, 0].mean()), float(np.ptp(s[:, 0])/2)) for s in bars[0].get_segments()}
        assert sorted(got) == sorted(want)
        for i in want: np.testing.assert_allclose(got[i], want[i], atol=1e-9)


@pytest.mark.slow(6)
def test_numbers_beside_figure_3_are_those_of_its_words():
    "points below the best, told after Holm only, and the sample's deviation in table 4"
    import pandas as pd
    from catscans.figures import auc as drawn_auc, tables
    from catscans.metrics.comparisons import pairwise_tests
    from catscans.datasets.catalogue import label
    from catscans.records import authors, view
    of = authors.fold_auc().groupby(["target", "source"]).auc_ovr_weighted
    st = view.study("published")
    heat = drawn_auc._heat_frame(st)[1].set_index(["target", "source"]).points_below_best
    np.testing.assert_allclose(heat, [100*(of.mean()[t].max() - of.mean()[t, s]) for t, s in heat.index], atol=1e-9)
    cells = tables.table4(st).set_index("source")
    for (t, s), v in of: assert cells.loc[label(s), label(t)] == f"{v.mean():.3f} ± {v.std(ddof=1):.3f}"
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        f = pd.DataFrame([dict(source=s, target="t", fold=i, auc_ovr_weighted=.7 + .01*d + .006*rng.normal()) for s, d in zip("abc", (2, 1, 0)) for i in range(5)])
        [row], p = list(drawn_auc.told_from_next(f).itertuples()), pairwise_tests(f, "t")
        r = p[[{a, b} == {row.best, row.next} for a, b in zip(p.a, p.b)]].iloc[0]
        assert (row.p_holm, row.told) == (r.nb_p_holm, r.nb_p_holm < .05)
        seen.add((r.nb_p < .05, r.nb_p_holm < .05))
        if {(True, False), (True, True)} <= seen: return
    raise AssertionError("no p of these stands on both sides of Holm's correction")


def test_table_2_has_each_part_under_its_name_and_a_mean_over_seeds_its_own_interval():
    from scipy.stats import t as student
    from catscans.figures import seeds, tables
    with examples.example_project("toy"):
        t, e = tables.table2("toy"), frames.evaluations("toy").set_index(["source", "part"])
        for part in ("train", "valid", "test"): assert t[f"{part} accuracy"].tolist() == [e.accuracy[s, part] for s in PROFILES["toy"].sources]
        assert any(t["valid accuracy"] != t["test accuracy"])
    assert seeds._half(SimpleNamespace(sources=4, seeds=3, sd=.02), 3) == pytest.approx(student.ppf(.975, 6)*.02/np.sqrt(3))


def test_figure_4s_legend_names_the_colours_and_marks_that_are_drawn(drawn):
    from matplotlib.collections import PathCollection
    from matplotlib.colors import to_rgba
    from catscans.core.grid import PAPER_TARGETS
    from catscans.datasets.catalogue import label, origin
    fig = drawn[1]
    handles = [h for l in [*fig.legends, *(a.get_legend() for a in fig.axes)] if l for h in l.legend_handles]
    named = {h.get_label(): h for h in handles}
    names = list(dict.fromkeys(fig.frame.measure))                    # the first counts answers: its points are set apart sideways
    data, ax = fig.frame[fig.frame.measure == names[1]], fig.axes[1]
    drawn_at = {}                                                     # (x, y) -> colour, shape
    for c in ax.collections:
        if not isinstance(c, PathCollection): continue
        for xy in np.asarray(c.get_offsets()): drawn_at.setdefault(tuple(np.round(xy, 9)), set()).add((to_rgba(c.get_edgecolor()[0][:3]), len(c.get_paths()[0].vertices)))
    triangle = min(n for at in drawn_at.values() for _, n in at)
    for row in data.itertuples():                                     # the self pairs lie on one place
        colour, mark = named[f"target {label(row.target)}"].get_color(), named[f"{origin(row.source)} source"].get_marker()
        at = drawn_at[tuple(np.round((row.distance, row.transferability), 9))]
        assert [mark == "^" for c, n in at if c == to_rgba(colour) and (n == triangle) == (mark == "^")], (row.source, row.target)
    assert {f"target {label(t)}" for t in PAPER_TARGETS} <= set(named)
