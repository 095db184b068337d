"The profile power: a grid with three seeds, of which each changes pretraining, order and folds; and what its records say about reliability."
import os
from dataclasses import replace

import numpy as np
import pytest

from catscans.core.basics import p_text
from catscans.core.grid import PROFILES, Run, part_of, runs
from catscans.records import examples
from catscans.records import frames
from catscans.records import store
from catscans.records import view
from catscans.metrics import ranking
from catscans.datasets.catalogue import DATASETS
from catscans.datasets.loading import check_card, counted_images, load
from catscans.models.resnet import ARCHS
from catscans.training.recipes import RECIPES, Recipe
from catscans.figures.cards import table1
from catscans.figures import report
from catscans.figures import seeds
from catscans.figures import style
from catscans.study.cli import main
from catscans.slices import parcels
from catscans.slices import run as slices_run

POWER = PROFILES["power"]
with_images = pytest.mark.skipif(not (os.environ.get("CATSCANS_DATA") and os.environ.get("CATSCANS_SLOW")), reason="trains, or decodes all parts: set CATSCANS_DATA and CATSCANS_SLOW=1")


def test_the_grid_is_as_large_as_promised_and_no_source_has_seen_its_target():
    pairs = [(s, t) for s, t in POWER.pairs if s != "random"]
    assert len(pairs) >= 60 and len(set(POWER.pairs)) == len(POWER.pairs) and len(POWER.seeds) >= 3 and POWER.size == 64
    assert all(DATASETS[s].collection != DATASETS[t].collection for s, t in pairs)
    cards = [DATASETS[s] for s in POWER.sources]
    assert all(len({getattr(c, k) for c in cards}) > 1 for k in ("n", "classes", "family", "channels", "origin"))          # what the sources differ in
    assert {(r.source, r.target) for r in runs(POWER) if r.target} == set(POWER.pairs) and {r.seed for r in runs(POWER)} == set(POWER.seeds)


@pytest.mark.parametrize("part, cells, images", [("balanced", 7*2, 1000), ("small", 5, 300)])
def test_a_part_is_fully_crossed_and_of_one_size(part, cells, images):
    sources, targets = part_of(POWER, part)
    got = [(r.source, r.target, r.seed) for r in runs(POWER, sources, targets) if r.target]
    assert len(set(got)) == len(got) == len(sources)*len(targets)*3 == cells*3
    assert {DATASETS[s].n for s in sources if s != "random"} == {images}


def test_one_seed_is_whole_before_the_next_begins():
    assert [r.seed for r in runs(POWER)] == sorted(r.seed for r in runs(POWER))
    assert [r.slug for r in runs("lite")] == [r.slug for r in runs("lite", seeds=[1])] and all(r.slug.endswith("-s1") for r in runs("lite"))
    assert [r.seed for r in parcels.grid("power", ["random"], ["kermany@1000"], seeds=[2])] == [2]


@pytest.mark.parametrize("line, said", [("run --profile power --part half", "allowed are balanced"), ("run --profile lite --part balanced", "profile lite has no parts"),
    ("run --profile power --part balanced --source random", "give one of the two"), ("run --seeds 0", "whole number from 1"), ("run --profile published --seeds 1", "one whole"),
    ("status --profile published --part x", "one whole"), ("figures --profile lite --part small", "profile lite has no parts"), ("figures --profile power --part half", "allowed are balanced")])
def test_wrong_requests_end_in_one_line(line, said, capsys):
    assert main(line.split()) == 2
    err = capsys.readouterr().err.strip(); assert said in err and len(err.splitlines()) == 1, err


def test_status_names_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    assert main(["status", "--profile", "power", "--part", "balanced", "--all"]) == 0
    out = capsys.readouterr().out
    assert "0 of 60 steps" in out and "left: finetune dtd10@1000 -> kermany@1000, seed 3 (not run yet)" in out and "similarity" not in out


@pytest.fixture
def made(tmp_path, monkeypatch):
    "made-up records of the balanced part, in which each source has an AUC of its own and each seed its noise"
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    todo, rng = runs(POWER, *part_of(POWER, "balanced")), np.random.default_rng(0)
    for r in todo:
        rec = examples.example_record(r, k=2, n=12, classes=2, epochs=1)
        rec["splits"]["fingerprint"] += f"-{r.seed}"                                                   # other folds with each seed
        if r.target:
            v = .8 + .02*POWER.sources.index(r.source)/17 + .005*rng.standard_normal() if r.source != "random" else .6
            for f in rec["folds"]: f["auc_ovr_weighted"] = float(v)
            rec["metrics"]["auc_ovr_weighted_mean"] = float(v)
        store.write(rec)
    return todo


def test_reliability_reads_all_seeds_from_records(made):
    f = ranking.repeats("power")
    assert len(f) == 42 and sorted(f.seed.unique()) == [1, 2, 3]
    r = ranking.reliability("power", n_sim=20)
    assert list(r.index) == ["ham10000@1600", "kermany@1000", "all"] and (r.sources == 6).all() and (r.seeds == 3).all() and r.attrs["note"] == "12 cells with the seeds 1, 2, 3"
    x = f[(f.target == "kermany@1000") & (f.source != "random")].pivot(index="source", columns="seed", values="auc").to_numpy()
    want = np.sqrt(((x - x.mean(1, keepdims=True) - x.mean(0) + x.mean())**2).sum()/(5*2))
    assert r.sd["kermany@1000"] == pytest.approx(want) and (r.regret >= 0).all() and r.top1.between(0, 1).all()
    assert (ranking.reliability("power", baseline=True, n_sim=5).sources == 7).all()
    next(x for x in made if x.target == "kermany@1000" and x.source == "dtd10@1000" and x.seed == 2).record.unlink()
    less = ranking.reliability("power", n_sim=5)
    assert less.sources["kermany@1000"] == 5 and "missing: dtd10@1000 -> kermany@1000" in less.attrs["note"]


def test_reliability_says_when_nothing_was_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    r = ranking.reliability("power")
    assert len(r) == 0 and r.attrs["note"].startswith("not run yet") and "catscans run --profile power" in r.attrs["note"]


def test_tables_show_all_seeds_and_say_which(made):
    st = view.study("power", None, *part_of(POWER, "balanced"))
    assert len(st.pairs) == len(set(st.pairs)) == 14
    f = st.fold_auc()
    assert set(f.seed) == {1, 2, 3} and len(f) == 14*2*3 and "seeds 1, 2, 3:" in style.provenance(st) and "seed 1 of 3" in style.provenance(st, one_seed=1)
    assert "seed" not in style.provenance(view.study("lite"))
    assert len(frames.complete("power", sources=["random"])) == 3*5 and {r["seed"] for r in frames.load_all("power", seed=3)} == {3}
    for r in made:
        if r.seed == 3: r.record.unlink(missing_ok=True)
    assert st.seeds == (1, 2) and "seeds 1, 2 of 3" in style.provenance(st)


@pytest.mark.slow(8)
def test_the_repeats_are_drawn_for_a_part_and_told_in_words(made, tmp_path, monkeypatch, capsys):
    import pandas as pd
    st = view.study("power", None, *part_of(POWER, "balanced"))
    assert {"fig3_auc", "fig11_seeds"} <= set(report.items(st)) and "fig9_gallery" not in report.items(st)
    monkeypatch.setattr(report, "items", lambda st: ["fig11_seeds"])                                 # the others are drawn in every profile's tests
    assert main(["figures", "--profile", "power", "--part", "balanced"]) == 0 and "1 table or figure in" in capsys.readouterr().out
    drawn = pd.read_csv(tmp_path/"figures/power/fig11_seeds.csv")
    assert len(drawn) == 42 and set(drawn.seed) == {1, 2, 3}
    fig, r = seeds.seeds(st), ranking.reliability("power")
    text = " ".join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text")))
    assert "seed 1 of 3" not in text and f"all sources equal: {p_text(r.p_sources['kermany@1000'])}" in text and f"loses {r.regret['ham10000@1600']:.1f} points" in text
    said = report.sentences(st)["fig11_seeds"]
    assert f"in {100*r.top1['all']:.0f} % of pairs of seeds" in said and "12 cells with the seeds 1, 2, 3" in said
    only = view.study("power", None, ["imagenette@1000", "dtd10@1000"], ["kermany@1000"])
    assert len(seeds.seeds(only).frame) == 6 and "random" not in seeds.seeds_sentence(only).split("there")[1].split(".")[1]


def test_table_1_counts_a_part_and_not_its_whole(monkeypatch):
    from pathlib import Path
    lite = Path(os.environ.get("CATSCANS_DATA") or Path(__file__).parents[2]/"shared"/"lite")
    if not (lite/"natural_tinyimagenet_64.zip").exists(): pytest.skip(f"{lite} does not hold the images of lite: parts are not counted")
    monkeypatch.setenv("CATSCANS_DATA", str(lite))
    names = [n for n in (*part_of(POWER, "small")[0], "kermany@1000") if n != "random"]
    got = table1({n: DATASETS[n] for n in names}, count=counted_images(names))
    assert got.counted.to_dict() == {"tinyimagenet@300x22": 300, "imagenette@300": 300, "dtd10@300": 300, "lc25000@300": 298, "kermany@1000": 1000}


@with_images
def test_all_parts_keep_their_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path))
    seen = {n: check_card(DATASETS[n], load(n, size=16)) for n in {*POWER.sources, *POWER.targets}}
    assert len({i.fingerprint for i in seen.values()}) == len(seen)
    for n, im in seen.items():
        if im.card.grey: assert (im.x[..., 0] == im.x[..., 1]).all() and (im.paths == seen[n.removesuffix("-grey")].paths).all()


@with_images
def test_two_seeds_of_a_pair_differ_in_everything_that_is_drawn(tmp_path, monkeypatch):
    "Slices, real images, a network cut after its first convolution, one epoch."
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND") or "tensorflow")
    small = replace(POWER, size=32, arch="tiny", recipe="power-small", folds=2, max_train=(("kermany@1000", 64),))
    one = {"*": Recipe(lr=1e-3, epochs=1, batch=32)}
    monkeypatch.setitem(PROFILES, "power", small); monkeypatch.setitem(ARCHS, "tiny", "pool1_pool"); monkeypatch.setitem(RECIPES, "power-small", dict(pretrain=one, finetune=one))
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work")); monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path/"home"))
    parcels.pack_inputs(tmp_path/"in", small, sources=["dtd10@300"], targets=["kermany@1000"], seeds=[1, 2])
    ended = slices_run.run_slice(tmp_path/"in", tmp_path/"out", 15)
    assert (ended["done"], ended["left"], ended["failed"]) == (4, 0, [])
    slices_run.unpack_records(tmp_path/"out"/slices_run.ARCHIVE)
    (pre, tuned), (pre2, tuned2) = ([store.read(Run(s, t, "power", seed=k)) for s, t in (("dtd10@300", None), ("dtd10@300", "kermany@1000"))] for k in (1, 2))
    assert pre["splits"]["fingerprint"] != pre2["splits"]["fingerprint"] and pre["folds"][0]["weights_sha256"] != pre2["folds"][0]["weights_sha256"]
    assert tuned["splits"]["fingerprint"] != tuned2["splits"]["fingerprint"] and tuned["data"] == tuned2["data"]          # other folds of the same images
    assert tuned["settings"]["source_weights_sha256"] == pre["folds"][0]["weights_sha256"] != tuned2["settings"]["source_weights_sha256"]
    assert len(ranking.repeats("power")) == 2 and ranking.reliability("power").attrs["note"].startswith("not run yet")    # one source is no comparison
