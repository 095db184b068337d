"A sentence that states a result follows the records: a record is changed, and the sentence is seen to change with it. So do titles."
import json, shutil

import numpy as np
import pandas as pd
import pytest

from catscans.core.basics import pack
from catscans.core.grid import part_of, PROFILES
from catscans.records import store, view
from catscans.figures import auc, curves, design, distance, maps, report, seeds, tables
from fakes import ROOT

PART = dict(sources=["dtd10", "imagenette", "lc25000", "random"], targets=["kermany", "ham10000"])


def project(to, profile, keep):
    "a project that holds some of the committed records of a profile"
    (records := to/"results"/profile/"records").mkdir(parents=True)
    for f in (ROOT/"results"/profile/"records").glob("*.json"):
        if keep(f.name): shutil.copy(f, records/f.name)
    return records


@pytest.fixture(scope="module")
def lite_records(tmp_path_factory):
    of = lambda name: name.startswith("similarity") or any(name.startswith(p) for s in PART["sources"] for p in (f"pretrain-{s}-", *(f"finetune-{s}--{t}-" for t in PART["targets"])))
    return project(tmp_path_factory.mktemp("lite"), "lite", of)


@pytest.fixture
def lite(lite_records, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(lite_records.parents[2])); monkeypatch.setenv("CATSCANS_WORK", str(lite_records.parents[2]/"work"))
    kept = {f: f.read_bytes() for f in lite_records.iterdir()}
    yield view.study("lite", None, **PART)
    for f, text in kept.items(): f.write_bytes(text)


def change(start, edit):
    "edit the committed copy of the records whose names begin like this"
    from catscans.core.files import results_dir
    files = [f for f in results_dir("lite").glob("records/*.json") if f.name.startswith(start)]
    assert files, start
    for f in files:
        rec = json.loads(f.read_text())
        edit(rec)
        f.write_text(json.dumps(rec))


def all_folds(v):
    "every fold of a fine-tuning has this AUC, give or take as before"
    def edit(rec):
        was = rec["metrics"]["auc_ovr_weighted_mean"]
        for f in rec["folds"]: f["auc_ovr_weighted"] += v - was
        rec["metrics"]["auc_ovr_weighted_mean"] = float(np.mean([f["auc_ovr_weighted"] for f in rec["folds"]]))
    return edit


def guessing(rec):
    "predictions that know nothing"
    p = store.unpack(rec["predictions"]["p"])
    rec["predictions"]["p"] = pack(np.random.default_rng(0).dirichlet(np.ones(p.shape[1]), len(p)).astype("float32"))


def matrices(rec):
    "datasets of the other kind are near in every map"
    for m in rec["matrices"].values():
        kind = np.array([n.startswith(("ham", "kerm", "lc")) for n in m["names"]])
        m["value"] = (1. + 9*(kind[:, None] == kind)*(1 - np.eye(len(kind)))).tolist()


def hours(rec): rec["timing"]["wall_s"] += 7200
def badly(rec): rec["evaluation"]["test"]["auc_ovr_weighted"] = .512
def falling(rec):
    for h in rec["history"]: h["loss"] = list(np.exp(-.3*np.arange(len(h["loss"]))))


def scores(rec):
    "one estimator knows the order of the AUCs, the others know nothing"
    order = {("dtd10", "kermany"): 1, ("imagenette", "kermany"): 2, ("lc25000", "kermany"): 3, ("dtd10", "ham10000"): 1, ("imagenette", "ham10000"): 3, ("lc25000", "ham10000"): 2}
    for e in rec["estimates"]: e["value"] = float(order.get((e["source"], e["target"]), 0)) if e["measure"] == "logme" else 1.


CASES = {"fig3_auc": ("finetune-dtd10--kermany", all_folds(.999), "DTD-10 on Chest X-ray (0.999)"), "fig5_ranks": ("finetune-random--kermany", all_folds(.6), "on Chest X-ray"),
         "fig6_gain": ("finetune-random--", all_folds(.5), "6 lie above zero"), "fig7_critical_difference": ("finetune-lc25000--", all_folds(.99), "of 12 pairs"),
         "fig4_distance": ("finetune-dtd10--kermany", all_folds(.6), "Ratings by an AI model: within targets"), "fig8_curves": ("finetune-dtd10--kermany", falling, "DTD-10 to Chest X-ray 25.9 %"),
         "fig9_gallery": ("similarity", scores, "that of LogME (τ 1.00"), "fig10_atlas": ("similarity", matrices, "Under none of 7 distances"), "table2_pretraining": ("pretrain-imagenette", badly, "0.512 (Imagenette)"),
         "table9_metrics_agree": ("finetune-lc25000--kermany", guessing, "On Chest X-ray"), "table7_cost": ("pretrain-dtd10", hours, "minutes")}


@pytest.mark.slow(9)
@pytest.mark.parametrize("name", CASES)
def test_a_sentence_follows_the_record(name, lite):
    start, edit, says = CASES[name]
    before = report.sentences(lite, [name])[name]
    change(start, edit)
    after = report.sentences(lite, [name])[name]
    assert before != after and says in after and " nan" not in after, (before, after)


def test_what_is_said_of_every_profile_is_one_of_these(lite):
    assert set(report._SAY) - set(CASES) == {"fig11_seeds", "table6_correlations"}      # below; and what hangs on the choice of pairs
    assert "all 6 pairs" in report.sentences(lite, ["table6_correlations"])["table6_correlations"]
    assert "all 3 pairs" in report.sentences(view.study("lite", None, PART["sources"], ["kermany"]), ["table6_correlations"])["table6_correlations"]


TITLED = {"fig3": (auc.fig3, lambda st: auc.best_finding(auc.auc_summary(st.fold_auc()), auc.told_from_next(st.fold_auc()))), "fig6": (auc.gain, lambda st: auc.gain_finding(auc.gain_frame(st), "random initialisation")),
          "fig7": (auc.critical_difference, lambda st: auc.rank_finding(auc.rank_frame(st))), "fig8": (curves.curves, lambda st: curves.fall_finding(curves.fall_frame(st, "run"))),
          "fig4": (distance.fig4, lambda st: distance.distance_finding(distance.transfer_frame(st), distance.measures(st))), "fig10": (maps.atlas, lambda st: maps.map_finding(maps.matrices_of(st)))}


@pytest.mark.slow(5)
@pytest.mark.parametrize("name", TITLED)
def test_a_title_is_the_finding_of_its_data(name, lite):
    draw, finding = TITLED[name]
    title = lambda: " ".join(draw(lite)._suptitle.get_text().split())
    assert title() == " ".join(finding(lite).split())


def test_the_design_draws_what_the_records_hold(lite, tmp_path, monkeypatch):
    text = lambda fig: " ".join(t.get_text().replace("\n", " ") for t in fig.axes[0].texts)
    assert "answered by an AI model" in text(design.fig2(lite)) and "experts" not in text(design.fig2(lite)).lower()
    project(tmp_path, "power", lambda n: n.startswith("finetune"))
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    power = design.fig2(view.study("power", None, *part_of(PROFILES["power"], "small")))
    assert not any(w in text(power) for w in ("Task2Vec", "questions", "Fig. 4")) and "3 seeds" in text(power)
    assert "hold no distances" in " ".join(t.get_text() for t in power.texts).replace("\n", " ")


def test_predictions_that_cannot_be_scored_are_named(lite):
    def broken(rec):
        p = store.unpack(rec["predictions"]["p"]).copy(); p[3] = np.nan
        rec["predictions"]["p"] = pack(p)
    whole = tables.table9(lite)
    assert "Left out" not in whole.attrs["note"] and list(whole)[1:3] == ["Chest X-ray", "HAM10000"] or list(whole)[1:3] == ["HAM10000", "Chest X-ray"]
    change("finetune-dtd10--kermany", broken)
    t = tables.table9(lite)
    assert "Left out: DTD-10 on Chest X-ray, seed 1" in t.attrs["note"] and len(tables.metric_values(lite)) == 5
    assert "Left out" in report._under(lite, "table9_metrics_agree", t)


def test_table_9_is_scipys_tau_of_the_records_own_folds(lite):
    "AUC and balanced accuracy stand in the records: their order can be had without the predictions"
    from scipy.stats import kendalltau
    f = lite.fold_auc(); f = f[(f.source != "random") & (f.target == "ham10000")]
    m = f.groupby("source")[["auc_ovr_weighted", "balanced_accuracy", "brier"]].mean()
    t = tables.table9(lite).set_index("metrics")["HAM10000"]
    assert t["AUC weighted, balanced accuracy"] == pytest.approx(kendalltau(m.auc_ovr_weighted, m.balanced_accuracy).statistic)
    assert t["AUC weighted, Brier score"] == pytest.approx(kendalltau(m.auc_ovr_weighted, -m.brier).statistic)


def test_table_1_says_on_how_many_images_a_fold_was_trained(lite):
    t = tables.table1(lite).set_index("dataset")
    assert t["images used"]["Chest X-ray"] == 2800 and t["training images per fold"]["Chest X-ray"] == "300" and t["training images per fold"]["DTD-10"] == ""


@pytest.fixture
def small(tmp_path, monkeypatch):
    project(tmp_path, "power", lambda n: True)
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    return view.study("power", None, *part_of(PROFILES["power"], "small"))


@pytest.mark.slow(4)
def test_figures_of_several_seeds_show_all_of_them_and_agree(small):
    d = auc.auc_summary(small.fold_auc()).set_index("source")
    cells = seeds.seeds(small).frame.groupby("source").auc.mean()
    assert (d.seeds == 3).all() and d["mean"].sort_values().index.tolist() == cells.sort_values().index.tolist() and np.allclose(d["mean"].sort_index(), cells.sort_index())
    heat = auc.rank_heatmap(small)
    assert heat.frame.set_index("source")["rank"].sort_values().index.tolist() == cells.sort_values(ascending=False).index.tolist()
    assert "seeds 1, 2, 3:" in " ".join(t.get_text() for t in heat.texts) and "Means are over 3 seeds" in " ".join(t.get_text() for t in heat.texts).replace("\n", " ")
    assert auc.gain_frame(small).seed.nunique() == 3 and len(auc.critical_difference(small).axes) == 3 and tables.table7(small).runs.tolist() == [12, 15]
    first = report.sentences(small, ["fig11_seeds"])["fig11_seeds"]
    for f in small_records(small, "finetune-lc25000"):
        rec = json.loads(f.read_text())
        all_folds(.999)(rec)
        f.write_text(json.dumps(rec))
    assert report.sentences(small, ["fig11_seeds"])["fig11_seeds"] != first and auc.best_finding(auc.auc_summary(small.fold_auc())).endswith("LC25000, 300")


def small_records(st, start):
    from catscans.core.files import results_dir
    return sorted(results_dir(st.profile).glob(f"records/{start}*.json"))


def test_a_seed_that_is_not_finished_counts_as_far_as_it_is(small):
    small_records(small, "finetune-lc25000@300--kermany@1000-grouped-s3")[0].unlink()
    d = auc.auc_summary(small.fold_auc()).set_index("source")
    assert d.seeds["lc25000@300"] == 2 and d.seeds["dtd10@300"] == 3
    note = " ".join(t.get_text() for t in auc.rank_heatmap(small).texts).replace("\n", " ")
    assert "fewer have LC25000, 300 on Chest X-ray, 1000 (2)" in note


def test_names_on_a_map_keep_their_colour_and_stay_inside():
    names = ["dtd10", "ham10000", "kermany", "lc25000", "lc25000-lung2", "tinyimagenet"]
    at = np.array([[0, 0], [0, .001], [.001, 0], [.001, .001], [0, .0005], [9, 9.]])
    d = pd.DataFrame(np.hypot(*(at[:, None] - at).transpose(2, 0, 1)), names, names)
    fig = maps.atlas_of(dict(one=d), view.study("lite"), "made up", where="nowhere")
    fig.draw_without_rendering()
    ax, frame = fig.axes[0], fig.axes[0].get_window_extent()
    shown = {t.get_text(): t for t in ax.texts if t.get_text() and not t.get_text()[0].isdigit()}
    from catscans.datasets.catalogue import label
    from catscans.figures.style import colour, ink
    assert set(shown) == {label(n) for n in names} and all(shown[label(n)].get_color() == ink(colour(n), 6) for n in names)
    for t in shown.values():
        b = t.get_window_extent()
        assert frame.x0 - 1 <= b.x0 and b.x1 <= frame.x1 + 1 and frame.y0 - 1 <= b.y0 and b.y1 <= frame.y1 + 1, t.get_text()


def test_answers_of_ones_own_are_not_called_the_pilots(lite):
    assert "pilot" in distance.observed(lite)
    change("similarity", lambda rec: rec["settings"].update(experts="answers"))
    assert distance.observed(lite) == "The experts' answers are a user's own."
