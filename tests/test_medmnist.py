"""The second published record: what it holds, and that it says what the published files say.

Tests against those files run where they lie: `CATSCANS_PUBLISHED_MEDMNIST`, or beside this project.
"""
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catscans.core.basics import UserError
from catscans.datasets import catalogue
from catscans.recommend import medmnist

ROOT = Path(__file__).resolve().parents[1]
FILES = Path(os.environ.get("CATSCANS_PUBLISHED_MEDMNIST") or ROOT.parent/"shared"/"published_medmnist")
needs_files = pytest.mark.skipif(not (FILES/"runs.csv.gz").exists(), reason=f"NOT CHECKED: no published files in {FILES}; set CATSCANS_PUBLISHED_MEDMNIST")
DATA = ROOT/"catscans"/"data"/"medmnist"


# what it holds

def test_counts():
    a = medmnist.auc()
    assert (len(a), a.source.nunique(), a.target.nunique()) == (168, 15, 12)
    assert not (a.source == a.target).any() and a.auc.between(0, 1).all() and not a.duplicated(["target", "source"]).any()
    assert len(medmnist.runs()) == 20_157
    s = medmnist.scores(wide=True)
    assert len(s) == 154 and set(s) - {"target", "source"} == set(medmnist.SCORES) and s.notna().all(axis=None)
    assert set(a.target) - set(s.target) == {"chestmnist"}


def test_licence_and_sources_go_with_the_numbers():
    text = (DATA/"LICENSE.txt").read_text()
    assert "MIT License" in text and "WITHOUT WARRANTY OF ANY KIND" in text and "above copyright notice and this permission notice shall be included" in text
    listed = pd.read_csv(DATA/"sources.csv")
    assert set(listed.file) | {"sources.csv", "LICENSE.txt"} == {f.name for f in DATA.iterdir()} and set(listed.licence) == {"MIT"}
    assert sum(f.stat().st_size for f in DATA.iterdir()) < 400_000


def test_what_is_returned_can_be_changed_without_harm():
    for f, c in ((medmnist.auc, "auc"), (medmnist.runs, "test_auc"), (medmnist.ranks, "leep")):
        d = f(); before = d[c].iloc[0]; d.loc[d.index[0], c] = 7
        assert f()[c].iloc[0] == before


# a cell is one run

def test_every_cell_is_the_run_with_the_lowest_validation_loss():
    both = medmnist.auc().merge(medmnist.cells(medmnist.runs()), on=["target", "source"], suffixes=("", "_runs"))
    assert len(both) == 168 and (both.auc - both.auc_runs).abs().max() < 1e-6


def test_cells_by_hand():
    r = pd.DataFrame(dict(target="t", source=["a", "a", "b", "b"], val_loss=[.3, .2, np.nan, .9], test_auc=[.9, .8, .99, .7]))
    assert medmnist.cells(r).auc.tolist() == [.8, .7]
    with pytest.raises(UserError, match="test_auc"): medmnist.cells(r.drop(columns="test_auc"))


def test_each_configuration_stands_there_once():
    r = medmnist.runs()
    assert not r.duplicated(["target", "source", "lr", "wd", "momentum", "batch"]).any(), "noise between seeds could be read from repeated configurations"


def test_stability_by_hand():
    r = pd.DataFrame([dict(target="t", source=s, lr=lr, wd=0, momentum=0, batch=b, val_loss=l, test_auc=a)
                      for s, rows in dict(a=[(1, .1, .9), (2, .2, .7)], b=[(1, .2, .8), (2, .1, .6)], c=[(1, .1, .5), (2, .2, .5)]).items() for lr, l, a in rows for b in (32,)])
    st = medmnist.stability(20, record=r).loc["t"]        # each half is one configuration: a .9 or .7, b .8 or .6, c the same
    assert st.sd == pytest.approx(100*np.sqrt((.2**2 + .2**2)/3/2)) and st.spearman_rho == pytest.approx(1) and st.top1 == 1 and st.regret == pytest.approx(0)


# ranks of estimators

def test_rank_tables_are_recomputed():
    mine, theirs = medmnist.ranks(), medmnist.ranks(False)
    six = [c for c in theirs if c != "our"]
    assert (mine[six].rank(axis=1) == theirs[six].rank(axis=1)).all(axis=None), "the order of the estimators of others"
    assert (mine == theirs).all(axis=1).sum() == 10 and not (mine == theirs).loc["tissuemnist"].all()
    assert (mine.apply(sorted, axis=1, result_type="expand").to_numpy() == np.arange(1, 8)).all()


def test_families():
    assert catalogue.family("organamnist") == catalogue.family("organcmnist") == catalogue.family("organsmnist_224")
    assert len({catalogue.family(t) for t in medmnist.auc().target}) == 10 and catalogue.family("nobody's") == "nobody's"
    s = medmnist.sources()
    assert list(s.index) == list(medmnist.auc().source.unique()) and (s.images > 0).all() and (s.classes > 1).all() and s.licence.str.len().gt(3).all()


# against the published files

@needs_files
def test_all_runs_were_read():
    full = pd.read_csv(FILES/"runs.csv.gz")
    assert len(full) == 28_205
    full = full[~full.file.str.endswith("_imnet")].rename(columns=dict(target_flag="target", source_flag="source", batch_size="batch"))
    key = ["target", "source", "lr", "wd", "momentum", "batch"]
    both = medmnist.runs().merge(full, on=key, suffixes=("", "_published"), validate="1:1")
    assert len(both) == len(full) == 20_157
    for c in ("val_loss", "test_auc"): assert (both[c] == both[f"{c}_published"]).all(), c


@needs_files
def test_cells_scores_and_ranks_are_the_published_ones():
    a = pd.read_csv(FILES/"AUCs_dataset.csv", index_col=0)
    mine = medmnist.auc().pivot(index="source", columns="target", values="auc").loc[a.index, a.columns]
    assert a.notna().sum().sum() == 168 and np.array_equal(mine, a, equal_nan=True)
    for e in medmnist.SCORES:
        f = pd.read_csv(FILES/f"{e}_dataset.csv", index_col=0)
        w = medmnist.scores(wide=True)
        assert [f.loc[s, t] for s, t in zip(w.source, w.target)] == w[e].tolist(), e
    k = pd.read_csv(FILES/"ktau_dataset_rank.csv", index_col=0)
    assert (medmnist.ranks(False) == k).all(axis=None)
