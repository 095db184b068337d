"""The record: what it holds, what it refuses, and that it says what the published files say.

Tests against those files run where they lie: `CATSCANS_PUBLISHED`, or ../shared/published beside this project.
"""
import json, os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catscans import published, stats
from catscans.core import NOT_RECORDED, PAPER_SOURCES, PAPER_TARGETS, UserError
from catscans.protocols import PROTOCOL_SETTINGS, finetune_lr, setting, settings

ROOT = Path(__file__).resolve().parents[1]
FILES = Path(os.environ.get("CATSCANS_PUBLISHED") or ROOT.parent/"shared"/"published")
needs_files = pytest.mark.skipif(not (FILES/"task2vec_fig4.npz").exists(), reason=f"NOT CHECKED: no published files in {FILES}; set CATSCANS_PUBLISHED")


@pytest.fixture
def copy(tmp_path):
    published.export(tmp_path/"record")
    return tmp_path/"record"


def lines(path): return path.read_text().splitlines()
def write(path, rows): path.write_text("\n".join(rows) + "\n")


# what it holds

def test_counts():
    rec = published.record()
    assert len(set(zip(rec.fold_auc.source, rec.fold_auc.target))) == 24 and len(rec.fold_auc) == 120
    assert len(rec.expert_distances) == 27 and len(rec.task2vec_distances) == 120
    assert set(rec.task2vec_matrices.measure.value_counts()) == {64}
    assert len(rec.claims) == 32 and len(rec.differences) == 30
    assert set(rec.sources.file) == {f"{n}.csv" for n in published.SCHEMA} - {"sources.csv"}
    assert set(rec.sources.licence) == {"no licence stated there", "facts"}


def test_tidy_frame():
    df = published.fold_auc()
    assert {"source", "target", "fold", "auc_ovr_weighted", "profile", "protocol", "seed"} == set(df)
    assert set(df.source) == set(PAPER_SOURCES) and set(df.target) == set(PAPER_TARGETS)
    assert not set(zip(df.source, df.target)) & set(NOT_RECORDED)


def test_no_answers_of_single_people():
    votes = published.record().pilot_votes
    assert np.allclose(votes.groupby(["dataset", "question"]).share.sum(), 1, atol=1e-3)
    assert not any("observer" in f or "respondent" in f for f in published.record().frames.values())


def test_a_frame_is_a_copy():
    f = published.record().fold_auc
    f.loc[0, "auc"] = 0
    assert published.record().fold_auc.auc[0] > .9


def test_export_and_back(copy):
    for name, frame in published.record(copy).frames.items(): pd.testing.assert_frame_equal(frame, published.record().frames[name])
    assert lines(copy/"fold_auc.csv")[0] == "source,target,fold,auc"
    with pytest.raises(UserError, match="may hold your changes"): published.export(copy)


def test_either_name_is_understood(copy):
    f = copy/"fold_auc.csv"
    f.write_text(f.read_text().replace("textures", "dtd").replace(",isic,", ",isic2018,"))
    pd.testing.assert_frame_equal(published.record(copy).fold_auc, published.record().fold_auc)


def test_column_and_row_order_do_not_matter(copy):
    f = pd.read_csv(copy/"fold_auc.csv").sample(frac=1, random_state=0)[["auc", "fold", "target", "source"]]
    f.to_csv(copy/"fold_auc.csv", index=False)
    t = lambda r: published.pairs(r).set_index(["source", "target"]).transferability.sort_index()
    pd.testing.assert_series_equal(t(published.record(copy)), t(None))


# what it refuses: the change, what the message names

BROKEN = {
    "a missing fold": ("fold_auc.csv", lambda r: [l for l in r if not l.startswith("stl10,chest,3")], "fold_auc.csv:25: after this line source stl10, target chest, fold 3 is missing"),
    "a missing pair": ("fold_auc.csv", lambda r: [l for l in r if not l.startswith("stl10,chest")], "source stl10, target chest, fold 1 is missing"),
    "a duplicate": ("fold_auc.csv", lambda r: r + [r[7]], "fold_auc.csv:122: source target fold = imagenet chest 2 is there already, in line 8"),
    "a duplicate by another name": ("expert_distances.csv", lambda r: r + ["dtd,chest,6"], "expert_distances.csv:29: source target = dtd chest is there already"),
    "an AUC above 1": ("fold_auc.csv", lambda r: r[:4] + ["imagenet,isic,4,94.2"] + r[5:], "fold_auc.csv:5: auc = '94.2': outside [0, 1]"),
    "a negative AUC": ("fold_auc.csv", lambda r: r[:4] + ["imagenet,isic,4,-.1"] + r[5:], "fold_auc.csv:5: auc = '-.1': outside"),
    "NaN": ("fold_auc.csv", lambda r: r[:4] + ["imagenet,isic,4,nan"] + r[5:], "fold_auc.csv:5: auc = 'nan'"),
    "an empty cell": ("fold_auc.csv", lambda r: r[:4] + ["imagenet,isic,4,"] + r[5:], "fold_auc.csv:5: auc = '' is not a number"),
    "words": ("table1.csv", lambda r: [l.replace("13000", "many") for l in r], "table1.csv:3: size_printed = 'many' is not a number"),
    "an unknown dataset": ("fold_auc.csv", lambda r: [l.replace("kimia", "cifar") for l in r], "source = 'cifar': unknown dataset"),
    "an unknown fold": ("fold_auc.csv", lambda r: r[:1] + ["imagenet,isic,6,.9"] + r[2:], "fold_auc.csv:2: fold = '6'"),
    "a missing column": ("fold_auc.csv", lambda r: [l.rsplit(",", 1)[0] for l in r], "fold_auc.csv:1: the column auc is missing"),
    "a cut row": ("fold_auc.csv", lambda r: r[:4] + ["imagenet,isic"] + r[5:], "fold_auc.csv:5: received 2 columns"),
    "a negative distance": ("expert_distances.csv", lambda r: r[:1] + [r[1][:-1] + "-1"] + r[2:], "expert_distances.csv:2: distance = '-1'"),
    "an empty file": ("table2.csv", lambda r: [], "table2.csv:1: the column source is missing"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_record_is_refused_at_its_line(copy, what):
    from catscans.study import main
    name, change, says = BROKEN[what]
    write(copy/name, change(lines(copy/name)))
    with pytest.raises(UserError) as e: published.record(copy)
    assert says in str(e.value) and str(copy) in str(e.value)
    assert main(["audit", "--record", str(copy)]) == 2


def test_a_missing_file_or_folder(copy, tmp_path):
    (copy/"table3.csv").unlink()
    with pytest.raises(UserError, match="table3.csv: the file is missing"): published.record(copy)
    with pytest.raises(UserError, match="not a folder"): published.record(tmp_path/"nowhere")
    with pytest.raises(UserError, match="it is a file"): published.export(copy/"fold_auc.csv")


# paper against code

def test_protocols_differ_in_exactly_the_settings():
    d = published.record().differences
    assert set(d["class"]) == {"setting", "reporting", "unrecoverable"}
    differ = d.as_published != d.as_described
    assert ((d["class"] == "setting") == (differ & (d["class"] != "unrecoverable"))).all()  # columns differ and both can be run
    assert (d.setting[d["class"] != "setting"] == "").all()
    assert sorted(d.setting[d["class"] == "setting"]) == sorted(PROTOCOL_SETTINGS)
    a, b = settings("published"), settings("described")
    assert {k for k in a if a[k] != b[k]} == set(PROTOCOL_SETTINGS)
    assert setting("subset_pairs", "published") == (62, 62, 47, 62, 51)


def test_the_settings_said_to_be_obeyed_are_read_by_code():
    from pathlib import Path
    import catscans
    from catscans.protocols import OBEYED
    code = "".join(f.read_text() for f in Path(catscans.__file__).parent.glob("*.py") if f.stem not in ("protocols", "_modidx"))
    for name in PROTOCOL_SETTINGS: assert (f'setting("{name}"' in code) == (name in OBEYED), name


def test_recipes_of_the_two_protocols_part_only_where_said():
    "schedule, learning rate and dropout by PROTOCOL_SETTINGS, BatchNorm by OUR_SETTINGS; nothing else"
    from dataclasses import asdict
    from catscans.protocols import OUR_SETTINGS
    from catscans.training import RECIPES, recipe_for
    parted = set()
    for kind, names in (("pretrain", RECIPES["paper"]["pretrain"]), ("finetune", RECIPES["paper"]["finetune"])):
        for n in names:
            for source in ("chest", "imagenet"):
                a, b = (asdict(recipe_for("paper", kind, n, p, source)) for p in ("published", "described"))
                parted |= {k for k in a if a[k] != b[k]}
    assert parted <= {"schedule", "lr", "dropout", *OUR_SETTINGS} and {"schedule", "lr", "batchnorm"} <= parted


def test_learning_rate_rules():
    f = published.record().finetune_settings
    assert all(finetune_lr(r.source, r.target, "per_pair") == r.lr for r in f.itertuples())
    assert all(len({finetune_lr(s, t, "per_target") for s in PAPER_SOURCES}) == 1 for t in PAPER_TARGETS)


# against the published files

@needs_files
def test_facts_are_those_of_the_files():
    read = lambda name: pd.read_csv(FILES/f"{name}.csv", dtype=str, keep_default_na=False)
    rec, c = published.record(), published.canonical
    for ours, theirs, keys, values in ((rec.fold_auc, read("fold_auc_long"), ["source", "target", "fold"], ["auc"]),
                                       (rec.expert_distances, read("expert_distances"), ["source", "target"], ["distance"])):
        theirs = {tuple(c(r[k]) for k in keys): [float(r[v]) for v in values] for r in theirs.to_dict("records")}
        assert {tuple(map(str, (r[k] for k in keys))): [r[v] for v in values] for r in ours.to_dict("records")} == theirs
    t = read("table2").replace("", np.nan).set_index("source").astype(float)
    np.testing.assert_array_equal(rec.table2.drop(columns="source"), t)
    assert rec.claims.id.tolist() == [int(i) for i in read("claims").id]
    d = read("discrepancies")
    assert len(d) == len(rec.differences) and rec.differences.effect.tolist() == d.effect.tolist()
    assert rec.finetune_settings.lr.tolist() == read("finetune_settings_from_git").last_lr.astype(float).tolist()


@needs_files
def test_task2vec_distances_follow_from_the_embeddings():
    z, mean, rec = np.load(FILES/"task2vec_fig4.npz"), np.load(FILES/"task2vec_means.npz"), published.record()
    name = {published.canonical(k.replace("_", "-")): k for k in z if k not in ("index", "draw")}
    h = {d: z[k].astype(float) for d, k in name.items()}
    cos = lambda a, b: 1 - a@b/np.sqrt((a@a)*(b@b))
    row = {int(i): n for n, i in enumerate(z["index"])}
    assert tuple(z["draw"]) == setting("subset_pairs", "published")
    worst = 0
    for r in rec.task2vec_distances.itertuples():
        s, i = setting("imagenet_distance", "published") if r.source == "imagenet" else r.source, row[int(z["draw"][r.fold-1])]
        worst = max(worst, abs(r.distance - (0 if s == r.target else cos(h[s][i], h[r.target][i]))))
    assert worst < 1e-6
    m = published.matrix("cosine_published_draw")
    i = [row[int(k)] for k in z["draw"]]
    assert max(abs(m.loc[a, b] - np.mean([cos(h[a][k], h[b][k]) for k in i])) for a in m for b in m if a != b) < 1e-6
    m = published.matrix("cosine_mean_embedding")
    assert max(abs(m.loc[a, b] - cos(mean[name[a]].astype(float), mean[name[b]].astype(float))) for a in m for b in m) < 1e-6
    dims = lambda v: (v.sum(-1)**2/(v**2).sum(-1))
    for g in rec.task2vec_geometry.itertuples():
        mu = mean[name[g.dataset]].astype(float)
        np.testing.assert_allclose([g.norm_three_subsets, g.norm_mean_embedding, g.effective_dimensions_three_subsets, g.effective_dimensions_mean_embedding],
                                   [np.linalg.norm(h[g.dataset], axis=1).mean(), np.linalg.norm(mu), dims(h[g.dataset]).mean(), dims(mu)], rtol=1e-6)
        assert g.filters == len(mu)


@needs_files
def test_ranking_and_tests_of_fig3():
    c, df = published.canonical, published.fold_auc()
    ref = pd.read_csv(FILES/"fig3_ranking.csv")
    ours = stats.ranking(df).set_index(["target", "source"])
    for r in ref.itertuples():
        o = ours.loc[(c(r.target), c(r.source))]
        np.testing.assert_allclose([o["rank"], o["mean"], o.sd_population, o.sd_sample, o.mean_rank], [r.rank, r.mean, r.sd_pop, r.sd_sample, r.mean_rank], rtol=0, atol=1e-12)
    ref = pd.read_csv(FILES/"fig3_pairwise_tests.csv")
    ours = stats.pairwise_tests(df).set_index(["target", "a", "b"])
    names = dict(mean_difference="diff", nb_t="nb_t", nb_p="nb_p", paired_t_p="paired_t_p", welch_p="welch_p", wilcoxon_p="wilcoxon_p",
                 mean_rank_difference="mean_rank_diff", wins="wins", nb_p_holm="nb_p_holm")
    assert len(ref) == len(ours) == 84
    for r in ref.to_dict("records"):
        o = ours.loc[(c(r["target"]), c(r["a"]), c(r["b"]))]
        for a, b in names.items(): assert abs(o[a] - r[b]) <= .51e-5, (r["target"], r["a"], r["b"], a, o[a], r[b])
        assert bool(o.nemenyi_separated) == bool(r["nemenyi_sig"])


MEASURES = {"experts (published)": "experts", "experts, imagenet->chest=5 (tranfer_scores.xlsx)": "april", "task2vec published draw (62,62,47,62,51)": "task2vec_published_draw",
            "task2vec 100 same-index": "task2vec_same_index", "task2vec all cross pairs": "task2vec_all_cross", "task2vec mean embedding": "task2vec_mean_embedding",
            "awslabs scaled cosine, all cross": "task2vec_scaled_cosine", "scale-free scaled cosine, all cross": "task2vec_scalefree_scaled_cosine"}
SUBSETS = {"all 24": "all", "no self (21)": "no self", "no imagenet (21)": "no imagenet", "no self, no imagenet (18)": "no self, no imagenet"}
POINTS = dict(pearson="pearson_r", spearman="spearman_rho", kendall="kendall_tau", pearson_within_target="pearson_r_within", spearman_within_target="spearman_rho_within")
BOUNDS = {f"{a}_{b}": f"{POINTS[a]}_{b}" for a in ("pearson", "spearman") for b in ("lo", "hi")}
CHANCE = dict(pearson_perm_p="pearson_r_perm_p", spearman_perm_p="spearman_rho_perm_p", spearman_within_target_perm_p="spearman_rho_within_perm_p")


@needs_files
@pytest.mark.parametrize("baseline,outcome", [("self", "published Eq.1 (self-pair baseline)"), ("table2", "baseline = Table II test AUC")])
def test_correlations_of_fig4(baseline, outcome):
    ref, rec = pd.read_csv(FILES/"fig4_correlations.csv"), published.record()
    p = published.pairs(rec, baseline)
    p["april"] = p.experts.mask((p.source == "imagenet") & (p.target == "chest"), rec.fact("expert_distance_imagenet_chest_april"))
    for distance, column in MEASURES.items():
        ours = stats.correlation_table(p, column, "transferability").set_index("pairs")
        rows = ref[(ref.outcome == outcome) & (ref.distance == distance)]
        assert len(rows) == 10
        for r in rows.to_dict("records"):
            o = ours.loc[SUBSETS.get(r["pairs"], r["pairs"].replace("isic", "isic2018"))]
            assert o.n == r["n"]
            for names, tolerance in ((POINTS, .001), (BOUNDS, .05), (CHANCE, .03)):
                if names is not POINTS and r["n"] < 18: continue
                for a, b in names.items():
                    if not pd.isna(r[a]): assert abs(o[b] - r[a]) <= tolerance, (distance, r["pairs"], a, r[a], o[b])
            if r["n"] <= 8: assert o.permutation == "exact" and pd.isna(o.pearson_r_lo)
