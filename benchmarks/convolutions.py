"""Convolutions of ResNet50 on JAX and a CPU, as XLA computes them and as products of matrices: `KERAS_BACKEND=jax python -m benchmarks.convolutions [--json] [--size 64] [--batch 32] [--repeats 7]`.

Every convolution that `models.backend.product_convolutions` changes, on noise of the shape that it meets in the network: forwards, and backwards to image and kernel. Both ways are timed in turn in
one process; a time is the median of the repeats, `ratio` that of XLA's convolution over that of the product, both ways together. The last line weighs each by how often the network has it."""
import argparse, json, statistics, sys, time
from collections import Counter
import numpy as np

def layers(size):
    "(kernel, stride, side, channels in, channels out) -> how often"
    import keras
    from catscans.models.backend import _as_product
    from catscans.models.resnet import resnet50
    net = resnet50(2, size)
    return Counter((l.kernel_size[0], l.strides[0], l.input.shape[1], l.input.shape[3], l.filters) for l in net.layers if isinstance(l, keras.layers.Conv2D) and _as_product(l))

def seconds(fs, repeats):
    "medians, the functions in turn"
    import jax
    for f in fs: jax.block_until_ready(f())
    took = [[] for _ in fs]
    for _ in range(repeats):
        for f, t in zip(fs, took): start = time.perf_counter(); jax.block_until_ready(f()); t.append(time.perf_counter()-start)
    return [statistics.median(t) for t in took]

def measure(o):
    import jax, keras
    from catscans.models.backend import _product_conv
    rows, rng = [], np.random.default_rng(0)
    for (k, s, side, into, out), n in layers(o.size).items():
        x = jax.numpy.asarray(rng.normal(size=(o.batch, side, side, into)).astype("float32"))
        fs = []
        for kind in (keras.layers.Conv2D, _product_conv()):
            l = kind(out, k, strides=s, padding="same"); l.build(x.shape)
            op = lambda x, w, l=l: l.convolution_op(x, w)
            y, w = op(x, l.kernel.value), l.kernel.value
            forward, back = jax.jit(op), jax.jit(lambda x, w, y, op=op: jax.vjp(op, x, w)[1](y))
            fs += [lambda f=forward, w=w: f(x, w), lambda f=back, w=w, y=y: f(x, w, y)]
        a, b, c, d = seconds(fs, o.repeats)
        rows.append(dict(kernel=k, stride=s, side=side, channels_in=into, channels_out=out, count=n, convolution_ms=1e3*a, gradient_ms=1e3*b, product_ms=1e3*c, product_gradient_ms=1e3*d, ratio=(a+b)/(c+d)))
    return rows

def main(argv=None)->int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.convolutions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", action="store_true"); p.add_argument("--size", type=int, default=64); p.add_argument("--batch", type=int, default=32); p.add_argument("--repeats", type=int, default=7)
    o = p.parse_args(argv)
    if o.size < 32: p.error(f"--size: ResNet50 needs at least 32 pixels, received {o.size}")
    if min(o.batch, o.repeats) < 1: p.error("--batch and --repeats must be at least 1")
    import keras
    from catscans.models.backend import on_gpu
    if keras.backend.backend() != "jax" or on_gpu(): p.error("products are computed on JAX and a CPU only: set KERAS_BACKEND=jax (and JAX_PLATFORMS=cpu where there is a GPU)")
    rows = measure(o)
    if o.json: print(json.dumps(rows)); return 0
    print(f"{o.batch} images of {o.size} pixels, medians of {o.repeats} repeats in turn, ms\n{'kernel stride side channels':<34}{'times':>6}{'XLA':>9}{'gradient':>10}{'product':>9}{'gradient':>10}{'ratio':>8}")
    for r in rows:
        print(f"{r['kernel']} x {r['kernel']:<5}{r['stride']:<7}{r['side']:<5}{r['channels_in']:>5} -> {r['channels_out']:<6}{r['count']:>6}{r['convolution_ms']:>9.1f}{r['gradient_ms']:>10.1f}{r['product_ms']:>9.1f}{r['product_gradient_ms']:>10.1f}{r['ratio']:>8.1f}")
    a, b, c, d = (sum(r["count"]*r[k] for r in rows) for k in ("convolution_ms", "gradient_ms", "product_ms", "product_gradient_ms"))
    print(f"{'all of them':<34}{sum(r['count'] for r in rows):>6}{a:>9.1f}{b:>10.1f}{c:>9.1f}{d:>10.1f}{(a+b)/(c+d):>8.1f}")
    return 0

if __name__ == "__main__": sys.exit(main())
