"""Task2Vec against a plain loop over the original's: `python -m benchmarks.task2vec [--json] [--size 64] [--subsets 3] [--probe FILE]`.

Subsets of generated datasets, equal n per class, are embedded in turn by the original's procedure and by the three ways of `catscans.task2vec`, in one process on the
same cores. The loop is what awslabs/aws-cv-task2vec does: cache features, fit a head by ten epochs of Adam, then square the gradients of all weights for 156 batches of 64 images drawn with
replacement and labels drawn from the model (9,984 passes forward and back). It is given every advantage: compiled steps, images in memory, BatchNorm at inference
(faster than on batch statistics), and for its error the same converged head as ours, so that only the noise of its draws is counted.
The error is that of the embedding against the exact one, relative to its length; the error of `exact` itself is measured against one label of one image at a time, on the first `--check` images.
One subset is run and discarded, so that no compilation is timed. Medians over the subsets; `scaled` is the time that 45 subsets, nine datasets with five each, would take."""
import argparse, json, os, statistics, time
import numpy as np

DATASETS = ("toy-pcam-middle", "toy-isic2018", "toy-stl10")   # 2, 5 and more classes
SCALED = 45

def network(size, arch, probe):
    from catscans.models.resnet import random_weights, resnet50
    from catscans.models.weights import set_backbone
    from catscans.models.probes import Probe, load_probe
    if probe: return load_probe(probe, size)
    model = resnet50(2, size, dropout=0, arch=arch)
    set_backbone(model, random_weights(model, 0))
    return Probe(model, f"{arch}, random weights")

def subset_of(name, size, images, seed):
    "x, y with the same number of images per class"
    from catscans.datasets import toy
    from catscans.task2vec.embedding import subset
    x, y, *_ = toy.generate(name, size)
    i = subset(y, images, np.random.default_rng(seed), "per_class")
    return x[i].astype(np.float32), y[i]

class Loop:
    "The original's procedure, plainly, compiled once per number of classes."
    def __init__(self, probe, classes, batch=64):
        import keras, tensorflow as tf
        self.body, self.batch, self.classes = probe.body, batch, classes
        self.head = keras.layers.Dense(classes); self.head.build((None, probe.body.output_shape[-1]))
        self.optimizer = keras.optimizers.Adam(4e-4, weight_decay=1e-4); self.optimizer.build(self.head.trainable_variables)
        self.weights = [v.value for v in probe.body.trainable_variables]
        self.total = [tf.Variable(tf.zeros_like(v)) for v in self.weights]
        loss = lambda z, y: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))
        @tf.function(autograph=False)
        def learn(f, y):
            with tf.GradientTape() as tape: value = loss(self.head(f), y)
            self.optimizer.apply_gradients(zip(tape.gradient(value, self.head.trainable_variables), self.head.trainable_variables))
        @tf.function(autograph=False)
        def square(x, w, b):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self.weights)
                z = tf.matmul(self.body(x, training=False), w) + b
                value = loss(z, tf.random.categorical(tf.stop_gradient(z), 1)[:, 0])
            for t, g in zip(self.total, tape.gradient(value, self.weights)): t.assign_add(g**2)
        self.learn, self.square, self.index = learn, square, {id(v): i for i, v in enumerate(probe.body.trainable_variables)}

    def __call__(self, probe, x, y, head, passes, rng):
        "(filters,) in units of the information of one image"
        share = 1/np.bincount(y)[y]; share /= share.sum()
        draw = lambda: rng.choice(len(x), self.batch, p=share)
        features = np.concatenate([np.asarray(self.body(x[i:i+self.batch], training=False)) for i in range(0, len(x), self.batch)])
        steps = passes//self.batch
        for _ in range(10*steps): self.learn(features[j := draw()], y[j])
        for t in self.total: t.assign(t*0)
        for _ in range(steps): self.square(x[draw()], *head)
        kernels = [l.gamma if hasattr(l, "gamma") else l.kernel for l in probe._picked]
        return np.concatenate([np.asarray(self.total[self.index[id(v)]]).reshape(-1, v.shape[-1]).mean(0) for v in kernels])*self.batch/steps

def one_by_one(probe, x, head):
    "the exact sum, one label of one image at a time"
    from catscans.task2vec.heads import predict
    p = predict(probe.features(x), head)
    return sum(p[i, c]*probe.squared(x[i:i+1], (p[i:i+1] - np.eye(p.shape[1])[c]) @ head[0].T) for i in range(len(x)) for c in range(p.shape[1]))/len(x)

def measure(a):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from catscans.core.basics import UserError   # before keras: it says how TensorFlow is to compute
    import keras
    if keras.backend.backend() != "tensorflow": raise SystemExit("the plain loop is written in TensorFlow: unset KERAS_BACKEND")
    from catscans.task2vec.heads import fit_heads, predict
    from catscans.task2vec.fisher import exact_fisher, montecarlo_fisher, sampled_fisher
    try: probe = network(a.size, a.arch, a.probe)
    except UserError as e: raise SystemExit(str(e)) from None
    ours = dict(batch=lambda x, h, r, p: montecarlo_fisher(probe, x, h, r, p=p), sampled=lambda x, h, r, p: sampled_fisher(probe, x, h, r, labels="model", p=p), exact=lambda x, h, r, p: exact_fisher(probe, x, h, p=p))
    rows, loops = [], {}
    for k in range(-1, a.subsets):
        name, rng = a.datasets[max(k, 0) % len(a.datasets)], np.random.default_rng(k + 1)
        x, y = subset_of(name, probe.body.input_shape[1], a.images, k + 1)
        classes, found, seconds = len(np.unique(y)), {}, {}
        if classes not in loops:
            loops[classes] = Loop(probe, classes)
            loops[classes](probe, x, y, fit_heads([probe.features(x)], [y])[0], 64, rng)             # compiles
        fit_heads([probe.features(x)], [y])
        start = time.perf_counter(); features = probe.features(x); head = fit_heads([features], [y])[0]; p = predict(features, head); fitted = time.perf_counter() - start
        for way, f in ours.items():
            start = time.perf_counter(); found[way] = f(x, head, rng, p); seconds[way] = fitted + time.perf_counter() - start
        start = time.perf_counter(); found["loop"] = loops[classes](probe, x, y, head, a.passes if k >= 0 else 64*2, rng); seconds["loop"] = time.perf_counter() - start
        if k < 0: continue
        exact = found["exact"]
        off = lambda v, to: float(np.linalg.norm(v - to)/np.linalg.norm(to))
        few = x[:a.check]
        errors = {w: off(v, exact) for w, v in found.items()} | dict(exact=off(exact_fisher(probe, few, head), one_by_one(probe, few, head)))
        rows += [dict(dataset=name, classes=classes, images=len(x), way=w, seconds=seconds[w], error=errors[w], ratio=seconds["loop"]/seconds[w]) for w in ("loop", *ours)]
    return probe, rows

def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.task2vec", description=__doc__.splitlines()[0])
    p.add_argument("--json", action="store_true"); p.add_argument("--size", type=int, default=64); p.add_argument("--images", type=int, default=100)
    p.add_argument("--subsets", type=int, default=3); p.add_argument("--passes", type=int, default=9984); p.add_argument("--check", type=int, default=3)
    p.add_argument("--datasets", nargs="+", default=DATASETS); p.add_argument("--arch", default="resnet50"); p.add_argument("--probe", metavar="FILE")
    a = p.parse_args(argv)
    probe, rows = measure(a)
    middle = {w: {k: statistics.median(r[k] for r in rows if r["way"] == w) for k in ("seconds", "error", "ratio")} for w in ("loop", "batch", "sampled", "exact")}
    if a.json: return print(json.dumps(dict(probe=probe.name, size=probe.body.input_shape[1], passes=a.passes, rows=rows, medians=middle), indent=1))
    print(f"{probe.name}, {probe.filters:,} filters, {probe.body.input_shape[1]} px, {a.images} images per subset, {a.passes:,} passes of the loop, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores")
    print(f"{'':18}{'classes':>8}{'way':>10}{'seconds':>10}{'loop is slower':>16}{'relative error':>16}")
    for r in rows: print(f"{r['dataset']:18}{r['classes']:8}{r['way']:>10}{r['seconds']:10.2f}{r['ratio']:15.1f}x{r['error']:16.1e}")
    print("\nmedians" + f"{'':19}{'way':>10}{'seconds':>10}{'loop is slower':>16}{'relative error':>16}{f'{SCALED} subsets':>14}")
    for w, m in middle.items(): print(f"{'':26}{w:>10}{m['seconds']:10.2f}{m['ratio']:15.1f}x{m['error']:16.1e}{m['seconds']*SCALED/60:10.1f} min")

if __name__ == "__main__": main()
