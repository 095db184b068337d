"""Faults that once passed every test: each test here is for a change of the code that nobody noticed.

The networks are ResNet50 cut after its first convolution and the images are noise: what is held here depends on neither."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from catscans.core.grid import PROFILES, Run
from catscans.core.basics import unpack
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
    def go(images, times, **recipe):
        trainer.use(replace(Recipe(batch=16), **recipe))
        for e in range(times):
            trainer.epoch(images.x, images.y, np.arange(len(images.y)), e, seed=5)
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


def test_averages_are_those_of_training_images(monkeypatch):
    "BatchNorm's are estimated again on what was learned from, never on what is held out"
    seen, images = [], noise(60)
    class Fake:
        n_classes, size, arch, precision, recipe, head = 2, 32, "tiny", "float32", None, SimpleNamespace(name="softmax")
        def use(self, recipe): return self
        def recalibrate(self, x, index, seed): seen.append(set(index.tolist()))
        def predict(self, x, index): return np.full((len(index), 2), .5, "float32")
        def weights(self): return dict(a=np.zeros(1, "float32"))
    monkeypatch.setattr(folds, "fit", lambda *a, **kw: [dict(loss=1., accuracy=.5, lr=.1, seconds=0.)])
    recipe = Recipe(batchnorm="recalibrate", epochs=1)
    got = folds.finetune(None, images, recipe, folds=3, trainer=Fake())
    assert seen == [set(f.train.tolist()) for f in got.splits] and all(not i & set(f.test.tolist()) for i, f in zip(seen, got.splits))
    out = folds.pretrain(images, recipe, trainer=Fake())
    assert seen[3:] == [set(out.split.train.tolist())]


def test_shifts_go_both_ways_in_both_directions_and_not_together():
    theta = augmentation.draw_affine(500, Recipe(rotation=0., shift=.1, flip=False), 40, np.random.default_rng(0))
    dy, dx = theta[:, 2], theta[:, 5]
    for d in (dy, dx): assert d.min() < -3 and d.max() > 3 and np.abs(d).max() <= 4 and abs(d.mean()) < .5
    assert abs(np.corrcoef(dy, dx)[0, 1]) < .2


# ---- what is kept of it

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
        return folds._all_folds([(dict(metrics=dict(one), history=dict(loss=[1.], seconds=[0.])), p[i*12:(i+1)*12] if k == 5 else p) for i in range(k)], cut, images, {})
    monkeypatch.setattr(transfer_run, "finetune", fake)
    job = transfer_run.Job(Run("random", "toy-chest"), PROFILES["toy"], Recipe(), 32, world=SimpleNamespace(images_of=lambda *a: target))
    pred = {k: unpack(v) for k, v in transfer_run._finetune_run(job)["predictions"].items()}
    assert sorted(pred["index"]) == list(range(60)) and np.array_equal(target.y[pred["index"]], pred["y"])
    assert pred["p"].dtype == np.float32 and np.array_equal(pred["p"], said["p"])


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
    from catscans.recommend import ranking
    images, real = replace(noise(40, name="bloodmnist"), groups=None, card=None), ranking.candidates
    def table(group):
        def other(*a, **kw):
            d = real(*a, **kw).reset_index(drop=True)
            at = np.flatnonzero(d.group == group)
            assert group is None or len(at)
            d.loc[at, "auc"] = np.random.default_rng(1).permutation(np.array(d.auc[at]))
            return d
        monkeypatch.setattr(ranking, "candidates", other)
        r = ranking.rank(images, known={})
        assert set(r.dropped) == {"bloodmnist"}
        return r.table.sort_index()
    as_is = table(None)
    assert table("bloodmnist").expected.equals(as_is.expected)
    assert not table("kermany").expected.equals(as_is.expected)


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
    for ax, target in zip([a for a in fig.axes if a.containers], PAPER_TARGETS):
        names = [t.get_text() for t in ax.get_yticklabels()]
        if any(names): assert names == [label(s) for s in PAPER_SOURCES]
        of = auc[auc.target == target].groupby("source").auc_ovr_weighted
        want = {i: (m, s) for i, name in enumerate(PAPER_SOURCES) if name in of.groups for m, s in [(of.get_group(name).mean(), of.get_group(name).std(ddof=0))]}
        bars = [c for c in ax.collections if hasattr(c, "get_segments") and len(c.get_segments()) == len(want)]
        assert bars, "no error bars"
        got = {round(float(s[0][1])): (float(s[:, 0].mean()), float(np.ptp(s[:, 0])/2)) for s in bars[0].get_segments()}
        assert sorted(got) == sorted(want)
        for i in want: np.testing.assert_allclose(got[i], want[i], atol=1e-9)


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
