"README: each sentence that states a result is what the records say."
import json, shutil

import nbformat, numpy as np, pytest

from catscans.figures import readme
from fakes import ROOT


@pytest.mark.slow(20)
def test_the_readme_says_what_the_records_say():
    "`make readme` writes both anew"
    now = readme.said()
    opening = "\n".join(c.source for c in nbformat.read(ROOT/"nbs/index.ipynb", 4).cells if c.cell_type == "markdown")
    there = readme.marked(opening)
    assert there == {k: now[k] for k in there} and {"numbers", "headline", "paper", "lite", "take", "scores"} <= set(there)
    assert readme.marked((ROOT/"README.md").read_text()) == there


@pytest.mark.slow(7)
def test_the_sentence_on_our_study_follows_its_records(tmp_path, monkeypatch):
    "where a source is worse by far in every fold, or none differs, the sentence says so"
    shutil.copytree(ROOT/"results/lite/records", tmp_path/"results/lite/records")
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    say = lambda: readme.gains_sentence(readme.gain_frame(readme.study("lite")), readme.study("lite").fold_auc())
    first = say()
    f = tmp_path/"results/lite/records/finetune-dtd10--ham10000-grouped-s1.json"
    base = json.loads((f.parent/"finetune-random--ham10000-grouped-s1.json").read_text())
    rec = json.loads(f.read_text())
    for mine, other in zip(rec["folds"], base["folds"]): mine["auc_ovr_weighted"] = other["auc_ovr_weighted"] - .05
    v = np.array([x["auc_ovr_weighted"] for x in rec["folds"]])
    rec["metrics"] |= {f"auc_ovr_weighted_{k}": x for k, x in (("mean", v.mean()), ("sd_sample", v.std(ddof=1)), ("sd_population", v.std()))}
    f.write_text(json.dumps(rec))
    moved = say()
    assert "count 1 (Nadeau and Bengio's correction" in first and "count 2 (Nadeau and Bengio's correction" in moved
    assert "-0.050" in moved and "-0.050" not in first
    assert "DTD-10 to HAM10000" in moved and "a source is told from random initialisation" in moved
