"The audit: every value follows from the record, every verdict from the values, and the command line gives both quickly."
import json, math, os, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest

from catscans import published
from catscans.audit import CLAIMS, COLUMNS, VERDICTS, audit, audit_json, audit_text

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def table(): return audit(profiles=())


def test_all_claims_in_order(table):
    assert table.id.tolist() == list(range(1, 33)) == sorted(CLAIMS)
    assert list(table) == list(COLUMNS)
    assert set(table.verdict) <= set(VERDICTS)
    assert (table.why.str.len() > 20).all() and table.why.str.endswith(".").all()


def test_verdicts_agree_with_the_known_answers(table):
    "yes and no of an independent audit of the same record; partial answers count as no, since the claim as printed does not hold"
    yes = {1, 2, 3, 4, 5, 6, 7, 10, 11, 14, 17, 18, 21, 23}
    absent = {22, 24, 27}
    assert set(table.id[table.verdict == "reproduced"]) == yes
    assert set(table.id[table.verdict == "not in the record"]) == absent


def test_headline_numbers(table):
    v = dict(zip(table.id, table.recomputed))
    near = lambda x, y, e: abs(x - y) <= e
    assert near(v[8]["pearson_r"], .238, .0005) and near(v[8]["spearman_rho"], .291, .0005)
    assert near(v[9]["pearson_r"], -.109, .0005) and near(v[9]["spearman_rho"], .014, .0005)
    assert near(v[26]["spearman_rho"], .60, .005) and near(v[26]["spearman_rho_within"], .15, .005)
    assert near(v[14]["pcam-middle"], -11.1, .05) and near(v[14]["table2_pcam-middle"], -2.6, .05)
    assert near(v[9]["draws_mean"], -.045, .005) and v[9]["draws_at_or_below"] < .01
    assert (v[19], v[28], v[29], v[30], v[32]) == (3, 327680, 5856, 806, 3)


# Mutations: one cell of a copy of the record, the claims whose recomputed value depends on it, and the verdicts it turns.
# T: claims about transferability. A fold AUC also moves its pair's mean (2-7 where that source is compared) and the SD of claim 23.
T = {8, 9, 10, 11, 12, 26}
MUTATIONS = {
    "fold AUC of ImageNet on ISIC2018": ("fold_auc", dict(source="imagenet", target="isic", fold=1), "auc", .30,
        {2, 3, 5, 6, 7, 14, 17, 23} | T, {2: "contradicted", 5: "contradicted", 23: "contradicted"}),
    "fold AUC of DTD on chest": ("fold_auc", dict(source="textures", target="chest", fold=3), "auc", .60,
        {2, 3, 4, 6, 7, 14, 23} | T, {3: "contradicted", 23: "contradicted"}),
    "fold AUC of a self pair": ("fold_auc", dict(source="pcam-middle", target="pcam-middle", fold=2), "auc", .10,
        {14, 15, 23} | T, {14: "contradicted", 23: "contradicted"}),
    "recorded SD": ("fold_auc_summary", dict(source="kimia", target="pcam-middle"), "std", .0088, {23}, {23: "contradicted"}),
    "expert distance of chest and PCam-middle": ("expert_distances", dict(source="chest", target="pcam-middle"), "distance", 5,
        {8, 10, 11, 12, 22}, {8: "reproduced"}),
    "expert distance of ImageNet": ("expert_distances", dict(source="imagenet", target="chest"), "distance", 60,
        {8, 10, 11, 12, 13, 22}, {}),
    "Task2Vec distance": ("task2vec_distances", dict(source="chest", target="pcam-middle", fold=4), "distance", 50,
        {9, 10, 11, 19}, {11: "contradicted", 10: "contradicted"}),
    "Task2Vec embeddings": ("task2vec_geometry", dict(dataset="chest"), "embeddings", 50, {18}, {18: "contradicted"}),
    "size of a subset": ("task2vec_geometry", dict(dataset="kimia"), "images_per_embedding", 96, {21}, {21: "contradicted"}),
    "Table I, size of DTD": ("table1", dict(dataset="textures"), "size_corrected", 9_000_000, {6, 21}, {21: "contradicted"}),
    "Table I, printed size of STI-10": ("table1", dict(dataset="sti10"), "size_printed", 9000, {30}, {30: "reproduced"}),
    "Table II, AUC of PCam-middle": ("table2", dict(source="pcam-middle"), "test_auc", .93, {14, 15}, {}),
    "Table III, epochs of ISIC2018": ("table3", dict(source="isic"), "epochs", 71, {25}, {}),
    "learning rate of a pair": ("finetune_settings", dict(source="kimia", target="pcam-middle"), "lr", 1e-4, {26}, {}),
    "class count of PCam": ("class_counts", dict(collection="pcam", part="with tumour"), "images", 73862, {28}, {28: "reproduced"}),
    "class count of chest": ("class_counts", dict(collection="chest", part="NORMAL"), "images", 1590, {29}, {29: "reproduced"}),
    "baseline": ("facts", dict(name="baseline_is_self_pair"), "value", 0, {15}, {15: "reproduced"}),
    "AUC average": ("facts", dict(name="auc_weighted_by_priors"), "value", 0, {17}, {17: "contradicted"}),
    "printed rho": ("claims", dict(id=8), "printed", .291, set(), {8: "reproduced"}),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_mutation(what, table, tmp_path):
    file, row, column, value, depends, turns = MUTATIONS[what]
    published.export(tmp_path)
    f = pd.read_csv(tmp_path/f"{file}.csv", dtype=str, keep_default_na=False)
    hit = pd.concat([f[k] == str(v) for k, v in row.items()], axis=1).all(axis=1)
    assert hit.sum() == 1
    f.loc[hit, column] = str(value)
    f.to_csv(tmp_path/f"{file}.csv", index=False)
    new = audit(tmp_path, profiles=())
    changed = {i for i, a, b in zip(table.id, table.recomputed, new.recomputed) if a != b}
    assert changed == depends
    verdict, before = dict(zip(new.id, new.verdict)), dict(zip(table.id, table.verdict))
    assert {i: verdict[i] for i in turns} == turns and all(before[i] != verdict[i] for i in turns)
    assert all(verdict[i] == before[i] for i in before if i not in depends | set(turns))


def test_enough_mutations_turn_a_verdict():
    assert sum(bool(m[-1]) for m in MUTATIONS.values()) >= 10


def test_same_record_same_audit(table, tmp_path):
    published.export(tmp_path)
    assert audit_json(audit(tmp_path, profiles=())) == audit_json(table)


# our own results

def test_obtained_is_not_yet_run_or_a_number(monkeypatch, tmp_path):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    t = audit(profiles=["lite", "paper"])
    assert set(t.obtained[0]) == {"lite", "paper"} and t.obtained[0]["lite"] == "not yet run"
    assert "not yet run by us: lite, paper" in audit_text(t)


def test_obtained_from_our_records():
    from catscans import records
    from catscans.core import get_profile
    p = get_profile("toy")
    with records._example_project():
        distances = [dict(measure=m, source=s, target=t, value=float((i*7 + j*3) % 11), sd=None, n=5)
                     for m in ("experts", "task2vec_cosine") for i, s in enumerate(p.sources) for j, t in enumerate(p.targets)]
        records.write(dict(schema=1, kind="similarity", profile="toy", protocol=p.protocol, seed=p.seed, distances=distances, settings={},
                           env={k: "" for k in records._ENV}, timing=dict(started="", wall_s=0.)))
        df = records.tidy("toy")
        t = audit(profiles=["toy"])
    got = t.obtained[1]["toy"]
    mean = df[(df.source == "toy-imagenet") & (df.target == "toy-chest")].auc_ovr_weighted.mean()
    assert math.isclose(got["value"]["auc_chest"], mean) and got["verdict"] in VERDICTS
    assert t.obtained[15]["toy"] == "not applicable"
    assert "goes by the name of the one that it stands for" in audit_text(t)
    json.loads(audit_json(t))


# the command line

def run(*args, cwd, **env):
    code = "import sys; from catscans.study import main; c = main(sys.argv[1:]); print([m for m in ('tensorflow', 'keras', 'jax', 'torch') if m in sys.modules], file=sys.stderr); sys.exit(c)"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=cwd, env=dict(os.environ, CATSCANS_PROJECT=str(cwd), **env))


def test_command_is_light(tmp_path):
    p = run("audit", "--json", cwd=tmp_path)
    assert p.returncode == 0 and p.stderr.strip().splitlines()[-1] == "[]", p.stderr
    rows = json.loads(p.stdout)
    assert len(rows) == 32 and set(rows[0]) == set(COLUMNS)
    assert isinstance(rows[27]["recomputed"], int) and isinstance(rows[7]["printed"], float) and isinstance(rows[7]["recomputed"]["pearson_r"], float)


def test_command_audits_a_copy_whatever_the_verdicts(tmp_path):
    assert run("published", "export", str(tmp_path/"copy"), cwd=tmp_path).returncode == 0
    f = tmp_path/"copy"/"fold_auc.csv"
    f.write_text(f.read_text().replace("imagenet,isic,1,0.94", "imagenet,isic,1,0.04"))
    p = run("audit", "--record", str(tmp_path/"copy"), cwd=tmp_path)
    assert p.returncode == 0 and "  2 contradicted" in p.stdout
    assert max(map(len, p.stdout.splitlines())) <= 100
    f.write_text(f.read_text().replace("imagenet,isic,1,0.04", "imagenet,isic,1,9.04"))
    p = run("audit", "--record", str(tmp_path/"copy"), cwd=tmp_path)
    assert p.returncode == 2 and "fold_auc.csv:2: auc" in p.stderr and p.stdout == ""


# the figures

def test_every_figure_is_drawn_from_the_record(tmp_path, monkeypatch):
    from PIL import Image
    from catscans import audit_figures
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    for name in ("coefficients", "draws", "learning_rate", "baseline", "distances", "geometry", "sizes", "tests"):
        fig = audit_figures.draw(name)
        image = Image.open(tmp_path/"figures"/"published"/f"audit_{name}.png").convert("L")
        assert image.getextrema()[0] < 60 and len(image.getcolors(100_000)) > 20 and len(fig.frame)
    bars = [b.get_height() for b in fig.axes[0].patches]
    assert sorted(bars) == sorted(audit_figures.tests_frame().significant)
