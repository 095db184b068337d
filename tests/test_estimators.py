"""Estimators against their definitions, against plain re-implementations, and against inputs that define nothing."""
import json, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import rankdata

from catscans.core.basics import UserError
from catscans.metrics.agreement import krippendorff_alpha
from catscans.datasets import images
from catscans.datasets.images import Images, fingerprint
from catscans.datasets import toy
from catscans.models import probes
from catscans.similarity.experts import answers_for
from catscans.core.grid import get_profile
from catscans.similarity.estimators import transrate_floor, transrate_floor_of
from catscans.similarity.features import LENGTHS, _whole, check_probe, stratified_sample
from catscans.similarity.registry import ESTIMATORS, INPUTS, NotAvailable, estimator
from catscans.similarity.scoring import cards, registry, score, scores
from catscans.similarity import transport

TASK2VEC = ("task2vec_cosine", "task2vec_scaled_cosine", "task2vec_normalized_cosine", "task2vec_asymmetric")
DIVERSITY = ("diversity_spread", "diversity_dimension", "diversity_vendi", "diversity_classes")
CONTROLS = ("log_size", "n_classes", "mean_difference", "spectrum_difference", "jpeg_difference")
WANTED = ("logme", "leep", "nleep", "nce", "hscore", "hscore_shrunk", "transrate", "parc", "otdd", "otdd_exact", "fid", "kid", "cka", "cka_labels",
          "knn_accuracy", "linear_probe_accuracy", "linear_probe_auc", "experts", *TASK2VEC, *CONTROLS, *DIVERSITY)


def data(n=90, d=6, k=3, seed=0, spread=1.):
    "features that tell classes apart a little, and labels in no order"
    r = np.random.default_rng(seed)
    y = r.permutation(np.arange(n) % k)
    return r.normal(size=(n, d)) + spread*r.normal(size=(k, d))[y] + .5, y


# ---- registry

def test_every_estimator_has_a_complete_card():
    assert set(WANTED) <= set(registry())
    for name in WANTED:
        c = registry()[name]
        assert c.name == name and c.direction in (1, -1) and c.range and c.needs and c.source and c.cost and c.call.__doc__, c
        assert set(c.inputs) <= set(INPUTS), f"{name} needs something that no caller can give: {c.inputs}"
        with pytest.raises(AttributeError): c.direction = 0
    assert list(cards().index[:3]) == list(registry())[:3]


def test_a_newcomer_is_one_function():
    @estimator(-1, "0 and more", "features of the target", "nobody")
    def spread(features, power:int=2): return (features.std(0)**power).mean()
    try:
        x = data()[0]
        assert score("spread", features=x) == pytest.approx((x.std(0)**2).mean())
        assert score("spread", features=x, power=1) == pytest.approx(x.std(0).mean())
        with pytest.raises(NotAvailable, match="needs features"): score("spread")
        with pytest.raises(ValueError, match="already an estimator"):
            def spread2(features): return 0
            spread2.__name__, spread2.__module__ = "spread", "elsewhere"
            estimator(1, "", "", "")(spread2)
    finally: ESTIMATORS.pop("spread")


def test_two_datasets_and_a_network_are_enough():
    "embeddings are made of the images by `probe`, features and outputs by `source_network`"
    import keras
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3)); z = keras.layers.GlobalAveragePooling2D(name="avg_pool")(keras.layers.Conv2D(6, 3, activation="relu")(keras.layers.Rescaling(1/255)(image)))
    net, body = keras.Model(image, keras.layers.Dense(3, activation="softmax")(z)), keras.Model(image, z)
    x, y, r = {}, {}, np.random.default_rng(0)
    for n, k in (("a", 130), ("b", 60)): y[n] = np.arange(k) % 2; x[n] = r.integers(0, 100 + 100*y[n][:, None, None, None], (k, 8, 8, 3)).astype(np.uint8)
    a, b = (Images(x[n], y[n], None, ["p", "q"], None, fingerprint(x[n], y[n], None, ["p", "q"]), n, np.arange(len(y[n])).astype(str)) for n in "ab")
    f = {n: body.predict(x[n].astype("float32"), verbose=0) for n in "ab"}; out = net.predict(x["b"].astype("float32"), verbose=0)
    embedded = dict(source_embedding=f["a"], target_embedding=f["b"], source_labels=y["a"], labels=y["b"])
    for n in ("fid", "kid", "otdd"): assert score(n, a, b, probe=net) == pytest.approx(score(n, **embedded), rel=1e-4, abs=1e-7), n
    for n in ("logme", "linear_probe_auc", "hscore"): assert score(n, a, b, source_network=net) == pytest.approx(score(n, features=f["b"], labels=y["b"]), rel=1e-4), n
    assert score("leep", a, b, source_network=net) == pytest.approx(score("leep", outputs=out, labels=y["b"]), rel=1e-4)
    with pytest.raises(NotAvailable, match="source_embedding .*or images and probe"): score("fid", a, b)
    small = keras.Model(i := keras.Input((6, 6, 3)), keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(i)))
    with pytest.raises(UserError, match="a: images are 8 x 8, the network needs 6 x 6"): score("fid", a, b, probe=small)


def test_a_fault_in_one_estimator_does_not_stop_a_sweep():
    @estimator(1, "", "", "")
    def faulty(labels): raise KeyError("no such thing")
    try:
        x, y = data()
        got = {g["name"]: g for g in scores(features=x, labels=y, names=["faulty", "hscore"])}
        assert got["hscore"]["value"] > 0 and got["faulty"] == dict(name="faulty", value=None, reason="faulty failed: KeyError: 'no such thing'")
        with pytest.raises(KeyError): score("faulty", labels=y)                     # asked for alone, its fault is seen
    finally: ESTIMATORS.pop("faulty")


def test_an_estimate_that_is_not_a_number_is_refused():
    @estimator(1, "", "", "")
    def nothing(features): return np.nan
    try:
        with pytest.raises(UserError, match="nothing gave nan"): score("nothing", features=data()[0])
    finally: ESTIMATORS.pop("nothing")


def test_what_cannot_be_had_is_named_and_the_rest_is_computed():
    x, y = data()
    got = {g["name"]: g for g in scores(target=SimpleNamespace(y=y), features=x, source_size=100)}
    for name in ("logme", "hscore", "transrate", "parc", "nleep", "knn_accuracy", "log_size", "cka_labels"): assert got[name]["value"] is not None, got[name]
    for name, lacks in dict(leep="outputs", nce="outputs", cka="reference", fid="source_embedding", otdd="source_labels", n_classes="source_classes", mean_difference="source_statistics", task2vec_cosine="probe", experts="source").items():
        assert got[name]["value"] is None and "is not available: it needs" in got[name]["reason"] and lacks in got[name]["reason"], got[name]
    with pytest.raises(UserError, match="inputs only: received 'feature'"): scores(feature=x)
    with pytest.raises(UserError, match="unknown measure"): score("dice", features=x)


def test_importing_is_light():
    code = "import sys, catscans.similarity.estimators, catscans.similarity.transport, catscans.similarity.controls; print(sorted({'ot', 'sklearn', 'scipy', 'tensorflow', 'keras', 'PIL', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    code = code.replace("similarity.estimators,", "similarity.scoring,")          # brings all of them together, and the experts' answers, which are tables
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "['pandas']"


def test_optimal_transport_does_not_load_tensorflow():
    code = "import sys, numpy as np; from catscans.similarity.transport import otdd; r = np.random.default_rng(0); x, y = r.normal(size=(9, 2)), np.arange(9) % 2; otdd(x, y, x, y); print('ot' in sys.modules, {'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "True set()"


# ---- identities

@pytest.mark.parametrize("name", ["leep", "nce"])
def test_outputs_that_know_all_or_nothing(name):
    y = np.array([0]*30 + [1]*20 + [2]*10)
    p = np.array([30, 20, 10])/60
    entropy = -(p*np.log(p)).sum()
    assert score(name, outputs=np.eye(4)[[3, 0, 1]][y], labels=y) == pytest.approx(0, abs=1e-12)
    assert score(name, outputs=np.tile([.6, .3, .1], (60, 1)), labels=y) == pytest.approx(-entropy, abs=1e-12)


def test_leep_and_nce_by_loops():
    r = np.random.default_rng(3)
    y, p = r.integers(0, 3, 50), r.dirichlet(np.ones(4), 50)
    P = np.zeros((3, 4))
    for i in range(50): P[y[i]] += p[i]/50
    leep = np.mean([np.log(sum(P[y[i], z]/P[:, z].sum()*p[i, z] for z in range(4))) for i in range(50)])
    z = p.argmax(1)
    nce = np.mean([np.log(((y == y[i]) & (z == z[i])).sum()/(z == z[i]).sum()) for i in range(50)])
    assert score("leep", outputs=p, labels=y) == pytest.approx(leep, rel=1e-12)
    assert score("nce", outputs=p, labels=y) == pytest.approx(nce, rel=1e-12)


def evidence(F, t, a, b):
    "log evidence per image of You et al. 2021, Eq. 2, with A = a I + b F'F and m = b A^-1 F't"
    n, d = F.shape
    A = a*np.eye(d) + b*F.T @ F
    m = b*np.linalg.solve(A, F.T @ t)
    return (n/2*np.log(b) + d/2*np.log(a) - n/2*np.log(2*np.pi) - b/2*((F @ m - t)**2).sum() - a/2*m @ m - np.linalg.slogdet(A)[1]/2)/n


def dense_logme(F, y):
    "MacKay's updates of the paper's algorithm 1 with dense matrices, until nothing changes; then a search from there that must find no more"
    out = []
    for c in np.unique(y):
        t, a, b = (y == c).astype(float), 1., 1.
        for _ in range(5000):
            A = a*np.eye(F.shape[1]) + b*F.T @ F
            m = b*np.linalg.solve(A, F.T @ t)
            gamma = np.trace(b*np.linalg.solve(A, F.T @ F))
            new = gamma/(m @ m), (len(t) - gamma)/((F @ m - t)**2).sum()
            done, (a, b) = abs(np.log(new[0]*b/new[1]/a)) < 1e-13, new
            if done: break
        best = -minimize(lambda v: -evidence(F, t, *np.exp(v)), np.log([a, b]), method="Nelder-Mead", options=dict(xatol=1e-8, fatol=1e-14)).fun
        assert best == pytest.approx(evidence(F, t, a, b), rel=1e-8)
        out.append(best)
    return np.mean(out)


@pytest.mark.parametrize("seed,n,d,k", [(0, 90, 6, 3), (1, 200, 20, 2), (2, 60, 40, 5), (3, 30, 50, 2), (4, 120, 1, 4)])
def test_logme_is_the_maximum_of_the_evidence(seed, n, d, k):
    x, y = data(n, d, k, seed)
    if d > n: x[:, 0] += 3*y   # so that the maximum lies inside
    assert score("logme", features=x, labels=y) == pytest.approx(dense_logme(x, y), rel=1e-6)


def test_logme_with_redundant_and_dead_features():
    x, y = data()
    assert score("logme", features=np.hstack([x, np.zeros((90, 4))]), labels=y) == pytest.approx(score("logme", features=x, labels=y), rel=1e-9)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    assert score("logme", features=100*x @ q, labels=y) == pytest.approx(score("logme", features=x, labels=y), rel=1e-9)   # scale goes into alpha


@pytest.mark.parametrize("seed,n,d,k", [(0, 90, 6, 3), (1, 200, 20, 2), (2, 60, 40, 5)])
def test_hscore_is_the_trace_of_its_definition(seed, n, d, k):
    x, y = data(n, d, k, seed)
    g = np.stack([x[y == c].mean(0) for c in range(k)])[y]
    assert score("hscore", features=x, labels=y) == pytest.approx(np.trace(np.linalg.solve(np.cov(x.T), np.cov(g.T))), rel=1e-6)


@pytest.mark.parametrize("n,d", [(90, 6), (40, 60)])
def test_shrunk_hscore_by_ledoit_and_wolf_written_out(n, d):
    x, y = data(n, d)
    z = x - x.mean(0)
    S, mu = z.T @ z/n, (z**2).sum()/n/d
    delta = ((S - mu*np.eye(d))**2).sum()
    beta = min(sum(((np.outer(v, v) - S)**2).sum() for v in z)/n**2, delta)
    a = beta/delta
    g = np.stack([z[y == c].mean(0) for c in range(3)])[y]
    assert score("hscore_shrunk", features=x, labels=y) == pytest.approx((1-a)*np.trace(np.linalg.solve((1-a)*S + a*mu*np.eye(d), g.T @ g/n)), rel=1e-6)


@pytest.mark.parametrize("n,d", [(90, 6), (30, 50)])
def test_transrate_with_unequal_classes(n, d):
    r = np.random.default_rng(5)
    y = r.permutation(np.repeat([0, 1, 2], [n//2, n//3, n - n//2 - n//3]))
    x = r.normal(size=(n, d)) + 2*r.normal(size=(3, d))[y]
    z = x - x.mean(0)
    z = z/np.sqrt(np.linalg.eigvalsh(z.T @ z/n).sum())
    rate = lambda v: sum(np.log(1 + max(e, 0)/1e-4)/2 for e in np.linalg.eigvalsh(v.T @ v/len(v)))
    assert score("transrate", features=x, labels=y) == pytest.approx(rate(z) - sum((y == c).sum()/n*rate(z[y == c]) for c in range(3)), rel=1e-9)


def test_parc_by_loops():
    x, y = data(25, 5)
    z, h = (x - x.mean(0))/x.std(0), np.eye(3)[y]
    pairs = [(i, j) for i in range(25) for j in range(i)]
    a = [1 - np.corrcoef(z[i], z[j])[0, 1] for i, j in pairs]
    b = [round(1 - np.corrcoef(h[i], h[j])[0, 1], 9) for i, j in pairs]   # two values; rounding errors must not break ties
    assert score("parc", features=x, labels=y) == pytest.approx(100*np.corrcoef(rankdata(a), rankdata(b))[0, 1], rel=1e-9)


def test_nleep_by_plain_em():
    "own principal components, own EM from the same k-means start; posteriors into LEEP"
    from scipy.stats import multivariate_normal
    from sklearn.cluster import KMeans
    x, y = data(150, 6, 2, seed=7)
    w, v = np.linalg.eigh(np.cov(x.T, bias=True))
    w, v = w[::-1], v[:, ::-1]
    keep = np.flatnonzero(np.cumsum(w)/w.sum() >= .8)[0] + 1
    z = (x - x.mean(0)) @ v[:, :keep]/np.sqrt(w[0])
    K, old = 10, -np.inf
    R = np.eye(K)[KMeans(K, n_init=1, random_state=np.random.RandomState(0)).fit(z).labels_]
    def m_step(R):
        N = R.sum(0) + 10*np.finfo(float).eps
        m = R.T @ z/N[:, None]
        return N/N.sum(), m, [(R[:, [c]]*(z - m[c])).T @ (z - m[c])/N[c] + 1e-6*np.eye(keep) for c in range(K)]
    def e_step(w, m, C):
        L = np.stack([np.log(w[c]) + multivariate_normal.logpdf(z, m[c], C[c]) for c in range(K)], 1)
        top = L.max(1, keepdims=True)
        total = top + np.log(np.exp(L - top).sum(1, keepdims=True))
        return np.exp(L - total), total.mean()
    model = m_step(R)
    for _ in range(100):
        R, now = e_step(*model)
        model = m_step(R)
        if abs(now - old) < 1e-3: break
        old = now
    R = e_step(*model)[0]
    P = np.stack([R[y == c].sum(0) for c in (0, 1)])/len(y)
    want = np.log(((P/P.sum(0))[y]*R).sum(1)).mean()
    assert score("nleep", features=x, labels=y) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", ["otdd", "otdd_exact"])
def test_otdd_of_a_sample_with_itself_and_both_ways(name):
    (x, yx), (z, yz) = data(60, 5), data(45, 5, 4, seed=2)
    x, z = 30*x, 30*z
    f = lambda a, ya, b, yb: score(name, source_embedding=a, source_labels=ya, target_embedding=b, labels=yb)
    order = np.random.default_rng(0).permutation(60)
    assert f(x, yx, x, yx) < 1e-6 and f(x, yx, x[order], yx[order]) < 1e-6
    assert f(x, yx, z, yz) == pytest.approx(f(z, yz, x, yx), rel=1e-9)
    assert f(x, yx, x + 2, yx) == pytest.approx(np.sqrt(2*5*4), rel=1e-6)      # a shift costs its square twice: once for images, once for classes


def test_otdd_knows_gaussian_classes():
    "two pairs of classes, far apart: every class moves to its own, images and label distance both in closed form"
    r = np.random.default_rng(0)
    base = r.normal(size=(20, 2))
    x = np.vstack([base, base + 100]); y = np.repeat([0, 1], 20)
    W = transport.label_distances(x, y, np.vstack([2*base, 2*base + 100]), y)
    for c, shift in enumerate([0, 100]):
        m = base.mean(0) + shift - (2*base.mean(0) + shift)
        assert W[c, c] == pytest.approx((m**2).sum() + np.trace(np.cov(base.T, bias=True)), rel=1e-9)   # (2 - 1)^2 tr S


def test_a_sample_may_lose_a_class():
    "more classes than images are used: what is left is compared"
    x, y = data(120, 5, 60)
    i = stratified_sample(y, 40, "otdd", 0)
    assert len(set(i)) == 40 and len(set(y[i])) < 60
    got = score("otdd", source_embedding=x, source_labels=y, target_embedding=x + 1, labels=y, most=40)
    assert got == pytest.approx(np.sqrt(5 + 5), rel=1e-6)          # a shift costs its square twice: once for images, once for classes


def test_kid_is_unbiased():
    r = np.random.default_rng(0)
    v = np.array([score("kid", source_embedding=r.gamma(2, size=(25, 5)), target_embedding=r.gamma(2, size=(40, 5))) for _ in range(400)])
    assert abs(v.mean()) < 3*v.std(ddof=1)/np.sqrt(len(v))
    assert (v < 0).any(), "an estimate that is never below 0 is biased"


def test_kid_in_blocks_and_from_a_sample():
    r = np.random.default_rng(1)
    a, b = r.normal(size=(50, 3)), r.normal(size=(31, 3))
    for pair in ((a,), (a, b)): assert transport._mean_kernel(*pair, block=7) == pytest.approx(transport._mean_kernel(*pair), rel=1e-12)
    f = lambda **kw: score("kid", source_embedding=a, target_embedding=b, **kw)
    assert f(most=50) == f() and f(most=20) == f(most=20) != f(most=20, seed=1)
    assert np.mean([f(most=20, seed=s) for s in range(400)]) == pytest.approx(f(), abs=3*np.std([f(most=20, seed=s) for s in range(400)])/20)


def test_fid_of_gaussians_with_known_moments():
    from scipy.linalg import sqrtm
    r = np.random.default_rng(0)
    def sample(m, S, n):
        z = r.normal(size=(n, len(m)))
        z -= z.mean(0)
        z = np.linalg.solve(np.linalg.cholesky(z.T @ z/(n-1)), z.T).T
        return z @ np.linalg.cholesky(S).T + m
    m1, m2 = r.normal(size=(2, 4))
    S1, S2 = (q @ q.T + .1*np.eye(4) for q in r.normal(size=(2, 4, 4)))
    got = score("fid", source_embedding=sample(m1, S1, 30), target_embedding=sample(m2, S2, 50))
    assert got == pytest.approx(((m1 - m2)**2).sum() + np.trace(S1 + S2 - 2*np.real(sqrtm(S1 @ S2))), rel=1e-8)
    one = sample(np.zeros(1), np.array([[9.]]), 20), sample(np.ones(1), np.array([[4.]]), 20)
    assert score("fid", source_embedding=one[0], target_embedding=one[1]) == pytest.approx(1 + (3 - 2)**2, rel=1e-9)


@pytest.mark.parametrize("n,d", [(50, 6), (20, 60)])
def test_cka_sees_neither_rotation_nor_scale_nor_shift(n, d):
    r = np.random.default_rng(0)
    x, q = r.normal(size=(n, d)), np.linalg.qr(r.normal(size=(d, d)))[0]
    assert score("cka", features=x, reference=.01*x @ q - 5) == pytest.approx(1, abs=1e-10)
    assert score("cka", features=x, reference=x*np.linspace(.1, 5, d)) < .999

def test_cka_of_what_has_nothing_in_common_is_nothing():
    "the biased form gives d/(d + n), 0.80, and with the labels 0.10"
    r = np.random.default_rng(0)
    x, y, labels = r.normal(size=(500, 2048)), r.normal(size=(500, 2048)), r.integers(0, 7, 500)
    def biased(a, b):
        a, b = a - a.mean(0), b - b.mean(0)
        k, l = a @ a.T, b @ b.T
        return (k*l).sum()/np.linalg.norm(k)/np.linalg.norm(l)
    assert biased(x, y) == pytest.approx(.804, abs=.005) and biased(x, np.eye(7)[labels]) > .09
    assert abs(score("cka", features=x, reference=y)) < .01 and abs(score("cka_labels", features=x, labels=labels)) < .01
    assert score("cka", features=x, reference=x) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("n,d,e", [(40, 6, 3), (12, 80, 30)])
def test_cka_is_the_published_formula(n, d, e):
    "HSIC by its definition: the mean over quadruples of different images (Song et al. 2012, Theorem 2), here of all sums written out"
    r = np.random.default_rng(2)
    x = r.normal(size=(n, d)) + 3
    y = x[:, :2] @ r.normal(size=(2, e)) + r.normal(size=(n, e))
    def hsic(a, b):
        k, l = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0); np.fill_diagonal(l, 0)
        pairs = sum(k[i, j]*l[i, j] for i in range(n) for j in range(n))
        through = sum(k[i, j]*l[j, m] for i in range(n) for j in range(n) for m in range(n))
        return (pairs + k.sum()*l.sum()/(n-1)/(n-2) - 2*through/(n-2))/n/(n-3)
    want = hsic(x, y)/np.sqrt(hsic(x, x)*hsic(y, y))
    assert score("cka", features=x, reference=y) == pytest.approx(want, rel=1e-9)
    labels = np.arange(n) % 3
    want = hsic(x, np.eye(3)[labels])/np.sqrt(hsic(x, x)*hsic(np.eye(3)[labels], np.eye(3)[labels]))
    assert score("cka_labels", features=x, labels=labels) == pytest.approx(want, rel=1e-8)


def test_transrate_stands_beside_its_floor():
    "the card's numbers are the floor's, and shuffled labels lie at it"
    card = registry()["transrate"].range
    for k, said in {2: 273, 7: 553, 20: 653}.items():
        assert transrate_floor_of(500, 2048, k, shuffles=1) == pytest.approx(said, rel=.01) and f"{said} with {k}" in card
    x, y = data(120, 10, spread=3.)
    floor = transrate_floor(x, y)
    assert score("transrate", features=x, labels=y) > 1.5*floor
    assert score("transrate", features=x, labels=np.random.default_rng(9).permutation(y)) == pytest.approx(floor, rel=.3)
    assert transrate_floor(x, y, eps=1.) < .3*floor and transrate_floor_of(50, 5, 2) < transrate_floor_of(50, 20, 2)


# ---- the diversity of a source

@pytest.mark.parametrize("name", DIVERSITY)
def test_diversity_is_of_the_source_alone(name):
    r = np.random.default_rng(0)
    a, b = r.normal(size=(80, 12)) + 1, 2*r.normal(size=(60, 5)) @ r.normal(size=(5, 12)) + 3
    ya, yb = np.repeat([0, 1, 2, 3], 20), np.repeat([0, 1], [50, 10])
    source, target = (SimpleNamespace(y=y, classes=[*"abcd"]) for y in (ya, yb))
    of = lambda s, t, x, z: score(name, s, t, source_embedding=x, target_embedding=z)
    assert of(source, target, a, b) == of(source, source, a, a) != of(target, source, b, a) == of(target, target, b, b)
    assert not set(registry()[name].inputs) & {"target_embedding", "labels", "target", "features", "target_statistics"}
    assert "one order of sources for every target" in registry()[name].range and registry()[name].direction == 1


def test_diversity_in_closed_form():
    r = np.random.default_rng(1)
    of = lambda f: [score(n, source_embedding=f) for n in DIVERSITY[:3]]
    spread, dimension, vendi = of(r.normal(size=(4000, 10)))
    assert (spread, dimension, vendi) == pytest.approx((10**.5, 10, 10), rel=.03)          # an isotropic Gaussian: its number of dimensions
    assert of(np.tile(r.normal(size=7), (30, 1))) == pytest.approx([0, 1, 1], abs=1e-9)     # one image, repeated
    few = [score("diversity_dimension", source_embedding=r.normal(size=(50, 10))) for _ in range(100)]
    assert np.mean(few) == pytest.approx(10, abs=3*np.std(few)/10 + .1), "the number of images must not matter: the plain ratio is 8.3 here"
    assert score("diversity_classes", source_counts=[9]*5) == pytest.approx(np.log(5)) and score("diversity_classes", source_counts=[9]) == 0
    with pytest.raises(NotAvailable, match="source_counts"): score("diversity_classes")
    with pytest.raises(UserError, match="row 2 holds NaN"): score("diversity_spread", source_embedding=np.diag([1., 1, np.nan]))


# ---- a probe is looked at

def exploding(n=500, d=2048):
    "features as the record of lite once had them, by its FID and KID: one image of Tiny ImageNet 12,800 long, another 3,700, all others about 20"
    r = np.random.default_rng(0)
    one, other = (np.abs(r.normal(0, .44, (n, d))) for _ in range(2))
    one[3], one[8] = 12_800/np.sqrt(d), 3_700/np.sqrt(d)
    return dict(tinyimagenet=one, ham10000=other)


def test_the_probe_that_gave_a_fid_of_360276_is_refused():
    f = exploding()
    assert score("fid", source_embedding=f["tinyimagenet"], target_embedding=f["ham10000"]) == pytest.approx(360_276, rel=.02)
    assert score("kid", source_embedding=f["tinyimagenet"], target_embedding=f["ham10000"]) == pytest.approx(9.96e7, rel=.25)
    with pytest.raises(UserError, match=r"the probe source:tinyimagenet is refused: its features of one image of tinyimagenet are 1.28e\+04 long.*load_probe\('squeezenet'\)") as e:
        check_probe("source:tinyimagenet", f, own=(.0415, 920, 200))
    assert "\n" not in str(e.value)
    facts = check_probe("sound", {n: np.delete(v, [3, 8], 0) for n, v in f.items()}, own=(.0415, 920, 200))
    assert facts["task"] == "its own task" and facts["chance"] == 1/200 and facts["error"] == pytest.approx((.005*.995/920)**.5)


@pytest.mark.parametrize("times,image,refused", [(.9*LENGTHS, False, ""), (1.1*LENGTHS, False, "its features of b are .* those of a"), (.9*LENGTHS, True, ""), (1.3*LENGTHS, True, "its features of one image of b")])
def test_the_limit_on_lengths(times, image, refused):
    r = np.random.default_rng(3)
    a, b = (z/np.linalg.norm(z, axis=1, keepdims=True) for z in r.normal(size=(2, 60, 9)))
    b = np.where((np.arange(60) == 5)[:, None], times*b, b) if image else times*b
    if not refused: assert set(check_probe("net", dict(a=a, b=b))["lengths"]) == {"a", "b"}
    else:
        with pytest.raises(UserError, match=f"the probe net is refused: {refused}"): check_probe("net", dict(a=a, b=b))
        assert check_probe("net", dict(a=a, b=b), limit=2*LENGTHS)["limit"] == 2*LENGTHS


def test_a_probe_must_know_something():
    (x, y), r = data(120, 6, spread=3.), np.random.default_rng(4)
    assert check_probe("net", dict(a=x), dict(a=y))["accuracy"] > .6
    with pytest.raises(UserError, match="net is refused: on the classes of 1 dataset .* no better than chance"): check_probe("net", dict(a=x), dict(a=r.permutation(y)))
    refused = 0
    for seed in range(60):                          # a network that knows nothing passes about once in forty times
        try: check_probe("net", dict(a=x), dict(a=np.random.default_rng(seed).permutation(y)))
        except UserError: refused += 1
    assert refused >= 53
    for accuracy, ok in ((.0095, False), (.0100, True)):     # 200 classes, 920 images: chance 0.5 %, error 0.23
        try: check_probe("net", dict(a=x), own=(accuracy, 920, 200)); passed = True
        except UserError as e: passed = False; assert "its own task" in str(e)
        assert passed == ok, accuracy
    with pytest.raises(UserError, match="net is refused: its features of an image of a are NaN"): check_probe("net", dict(a=np.where(x > 2, np.inf, x)))
    with pytest.raises(UserError, match=r"load_probe\('imagenet'\)"): check_probe("squeezenet", dict(a=x*np.nan))


@pytest.mark.parametrize("name", ["fid", "kid", "otdd", "otdd_exact", *TASK2VEC, "diversity_spread", "diversity_dimension", "diversity_vendi"])
def test_whatever_uses_a_probe_refuses_a_bad_one(name):
    import keras
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    net = keras.Model(i, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(keras.layers.Lambda(lambda x: (x/64)**9)(i))), name="loud")
    r, pair = np.random.default_rng(0), []
    for n in "ab":
        x, y = r.integers(0, 60, (30, 8, 8, 3)).astype(np.uint8), np.arange(30) % 2
        pair.append(Images(x, y, None, ["p", "q"], None, fingerprint(x, y, None, ["p", "q"]), n, np.arange(30).astype(str)))
    pair[0].x[4] = 250
    with pytest.raises(UserError, match="the probe loud is refused: its features of one image of a"): score(name, *pair, probe=probes.Probe(net))


# ---- the record of lite

def test_the_record_of_lite_looks_through_a_genuine_probe():
    rec = json.loads((Path(__file__).parents[1]/"results/lite/records/similarity-grouped-s1.json").read_text())
    p, s = get_profile("lite"), rec["settings"]
    assert s["probe"]["name"] == p.probe == "squeezenet" and s["probe"]["size"] == p.probe_size
    seen = s["probe"]["check"]
    assert set(seen["lengths"]) == {*p.sources, *p.targets} and max(seen["lengths"].values()) < LENGTHS*min(seen["lengths"].values())
    assert seen["accuracy"] > seen["chance"] + 2*seen["error"]
    of = lambda m: {(r["source"], r["target"]): r["value"] for r in rec["estimates"] if r["measure"] == m}
    for m in ("fid", "kid", "otdd"):
        v = [abs(x) for (a, b), x in of(m).items() if a != b]
        assert max(v) < 40*min(v), f"{m}: one dataset cannot lie {max(v)/min(v):.0f} times as far away as another"
        assert min(of(m), key=lambda k: (k[0] == k[1], of(m)[k])) == ("lc25000", "lc25000-lung2"), "the source of the target's images is nearest"
    for m in DIVERSITY:
        assert len(of(m)) == 18 and all(len({of(m)[a, t] for t in p.targets}) == 1 for a in p.sources)
    assert max(p.sources, key=lambda a: of("diversity_classes")[a, "kermany"]) == "tinyimagenet" and of("diversity_classes")["tinyimagenet", "kermany"] == pytest.approx(np.log(200))
    assert not of("cka") and not of("cka_labels") or s["versions"]["cka"] == 2, "values of the biased form"
    if not of("cka"): assert "older definition" in s["estimates_left_out"]["cka"]
    assert len(of("logme")) == 15 and "logme" in s.get("kept", {}).get("measures", ["logme"])


def test_nothing_depends_on_the_names_or_order_of_classes_and_images():
    x, y = data(90, 6)
    order, names = np.random.default_rng(0).permutation(90), np.array(["zebra", "ape", "mule"])
    for name in ("logme", "hscore", "hscore_shrunk", "transrate", "parc", "cka_labels"):
        assert score(name, features=x[order], labels=names[y[order]]) == pytest.approx(score(name, features=x, labels=y), rel=1e-9), name


def test_groups_and_copies_are_never_on_both_sides():
    r = np.random.default_rng(0)
    x, g = r.normal(size=(60, 3)), np.repeat(np.arange(20), 3)
    x[30] = x[0]; x[45] = x[30]                                     # ties groups 0, 10 and 15 together
    whole = _whole(x, g)
    assert len({whole[i] for i in (0, 1, 2, 30, 31, 32, 45, 46, 47)}) == 1 and len(set(whole)) == 18
    assert _whole(r.normal(size=(5, 2)), None) is None
    assert (np.unique(whole, return_inverse=True)[1][3:30] == np.unique(g[3:30], return_inverse=True)[1] + 1).all()


def test_image_statistics():
    x = np.zeros((4, 16, 16, 3), np.uint8); x[:, :, ::2] = (10, 20, 200)
    s = images.image_statistics(x)
    assert s["mean"] == [5, 10, 100] and s["n"] == 4 and s["size"] == 16
    got = score("mean_difference", SimpleNamespace(x=x), SimpleNamespace(x=x + np.uint8(3)))
    assert got == pytest.approx(3*np.sqrt(3))


def test_alpha_against_a_library_free_definition():
    "ordered pairs within units over ordered pairs of everything"
    r = np.random.default_rng(0)
    v = r.integers(0, 3, (4, 15)).astype(object); v[r.random((4, 15)) < .2] = None
    units = [u for u in ([a for a in col if a is not None] for col in v.T) if len(u) > 1]
    n = sum(map(len, units)); every = [a for u in units for a in u]
    observed = sum(sum(a != b for a in u for b in u)/(len(u) - 1) for u in units)/n
    expected = sum(a != b for a in every for b in every)/n/(n - 1)
    assert krippendorff_alpha(v) == pytest.approx(1 - observed/expected, rel=1e-12)


# ---- inputs that define nothing

TARGET_ONLY = [n for n in WANTED if n in ("logme", "nleep", "hscore", "hscore_shrunk", "transrate", "parc", "cka_labels", "knn_accuracy", "linear_probe_accuracy", "linear_probe_auc")]

@pytest.mark.parametrize("name", TARGET_ONLY)
def test_degenerate_features_and_labels_are_refused(name):
    x, y = data()
    hole = x.copy(); hole[4, 2] = np.nan
    for f, t, says in [(x, np.zeros(90, int), "one class"), (x, y[:80], "one label per image"), (hole, y, "row 4 holds NaN"), (np.ones((90, 6)), y, "all 90 rows are the same"),
                       (np.eye(3)[y], y, "3 distinct rows among 90"), (x[:, 0], y, "shape"), (x, np.where(y == 1, np.nan, y), "has no label"), (np.zeros((0, 6)), y[:0], "one class")]:
        with pytest.raises(UserError, match=says): score(name, features=f, labels=t)


@pytest.mark.parametrize("name", ["fid", "kid", "otdd", "otdd_exact"])
def test_degenerate_embeddings_are_refused(name):
    x, y = data()
    hole = x.copy(); hole[4, 2] = np.inf
    for a, b, says in [(x, x[:, :4], "embed both with one probe"), (hole, x, "source_embedding: row 4"), (x, np.ones_like(x), "target_embedding: all 90 rows"), (x, x[:1], "target_embedding|one label per image")]:
        with pytest.raises(UserError, match=says): score(name, source_embedding=a, target_embedding=b, source_labels=y, labels=y)
    if name.startswith("otdd"):
        with pytest.raises(UserError, match="source_embedding|one class"): score(name, source_embedding=x, target_embedding=x, source_labels=0*y, labels=y)


def test_each_refuses_what_only_it_cannot_do():
    x, y = data(40, 60, 2)
    with pytest.raises(UserError, match="40 images span 39 feature directions"): score("hscore", features=x, labels=y)
    assert 0 < score("hscore_shrunk", features=x, labels=y) < 1 and np.isfinite(score("logme", features=x, labels=y))
    few = np.repeat(data(8, 60, 2)[0], 5, 0)
    with pytest.raises(UserError, match="8 distinct rows among 40, at least 10"): score("nleep", features=few, labels=np.tile([0, 1], 20))
    with pytest.raises(UserError, match="has no maximum"): score("logme", features=np.hstack([data()[0], np.eye(3)[data()[1]]]), labels=data()[1])
    with pytest.raises(UserError, match="apply softmax to logits"): score("leep", outputs=x[:, :3], labels=y)
    with pytest.raises(UserError, match="needed are probabilities"): score("leep", outputs=y, labels=y)
    with pytest.raises(UserError, match="fewer than the 5 folds"): score("knn_accuracy", features=x, labels=y, groups=np.arange(40) % 4)
    with pytest.raises(UserError, match="5 for 40 images"): score("knn_accuracy", features=x, labels=y, groups=np.arange(5))
    with pytest.raises(UserError, match="received 40 neighbours"): score("knn_accuracy", features=x, labels=y, k=40)
    with pytest.raises(UserError, match="at least 2 features"): score("parc", features=x[:, :1], labels=y)
    with pytest.raises(UserError, match="same images"): score("cka", features=x, reference=x[:30])


# ---- signs

class Network:
    "A small trained network: its hidden layer and its outputs."
    def __init__(self, x, y, seed):
        from sklearn.neural_network import MLPClassifier
        from sklearn.preprocessing import StandardScaler
        self.scale = StandardScaler().fit(self.flat(x))
        self.net = MLPClassifier((24,), alpha=1., max_iter=60, tol=0, n_iter_no_change=100, random_state=seed).fit(self.scale.transform(self.flat(x)), y)
    def flat(self, x): return x.reshape(len(x), -1)/255.
    def features(self, x): return np.maximum(self.scale.transform(self.flat(x)) @ self.net.coefs_[0] + self.net.intercepts_[0], 0)
    def outputs(self, x): return self.net.predict_proba(self.scale.transform(self.flat(x)))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    "target; context for a source that is a copy of it, and for one that is noise with as many classes"
    import warnings, keras, pandas as pd
    x, y, groups, classes = toy.generate("toy-kimia960", 16)
    keep = y < 5
    x, y = x[keep], y[keep]
    r = np.random.default_rng(0)
    pixels = r.normal(size=(x[0].size, 40))/np.sqrt(x[0].size)
    embed = lambda v: np.maximum((v.reshape(len(v), -1)/255. - .5) @ pixels, 0)    # the probe: random features
    noise = r.integers(0, 256, x.shape).astype(np.uint8), r.integers(0, 5, len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = Network(x, y, 9).features(x)
        opinions = answers_for(["toy-kimia960"])
        noise_too = [opinions, answers_for(["toy-imagenet"]).assign(dataset="noise")]      # what a thing that is no tissue would be called
        pd.concat(noise_too).to_csv(file := tmp_path_factory.mktemp("answers")/"answers.csv", index=False)
        net = keras.Input((16, 16, 3))
        keras.utils.set_random_seed(1)
        deep = keras.layers.Conv2D(12, 3, activation="relu")(keras.layers.Conv2D(8, 3, 2, activation="relu")(keras.layers.Rescaling(1/255)(net)))
        probe = probes.Probe(keras.Model(net, keras.layers.GlobalAveragePooling2D(name="avg_pool")(deep)))
        data = lambda name, x, y: Images(x, y, None, [str(c) for c in range(5)], None, fingerprint(x, y, None, []), name, np.arange(len(y)).astype(str))
        target = data("toy-kimia960", x, y)
        def context(sx, sy, seed, name="toy-kimia960"):
            net = Network(sx, sy, seed)
            return dict(source=data(name, sx, sy), target=target, probe=probe, answers=file, features=net.features(x), outputs=net.outputs(x), labels=y, reference=reference, source_embedding=embed(sx), target_embedding=embed(x), source_labels=sy)
        return context(x, y, 1), context(*noise, 1, "noise")


@pytest.mark.slow(1)
@pytest.mark.parametrize("name", [n for n in WANTED if n not in (*CONTROLS, *DIVERSITY)])
def test_a_copy_of_the_target_ranks_above_noise(name, sources):
    settings = dict(answers=sources[0]["answers"]) if name == "experts" else dict(subsets=2, n_subset=60, fisher="exact") if name in TASK2VEC else {}
    copy, noise = (score(name, **({k: v for k, v in c.items() if k != "answers"} | settings)) for c in sources)
    assert registry()[name].direction*(copy - noise) > 0, f"{name}: {copy} for the copy, {noise} for noise"
