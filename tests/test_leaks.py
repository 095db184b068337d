"Leaks: siblings by group, planted copies found again and few others, and what the leak is worth."
import io, json, os, re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catscans.core.basics import UserError
from catscans.core.grid import PROTOCOLS, runs
from catscans.records import examples
from catscans.records import frames
from catscans.records import store
from catscans.metrics.comparisons import corrected_t_test
from catscans.metrics.leak_price import price, ranking_change
from catscans.datasets.catalogue import DATASETS
from catscans.datasets import leaks
from catscans.datasets.loading import load
from catscans.datasets.splits import make_splits, shared_group_rate
from catscans.figures import leaks as leak_figures


# ---- siblings ----

def kermany_names(rng):
    "file names as the archive has them: 1,583 normal ones and 4,273 of pneumonia, 3,709 of which belong to people with several images, at most 31"
    normal = [f"NORMAL/{'NORMAL2-' if i % 2 else ''}IM-{i:04d}-0001.jpeg" for i in range(1583)]
    ids = 3118 - 1583; sizes = [1]*(4273 - 3709)
    left = np.full(ids - len(sizes), 2); left[0] = 31
    weight = rng.exponential(size=len(left)); weight[0] = 0
    while (missing := 3709 - left.sum()) > 0:
        more = np.bincount(rng.choice(len(left), missing, p=weight/weight.sum()), minlength=len(left))
        left = np.minimum(left + more, 31)
    names, n = [], 0
    for p, m in enumerate([*sizes, *left]):
        for _ in range(m): n += 1; names.append(f"PNEUMONIA/person{p}_{('bacteria', 'virus')[p % 2]}_{n}.jpeg")
    return normal + names


def test_the_papers_protocol_on_names_like_kermanys():
    names = kermany_names(np.random.default_rng(0)); found = [re.search(DATASETS["chest"].group_pattern, n.split("/")[1]) for n in names]
    groups = np.array([next(k + v for k, v in m.groupdict().items() if v) for m in found]); y = np.array([n.startswith("P") for n in names]).astype(int)
    assert (len(names), len(set(groups)), max(np.unique(groups, return_counts=True)[1])) == (5856, 3118, 31)
    share = leaks.sibling_share(make_splits(y, groups, "published"), groups)
    sizes = dict(zip(*np.unique(groups, return_counts=True))); m = np.array([sizes[g] for g in groups])
    assert share == pytest.approx((1 - .2**(m-1.)).mean(), abs=.01)      # each sibling is elsewhere four times out of five
    assert .57 < share < .63
    assert leaks.sibling_share(make_splits(y, groups, "grouped"), groups) == 0


def test_the_papers_protocol_on_kermany():
    try: images = load("chest", size=8)
    except UserError as e: pytest.skip(f"SKIPPED: the 5,856 chest X-rays are not here ({str(e)[:60]})")
    if len(images) != 5856: pytest.skip(f"SKIPPED: {len(images)} chest X-rays are here, not 5,856")
    assert .59 <= leaks.sibling_share(make_splits(images.y, images.groups, "published"), images.groups) <= .62


def lite(name, **kw):
    if not os.environ.get("CATSCANS_DATA"): pytest.skip("SKIPPED: CATSCANS_DATA is not set, the real images of `lite` were not tested")
    return load(name, size=64, **kw)


def test_siblings_in_lite(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path))
    images = lite("kermany")
    for p in PROTOCOLS:
        s = make_splits(images.y, images.groups, p); share = leaks.sibling_share(s, images.groups)
        assert share == shared_group_rate(s, images.groups) and (share == 0 if p == "grouped" else share > .2)


def test_has_sibling_by_hand():
    fold = SimpleNamespace(train=np.array([0, 1]), test=np.array([2, 3, 4]))
    assert leaks.has_sibling(fold, ["a", "b", "b", "c", "a"]).tolist() == [True, False, True]
    assert np.isnan(leaks.sibling_share([fold], None))


# ---- copies ----

def scene(rng, n=96):
    a = sum(w*np.asarray(Image.fromarray(rng.integers(0, 256, (k, k, 3), np.uint8)).resize((n, n), Image.Resampling.BICUBIC), float)
            for k, w in ((3, .35), (6, .25), (12, .2), (24, .12), (48, .08)))
    return a.clip(0, 255).astype(np.uint8)


def copy(a, how, rng):
    im, n = Image.fromarray(a), len(a)
    if how == "resized": k = int(n*rng.uniform(.5, .8)); return np.asarray(im.resize((k, k), Image.Resampling.BILINEAR).resize((n, n), Image.Resampling.BICUBIC))
    if how == "compressed": im.save(buf := io.BytesIO(), "jpeg", quality=int(rng.integers(30, 70))); return np.asarray(Image.open(buf))
    if how == "mirrored": return a[:, ::-1]
    if how == "turned": return np.rot90(a, int(rng.integers(1, 4)))
    if how == "darker": return (a*rng.uniform(.8, .95)).astype(np.uint8)
    dy, dx = rng.integers(-round(.05*n), round(.05*n)+1, 2)
    return np.pad(a, ((n//8,)*2, (n//8,)*2, (0, 0)), mode="edge")[n//8+dy:n//8+dy+n, n//8+dx:n//8+dx+n]


HOWS = ("resized", "compressed", "mirrored", "shifted", "turned", "darker")


def scores(x, rng, planted):
    "recall per kind, and false pairs among all"
    copies = np.stack([copy(x[i], HOWS[i % len(HOWS)], rng) for i in range(planted)])
    f = leaks.near_duplicates(np.concatenate([x, copies])); n = len(x)
    true = (f.b - n == f.a) & (f.b >= n)
    recall = {h: np.isin(np.arange(k, planted, len(HOWS)), f.a[true]).mean() for k, h in enumerate(HOWS)}
    found = set(f.a[true])
    return len(found)/planted, recall, f[~true]


def test_planted_copies_are_found_and_little_else():
    rng = np.random.default_rng(0)
    recall, kinds, false = scores(np.stack([scene(rng) for _ in range(300)]), rng, 120)
    assert recall >= .95 and min(kinds.values()) >= .9, kinds
    assert len(false) <= 2


@pytest.mark.parametrize("name", ("ham10000", "kermany", "imagenette"))
def test_planted_copies_of_real_images(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path))
    images, rng = lite(name), np.random.default_rng(0)
    first = np.arange(len(images)) if images.groups is None else np.unique(images.groups, return_index=True)[1]   # one of each patient or lesion
    x = np.asarray(images.x[np.sort(rng.permutation(first)[:200])])
    recall, kinds, false = scores(x, rng, 90)
    assert recall >= .95, kinds
    assert len(false) <= 1e-3*290*289/2           # some of them may be copies that the dataset really holds


def test_copies_across_datasets():
    rng = np.random.default_rng(1); a, b = (np.stack([scene(rng) for _ in range(40)]) for _ in range(2))
    b[7], b[30] = copy(a[3], "compressed", rng), copy(a[11], "mirrored", rng)
    f = leaks.near_duplicates(b, a)
    assert list(zip(f.a, f.b)) == [(7, 3), (30, 11)] and f.turn.tolist() == ["", "left-right"] and f.correlation.min() > .8
    same = leaks.near_duplicates(a, b)
    assert sorted(zip(same.b, same.a)) == list(zip(f.a, f.b))


def test_other_sizes_and_nothing_at_all():
    rng = np.random.default_rng(2); a = np.stack([scene(rng, 96) for _ in range(6)])
    small = np.stack([np.asarray(Image.fromarray(v).resize((64, 64), Image.Resampling.BILINEAR)) for v in a])
    f = leaks.near_duplicates(a, small); assert f.a.tolist() == f.b.tolist() == list(range(6))
    assert len(leaks.near_duplicates(a[:0])) == len(leaks.near_duplicates(a[:1])) == len(leaks.near_duplicates(a, a[:0])) == 0
    blank = np.full((30, 64, 64, 3), 255, np.uint8)
    assert len(leaks.near_duplicates(blank)) == 0, "blank images are not copies of each other"


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(3); x = np.stack([scene(rng) for _ in range(30)]); x = np.concatenate([x, [copy(v, "shifted", rng) for v in x[:10]]])
    whole = leaks.near_duplicates(x); assert len(whole) >= 9
    few = leaks._candidates; monkeypatch.setattr(leaks, "_candidates", lambda *a: few(*a, cells=100))
    pd.testing.assert_frame_equal(leaks.near_duplicates(x, block=3), whole, check_exact=False, atol=1e-5)


# ---- the audit ----

def collection(rng, n=60, copies=12):
    x = np.stack([scene(rng, 64) for _ in range(n)]); x = np.concatenate([x, [copy(v, "compressed", rng) for v in x[:copies]]])
    return SimpleNamespace(name="made up", x=x, y=np.arange(len(x)) % 2, classes=["a", "b"], groups=np.array([f"p{i//2}" for i in range(len(x))]))


def test_audit_counts_by_hand():
    images = collection(np.random.default_rng(0)); f = leaks.near_duplicates(images.x); assert len(f) == 12
    got = leaks.audit(images, PROTOCOLS, pairs=f)
    assert got.shape[0] == 15 and list(got.protocol.unique()) == list(PROTOCOLS)
    for p in PROTOCOLS:
        s, g = make_splits(images.y, images.groups, p, classes=images.classes), got[got.protocol == p].reset_index(drop=True)
        partner = {**dict(zip(f.a, f.b)), **dict(zip(f.b, f.a))}
        for fold, row in zip(s, g.itertuples()):
            copied = [partner.get(i) in set(fold.train) for i in fold.test]
            assert row.n_test == len(fold.test) and row.near_duplicate_share == pytest.approx(np.mean(copied))
            assert row.sibling_share == pytest.approx(leaks.has_sibling(fold, images.groups).mean())
            assert row.unknown_share == pytest.approx(np.mean(copied & ~leaks.has_sibling(fold, images.groups)))
        if p == "grouped": assert g.sibling_share.max() == 0 and g.near_duplicate_share.mean() > 0      # groups did not know of these copies
    assert leak_figures.pretty(got).loc[("made up", "grouped"), "sibling in training"] == "0.0%"


def test_audit_without_groups_and_wrong_protocols():
    images = collection(np.random.default_rng(0)); images.groups = None
    got = leaks.audit(images, "published")
    assert got.sibling_share.isna().all() and (got.near_duplicate_share > 0).any() and leak_figures.pretty(got).iloc[0, 0] == "not known"
    with pytest.raises(UserError, match="allowed are grouped, described, published"): leaks.audit(images, "honest")


# ---- the price ----

def frame(auc, protocol, noise=.01, seed=0, targets=("chest", "skin")):
    rng = np.random.default_rng(seed)
    return pd.DataFrame([dict(source=s, target=t, fold=i+1, auc_ovr_weighted=m + noise*e, n_train=800, n_test=200, profile="lite", protocol=protocol, seed=1)
                         for t in targets for s, m in auc.items() for i, e in enumerate(rng.normal(size=5))])


AUC = dict(natural=.90, texture=.85, medical=.80, random=.70)


def test_price_is_the_difference_with_a_corrected_interval():
    a, b = frame({k: v + .05 for k, v in AUC.items()}, "published"), frame(AUC, "grouped", seed=1)
    got = price(a, b).set_index(["target", "source"])
    assert len(got) == 8
    for (t, s), row in got.iterrows():
        va, vb = (f[(f.target == t) & (f.source == s)].auc_ovr_weighted for f in (a, b))
        assert row.price == pytest.approx(va.mean() - vb.mean())
        naive = np.sqrt(va.var()/5 + vb.var()/5)
        assert (row.hi - row.lo)/2 > (1 + 5/12)**.5*naive*2, "folds share their training images: the interval is wider than Welch's"
        one = corrected_t_test(va, np.zeros(5))
        assert (row.hi - row.lo)/2 > (one["hi"] - one["lo"])/2*.5
    assert ((got.lo < .05) & (.05 < got.hi)).mean() >= .75


def test_the_interval_holds_what_it_promises():
    "folds that correlate by 1/13, for which a third of 1/4 is the right correction; no leak: the interval should hold 0"
    rng, hits = np.random.default_rng(0), []
    for _ in range(300):
        two = [pd.DataFrame([dict(source="s", target="t", fold=i+1, auc_ovr_weighted=v, n_train=800, n_test=200) for i, v in enumerate(.8 + .01*(np.sqrt(1/13)*rng.normal() + np.sqrt(12/13)*rng.normal(size=5)))]) for _ in range(2)]
        row = price(*two).iloc[0]; hits.append(row.lo < 0 < row.hi)
    assert np.mean(hits) > .91


def test_ranking_same_and_changed():
    a = frame({k: v + .05 for k, v in AUC.items()}, "published", 0); b = frame(AUC, "grouped", 0)
    same = ranking_change(price(a, b))
    assert same.kendall_tau.tolist() == pytest.approx([1, 1]) and same.same_top.all() and same.sources.tolist() == [3, 3] and same.mean_price.tolist() == pytest.approx([.05]*2)
    turned = ranking_change(price(frame(dict(natural=.80, texture=.85, medical=.90, random=.7), "published", 0), b))
    assert turned.kendall_tau.tolist() == pytest.approx([-1, -1]) and not turned.same_top.any() and turned.top_published.tolist() == ["medical"]*2
    assert ranking_change(price(a, b), leave_out=()).sources.tolist() == [4, 4]


def test_equal_folds_have_no_interval():
    row = price(frame(AUC, "published", 0), frame(AUC, "grouped", 0)).iloc[0]
    assert (row.price, row.lo, row.hi, row.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("spoil,message", [
    (lambda f: f.drop(columns="fold"), "lacks the columns"), (lambda f: pd.concat([f, f[:1]]), "holds a fold twice"),
    (lambda f: f.assign(protocol=["grouped", "published"]*(len(f)//2)), "mixes a protocol"), (lambda f: f[f.source != "texture"], "texture -> chest"),
    (lambda f: f.assign(auc_ovr_weighted=np.where(f.index == 3, np.nan, f.auc_ovr_weighted)), "has no auc_ovr_weighted")])
def test_frames_that_cannot_be_priced(spoil, message):
    a, b = frame(AUC, "published"), frame(AUC, "grouped")
    with pytest.raises(UserError, match=message): price(spoil(a), b)
    with pytest.raises(UserError, match=message): price(a, spoil(b))


def test_a_part_of_the_grid_says_what_it_lacks():
    a, b = frame(AUC, "published", targets=("kermany", "ham10000")), frame(AUC, "grouped", seed=1, targets=("kermany", "ham10000"))
    a = a[(a.source != "texture") | (a.target != "kermany")]; b = b[b.source != "medical"]
    got = price(a, b, part=True)
    assert got.attrs["missing"] == [("medical", "kermany", "grouped"), ("medical", "ham10000", "grouped"), ("texture", "kermany", "published")] and len(got) == 5
    assert ranking_change(got).set_index("target").sources.to_dict() == {"kermany": 1, "ham10000": 2}
    t = leak_figures.table(got).set_index("source")
    assert t["HAM10000"]["medical"] == "not run under grouped" and t["Chest X-ray"]["ranking"] == "one source: no ranking" and t["HAM10000"]["random init."].startswith(("+", "-"))
    with pytest.raises(UserError, match="not under published"): price(a[a.source == "natural"], b[b.source == "texture"], part=True)     # nothing in common


def test_records_are_priced_as_they_come(monkeypatch, tmp_path):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    for p in ("grouped", "published"):
        for r in runs("lite", protocol=p):
            if r.target: store.write(examples.example_record(r))
    got = price(frames.tidy("lite", "published"), frames.tidy("lite", "grouped"))
    assert len(got) == 18 and set(ranking_change(got).target) == {"ham10000", "kermany", "lc25000-lung2"}
    drawn = leak_figures.figure(frames.tidy("lite", "grouped"), frames.tidy("lite", "published"))
    pd.testing.assert_frame_equal(drawn.frame, got); assert len(drawn.axes) == 3 and len(drawn.change) == 3 and len(drawn.table) == 8


def test_the_committed_prices_are_of_the_committed_networks():
    "results/lite/leaks.csv names the weights whose features it read: those of results/lite/records"
    root = Path(__file__).resolve().parents[1]/"results"/"lite"
    priced = pd.read_csv(root/"leaks.csv").groupby("source").source_weights_sha256.agg(lambda s: "".join(sorted(set(s)))).to_dict()
    assert priced == {s: json.loads((root/"records"/f"pretrain-{s}-grouped-s1.json").read_text())["folds"][0]["weights_sha256"] for s in priced} and len(priced) == 6
