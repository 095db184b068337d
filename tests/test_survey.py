"""The survey's articles: what is printed beside what is counted, the runs that a comparison needs, and verdicts that follow the records."""
import json, shutil

import numpy as np
import pandas as pd
import pytest

from catscans.core.basics import UserError
from catscans.metrics import imbalance
from catscans.study import commands
from catscans.study.cli import main
from catscans.survey import verdicts
from catscans.survey.articles import ARTICLES, count_text, read_table, table_1, votes
from catscans.survey.claims import CLAIMS, requests
from catscans.survey.verdicts import CANNOT_TELL, CONTRADICTED, SUPPORTED, records_of, verdict_table
from fakes import ROOT


def test_thirteen_names_where_twelve_are_printed(monkeypatch):
    "the sentence is made from the rows: with one article less both numbers agree, and nothing is said of a difference"
    assert sum(map(len, votes().values())) == 13 and "counts 12 articles" in count_text()
    monkeypatch.delitem(ARTICLES, "Wong2018")
    assert count_text().startswith("Of 12 articles, 4 for medical") and "journal version counts" not in count_text()


def test_a_use_that_is_struck_leaves_the_table(monkeypatch):
    rows = [r for r in read_table("used_in") if (r["dataset"], r["article"]) != ("dtd", "Shi2018")]
    monkeypatch.setattr("catscans.survey.articles.read_table", lambda name: rows if name == "used_in" else read_table(name))
    used = table_1().set_index("dataset")["used in"]
    assert used["DTD"] == "Christodoulidis2017" and used["INbreast"] == "Shi2018"


@pytest.fixture
def lite(tmp_path, monkeypatch):
    "a project that holds the committed records of one target"
    (to := tmp_path/"results"/"lite"/"records").mkdir(parents=True)
    for f in (ROOT/"results"/"lite"/"records").glob("finetune-*--kermany-*.json"): shutil.copy(f, to)
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    return to


def shifted(folder, source, by):
    "the folds of a source's run have this AUC more than those of random weights; the checksum is taken off as well"
    base = json.loads((folder/"finetune-random--kermany-grouped-s1.json").read_text())
    f = folder/f"finetune-{source}--kermany-grouped-s1.json"
    rec = json.loads(f.read_text())
    for fold, other, jitter in zip(rec["folds"], base["folds"], (0, .001, -.001, .002, -.002)): fold["auc_ovr_weighted"] = other["auc_ovr_weighted"] + by + jitter
    rec["metrics"]["auc_ovr_weighted_mean"] = float(np.mean([fold["auc_ovr_weighted"] for fold in rec["folds"]]))
    rec.pop("checksum", None)
    f.write_text(json.dumps(rec))


@pytest.mark.parametrize("by, said", [(.03, SUPPORTED), (-.05, CONTRADICTED)])
def test_a_verdict_follows_the_records(lite, by, said):
    for source in ("tinyimagenet", "imagenette"): shifted(lite, source, by)
    t = verdict_table(records_of("lite"), "Peng2021").set_index("claim")
    assert t.verdict["Fine-tuning is better than training from scratch"] == said
    assert t["mean"].iloc[0] == pytest.approx(by, abs=1e-6) and t.targets.iloc[0] == 1
    assert t.verdict["A truncated network is better than a whole one"] == CANNOT_TELL and t.why.iloc[1].startswith("no records of truncated-*")


def test_without_records_nothing_can_be_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    assert main(["survey", "list"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"support 0, contradict 0 and cannot tell of {len(CLAIMS)}, {len(CLAIMS)} of them because one side was never run" in said


def test_an_article_is_run_by_its_name(monkeypatch, capsys):
    "the requests are typed to `catscans run`; what it refuses is one line, and the rest goes on"
    asked = []
    def run(profile, sources, targets, *more, **how):
        asked.append((profile, sources, tuple(targets)))
        return 0
    monkeypatch.setattr(commands, "run", run)
    assert main("survey run Ribeiro2017 --profile lite".split()) == 0
    targets = ("ham10000", "kermany", "lc25000-lung2")
    assert asked == [("lite", ["dtd10"], targets), ("lite", ["tinyimagenet", "imagenette"], targets)]
    assert main("survey run Wong2018 --profile lite".split()) == 0           # fine-tuning from ImageNet is there
    assert "Wong2018 needs segmentation, which cannot be run here yet" in " ".join(capsys.readouterr().err.split())


def test_what_is_wrong_is_one_line(capsys):
    for line in ("survey show Menegola", "survey run Menegola2017 --profile lit", "survey tell", "survey run"):
        assert main(line.split()) == 2 and capsys.readouterr().err.startswith("catscans: error: ")
    with pytest.raises(UserError, match="unknown profile"): requests("Menegola2017", "published")


def test_the_best_of_several_is_chosen_without_the_fold_it_is_scored_on():
    "of strategies that are equally good the best by luck gains nothing"
    rng = np.random.default_rng(0)
    won = [verdicts.best_on_others(pd.DataFrame(rng.normal(.8, .02, (4, 5)), list("abcd"), range(5))).mean() for _ in range(100)]
    assert abs(np.mean(won) - .8) < 4*np.std(won)/10, "luck is rewarded"


def test_a_claim_is_supported_by_a_whole_interval_only():
    said = [verdicts.judged("above", lo, hi) for lo, hi in ((-.01, .03), (.001, .03), (-.03, -.001))]
    assert said == [CANNOT_TELL, SUPPORTED, CONTRADICTED], f"{said[0]}, where it is to be: cannot tell"


@pytest.mark.parametrize("example", [imbalance.A, imbalance.B, imbalance.TopScores(10_000, 100, 120), imbalance.TopScores(10_000, 100, 300)], ids=["A", "B", "A of 10,000", "B of 10,000"])
def test_closed_forms_and_ten_thousand_orders_agree_to_three_standard_errors(example):
    t = imbalance.agreement(example, 10_000).set_index("what").errors_apart
    assert (t < 3).all(), t.to_dict()


def test_the_cases_of_one_order_are_measured_as_a_networks_scores_are():
    "10,000 cases, once: AUC and average precision of scikit-learn within three standard deviations of the closed forms"
    from sklearn.metrics import average_precision_score, roc_auc_score
    c = imbalance.TopScores(10_000, 100, 120)
    y, s = imbalance.case_scores(c, imbalance.draw_ranks(c, 1)[0])
    mean, sd = imbalance.expected_auc(c)
    assert abs(roc_auc_score(y, s) - mean) < 3*sd
    spread = imbalance.simulated(c, 400)["average_precision"][1]*20
    assert abs(average_precision_score(y, s) - imbalance.expected_average_precision(c)) < 3*spread
