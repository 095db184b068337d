"What every dataset, split, figure and record promises."
import subprocess, sys
from pathlib import Path

import numpy as np
import pytest

from catscans.core.basics import UserError
from catscans.core.grid import PAPER_SOURCES, PAPER_TARGETS, PROFILES, PROTOCOLS
from catscans.records import authors
from catscans.datasets.catalogue import DATASETS
from catscans.datasets.loading import check_card, load
from catscans.datasets.splits import make_splits, shared_group_rate, single_split
from catscans.figures import auc
from catscans.figures import report
from fakes import ROOT

TOY = PROFILES["toy"].sources


@pytest.fixture(scope="module", autouse=True)
def work(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv("CATSCANS_WORK", str(tmp_path_factory.mktemp("work")))
        yield


def test_nine_cards_and_their_roles():
    assert all(n in DATASETS for n in PAPER_SOURCES)
    assert {n for n in PAPER_SOURCES if "target" in DATASETS[n].role} == set(PAPER_TARGETS)
    for p in PROFILES.values(): assert all(n in DATASETS for n in (*p.sources, *p.targets)), p.name


@pytest.mark.slow(1)
@pytest.mark.parametrize("name", TOY)
def test_toy_dataset_keeps_its_card(name):
    images = load(name, size=32)
    check_card(DATASETS[name], images)
    assert images.x.dtype == np.uint8 and images.x.shape[1:] == (32, 32, 3)
    assert load(name, size=32).fingerprint == images.fingerprint


def test_the_two_pcams_share_no_slide():
    a, b = load("toy-pcam-middle", size=32), load("toy-pcam-small", size=32)
    assert not set(a.groups) & set(b.groups)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PROFILES["toy"].targets)
def test_splits(name, protocol):
    im = load(name, size=32)
    s = make_splits(im.y, im.groups, protocol, 5, 1, classes=im.classes)
    for f in s:
        assert not set(f.train) & set(f.test)
        assert set(im.y[f.test]) == set(range(len(im.classes))), "every class is scored in every fold"
    if protocol == "grouped": assert shared_group_rate(s, im.groups) == 0
    f = single_split(im.y, im.groups, protocol)
    assert not set(f.train) & set(f.test) and not set(f.train) & set(f.valid) and not set(f.valid) & set(f.test)


def test_lite_datasets_keep_their_cards():
    import os
    if not os.environ.get("CATSCANS_DATA"): pytest.skip("SKIPPED: CATSCANS_DATA is not set, the real images of `lite` were not tested")
    for name in {*PROFILES["lite"].sources, *PROFILES["lite"].targets}: check_card(DATASETS[name], load(name, size=32))


@pytest.mark.slow(14)
def test_figures_are_drawn_from_the_record(tmp_path, monkeypatch):
    "figures exist, are not blank, and Fig. 3's dots are the means of the folds"
    from PIL import Image
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    paths = report.make("published")
    for f in (p for p in map(Path, paths) if p.suffix == ".png"):
        assert np.asarray(Image.open(f).convert("L")).std() > 5, f"{f.name} is blank"
        assert f.with_suffix(".svg").exists() and f.with_suffix(".csv").exists()
    mean = authors.fold_auc().groupby(["target", "source"]).auc_ovr_weighted.mean()
    fig = auc.fig3("published")
    assert len(fig.axes) == 3
    for ax, target in zip(fig.axes, PAPER_TARGETS):
        want = [mean[target][s] for s in PAPER_SOURCES if s in mean[target].index]
        got = next(c for c in ax.collections if c.get_gid() == "means").get_offsets()[:, 0]
        np.testing.assert_allclose(got, want, atol=1e-9)


def test_missing_results_stop_the_build_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    with pytest.raises(UserError, match="toy-dtd"): auc.fig3("toy")


def test_importing_is_light():
    folders = ("models", "training", "transfer", "datasets", "metrics")
    files = [f"catscans.{n}.{f.stem}" for n in folders for f in sorted((ROOT/"catscans"/n).glob("*.py")) if f.stem != "__init__"]
    code = (f"import sys, {', '.join(files)}; "
            "assert not {'keras', 'tensorflow', 'jupyterlab', 'papermill', 'snakemake'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_findings_in_the_readme_are_those_of_the_committed_figures():
    "of lite: how many differences from random initialisation, between what, and how many are told from zero"
    import pandas as pd
    from catscans.figures.readme import gains_sentence, study
    said = gains_sentence(pd.read_csv(ROOT/"figures"/"lite"/"fig6_gain.csv"), study("lite").fold_auc())
    assert said in " ".join((ROOT/"README.md").read_text().split())
