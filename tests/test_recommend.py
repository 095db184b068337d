"""The recommender: what it learns from made-up records whose answer is known, what is claimed of it, and what it refuses."""
import json, math, os, re, subprocess, sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catscans.core.basics import UserError
from catscans.datasets.catalogue import CATALOGUE
from catscans.datasets.images import Images, fingerprint, image_statistics
from catscans.datasets.loading import load
from catscans.recommend import medmnist
from catscans.recommend import evidence
from catscans.recommend import model
from catscans.recommend import prints
from catscans.recommend import ranking
from catscans.study.cli import main


def made(targets=12, sources=8, effect=1., similarity=0., noise=1., seed=0, group=lambda t: f"g{t}"):
    r = np.random.default_rng(seed)
    e, out = effect*r.standard_normal(sources), []
    for t in range(targets):
        f = r.standard_normal(sources)
        y = .8 + .02*(e + similarity*f + noise*r.standard_normal(sources))
        out += [dict(target=f"t{t}", source=f"s{i}", auc=y[i], sim=f[i], group=group(t), family=f"s{i}") for i in range(sources)]
    return pd.DataFrame(out)


def soft(n, seed=0, size=48):
    a = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in a])


def flat(r): return " ".join(r.text(True).split())   # lines of prose are wrapped


def target(x, name="mine", k=2, y=None):
    y = np.arange(len(x)) % k if y is None else y
    c = [f"c{i}" for i in range(k)]
    return Images(x, y, None, c, None, fingerprint(x, y, None, c), name, np.array([f"{i}.png" for i in range(len(x))]))


# ---- learning

def test_the_ridge_is_the_dense_solution_with_families_weighing_equally():
    d = made(7, 5, similarity=1, group=lambda t: f"g{t//2}")
    r = model.rows(d, ["sim"])
    x = np.column_stack([pd.get_dummies(d.source)[[f"s{i}" for i in range(5)]].to_numpy(float), r.f])
    w = 1/d.groupby("group").target.transform("nunique").to_numpy()
    assert sorted(set(w)) == [.5, 1.]
    big = np.vstack([x*np.sqrt(w)[:, None], np.diag(np.sqrt([2.]*5 + [3.]))])
    want = np.linalg.lstsq(big, np.concatenate([r.z*np.sqrt(w), np.zeros(6)]), rcond=None)[0]
    assert np.allclose(np.concatenate(model._solver(r)(2., 3.)), want)


def test_nothing_is_learned_from_the_family_left_out():
    "other outcomes for a target change nothing of what is predicted for it, and its own source is not learned from"
    d = made(6, 5, similarity=1)
    d["family"] = d.source.map(lambda s: s.replace("s", "g"))            # source s0 belongs to the family of target t0
    d = d[d.family != d.group]
    _, a = model.validate(d, ["sim"], imagenet="s4")
    wild = d.copy(); at = wild.target == "t0"; wild.loc[at, "auc"] = wild.auc[at].to_numpy()[::-1]
    _, b = model.validate(wild, ["sim"], imagenet="s4")
    of = lambda p: p[p.target == "t0"].predicted.to_numpy()
    assert np.allclose(of(a), of(b))
    other = d.copy(); at = (other.source == "s0") & (other.target == "t3"); other.loc[at, "sim"] += 3
    train = lambda f: f[(f.group != "g0") & (f.family != "g0")]
    assert train(other).equals(train(d))
    _, c = model.validate(other, ["sim"], imagenet="s4")
    assert np.allclose(of(a), of(c))


def test_siblings_are_no_candidates():
    d = model.candidates()
    assert len(d) == 162 and not (d.family == d.group).any()
    assert len(model.candidates(True)) == 168 and len(model.candidates(extra=("fu",))) == 148


def test_noise_is_not_trusted_and_a_signal_is():
    assert [model.choose_trust(model.rows(made(seed=s), ["sim"]))[1] for s in range(20)].count(math.inf) >= 16
    assert math.inf not in [model.choose_trust(model.rows(made(seed=s, similarity=1.5), ["sim"]))[1] for s in range(5)]
    with pytest.raises(UserError, match="2 families"): model.choose_trust(model.rows(made(2)))


def test_intervals_cover_new_families():
    cover = [model.coverage(model.validate(made(12, 6, seed=s), (), .8, imagenet="s0")[1])[0] for s in range(6)]
    assert .78 <= np.mean(cover) <= .95, cover


def test_a_model_of_few_words():
    m = model.fit(model.rows(made(similarity=2, noise=.2), ["sim"]), ("sim",))
    assert m.trusts_features and m.weights[0] > .5 and m.width > 0 and m.families == 12
    assert not model.fit(model.rows(made(), ["sim"]), ("sim",)).trusts_features
    with pytest.raises(UserError, match="level"): model.fit(model.rows(made()), level=2)


# ---- the published record

def test_known_regrets():
    assert model.known().imagenet.mean() == pytest.approx(.53, abs=.005)
    single = [s for s in medmnist.sources().index if s.endswith("mnist") and s != "medmnist"]
    assert len(single) == 12
    k = model.known(single).mean()
    for name, want in dict(mean_rank=.69, largest=.73, random=2.47).items(): assert k[name] == pytest.approx(want, abs=.005), name
    out = model.known(single, siblings=False)
    assert out.loc["pathmnist"].equals(model.known(single).loc["pathmnist", out.columns]) and out.random["organamnist"] != model.known(single).random["organamnist"]


@pytest.mark.parametrize("pool", list(model.pools()))
def test_not_worse_than_the_prior(pool):
    per, pairs = model.validate(model.candidates(only=model.pools()[pool]), model.FEATURES)
    c = model.claim(per.recommender - per.shrunk, per.group)
    assert len(per) == 12 and per.group.nunique() == 10
    assert c["difference"] <= model.MARGIN, f"{c['difference']:.2f} points worse than the prior ({pool})"
    share, lo, hi = model.coverage(pairs)
    assert lo <= share <= hi and hi >= model.LEVEL and abs(share - model.LEVEL) <= .1, share


def test_better_is_said_only_when_the_test_refuses_nothing_there():
    say = lambda v, **kw: model.claim(v, range(len(v)), **kw)["text"]
    assert say([-.1]*8) == "similarity beats the prior" and say([.1]*8) == "similarity does worse than the prior"
    assert say([-1, 1]*4) == model.NO_EVIDENCE and say([0.]*8) == model.SAME
    assert say([-5.]*3).startswith("cannot tell by design: there are only 3 families")
    c = model.claim([-1]*4 + [0]*6, range(10))
    assert c["p"] == .125 and c["text"] == "cannot tell by design: only 4 of 10 families of targets differ; even if all favoured one side, p would be 0.12"
    assert say([-.1]*8, who="an oracle") == "an oracle beats the prior" and say([-1.]*7, alpha=.01).startswith(model.CANNOT)
    with pytest.raises(UserError, match="no difference of one is a number"): model.claim([np.nan]*8, range(8))


def test_claims_are_made_after_holm_and_hold_where_the_families_say_so():
    raw = [.1, 1, 1, 1, 1, 1, -.5, -.4, 1]
    one, two = model.claim(raw, range(9)), model.claims({"a": raw, "b": raw}, range(9))["a"]
    assert one["text"] == model.WORSE and .025 < one["p"] == two["p"] < .05 < two["p_holm"] == 2*one["p"] and two["text"] == model.NO_EVIDENCE
    apart = model.claims({"a": [.1]*9, "b": [-.1]*9}, {"a": range(9), "b": [0]*9})
    assert apart["a"]["text"] == model.WORSE and apart["a"]["p_holm"] == 2/2**9 and apart["b"]["text"].startswith(model.CANNOT), "families of their own; what could not be told weighs on nothing"


def test_the_recommender_is_held_against_the_prior_that_it_falls_back_to():
    d = made(9, 6, seed=4)
    per, pairs = model.validate(d, ["sim"], imagenet="s0")
    still = per.target[np.isinf(per.trust)]
    same = pairs[pairs.target.isin(still)]
    assert len(still) and same.predicted.equals(same.shrunk) and not same.shrunk.equals(same.prior)
    moved = pairs[~pairs.target.isin(still)]
    assert not len(moved) or not np.allclose(moved.predicted, moved.shrunk)
    per, pairs = model.validate(d, ["sim"], imagenet="s0", prior=(math.inf,), trust=model.TRUST[1:])
    assert not np.allclose(pairs.predicted, pairs.shrunk), "similarity alone is held against the same prior"
    plain = model.validate(d, (), imagenet="s0")
    assert np.allclose(plain[1].predicted, pairs.shrunk) and np.allclose(plain[0].recommender, per.shrunk)


def test_the_outcomes_of_the_whole_order():
    from scipy.stats import kendalltau, spearmanr
    _, pairs = model.validate(made(6, 7, similarity=1), ["sim"], imagenet="s0")
    o = model.outcomes(pairs)
    f = pairs[pairs.target == "t3"]
    assert o.rho["t3"] == pytest.approx(spearmanr(f.predicted, f.points)[0]) and o.tau["t3"] == pytest.approx(kendalltau(f.predicted, f.points)[0])
    assert o.squared_error["t3"] == pytest.approx(((f.predicted - f.points)**2).mean()) and o.regret["t3"] == pytest.approx(f.points.max() - f.points[f.predicted.idxmax()])
    perfect = model.outcomes(pairs.assign(predicted=pairs.points)).mean(numeric_only=True)
    assert (perfect.regret, perfect.squared_error, perfect.rho, perfect.tau) == (0, 0, pytest.approx(1), pytest.approx(1))
    assert (model.outcomes(pairs, "random")[["rho", "tau"]] == 0).all(axis=None) and model.outcomes(pairs, "prior").squared_error.isna().all()


def test_the_ablation_reads_both_tables_together():
    t = model.ablation(sets={"parc": ("parc",)})
    assert t.candidates.tolist() == ["12 single medical sources"]*5 + ["all 15 sources"]*5 and set(t.targets) == {11}
    said = t[t.features != "none"]
    assert len(said) == 6 and (said.p_holm >= said.p_table - 1e-12).all() and (said.p_table >= said.p - 1e-12).all() and (said.p_table > said.p).any()
    assert t[t.arm == "shrunk"].difference.eq(0).all() and np.allclose(t.difference, t.regret - t.shrunk) and t.groupby("candidates").shrunk.nunique().eq(1).all()
    alone = t[(t.features == "parc") & (t.arm == "similarity only")].iloc[0]
    assert alone.claim == model.WORSE and alone.lo > 0 and alone.rho < t.rho[0] and t.claim[t.features == "none"].eq("").all()


def test_rows_of_two_tables_are_read_together_and_priors_are_not_counted():
    f = pd.DataFrame(dict(candidates=list("aabb"), features=["none", "fu", "fu", "lp"]))
    got = model._read(f, [[1.]*8, [1.]*8, [-1.]*8, [0.]*8], [range(8)]*4)
    assert got.claim.tolist() == ["", model.WORSE, model.BEATS, model.SAME] and got.p.tolist() == [2/2**8]*3 + [1]
    assert got.p_holm.tolist()[1:] == [4/2**8, 4/2**8, 1] and got.p_table.tolist()[1:] == [2/2**8, 2/2**8, 1], "two that could be told, not one of each table"


# ---- what the record says, in sentences that follow it

def test_sentences_follow_the_record():
    d = model.candidates()
    other = d.assign(auc=d.auc + .3*(d.source == "radimagenet"))
    assert evidence.take(d).startswith("Take ImageNet: of 15 sources it did best on average over 12 medical targets (mean rank 2.4; next is MedMNIST")
    assert evidence.take(other).startswith("Take RadImageNet") and "it was the best on 12 of them, and always taking it loses 0.00 AUC points" in evidence.take(other)
    assert "always taking it loses 0.50 AUC points" in evidence.take(d) and round(model.validate(d)[0].imagenet.mean(), 2) == .5
    assert "for each of the 12 targets, so following it is the same as always taking ImageNet" in evidence.same_as_always(d) and "always taking RadImageNet" in evidence.same_as_always(other)
    mixed = d[(d.source != "imagenet") | ~d.target.isin(["octmnist", "bloodmnist"])]
    assert "takes ImageNet for 10 of the 12 targets" in evidence.same_as_always(mixed)


@pytest.mark.slow(4)
def test_what_an_oracle_could_show_follows_the_record():
    d = model.candidates()
    o = evidence.oracle(d)
    assert o.moved["all 15 sources"] == 4 and o.p["all 15 sources"] == .125 and o.text["all 15 sources"].startswith(model.CANNOT) and o.always["all 15 sources"] == "imagenet"
    assert o.text["12 single medical sources"] == "an oracle beats the prior" and o.prior.tolist() == pytest.approx([.657, .498], abs=.001) and o.prior.iloc[1] == pytest.approx(model.validate(d)[0].shrunk.mean())
    said = evidence.what_could_be_told(d)
    assert "gains 0.50 AUC points, which the record cannot tell from nothing (4 of 10 families" in said and "gains 0.66 AUC points, which the record can tell" in said
    r = np.random.default_rng(0)
    noise = d.assign(auc=.8 + .05*r.random(len(d)))
    assert "cannot tell" not in evidence.what_could_be_told(noise), "where every family has something to gain, it could be told"


@pytest.mark.slow(6)
def test_what_is_said_of_scores_and_of_the_distance_follows_the_record():
    table = pd.DataFrame(dict(claim=["", model.WORSE, model.SAME, model.NO_EVIDENCE, f"{model.CANNOT}: only 2 of 9"]))
    assert "Of 4 ways" in (said := evidence.on_scores(table)) and "none did better than what sources did on other targets alone and 1 did worse, allowing for so many tries; 1 chose the same sources, for 1 nothing was found, and for 1 there are too few" in said
    assert "2 did better than what sources did on other targets alone and none did worse" in evidence.on_scores(pd.DataFrame(dict(claim=[model.BEATS]*2)))
    assert "9 of the 162 pairs have that distance" in evidence.on_distance() and "could not be tested" in evidence.on_distance()
    assert "No" not in (said := evidence.on_distance(model.candidates(only=SINGLE, known=printed(dict(zip(SINGLE, np.eye(12))))))) and "is learned from the record" in said
    assert evidence.said(table=table) == dict(take=evidence.take(), always=evidence.same_as_always(), prior=evidence.what_could_be_told(), scores=evidence.on_scores(table), lists=evidence.on_lists(), distance=evidence.on_distance())


@pytest.mark.slow(4)
def test_a_fixed_list_stands_beside_every_score():
    extra = list(medmnist.SCORES)
    d = model.candidates(extra=extra)
    t = evidence.static_lists(d).set_index(["candidates", "ranker"])
    pool = "12 single medical sources"
    one = t.loc[pool]
    assert len(one) == 12 and one.fixed.sum() == 3 and one.targets.eq(11).all() and one.text[one.p.notna()].tolist() == ["the mean of the scores does worse than the fixed list"]
    assert one.rank_sd[one.fixed].max() < 1 < one.rank_sd[extra].min() and one.outcome_sd.iloc[0] == pytest.approx(evidence.spread(d[d.source.isin(SINGLE)]).sd_rank.mean())
    assert one.less_list[extra].mean() == pytest.approx(one.less_list[evidence.ALL_SCORES]) and one.less_list["lp"] == pytest.approx(one.weighted_tau["prior"] - one.weighted_tau["lp"])
    wise_all = evidence.static_lists(d.assign(**{e: d.auc for e in extra}))
    wise = wise_all.set_index(["candidates", "ranker"]).loc[pool]
    assert wise.weighted_tau["lp"] == 1 and wise.regret["lp"] == 0 and wise.less_list["lp"] < 0 and wise.text[wise.p.notna()].tolist() == ["the mean of the scores beats the fixed list"]
    assert evidence.on_lists(t.reset_index()).startswith("None of 16 orders") and evidence.on_lists(wise_all).startswith("16 of 16 orders")
    c = evidence.compared()
    assert c.text[c.candidates == pool].eq("the recommender does exactly what the prior does").all() and c.text[4:].nunique() == 2
    assert c.set_index(["candidates", "outcome"]).difference["all 15 sources", "rho"] == pytest.approx((c.shrunk - c.recommender)[6])


def test_a_verdict_looks_at_both_ends_of_an_interval():
    "including 0, lying below it and lying above it are three things"
    d = made(8, 3, effect=0, noise=.1).assign(auc=lambda f: f.auc + .1*(f.source == "s1"))
    say = ranking.verdict(d, ["s0", "s1", "s2"])
    assert model.gap(d, "s0", "s1")[2] < 0 and "to 1 of 2 others (s2) includes 0" in say and "to 1 of 2 others (s1) lies wholly below 0" in say
    assert ranking.verdict(d[d.source != "s2"], ["s0", "s1"]).endswith("the 80 % interval of its difference to 1 of 1 others (s1) lies wholly below 0")
    assert ranking.verdict(d, ["s1", "s0", "s2"]) == "s1 is clearly better than every other source" and ranking.verdict(d, ["s1"]) == "s1 is the only candidate"


# ---- rank

def test_rank_without_a_probe_says_that_it_is_the_prior():
    r = ranking.rank(target(soft(40)))
    assert any("no probe was given: this is the prior" in n for n in r.notes)
    assert len(r.table) == 15 and r.table.expected.is_monotonic_decreasing and r.table.expected.mean() == pytest.approx(0, abs=1e-9)
    assert (r.table.lo < r.table.expected).all() and (r.table.expected < r.table.hi).all() and r.table.licence.str.len().gt(3).all() and r.table.cost.str.len().gt(3).all()
    assert r.unavailable["logme"] == "a source network is needed" and "embeddings" in r.unavailable["fid"] and "log_size" not in r.unavailable
    assert all(r.unavailable[e].endswith("and a probe are needed") for e in ("fid", "otdd", "task2vec_cosine")) and "probe" not in r.unavailable["mean_difference"]
    assert r.table.distance.isna().all() and "distance" not in flat(r) and r.also == {}
    said = "\n".join(r.notes)
    assert "looked up in 500 of 1,281,167 images of imagenet (and 500 of 9,200 of tinyimagenet, 500 of 1,800 of imagenette, cut from imagenet)" in said.replace("500 of 1,800 of imagenette, 500 of 9,200 of tinyimagenet", "500 of 9,200 of tinyimagenet, 500 of 1,800 of imagenette")
    assert all(f"500 of {n} images of {s}" in said for n, s in (("10,015", "dermamnist"), ("5,856", "pneumoniamnist"), ("780", "breastmnist")))
    assert "says nothing of a source's other images; at 48 px fewer copies are recognised than at 112, and the other 11 have no print" in said and "what a source gains over random initialisation is in the second alone" in said and "log_" not in said
    full = ranking.rank(target(soft(40)), known=printed({n: np.zeros(24, "float32") for n in medmnist.sources().index})).notes
    assert not any("no print" in n for n in full)
    assert r.verdict.startswith(("no source is clearly better", f"{r.table.index[0]} is clearly better"))
    d = json.loads(json.dumps(r.as_dict()))
    assert [s["source"] for s in d["sources"]] == list(r.table.index) and d["target"]["images"] == 40
    assert d["unit"] == "AUC points" and d["against"] == "the mean of these 15 candidates" and f"AUC points against {d['against']}; one AUC point is 0.01 of AUC" in flat(r)
    assert {s["source"]: s["cost_images"] for s in d["sources"]} == {n: 0 if n in ("imagenet", "radimagenet") else i for n, i in medmnist.sources().images.items()}
    assert not re.findall(r"\b[a-z0-9]+_[a-z0-9_]+", flat(r)), "no names of code in what people read"


def test_what_is_printed_fits_a_terminal_and_says_that_the_order_is_a_fixed_one():
    r = ranking.rank(target(soft(40)))
    head, table, prose = r.text(True).split("\n\n")
    assert max(map(len, r.text(True).splitlines())) <= 100 and table.count("\n") == 16 and any(l.startswith("  ") for l in prose.splitlines())
    assert len(r.text().splitlines()) <= 28 and " ".join(r.text().split()).endswith(r.start) and r.start.startswith("Start from ImageNet: on past targets that lost ") and max(map(len, r.text().splitlines())) <= 100
    for t in (r.text(), r.text(True)): assert t.splitlines()[1].startswith("this ranking does not know what your images show: ")
    assert max(map(len, r.text(width=72).splitlines())) <= 72
    assert ranking.same_as(ranking._tested(tuple(medmnist.sources().index), frozenset())) in flat(r)
    assert ranking.same_as(["imagenet"]*3).endswith('puts imagenet first for each of the 3 targets of both records: there its first place is the same as "always imagenet"')
    assert "\n" not in "".join([r.verdict, *r.notes]), "the wrapping is of the print only"
    assert ranking.same_as(["b", "a", "b"]).endswith("puts b first for 2 of the 3 targets of both records, and another source for the rest")
    mine = ranking.rank(target(soft(40), "imagenet"))
    assert "imagenet" in mine.dropped and "puts imagenet first" not in flat(mine) and re.search("puts (medmnist|radimagenet) first", flat(mine)), "of the candidates that are left"


def test_simple_statistics_are_told_where_a_print_has_them():
    im, known = target(soft(40)), {n: prints.make_print(target(soft(30, i)//i, n)) for i, n in enumerate(("bloodmnist", "pathmnist"), 1)}
    r = ranking.rank(im, known=known)
    assert set(r.controls) == {"mean_difference", "spectrum_difference", "jpeg_difference"} and not set(r.controls) & set(r.unavailable)
    a, b = (image_statistics(x)["mean"] for x in (im.x, soft(30, 2)//2))
    assert r.controls["mean_difference"]["pathmnist"] == pytest.approx(math.dist(a, b)) and set(r.as_dict()["controls"]["jpeg_difference"]) == set(known)
    assert re.search("mean difference (blood|path)mnist", flat(r))
    other = ranking.rank(target(soft(40, size=32)), known=known)           # statistics of another size are not compared
    assert not other.controls and "mean_difference" in other.unavailable


class Quarters:
    "a probe that needs no network: mean and spread of colour in four quarters"
    name = "quarters"
    def __init__(self, gain=1.): self.gain, self.seen = gain, 0
    def features(self, x):
        self.seen += len(x)
        q = np.asarray(x, float).reshape(len(x), 2, x.shape[1]//2, 2, x.shape[2]//2, 3)
        return self.gain*np.concatenate([f.reshape(len(x), 12) for f in (q.mean((2, 4)), q.std((2, 4)))], 1)


def test_a_probe_tells_distances_and_says_what_it_cannot_know():
    known = {n: prints.make_print(target(soft(30, i)//(i + 1), n), Quarters()) for i, n in enumerate(("bloodmnist", "pathmnist", "dtd10"), 1)}
    im, probe = target(soft(40)), Quarters()
    r = ranking.rank(im, probe, known=known)
    assert r.table.distance.notna().sum() == 2 and list(r.also) == ["dtd10"] and probe.seen == 42, "40 images, and two to know the probe by"
    assert not any("probe" in why for why in r.unavailable.values()) and "task2vec_cosine" in r.unavailable     # it has the probe, but no images of a source
    mine = prints.look(Quarters().features(im.x))
    assert r.table.distance.pathmnist == pytest.approx(prints.distance(mine, prints.look(Quarters().features(soft(30, 2)//3))), rel=1e-4)
    said = "\n".join(r.notes)
    assert "known for 2 of 15 sources; no print" in said and "retinamnist" in said and "2 pairs with a distance, and 0 families" in said and "does not move the order" in said and "no probe" not in said
    assert r.table.expected.equals(ranking.rank(im, known=known).table.expected), "what was not learned changes nothing"
    assert "distance" in flat(r) and "also seen, but not in the record: dtd10" in flat(r)
    d = json.loads(json.dumps(r.as_dict(), allow_nan=False))
    assert {s["source"] for s in d["sources"] if s["distance"] is not None} == {"bloodmnist", "pathmnist"}


def test_prints_of_another_probe_are_not_compared():
    known = {"pathmnist": prints.make_print(target(soft(30, 1), "pathmnist"), Quarters())}
    for r in (ranking.rank(target(soft(40)), Quarters(2.), known=known), ranking.rank(target(soft(40, size=32)), Quarters(), known=known)):
        assert r.table.distance.isna().all() and any("made with another one (quarters at 48 px)" in n and "CATSCANS_PRINTS" in n for n in r.notes)
    r = ranking.rank(target(soft(40)), Quarters(), known={"pathmnist": prints.make_print(target(soft(30, 1), "pathmnist"))})
    assert any("no source has a print with features" in n for n in r.notes)


def printed(look):
    "prints of the twelve single sets whose looks are given"
    s = medmnist.sources()
    return {n: prints.Print(n, s.family[n], "", "", 100, 100, 48, n, np.zeros((1, 32), np.uint8), "q", prints.touchstone(Quarters(), 48), v, np.zeros_like(v)) for n, v in look.items()}


SINGLE = [n for n in medmnist.sources().index if n.endswith("mnist") and n != "medmnist"]


def test_with_enough_prints_the_trust_in_likeness_is_learned():
    "where sets lie apart by how they transfer it is trusted, even alone; where they lie anywhere it is not"
    def fitted(far, **kw):
        d = model.candidates(only=SINGLE, known=printed(dict(zip(SINGLE, np.eye(12)*np.asarray(far)[:, None]))))
        assert ranking.learnable(d) == (True, len(d), 10) and d.alike.notna().all()
        return model.fit(model.rows(d, ["alike"]), ("alike",), **kw)
    a = medmnist.auc().pivot(index="source", columns="target", values="auc").loc[SINGLE, SINGLE]
    m = fitted(13 - a.rank().mean(axis=1), prior=(math.inf,))              # the worse a source is in general, the farther out it lies
    assert m.trusts_features and m.weights[0] > .3 and not m.effects.any()
    assert [fitted(np.random.default_rng(s).uniform(1, 12, 12)).trusts_features for s in range(4)].count(False) >= 3


def test_rank_learns_from_enough_prints():
    look = dict(zip(SINGLE, 40*np.random.default_rng(0).standard_normal((12, 24)).astype("float32")))
    r = ranking.rank(target(soft(40)), Quarters(), known=printed(look))
    said = "\n".join(r.notes)
    assert "known for 12 of 15 sources" in said and r.table.distance.notna().sum() == 12 and ("did not earn any trust" in said or "the distance has a weight of" in said)


@pytest.mark.slow(6)
def test_own_comparisons_move_the_order_and_other_peoples_words_do_not(tmp_path):
    "twelve sets of images on which another source won; a file that says nothing of sources moves nothing"
    from catscans.recommend.transfers import learned
    for i in range(12):
        starts = [dict(start=s, mean=m) for s, m in (("imagenet", .6), ("pathmnist.weights.h5", .95), ("random", .5))]
        (tmp_path/f"{i}.json").write_text(json.dumps(dict(target=dict(name=f"mine{i}", images=200), starts=starts)))
    own = learned(tmp_path)
    before, after = ranking.rank(target(soft(40))).table, ranking.rank(target(soft(40)), more=own).table
    gap = lambda t: t.expected.imagenet - t.expected.pathmnist
    assert len(own) == 24 and gap(after) < gap(before) - .5
    assert ranking.moved(list(before.index), list(after.index), len(own)).startswith("your 24 transfers moved ")


def test_large_targets_are_sampled_and_it_is_said():
    x = np.repeat(soft(30, size=16), 40, axis=0)
    a, b = ranking.rank(target(x)), ranking.rank(target(x))
    assert a.target["images"] == 1200 and a.target["used"] == 1000 and any("sample of 1,000 of 1,200 images" in n for n in a.notes)
    assert a.table.equals(b.table)
    y = np.repeat([0, 1], [4500, 500])
    assert np.bincount(y[ranking.sample(y)]).tolist() == [900, 100] and not np.array_equal(ranking.sample(y, seed=1), ranking.sample(y, seed=2))


@pytest.mark.parametrize("classes, each", [(110, 10), (1500, 10)])
def test_any_number_of_classes_can_be_sampled(classes, each):
    "fewer images are left out than there are classes, and more classes than images are used"
    y = np.arange(classes*each) % classes
    at = ranking.sample(y)
    assert len(set(at)) == 1000 and np.bincount(y[at], minlength=classes).max() <= -(-1000//classes)


@pytest.mark.parametrize("name, gone", [("retinamnist", {"retinamnist"}), ("BloodMNIST", {"bloodmnist"}), ("HAM10000_part_1", {"dermamnist"}), ("tinyimagenet", {"imagenet"}), ("stl10", {"imagenet"}), ("organsmnist_224", {"organamnist", "organcmnist", "organsmnist"}), ("isic2018", {"dermamnist"}), ("mine", set()),
    ("chest_ct_hospital", set()), ("chest", set()), ("chest-xray14", {"chestmnist"}), ("skin_ham10000", {"dermamnist"}), ("Dataset_BUSI_with_GT", {"breastmnist"}), ("kermany2018", {"pneumoniamnist", "octmnist"})])
def test_the_family_of_the_target_is_dropped_and_named(name, gone):
    r = ranking.rank(target(soft(40), name))
    assert set(r.dropped) == gone and not gone & set(r.table.index) and all(s in flat(r) for s in gone)
    assert any("pretrained without" in n for n in r.notes) == bool(gone - {"imagenet"})
    assert all("as its name says" in why for why in r.dropped.values()), "no card was given"


def test_own_images_are_known_again(tmp_path):
    im = target(soft(60))
    im = target(im.x, "bloodmnist"); prints.save_print(im, tmp_path/"bloodmnist.npz"); im = target(im.x)
    known = prints.prints(tmp_path)
    assert ranking.rank(im, known=known).dropped == {"bloodmnist": "60 of 60 images are near duplicates of images in bloodmnist"}
    few = target(np.concatenate([soft(3), soft(57, 9)]), "other")            # three of sixty images
    assert "3 of 60 images are near duplicates" in ranking.rank(few, known=known).dropped["bloodmnist"]
    assert ranking.rank(target(np.concatenate([soft(2), soft(58, 9)])), known=known).dropped == {}
    grey = target(np.full((40, 32, 32, 3), 80, np.uint8))
    prints.save_print(target(grey.x, "pathmnist"), tmp_path/"pathmnist.npz")
    assert ranking.rank(target(np.full((44, 32, 32, 3), 90, np.uint8)), known=prints.prints(tmp_path)).dropped == {}, "flat images are alike without being the same"


def test_images_of_a_set_that_was_cut_from_a_source_are_known_again():
    "ImageNet's own print holds none of these images; that of a piece of it does"
    cut = {"imagenet": prints.make_print(target(soft(30, 5), "imagenet")), "imagenette": prints.make_print(target(soft(60), "imagenette"))}
    cut["imagenette"] = prints.Print(**{k: getattr(cut["imagenette"], k) for k in prints._FACTS} | dict(family="imagenette"), hashes=cut["imagenette"].hashes)
    r = ranking.rank(target(np.concatenate([soft(20), soft(40, 9)]), "pets"), known=cut, keep=["imagenet"])
    assert r.dropped == {"imagenet": "20 of 60 images are near duplicates of images in imagenette, which was cut from it"} and "imagenet" not in r.table.index
    assert "imagenet was dropped although it was to be kept" in flat(r)
    assert ranking.rank(target(soft(60, 9), "pets"), known=cut).dropped == {}


def test_a_copy_of_imagenette_under_another_name_loses_imagenet(work):
    if not os.environ.get("CATSCANS_DATA"): pytest.skip("SKIPPED: CATSCANS_DATA is not set, real images of Imagenette were not looked for")
    x = load("imagenette", 112, max_images=100).x
    assert set(ranking.rank(target(np.asarray(x), "pets"), keep=["imagenet"]).dropped) == {"imagenet"}


def test_a_source_dropped_by_name_may_be_kept():
    im = target(soft(40), "my-blood-mnist")
    a, b = ranking.rank(im, known={}), ranking.rank(im, known={}, keep=["bloodmnist", "pathmnist"])
    assert set(a.dropped) == {"bloodmnist"} and "--keep bloodmnist" in flat(a)
    assert b.dropped == {} and "bloodmnist" in b.table.index and "bloodmnist was kept as you asked" in flat(b) and "pathmnist was to be kept, which changed nothing" in flat(b)
    with pytest.raises(UserError, match="unknown source"): ranking.rank(im, keep=["blood"])
    carded = Images(im.x, im.y, None, im.classes, CATALOGUE["bloodmnist"], "f", "anything", im.paths)
    assert set(ranking.rank(carded, known={}, keep=["bloodmnist"]).dropped) == {"bloodmnist"}, "a card is more than a name"


# ---- the command

def write(folder, n, c, seed=0):
    (folder/c).mkdir(parents=True)
    for i, a in enumerate(soft(n, seed)): Image.fromarray(a).save(folder/c/f"{i}.png")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work")); monkeypatch.delenv("CATSCANS_PROBE", raising=False)
    return tmp_path


def test_folder_csv_and_npz_give_the_same_answer(work, capsys):
    d = work/"pets"
    write(d, 12, "cat"); write(d, 11, "dog", 1)
    files = sorted(f.relative_to(d) for f in d.rglob("*.png"))
    pd.DataFrame(dict(path=map(str, files), **{"class": [f.parts[0] for f in files]})).to_csv(d/"pets.csv", index=False)
    np.savez(work/"pets.npz", train_images=np.stack([np.asarray(Image.open(d/f)) for f in files]), train_labels=np.array([f.parts[0] == "dog" for f in files], int))
    got = []
    for p in (d/"pets.csv", work/"pets.npz"):
        assert ranking.main_rank(p, as_json=True) == 0
        got.append(json.loads(capsys.readouterr().out))
    (d/"pets.csv").unlink()
    assert ranking.main_rank(d, as_json=True) == 0
    got.append(json.loads(capsys.readouterr().out))
    assert got[0]["sources"] == got[1]["sources"] == got[2]["sources"] and all(g["target"]["images"] == 23 for g in got)
    assert ranking.main_rank(d) == 0 and "no probe was given" not in (short := capsys.readouterr().out) and "does not know what your images show" in short
    assert ranking.main_rank(d, verbose=True) == 0 and "no probe was given" in capsys.readouterr().out


def test_bad_requests_are_refused_by_name_before_work(work, capsys):
    one = work/"one"; write(one, 12, "cat")
    with pytest.raises(UserError, match="one: received 1 class"): ranking.main_rank(one)
    few = work/"few"; write(few, 12, "cat"); write(few, 4, "dog", 1)
    with pytest.raises(UserError, match=r"few: fewer than 10 images in class dog \(4\)"): ranking.main_rank(few)
    flat = work/"flat"; write(flat, 12, "x")
    for f in (flat/"x").iterdir(): f.rename(flat/f.name)
    (flat/"x").rmdir()
    with pytest.raises(UserError, match="flat holds images but no class sub-folders"): ranking.main_rank(flat)
    bad = work/"bad"; write(bad, 12, "cat"); write(bad, 12, "dog", 1); (bad/"dog"/"3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="dog/3.png"): ranking.main_rank(bad)
    with pytest.raises(UserError, match="there is no"): ranking.main_rank(work/"nothing")
    with pytest.raises(UserError, match="gone.keras"): ranking.main_rank(bad, probe=str(work/"gone.keras"))
    capsys.readouterr()
    for args, says in (([one], "one: received 1 class"), ([few], "class dog (4)"), ([flat], "no class sub-folders"), ([bad], "dog/3.png"), ([work/"nothing"], "there is no"), ([bad, "--probe", "net.onnx"], "net.onnx")):
        assert main(["rank", *map(str, args)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("catscans: error: ") and err.count("\n") == 1 and says in err, err


def test_a_source_can_be_kept_from_the_command_line(work, capsys):
    d = work/"blood_mnist"; write(d, 12, "a"); write(d, 12, "b", 1)
    assert main(["rank", str(d)]) == 0 and "dropped: bloodmnist" in capsys.readouterr().out
    assert main(["rank", str(d), "--keep", "bloodmnist", "--keep", "pathmnist"]) == 0
    out = capsys.readouterr().out
    assert "dropped:" not in out and "bloodmnist was kept as you asked" in out
    assert main(["rank", str(work/"nothing"), "--keep", "blood"]) == 2 and "unknown source" in capsys.readouterr().err


def test_a_probe_of_another_size_is_given_images_of_its_size(work, capsys):
    import keras
    def net(h, w):
        i = keras.Input((h, w, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(i))
        keras.Model(i, keras.layers.Dense(2)(x)).save(work/f"{h}x{w}.keras")
        return str(work/f"{h}x{w}.keras")
    d = work/"pets"; write(d, 12, "cat"); write(d, 12, "dog", 1)
    assert main(["rank", str(d), "--verbose", "--probe", net(64, 64)]) == 0
    out = capsys.readouterr().out
    assert "the probe was not used: the sources' prints were made with another one" in out and "at 64 px fewer copies are recognised than at 112" in out
    assert main(["rank", str(d), "--probe", net(48, 64)]) == 2
    out, err = capsys.readouterr()
    assert not out and "48x64.keras: it takes images of 64 x 48 px" in err
    with pytest.raises(UserError, match="takes images of 64 px, those of mine have 48"): ranking.rank(target(soft(40)), work/"64x64.keras")


def test_more_than_a_thousand_images_are_not_all_decoded(work, monkeypatch):
    d = work/"many"
    write(d, 1, "a"); write(d, 1, "b", 1)
    for c in "ab":
        for i in range(1, 600): (d/c/f"{i}.png").hardlink_to(d/c/"0.png")
    images, n = ranking.load_target(d, size=16)
    assert (len(images), n) == (1000, 1200) and np.bincount(images.y).tolist() == [500, 500]


def test_many_classes_may_be_thin_in_the_sample(work):
    np.savez(work/"wide.npz", train_images=np.repeat(soft(4, size=16), 1000, axis=0), train_labels=np.arange(4000) % 150)
    assert ranking.main_rank(work/"wide.npz") == 0          # 26 images of each class, 6 or 7 of them in the sample


def test_importing_and_ranking_need_no_deep_learning():
    code = ("import sys, numpy as np\nfrom catscans import recommend\nassert not {'pandas', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules), sorted({'pandas', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules))\n"
            "from catscans.datasets.images import Images\nx = np.random.default_rng(0).integers(0, 255, (24, 16, 16, 3), dtype=np.uint8)\n"
            "recommend.rank(Images(x, np.arange(24) % 2, None, ['a', 'b'], None, 'f', 'mine', np.arange(24).astype(str)))\nassert not {'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules)")
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
