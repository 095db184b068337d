"""Images per second of training a ResNet50 or EfficientNet-Lite0: `python -m benchmarks.training [--arch A] [--predict] [--json [--full]] [--sizes 64 96] [--batch N] [--repeats N] [--precision P] [--rows ...]`.

engine           `catscans.training.trainer.Trainer.epoch` on a uint8 store, with the paper's augmentation and class weights
bound            the same network and optimizer as one compiled step on one constant batch: no store, no augmentation, no reading of metrics
step             the engine's own compiled step, augmentation and all, on one batch over and over (only where asked for)
keras-array      Keras' `fit` on a float32 array, without augmentation
keras-generator  Keras' `fit` with the paper's generator: 600x450 JPEGs are decoded and augmented in every epoch
torch            a plain PyTorch loop, same network, channels_last, fused Adam, no augmentation; on a GPU AMP and torch.compile

Every row lives in a process of its own. The parent wakes them in turn, so that one works while the others sleep, forwards in one round and backwards in the
next; the first round warms up and does not count. A ratio is the median over rounds of the ratio within a round. Before each measurement a large matrix product
in the same framework and precision gives the peak that the shares refer to. All rows are given the same number of threads; `busy` is how many they used. `CPU ms` is
the processor time per image: on a CPU that others share it says more than images per second.
`--json` prints a list of {row, size, precision, device, images_per_s, ratio_to_torch, ratio_to_bound, repeats}, null where a row did not run; with `--full` also what the table
holds besides: quartiles, peak, memory, tracing, and why a row did not run.
With `--predict` the rows engine and torch predict instead: probabilities of the same batches, without dropout, on the weights that they start from.
The backend is Keras' (`KERAS_BACKEND`); PyTorch may lie in another environment (`--torch-python`). A row that cannot run is named, with the reason."""
import argparse, importlib.util, json, os, platform, resource, statistics, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

ROOT, CLASSES = Path(__file__).parents[1], 7
JSON = ("row", "size", "precision", "device", "images_per_s", "ratio_to_torch", "ratio_to_bound", "repeats")
ROWS = ("torch", "engine", "bound", "keras-array", "keras-generator")   # neighbours in the order of work are compared with each other
STAGES = {"resnet50": 4, "resnet50-conv4": 3, "resnet50-conv3": 2, "resnet50-conv2": 1}
WIDTHS = ((3, 64), (4, 128), (6, 256), (3, 512))                        # blocks and channels of each stage
LITE0 = "efficientnet-lite0"

def flops(
    size:int, arch:str="resnet50",
)->int:
    "Operations of training on one image: a multiply-add is two; backward is twice forward, but for the image's own gradient."
    h = (size - 1)//2 + 1
    if arch == LITE0: return _lite0_flops(h)
    first, body, c = 2*49*3*64*h*h, 0, 64
    h = (h - 1)//2 + 1
    for i, (blocks, w) in enumerate(WIDTHS[:STAGES[arch]]):
        if i: h = (h - 1)//2 + 1
        for b in range(blocks):
            body += 2*h*h*(c*w + 9*w*w + 4*w*w + (4*w*c if b == 0 else 0)); c = 4*w
    return 2*first + 3*(body + 2*c*CLASSES)

def _lite0_flops(h):
    "the same for EfficientNet-Lite0, whose first convolution leaves h x h pixels"
    from catscans.models.lite import lite_blocks
    first, body, c = 2*9*3*32*h*h, 0, 32
    for b in lite_blocks():
        wide = c*b["expansion"]
        if b["expansion"] > 1: body += 2*h*h*c*wide
        h = (h - 1)//b["stride"] + 1
        body += 2*h*h*wide*(b["kernel"]**2 + b["filters"]); c = b["filters"]
    return 2*first + 3*(body + 2*h*h*c*1280 + 2*1280*CLASSES)

# ---- one row in its own process -------------------------------------------------------------------------------------------------------------
def _keras(o):
    "Keras with the threads that were asked for."
    from catscans.models.backend import set_threads   # before keras: it says how TensorFlow is to compute
    import keras
    set_threads(o.threads)
    keras.utils.set_random_seed(0)

def _trainer(o):
    from catscans.training.recipes import Recipe
    from catscans.training.trainer import Trainer
    return Trainer(CLASSES, o.size, Recipe(batch=o.batch, precision=o.precision), arch=o.arch).reset(None, 0)

def _data(o): return np.load(Path(o.folder)/"x.npy", mmap_mode="r"), np.load(Path(o.folder)/"y.npy")

def engine(o):
    _keras(o)
    x, y = _data(o)
    trainer, turn = _trainer(o), iter(range(10**9))
    def repeat(steps):
        index = np.arange(steps*o.batch) % len(x)
        trainer.predict(x, index, o.batch) if o.predict else trainer.epoch(x, y, index, next(turn), 1)
    return repeat, trainer.model.count_params()

def _constant(o, net, batch):
    "`net`'s compiled training step over and over on one batch that lies on the device."
    import keras
    net._symbolic_build(data_batch=batch)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        step = tf.function(net.train_step, jit_compile=bool(net.jit_compile))
        batch = tf.nest.map_structure(tf.constant, batch)
        def repeat(steps):
            for _ in range(steps): logs = step(batch)
            np.asarray(logs["loss"])
    elif keras.backend.backend() == "jax":
        import jax
        step, batch = jax.jit(net.train_step, donate_argnums=0), jax.device_put(batch)
        state = [net._get_jax_state(trainable_variables=True, non_trainable_variables=True, optimizer_variables=True, metrics_variables=True)]
        state[0] = jax.tree_util.tree_map(lambda v: v.copy(), state[0])   # what is donated must not be the network's own
        def repeat(steps):
            for _ in range(steps): logs, state[0] = step(state[0], batch)
            jax.block_until_ready(state[0])
    else:
        from keras.src import tree
        batch = tree.map_structure(keras.ops.convert_to_tensor, batch)
        def repeat(steps):
            for _ in range(steps): logs = net.train_step(batch)
            float(logs["loss"])
    return repeat

def bound(o):
    _keras(o)
    from catscans.training.engines import adam
    x, y = _data(o)
    net = _trainer(o).model
    net.compile(adam(1e-3), loss="sparse_categorical_crossentropy", jit_compile="auto")
    return _constant(o, net, (x[:o.batch].astype("float32"), y[:o.batch])), net.count_params()

def step(o):
    _keras(o)
    from catscans.training.augmentation import draw_affine
    x, y = _data(o)
    trainer = _trainer(o)
    theta = draw_affine(o.batch, trainer.recipe, o.size, np.random.default_rng(0))
    batch = np.arange(o.batch), theta, y[:o.batch].astype("int32"), np.ones(o.batch, "float32")
    def repeat(steps): trainer.engine.steps(x, *([v]*steps for v in batch))
    return repeat, trainer.model.count_params()

def _network(o, loss):
    from catscans.models.networks import network
    net = network(o.arch, CLASSES, o.size, precision=o.precision)
    net.compile("adam", loss=loss, metrics=["accuracy"])
    return net

def keras_array(o):
    _keras(o)
    x, y = _data(o)
    net, x = _network(o, "sparse_categorical_crossentropy"), x.astype("float32")
    def repeat(steps): net.fit(x[:steps*o.batch], y[:steps*o.batch], batch_size=o.batch, verbose=0)
    return repeat, net.count_params()

def keras_generator(o):
    _keras(o)
    import pandas as pd
    from keras.src.legacy.preprocessing.image import ImageDataGenerator
    from benchmarks.decoding import PAPER
    frame = pd.read_csv(Path(o.folder)/"files"/"frame.csv", dtype=str)
    net = _network(o, "categorical_crossentropy")
    flow = lambda n: ImageDataGenerator(**PAPER).flow_from_dataframe(frame[:n], Path(o.folder)/"files", x_col="path", y_col="label", target_size=(o.size, o.size),
                                                                     classes=list(map(str, range(CLASSES))), class_mode="categorical", batch_size=o.batch, shuffle=True, seed=1)
    def repeat(steps): net.fit(flow(steps*o.batch), class_weight=dict.fromkeys(range(CLASSES), 1.), verbose=0)
    return repeat, net.count_params()

def _torch_resnet50(o):
    "Keras' ResNet50: the stride in the first 1x1 of a stage, biased convolutions, its BatchNorm; pooling, dropout, dense."
    from torch import nn
    norm = lambda c: nn.BatchNorm2d(c, eps=1.001e-5, momentum=.01)
    class Block(nn.Module):
        def __init__(self, c, w, stride, first):
            super().__init__()
            self.way = nn.Sequential(nn.Conv2d(c, w, 1, stride), norm(w), nn.ReLU(True), nn.Conv2d(w, w, 3, padding=1), norm(w), nn.ReLU(True), nn.Conv2d(w, 4*w, 1), norm(4*w))
            self.short, self.relu = nn.Sequential(nn.Conv2d(c, 4*w, 1, stride), norm(4*w)) if first else nn.Identity(), nn.ReLU(True)
        def forward(self, x): return self.relu(self.way(x) + self.short(x))
    layers, c = [nn.Conv2d(3, 64, 7, 2, 3), norm(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)], 64
    for i, (blocks, w) in enumerate(WIDTHS[:STAGES[o.arch]]):
        for b in range(blocks): layers.append(Block(c, w, 2 if i and b == 0 else 1, b == 0)); c = 4*w
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.5), nn.Linear(c, CLASSES))

def _torch_lite0(o):
    "EfficientNet-Lite0 as efficientnet-lite-pytorch builds it: zeros as TensorFlow adds them, ReLU6, blocks that images pass by in training."
    import torch as t
    from torch import nn
    from catscans.models.lite import lite_blocks
    class Conv(nn.Conv2d):
        def forward(self, x):
            k, s, zeros = self.kernel_size[0], self.stride[0], []
            for n in (x.shape[3], x.shape[2]):
                add = max((-(-n//s) - 1)*s + k - n, 0); zeros += [add//2, add - add//2]
            even = zeros[0] == zeros[1] == zeros[2] == zeros[3]
            if not even: x = nn.functional.pad(x, zeros)
            return nn.functional.conv2d(x, self.weight, None, s, zeros[0] if even else 0, 1, self.groups)
    def normed(c, n, k=1, s=1, groups=1, bend=True):
        return nn.Sequential(Conv(c, n, k, s, groups=groups, bias=False), nn.BatchNorm2d(n, eps=1e-3, momentum=.01), *([nn.ReLU6(True)] if bend else []))
    class Block(nn.Module):
        def __init__(self, c, b):
            super().__init__()
            wide = c*b["expansion"]
            self.way = nn.Sequential(*([normed(c, wide)] if b["expansion"] > 1 else []), normed(wide, wide, b["kernel"], b["stride"], wide), normed(wide, b["filters"], bend=False))
            self.adds, self.drop = b["stride"] == 1 and c == b["filters"], b["drop"]
        def forward(self, x):
            y = self.way(x)
            if not self.adds: return y
            if self.training and self.drop: y = y/(1 - self.drop)*(t.rand(len(y), 1, 1, 1, device=y.device) >= self.drop)
            return x + y
    layers, c = [normed(3, 32, 3, 2)], 32
    for b in lite_blocks(): layers.append(Block(c, b)); c = b["filters"]
    return nn.Sequential(*layers, normed(c, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.5), nn.Linear(1280, CLASSES))

def torch(o):
    import torch as t
    t.set_num_threads(o.threads); t.manual_seed(0)
    gpu = t.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    t.backends.cudnn.benchmark = True
    t.set_float32_matmul_precision("high")                     # as TensorFlow and JAX do on a GPU; without effect on a CPU in float32
    x, y = map(np.array, _data(o))
    x, y = t.from_numpy(x).to(device), t.from_numpy(y).to(device)
    net = (_torch_lite0 if o.arch == LITE0 else _torch_resnet50)(o).to(device, memory_format=t.channels_last).train()
    n = sum(v.numel() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked"))
    run = t.compile(net) if gpu else net
    optimizer, loss_of = t.optim.Adam(net.parameters(), 1e-3, eps=1e-7, fused=True), t.nn.CrossEntropyLoss()
    mean, amp = t.tensor((103.939, 116.779, 123.68), device=device), o.precision != "float32"
    def predict(steps):
        net.eval()
        with t.inference_mode(), t.autocast(device, t.bfloat16, enabled=amp):
            for i in range(steps):
                at = t.arange(i*o.batch, (i + 1)*o.batch, device=device) % len(x)
                run((x[at].float().flip(-1) - mean).permute(0, 3, 1, 2)).softmax(-1).cpu().numpy()
    if o.predict: return predict, n
    def repeat(steps):
        order = t.randperm(steps*o.batch, device=device) % len(x)
        for i in range(0, len(order), o.batch):
            at = order[i:i+o.batch]
            image = (x[at].float().flip(-1) - mean).permute(0, 3, 1, 2)   # of (n, h, w, 3): channels_last as it is
            with t.autocast(device, t.bfloat16, enabled=amp): loss = loss_of(run(image), y[at])
            optimizer.zero_grad(set_to_none=True); loss.backward(); optimizer.step()
        loss.item()
    return repeat, n

# ---- what a worker says of itself -----------------------------------------------------------------------------------------------------------
def framework(row): return "torch" if row == "torch" else __import__("keras").backend.backend()

def processor():
    "The processor's name, where the system tells it."
    try: return next(l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name"))
    except (OSError, StopIteration): return platform.processor() or platform.machine()

def device_of(kind):
    "Name of the device, its peak memory so far in bytes (None: a CPU, where the process' own counts), and whether it is a GPU."
    if kind == "tensorflow":
        import tensorflow as tf
        if not (g := tf.config.list_physical_devices("GPU")): return processor(), None, False
        return tf.config.experimental.get_device_details(g[0]).get("device_name", "gpu"), tf.config.experimental.get_memory_info("GPU:0")["peak"], True
    if kind == "jax":
        import jax
        d = jax.devices()[0]
        return processor() if d.platform == "cpu" else d.device_kind, (d.memory_stats() or {}).get("peak_bytes_in_use"), d.platform != "cpu"
    import torch as t
    return (t.cuda.get_device_name(), t.cuda.max_memory_allocated(), True) if t.cuda.is_available() else (processor(), None, False)

def matrix_product(kind, precision, gpu):
    "A function that gives the operations per second of a large matrix product."
    n, dtype, times = (8192, "bfloat16", 20) if gpu else (1536, "bfloat16", 1)
    if precision == "float32": dtype = "float32"
    if kind == "tensorflow":
        import tensorflow as tf
        a = tf.cast(tf.random.normal((n, n)), dtype); product, wait = lambda: tf.matmul(a, a), lambda v: np.asarray(v[0, 0])
    elif kind == "jax":
        import jax, jax.numpy as jnp
        a = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype); f = jax.jit(jnp.matmul); product, wait = lambda: f(a, a), jax.block_until_ready
    else:
        import torch as t
        a = t.randn(n, n, device="cuda" if gpu else "cpu").to(getattr(t, dtype)); product, wait = lambda: a @ a, lambda v: v[0, 0].item()
    def peak():
        best = 0
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(times): v = product()
            wait(v); best = max(best, times*2*n**3/(time.perf_counter() - start))
        return best
    return peak

def worker(o):
    "Build, trace, say so; then measure once for every line that comes in."
    say, _ = os.fdopen(os.dup(1), "w"), os.dup2(2, 1)          # what libraries print must not come between the answers
    began = time.perf_counter()
    def answer(**kw): say.write(json.dumps(kw) + "\n"); say.flush()
    try:
        repeat, parameters = globals()[o.worker.replace("-", "_")](o)
        kind = framework(o.worker)
        name, _, gpu = device_of(kind)
        def seconds(steps):
            start, cpu = time.perf_counter(), time.process_time(); repeat(steps)
            return time.perf_counter() - start, time.process_time() - cpu
        first, (second, _) = seconds(1)[0], seconds(1)
        peak = matrix_product(kind, o.precision, gpu); peak()
        answer(parameters=int(parameters), device=name, framework=kind, gpu=gpu, tracing_s=max(first - second, 0), start_s=time.perf_counter() - began)
        for line in sys.stdin:
            top, steps = peak(), int(line)
            wall, cpu = seconds(steps)
            used = device_of(kind)[1] or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == "darwin" else 1024)
            answer(per_s=steps*o.batch/wall, share=steps*o.batch/wall*flops(o.size, o.arch)/(3 if o.predict else 1)/top, busy=cpu/wall, cpu_ms=1e3*cpu/steps/o.batch, peak=top, memory=used)
    except Exception as e: answer(error=f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else 'no message'}")

# ---- the parent -----------------------------------------------------------------------------------------------------------------------------
class Row:
    "One worker: started, asked, ended; `why` says what keeps it from running."
    def __init__(self, name, a, size, folder):
        self.name, self.size, self.rounds, self.info, self.why, self.process, self.absent = name, size, [], {}, "", None, False
        if name == "torch" and (why := no_torch(a.torch_python)): self.why, self.absent = why, True; return
        python = a.torch_python if name == "torch" else sys.executable
        env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", TF_FORCE_GPU_ALLOW_GROWTH="true", XLA_PYTHON_CLIENT_PREALLOCATE="false", NPROC=str(a.threads))   # NPROC: JAX' threads
        env.setdefault("KERAS_BACKEND", "tensorflow")
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([python, "-m", "benchmarks.training", "--worker", name, "--sizes", str(size), "--batch", str(a.batch), "--threads", str(a.threads),
            "--precision", a.precision, "--arch", a.arch, "--folder", folder, *["--predict"]*a.predict], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.info = self.hear()
    def hear(self):
        line = self.process.stdout.readline()
        said = json.loads(line) if line else {}
        if "error" in said: self.why = said["error"]
        elif not line:
            self.log.seek(0); tail = [l for l in self.log.read().splitlines() if l.strip()]
            self.why = f"its process ended ({self.process.wait()}){': ' + tail[-1] if tail else ''}"
        return said
    def ask(self, steps):
        if self.why: return self.rounds.append({})
        try: self.process.stdin.write(f"{steps}\n"); self.process.stdin.flush()
        except BrokenPipeError: pass                                   # it was killed in its sleep: what follows finds out why
        self.rounds.append(self.hear())
    def end(self):
        if self.process:
            self.process.terminate(); self.process.wait(); self.log.close()

def no_torch(python):
    "Why PyTorch cannot be had from this interpreter, or an empty text."
    if python == sys.executable: found = importlib.util.find_spec("torch") is not None
    else:
        try: found = subprocess.run([python, "-c", "import torch, numpy"], capture_output=True).returncode == 0
        except OSError: return f"{python} cannot be started; name an interpreter that has PyTorch with --torch-python"
    return "" if found else f"PyTorch is not installed for {python}: install the extra `torch`, or name an interpreter that has it with --torch-python"

def material(folder, a, size, rows):
    "The images of one size: an array for all rows, and JPEG files for the generator."
    n, rng = a.steps*a.batch, np.random.default_rng(0)
    np.save(Path(folder)/"x.npy", rng.integers(0, 256, (n, size, size, 3), np.uint8)); np.save(Path(folder)/"y.npy", np.arange(n, dtype=np.int64) % CLASSES)
    if "keras-generator" in rows and not (files := Path(folder)/"files").exists():
        from benchmarks.decoding import make
        files.mkdir()
        make(files, a.generator_steps*a.batch, rng).assign(label=lambda f: np.arange(len(f)) % CLASSES).to_csv(files/"frame.csv", index=False)

def ratio(row, to):
    "Median and quartiles of the rounds' ratios; None where one of the two did not run."
    r = [a["per_s"]/b["per_s"] for a, b in zip(row.rounds[1:], to.rounds[1:]) if a and b and "per_s" in a and "per_s" in b] if to else []
    return (round(statistics.median(r), 3), [round(float(q), 3) for q in np.quantile(r, (.25, .75))]) if r else (None, None)

def summary(row, rows, a):
    "One row of the table."
    by, good = {r.name: r for r in rows}, [r for r in row.rounds[1:] if "per_s" in r]
    mid = lambda k, d=1: round(statistics.median(r[k] for r in good), d) if good else None
    (torch_, torch_q), (bound_, bound_q) = (ratio(row, by.get(k)) for k in ("torch", "bound"))
    return dict(row=row.name, size=row.size, precision=a.precision, device=row.info.get("device"), images_per_s=None if row.why else mid("per_s"),
                ratio_to_torch=None if row.why else torch_, ratio_to_bound=None if row.why else bound_, repeats=len(good),
                ratio_to_torch_quartiles=torch_q, ratio_to_bound_quartiles=bound_q, share_of_peak=mid("share", 3), peak_gflops=round(statistics.median(r["peak"] for r in good)/1e9, 1) if good else None,
                peak_memory_gb=round(max(r["memory"] for r in good)/1e9, 2) if good else None, tracing_s=round(row.info["tracing_s"], 1) if good else None,
                start_s=round(row.info["start_s"], 1) if good else None, busy=mid("busy", 2), cpu_ms_per_image=mid("cpu_ms", 2), framework=row.info.get("framework"), threads=a.threads, batch=a.batch, arch=a.arch, what="predict" if a.predict else "train",
                images=steps_of(row.name, a)*a.batch, load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None, why=row.why, absent=row.absent)

def steps_of(name, a): return a.generator_steps if name == "keras-generator" else a.steps

def measure(a, show=lambda s: None):
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for size in a.sizes:
            material(folder, a, size, a.rows)
            rows = []
            try:
                for name in a.rows:
                    rows.append(Row(name, a, size, folder))
                    show(f"{size} px  {name}: " + (f"CANNOT RUN: {rows[-1].why}" if rows[-1].why else f"ready after {rows[-1].info['start_s']:.0f} s"))
                if len({r.info["parameters"] for r in rows if not r.why}) > 1:
                    raise SystemExit("the rows do not train the same network: " + ", ".join(f"{r.name} has {r.info.get('parameters')} weights" for r in rows))
                for i in range(a.repeats + 1):                        # the first round warms up and does not count
                    for r in rows[::-1] if i % 2 else rows: r.ask(steps_of(r.name, a))
                    show(f"{size} px  round {i}/{a.repeats}: " + ", ".join(f"{r.name} {r.rounds[-1].get('per_s', float('nan')):.1f}/s" for r in rows))
                out += [summary(r, rows, a) for r in rows]
            finally:
                for r in rows: r.end()
    return out

def table(rows):
    "The JSON's rows as text."
    f = lambda v, form: format("-" if v is None else v, form if v is not None else ">" + form.split(".")[0].rstrip("%f"))
    lines = [f"{'':16}{'px':>4}{'images/s':>10}{'to torch':>10}{'quartiles':>14}{'to bound':>10}{'quartiles':>14}{'of peak':>9}{'peak GB':>9}{'tracing s':>11}{'busy':>6}{'CPU ms':>9}{'repeats':>9}"]
    q = lambda v: "-" if v is None else f"{v[0]:.2f} to {v[1]:.2f}"
    for r in rows:
        if r["why"]: lines.append(f"{r['row']:16}{r['size']:4}  DID NOT RUN: {r['why']}"); continue
        lines.append(f"{r['row']:16}{r['size']:4}{f(r['images_per_s'], '10.1f')}{f(r['ratio_to_torch'], '10.2f')}{q(r['ratio_to_torch_quartiles']):>14}{f(r['ratio_to_bound'], '10.3f')}"
                     f"{q(r['ratio_to_bound_quartiles']):>14}{f(r['share_of_peak'], '9.0%')}{f(r['peak_memory_gb'], '9.1f')}{f(r['tracing_s'], '11.1f')}{f(r['busy'], '6.1f')}{f(r['cpu_ms_per_image'], '9.1f')}{r['repeats']:9}")
    return "\n".join(lines)

def options(argv=None):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    p = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", action="store_true"); p.add_argument("--full", action="store_true", help="with --json: all that is known of each row"); p.add_argument("--sizes", type=int, nargs="+", default=[64, 96]); p.add_argument("--batch", type=int, default=128)
    p.add_argument("--repeats", type=int, default=7); p.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    p.add_argument("--rows", nargs="+", choices=(*ROWS, "step"), default=list(ROWS)); p.add_argument("--steps", type=int, default=4, help="batches of one measurement; on a GPU 100 or more")
    p.add_argument("--generator-steps", type=int, default=4, help="the same for keras-generator"); p.add_argument("--threads", type=int, default=cores)
    p.add_argument("--arch", choices=(*STAGES, LITE0), default="resnet50"); p.add_argument("--predict", action="store_true", help="predictions in place of training, for the rows engine and torch"); p.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch and numpy")
    p.add_argument("--worker", help=argparse.SUPPRESS); p.add_argument("--folder", help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.predict and not a.worker: a.rows = [r for r in a.rows if r in ("torch", "engine")] or p.error("with --predict the rows are engine and torch")
    if min(a.batch, a.repeats, a.steps, a.generator_steps, a.threads) < 1 or min(a.sizes) < 32: p.error("batch, repeats, steps and threads must be at least 1, sizes at least 32")
    return a

def main(argv=None):
    a = options(argv)
    if a.worker: a.size = a.sizes[0]; return worker(a)
    rows = measure(a, lambda s: print(s, file=sys.stderr, flush=True))
    if a.json: print(json.dumps(rows if a.full else [{k: r[k] for k in JSON} for r in rows], indent=1))
    else:
        one = next((r for r in rows if not r["why"]), rows[0])
        print(f"{a.arch}, {'predictions' if a.predict else 'training'}, batch {a.batch}, {a.precision}, {one['device']}, {a.threads} threads, {a.repeats} rounds in turn; Keras on {os.environ.get('KERAS_BACKEND', 'tensorflow')}; load when it ended {one['load']}")
        print(table(rows))
    return int(any(r["why"] and not r["absent"] for r in rows))   # a row that broke is a failure; PyTorch is optional

if __name__ == "__main__": sys.exit(main())
