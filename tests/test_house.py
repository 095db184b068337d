"""The rules of the house, held on syntax trees: what is imported inside functions is seen too.

A check takes the folder of a package and gives one sentence for each offence: file, line, what is wrong, what to do. No check can pass by
finding nothing: each is shown planted offences that it must find, and a small house without any."""
import ast, functools, json, re, shutil, subprocess, sys
from collections import namedtuple
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from benchmarks import style
from fakes import ROOT

FOLDERS = ("core", "records", "metrics", "datasets", "models", "training", "task2vec", "transfer", "similarity", "published", "survey",
           "recommend", "compare", "figures", "manuscript", "study", "slices")                  # from left to right
HEAVY = {"keras", "tensorflow", "jax", "torch", "snakemake", "pandas", "matplotlib", "papermill"}   # may be imported late
ASKS = r"keras\.(?:src\.)?(?:backend|config)"   # which backend, and how it is set
BACKEND_FILES = {"models/backend.py", "training/engines.py"}
# file -> why it may; an exception that nothing needs any more is an offence, too
BACKEND_EXCEPTIONS = {}
HIDDEN_EXCEPTIONS = {
    "core/kernels.py": "asks whether TensorFlow was imported first: then oneDNN can no longer be asked for",
    "core/faces.py": "makes the faces, which are lazy",
    "study/afresh.py": "puts back what all loaded files hold: it has to see every one, and to load those that are not yet",
    "study/notebooks.py": "spares papermill a dependency that takes two seconds, no file of ours",
}

File = namedtuple("File", "where module package tree")   # where: path below the package's folder
Import = namedtuple("Import", "file line module name bound late")   # late: libraries imported in the same function, None at the top

PACKAGE, NOTEBOOKS = ROOT/"catscans", ROOT/"nbs"


def walk(node, function=None):
    "Every node below this one, with the innermost function that holds it (None: none does)."
    for child in ast.iter_child_nodes(node):
        yield child, function
        yield from walk(child, child if isinstance(child, style.FUNCTION) else function)


@functools.cache
def files(root):
    "name of the module -> its File, without nbdev's index"
    found = {}
    for p in sorted(root.rglob("*.py")):
        where = p.relative_to(root)
        if p.name == "_modidx.py" or any(part.startswith(".") for part in where.parts): continue
        parts = (root.name, *where.with_suffix("").parts)
        module = ".".join(parts[:-1] if p.stem == "__init__" else parts)
        found[module] = File(where.as_posix(), module, ".".join(parts[:-1]), ast.parse(p.read_text(encoding="utf-8"), str(p)))
    return found


def is_face(file): return file.where.endswith("__init__.py")


def libraries(function):
    "What a function imports, by the first part of its name."
    if function is None: return None
    own = [node for node, inner in walk(function) if inner is None]
    names = [a.name for n in own if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in own if isinstance(n, ast.ImportFrom) and not n.level]
    return {n.split(".")[0] for n in names}


def absolute(file, node):
    "The whole name of the module that a `from ... import` names."
    if not node.level: return node.module
    up = file.package.split(".")
    return ".".join([*up[:len(up) - node.level + 1], *([node.module] if node.module else [])])


def imports(file):
    "Every name that a file imports."
    for node, function in walk(file.tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)): continue
        late = libraries(function)
        for a in node.names:
            if isinstance(node, ast.ImportFrom): yield Import(file, node.lineno, absolute(file, node), a.name, a.asname or a.name, late)
            else: yield Import(file, node.lineno, a.name, None, a.asname or a.name.split(".")[0], late)


@functools.cache
def own_imports(root):
    "What the files of a package import from each other."
    return [i for f in files(root).values() for i in imports(f) if i.module.split(".")[0] == root.name]


def target(i, known):
    "The module that is imported: `from ..datasets import cards` means the file cards."
    return f"{i.module}.{i.name}" if f"{i.module}.{i.name}" in known else i.module


def folder(module):
    "The folder of a module, or None for the package itself and for what stands in no folder of the house."
    return next((p for p in module.split(".")[1:2] if p in FOLDERS), None)


def say(file, line, text): return f"{file.where}:{line}: {text}"


# the plan of the house

def unplanned(root):
    "Files that stand in no folder, and folders without a face."
    sentences = []
    for f in files(root).values():
        *above, name = f.where.split("/")
        if not above and name != "__init__.py": sentences.append(say(f, 1, "stands in no folder: move it into one"))
        if above and above[0] not in FOLDERS:
            sentences.append(say(f, 1, f"the house has no folder {above[0]}: the folders are {', '.join(FOLDERS)}"))
        if len(above) > 1: sentences.append(say(f, 1, "stands deeper than one folder: move it up"))
    absent = [n for n in FOLDERS if not (root/n/"__init__.py").exists()]
    return sentences + [f"{n}/__init__.py:1: is absent: the folder needs a face, made by nbs/{n}/index.ipynb" for n in absent]


def unknown(root):
    "Imports of files that do not exist."
    known = files(root)
    lost = [i for i in own_imports(root) if target(i, known) not in known]
    return [say(i.file, i.line, f"there is no {i.module}: name the file that holds {i.name or 'it'}") for i in lost]


# the seven rules

def arrows(root):
    "1. A folder imports only folders to its left."
    sentences, todo = [], "move what is used to the left, or hand it in as an argument"
    for i in own_imports(root):
        a, b = folder(i.file.module), folder(target(i, files(root)))
        if a and b and FOLDERS.index(b) > FOLDERS.index(a):
            sentences.append(say(i.file, i.line, f"{a} imports {b}, which stands to its right: {todo}"))
    return list(dict.fromkeys(sentences))


def circles(root):
    "1. No file imports itself by way of others, inside a folder neither."
    known, graph = files(root), {}
    for i in own_imports(root): graph.setdefault(i.file.module, set()).add(target(i, known))
    try: TopologicalSorter(graph).prepare()
    except CycleError as e:
        ring = e.args[1][::-1]
        line = next(i.line for i in own_imports(root) if (i.file.module, target(i, known)) == tuple(ring[:2]))
        return [say(known[ring[0]], line, f"imports itself, {' -> '.join(ring)}: move what both ends need into a third file")]
    return []


def private(name): return name is not None and name.startswith("_") and not name.startswith("__")


def privates(root):
    "2. No name with a leading underscore is taken from another file."
    todo = "give it a public name, or move what needs it"
    found = [(i.file, i.line, f"imports {i.name} of {i.module}: {todo}") for i in own_imports(root) if private(i.name)]
    for f in files(root).values():
        taken = [(line, *text.rpartition(".")[::2]) for line, text in reached(f)]
        found += [(f, line, f"takes {name} of the file {module}: {todo}") for line, module, name in taken if private(name) and module in files(root)]
    return [say(*sentence) for sentence in found]


def late(root):
    "3. The package's files are imported at the top of a file, or beside a heavy library that the same function imports."
    todo = "import it at the top of the file; in a function only beside " + ", ".join(sorted(HEAVY))
    found = [i for i in own_imports(root) if i.late is not None and not i.late & HEAVY]
    return list(dict.fromkeys(say(i.file, i.line, f"imports {i.module} inside a function: {todo}") for i in found))


def faces_imported(root):
    "4. Inside the package nobody imports a face."
    known, sentences = files(root), []
    for i in own_imports(root):
        face = target(i, known)
        if face.count(".") != 1 or not folder(face): continue
        what = f"{i.name} from the face {face}" if i.module == face and i.name else f"the face {face}"
        sentences.append(say(i.file, i.line, f"imports {what}: import it from the file that holds it"))
    return sentences


def dotted(node):
    "The parts of `a.b.c`, or None where it does not begin with a name."
    if isinstance(node, ast.Name): return [node.id]
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return inner and [*inner, node.attr]


def named(file):
    "What a file imports, spelled out: (line, `keras.ops`)."
    return [(i.line, f"{i.module}.{i.name}" if i.name else i.module) for i in imports(file)]


def reached(file):
    "What a file reaches by attribute of what it imports, spelled out from the name of the library, whatever the file calls it."
    whole = {}
    for i in imports(file):
        plain = i.bound == i.module.split(".")[0]            # `import a.b` binds a, `import a.b as c` all of it
        whole[i.bound] = f"{i.module}.{i.name}" if i.name else i.bound if plain else i.module
    chains = [(node.lineno, dotted(node)) for node, _ in walk(file.tree) if isinstance(node, ast.Attribute)]
    return [(line, ".".join([whole[c[0]], *c[1:]])) for line, c in chains if c and c[0] in whole]


def excepted(found, allowed, root):
    "The sentences of files that are no exception, and the exceptions that nothing needs."
    used, names = {f.where for f, _, _ in found}, {f.where for f in files(root).values()}
    why = lambda where: "nothing needs" if where in names else "does not exist"
    unused = [f"{where}:1: is an exception that {why(where)}: strike it from the list" for where in allowed if where not in used]
    return [say(*sentence) for sentence in dict.fromkeys(found) if sentence[0].where not in allowed] + unused


def backends(root, exceptions=None):
    "5. Which backend Keras runs on is asked in two files only."
    if exceptions is None: exceptions = BACKEND_EXCEPTIONS if root == PACKAGE else {}
    found, todo = [], f"move it to {' or '.join(sorted(BACKEND_FILES))}"
    library = re.compile(rf"(tensorflow|jax|jaxlib|torch|{ASKS})(\..*)?")
    for f in files(root).values():
        if f.where in BACKEND_FILES: continue
        uses = [(line, m[1]) for line, text in named(f) if (m := library.fullmatch(text))]
        uses += [(line, text) for line, text in reached(f) if re.fullmatch(ASKS, text)]
        found += [(f, line, f"uses {text}: {todo}") for line, text in sorted(uses)]
    return excepted(found, exceptions, root)


TAKE = """
import json, sys, types
from importlib import import_module
from pathlib import Path
root, found = Path(sys.argv[1]), []
sys.path.insert(0, str(root.parent))
face = lambda name: import_module(f"{root.name}.{name}")
names = lambda name: getattr(face(name), "__all__", ())
faces = sorted(p.parent.name for p in root.glob("*/__init__.py"))
before = set(sys.modules)
for name in faces: face(name)
expected = {root.name, f"{root.name}.core.faces", f"{root.name}.core.kernels", *(f"{root.name}.{name}" for name in faces)}   # core.faces makes them lazy
for m in sorted(set(sys.modules) - before - expected):
    if m.split(".")[0] == root.name or m in sys.argv[2:]: found.append(["", m, "eager"])
for name in faces:
    for part in ("__all__", "__dir__", "__getattr__"):
        if part not in vars(face(name)): found.append([name, part, "lacks"])
    for n in sorted(set(names(name)) - set(dir(face(name)))): found.append([name, n, "hides"])
    for n in names(name):
        if (root/name/f"{n}.py").exists(): found.append([name, n, "as the name of a file"])
    if hasattr(face(name), "no such name"): found.append([name, "no such name", "invents"])

def take(when):
    for name in faces:
        for n in names(name):
            try: module = isinstance(getattr(face(name), n), types.ModuleType)
            except AttributeError: found.append([name, n, "has not"])
            else:
                if module: found.append([name, n, when])
take("at once"); take("when taken again")
for p in sorted(root.glob("*/*.py")):
    if p.stem not in ("__init__", "__main__"): import_module(f"{root.name}.{p.parent.name}.{p.stem}")
take("after all files were imported")
print(json.dumps(found))
"""


@functools.cache
def taken(root):
    "What a fresh process meets that takes all public names of all faces, again, and once more after all files: (face, name, how)."
    p = subprocess.run([sys.executable, "-c", TAKE, str(root), "numpy", *HEAVY], capture_output=True, text=True, cwd=root.parent)
    assert p.returncode == 0, p.stderr[-3000:]
    return json.loads(p.stdout.splitlines()[-1])


def masks(root):
    "6. No file bears a name that its folder's face exports, and no public name is a module."
    found = {}
    for face, name, how in taken(root):
        if how.startswith(("as", "at", "when", "after")): found.setdefault((face, name), []).append(how)
    todo = "give the file another name, or export no module"
    return [f"{face}/__init__.py:1: {name} is a module {', '.join(how)}: {todo}" for (face, name), how in found.items()]


def eager(root):
    "6. A face is lazy: it imports nothing before a name is asked for, and it knows its names."
    texts = {"eager": "the faces import {} before it is asked for: leave it to `__getattr__`",
             "lacks": "the face has no {}: write it",
             "hides": "`dir` does not show {}: let `__dir__` give `__all__`",
             "invents": "{} is no AttributeError: raise one",
             "has not": "{} is in `__all__`, but no file has it: strike it, or name the right file"}
    return [f"{face or '*'}/__init__.py:1: {texts[how].format(name)}" for face, name, how in taken(root) if how in texts]


def hidden(root, exceptions=None):
    "7. Outside faces nothing is imported by a string, no module is swapped, and no file is reached by attribute."
    if exceptions is None: exceptions = HIDDEN_EXCEPTIONS if root == PACKAGE else {}
    found, todo = [], "import the file at the top by its name, or hand in what is needed as an argument"
    string = re.compile(r"(importlib\.)?(import_module|__import__)|sys\.modules")
    by_attribute = re.compile(rf"{root.name}\.({'|'.join(FOLDERS)})")
    for f in files(root).values():
        if is_face(f): continue
        builtin = [(n.lineno, n.id) for n, _ in walk(f.tree) if isinstance(n, ast.Name)]
        uses = [(line, text) for line, text in named(f) + reached(f) + builtin if string.fullmatch(text)]
        uses += [(line, text) for line, text in reached(f) if by_attribute.fullmatch(text)]
        found += [(f, line, f"uses {text}: {todo}") for line, text in sorted(uses)]
    return excepted(found, exceptions, root)


# notebooks

def default_exp(path):
    "The module that a notebook exports to, or None."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return m[1] if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", code, re.M)) else None


def meant(where):
    "The module that a notebook's path below nbs/ names: datasets/03_cards.ipynb is datasets.cards, an index is the face."
    stem = re.sub(r"^\d+[a-z]?_", "", where.stem)
    return ".".join([*where.parent.parts, "__init__" if stem == "index" else stem])


def module_notebooks(nbs):
    "The notebooks that make the package: not those of the guides and the paper, nor the first page."
    kept = lambda parts: parts[0] not in ("guides", "paper") and parts != ("index.ipynb",) and not any(x[0] in "._" for x in parts)
    return [p for p in sorted(nbs.rglob("*.ipynb")) if kept(p.relative_to(nbs).parts)]


def misnamed(nbs, root):
    "Notebooks that export to another place than their path says, and files that no notebook makes."
    found = [(p.relative_to(nbs), default_exp(p)) for p in module_notebooks(nbs)]
    todo = "change `#| default_exp` or move it"
    loose = [f"{w.as_posix()}:1: stands in no folder of the house: move it into one" for w, _ in found if w.parts[0] not in FOLDERS]
    wrong = [f"{w.as_posix()}:1: exports to {got}, but its path names {meant(w)}: {todo}" for w, got in found if got != meant(w) and w.parts[0] in FOLDERS]
    made = {got for _, got in found}
    orphans = [f for f in files(root).values() if folder(f.module) and exported(f) not in made and not f.where.endswith("/__main__.py")]
    return loose + wrong + [say(f, 1, "no notebook makes it: write one in the folder of the same name, or delete the file") for f in orphans]


def exported(file):
    "How a notebook calls a file in its `#| default_exp`."
    return file.where.removesuffix(".py").replace("/", ".")


# the package itself

CHECKS = (unplanned, unknown, arrows, circles, privates, late, faces_imported, backends, masks, eager, hidden)
name = lambda check: check.__name__


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_the_house_keeps_its_rules(check):
    found = check(PACKAGE)
    assert not found, f"{check.__doc__}\n" + "\n".join(found)


def test_notebooks_stand_where_their_modules_do():
    found = misnamed(NOTEBOOKS, PACKAGE)
    assert not found, "\n".join(found)


def tool(name, *args, cwd=ROOT):
    "Run a tool of the environment that the tests run in."
    command = Path(sys.executable).parent/name
    assert command.exists(), f"{name} is not installed, so its contract cannot be tested: install the extra `dev` (`make env` does)"
    return subprocess.run([command, *args], cwd=cwd, capture_output=True, text=True)


LINT = {"lint-imports": ("--no-cache", "--no-logo"), "ruff": ("check", "--no-cache", ".")}


@pytest.mark.parametrize("name", LINT)
def test_contracts_are_kept(name):
    p = tool(name, *LINT[name])
    assert p.returncode == 0, (p.stdout + p.stderr)[-6000:]


def test_style_gets_no_worse():
    assert style.COMMITTED.exists(), "tests/style.json is gone: bring it back from git (it holds the numbers that may not get worse)"
    found = style.worse(style.measure(), json.loads(style.COMMITTED.read_text()))
    assert not found, "\n".join(found)


# planted offences

FACE = """
_FILES = {names}
__all__ = list(_FILES)

def __getattr__(name):
    if name not in _FILES: raise AttributeError(name)
    from importlib import import_module
    return getattr(import_module("." + _FILES[name], __name__), name)

def __dir__(): return __all__
"""
CLEAN = {   # every form that is allowed
    "__init__.py": "__version__ = '1'\n",
    "core/paths.py": """
import os
from catscans import __version__

def here(): return os.getcwd(), __version__
""",
    "datasets/cards.py": """
from ..core import paths
from catscans.core.paths import here

class Cards:
    def _of(self): return paths.here(), self._of

def cards(): return here()
""",
    "datasets/loading.py": """
from . import cards
from .cards import cards as all_cards

def load(): return cards.cards(), all_cards()
""",
    "models/backend.py": """
def ask():
    import keras, tensorflow as tf
    from catscans.core.paths import here
    return keras.backend.backend(), tf, here
""",
    "models/resnet.py": """
from .backend import ask

def backend(): return ask().backend
""",
    "slices/__main__.py": """
from .run import main

main()
raise SystemExit("nobody imports this")
""",
    "slices/run.py": """
import catscans.core.paths as p

def main(): return p.here()
""",
}
NAMES = {"datasets": {"load": "loading"}, "models": {"ask": "backend"}}


def plant(at, sources=None, names=NAMES):
    "A house below `at` with all faces; gives the folder of its package."
    root = at/"catscans"
    faces = {f"{n}/__init__.py": FACE.format(names=names.get(n, {})) for n in FOLDERS}
    for where, text in (faces | CLEAN | (sources or {})).items():
        (root/where).parent.mkdir(parents=True, exist_ok=True)
        (root/where).write_text(text)
    return root


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_a_clean_house_has_no_offence(check, tmp_path): assert check(plant(tmp_path)) == []


OFFENCES = [   # check, file, its text, what the first sentence says
    (unplanned, "cards.py", "", "cards.py:1: stands in no folder"),
    (unplanned, "attic/box.py", "", "attic/box.py:1: the house has no folder attic"),
    (unplanned, "core/deep/box.py", "", "core/deep/box.py:1: stands deeper"),
    (unknown, "models/resnet.py", "def f():\n    from ..core.pathz import here", "models/resnet.py:2: there is no catscans.core.pathz"),
    (unknown, "models/resnet.py", "from .core.paths import here", "models/resnet.py:1: there is no catscans.models.core.paths"),
    (arrows, "core/paths.py", "from ..datasets.cards import cards", "core/paths.py:1: core imports datasets"),
    (arrows, "core/paths.py", "def f():\n    if f:\n        from catscans.datasets import cards", "core/paths.py:3: core imports datasets"),
    (arrows, "core/paths.py", "import catscans.slices.run", "core/paths.py:1: core imports slices"),
    (arrows, "core/__init__.py", "from ..datasets.cards import cards", "core/__init__.py:1: core imports datasets"),
    (circles, "datasets/cards.py", "def f():\n    from .loading import load", "imports itself, catscans.datasets."),
    (privates, "models/resnet.py", "from ..core.paths import here, _lock", "models/resnet.py:1: imports _lock of catscans.core.paths"),
    (privates, "models/resnet.py", "from ..core import paths\nx = paths._lock", "models/resnet.py:2: takes _lock of the file catscans.core.paths"),
    (privates, "models/resnet.py", "import catscans.core.paths as p\nx = p._lock()", "models/resnet.py:2: takes _lock of the file catscans.core.paths"),
    (late, "models/resnet.py", "def f():\n    from ..core.paths import here", "models/resnet.py:2: imports catscans.core.paths inside a function"),
    (late, "models/resnet.py", "def f():\n    import keras\n    def g():\n        from catscans.core.paths import here", "models/resnet.py:4: imports"),
    (late, "models/resnet.py", "class A:\n    async def f(self):\n        import json, catscans.core.paths", "models/resnet.py:3: imports"),
    (faces_imported, "models/resnet.py", "from ..datasets import load", "models/resnet.py:1: imports load from the face catscans.datasets"),
    (faces_imported, "models/resnet.py", "from catscans import datasets", "models/resnet.py:1: imports the face catscans.datasets"),
    (faces_imported, "models/resnet.py", "def f():\n    import catscans.datasets as d", "models/resnet.py:2: imports the face catscans.datasets"),
    (faces_imported, "datasets/loading.py", "from . import load", "datasets/loading.py:1: imports load from the face catscans.datasets"),
    (backends, "models/resnet.py", "def f():\n    import keras\n    return keras.backend.backend()", "models/resnet.py:3: uses keras.backend: move it"),
    (backends, "models/resnet.py", "def f():\n    import keras as k\n    return k.config.floatx()", "models/resnet.py:3: uses keras.config"),
    (backends, "models/resnet.py", "def f():\n    from keras import ops, backend as b", "models/resnet.py:2: uses keras.backend"),
    (backends, "models/resnet.py", "def f():\n    import numpy, jax.numpy as jnp", "models/resnet.py:2: uses jax"),
    (backends, "models/resnet.py", "def f():\n    from torch import nn", "models/resnet.py:2: uses torch"),
    (backends, "models/resnet.py", "from keras.backend import backend", "models/resnet.py:1: uses keras.backend"),
    (hidden, "models/resnet.py", "from importlib import import_module", "models/resnet.py:1: uses importlib.import_module"),
    (hidden, "models/resnet.py", "import importlib\nx = importlib.import_module('a')", "models/resnet.py:2: uses importlib.import_module"),
    (hidden, "models/resnet.py", "x = __import__('a')", "models/resnet.py:1: uses __import__"),
    (hidden, "models/resnet.py", "import sys\ndef f(): sys.modules['a'] = f", "models/resnet.py:2: uses sys.modules"),
    (hidden, "models/resnet.py", "import sys as s\nx = 'a' in s.modules", "models/resnet.py:2: uses sys.modules"),
    (hidden, "models/resnet.py", "from sys import modules", "models/resnet.py:1: uses sys.modules"),
    (hidden, "models/resnet.py", "import catscans.core.paths\nx = catscans.core.paths.here", "models/resnet.py:2: uses catscans.core"),
    (hidden, "models/resnet.py", "import catscans as c\ndef f(): return c.core.paths", "models/resnet.py:2: uses catscans.core"),
    (masks, "datasets/load.py", "", "datasets/__init__.py:1: load is a module as the name of a file, after all files were imported"),
    (masks, "core/__init__.py", FACE.format(names={"os": "paths"}), "core/__init__.py:1: os is a module at once"),
    (eager, "datasets/__init__.py", FACE.format(names={}) + "from . import loading", "*/__init__.py:1: the faces import catscans.core.paths before"),
    (eager, "core/__init__.py", "__all__ = []", "core/__init__.py:1: the face has no __dir__"),
    (eager, "core/__init__.py", FACE.format(names={"hare": "paths"}), "core/__init__.py:1: hare is in `__all__`, but no file has it"),
    (eager, "core/__init__.py", FACE.format(names={}).replace("return __all__", "return []").replace("list(_FILES)", "['x']"), "`dir` does not show x"),
    (eager, "core/__init__.py", FACE.format(names={}).replace("raise AttributeError(name)", "return 1"), "1: no such name is no AttributeError"),
]


@pytest.mark.parametrize("check, where, text, says", OFFENCES, ids=[f"{o[0].__name__}-{n}" for n, o in enumerate(OFFENCES)])
def test_a_planted_offence_is_found(check, where, text, says, tmp_path):
    found = check(plant(tmp_path, {where: text + "\n"}))
    assert found and any(says in s for s in found), found


def test_a_name_that_becomes_a_module_when_it_is_taken_twice_is_found(tmp_path):
    "`load.py` holds `load`: the first time the face gives the function, from then on the file; a face that keeps what it gave hides this"
    names = {"datasets": {"load": "load"}}
    root = plant(tmp_path, {"datasets/load.py": "def load(): pass\n"}, names)
    [sentence] = masks(root)
    assert "load is a module as the name of a file, when taken again, after all files were imported" in sentence
    keeps = FACE.format(names=names["datasets"]).replace("return getattr(", "return take(")
    keeps += "\n\ndef take(module, name):\n    globals()[name] = getattr(module, name)\n    return globals()[name]\n"
    [sentence] = masks(plant(tmp_path/"keeps", {"datasets/load.py": "def load(): pass\n", "datasets/__init__.py": keeps}))
    assert "load is a module as the name of a file: give" in sentence


def test_a_folder_without_a_face_is_found(tmp_path):
    root = plant(tmp_path)
    shutil.rmtree(root/"compare")
    (root/"study"/"__init__.py").unlink()
    assert unplanned(root) == [f"{n}/__init__.py:1: is absent: the folder needs a face, made by nbs/{n}/index.ipynb" for n in ("compare", "study")]


def test_exceptions_hold_for_their_file_and_only_while_they_are_needed(tmp_path):
    root = plant(tmp_path, {"models/resnet.py": "import sys, torch\nx = sys.modules\n"})
    for check in (backends, hidden):
        assert check(root, {"models/resnet.py": "why"}) == []
        assert "nothing needs" in check(root, {"models/resnet.py": "why", "core/paths.py": "why"})[0]
        assert "does not exist" in check(root, {"models/resnet.py": "why", "core/gone.py": "why"})[0]


def notebook(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=[dict(cell_type="code", source=source.splitlines(True))])))


def test_notebooks_in_the_wrong_place_are_found(tmp_path):
    root, nbs = plant(tmp_path), tmp_path/"nbs"
    for f in files(root).values():
        if folder(f.module): notebook(nbs/f.where.replace("__init__", "index").replace(".py", ".ipynb"), f"#| default_exp {exported(f)}")
    for other in ("index.ipynb", "guides/first.ipynb", "paper/audit.ipynb"): notebook(nbs/other, "1 + 1")
    (nbs/"datasets"/"cards.ipynb").rename(nbs/"datasets"/"03_cards.ipynb")
    assert misnamed(nbs, root) == []
    notebook(nbs/"datasets"/"03_cards.ipynb", "#| hide\n#| default_exp cards")
    notebook(nbs/"60_records.ipynb", "1 + 1")
    (nbs/"models"/"index.ipynb").unlink()
    found = misnamed(nbs, root)
    assert [s.split(":")[0] for s in found] == ["60_records.ipynb", "datasets/03_cards.ipynb", "datasets/cards.py", "models/__init__.py"], found


BROKEN = [   # tool, file, its text, what it says
    ("lint-imports", "core/paths.py", "def f():\n    from ..datasets.cards import cards\n    return cards\n", "catscans.core.paths -> catscans.datasets.cards"),
    ("lint-imports", "datasets/cards.py", "def cards():\n    from .loading import load\n    return load\n", "in no circle BROKEN"),
    ("lint-imports", "models/resnet.py", "from ..datasets import load\n\nx = load\n", "imports a face BROKEN"),
    ("ruff", "core/paths.py", "import os\n", "F401"),
    ("ruff", "core/paths.py", "x = y\n", "F821"),
    ("ruff", "models/resnet.py", "from ..core import paths\n\nx = paths._lock\n", "SLF001"),
]


@pytest.mark.parametrize("name, where, text, says", BROKEN, ids=[f"{b[0]}-{n}" for n, b in enumerate(BROKEN)])
def test_contracts_see_a_planted_offence(name, where, text, says, tmp_path):
    "with the settings of this project: relative imports inside functions are seen"
    root = plant(tmp_path)
    shutil.copy(ROOT/"pyproject.toml", tmp_path)
    p = tool(name, *LINT[name], cwd=tmp_path)
    assert p.returncode == 0, "the house without an offence: " + p.stdout + p.stderr
    (root/where).write_text(text)
    p = tool(name, *LINT[name], cwd=tmp_path)
    assert p.returncode == 1 and says in p.stdout, p.stdout + p.stderr


STYLED = """# %% auto #0
__all__ = ['f']

# %% ../nbs/x.ipynb #1
from .core import _a, b, __version__
x = "; not joined"; y = 2   # one ; more

# %% ../nbs/x.ipynb #2
class A:
    def f(self, a, b, c, d, e, f):
        "An `Odd` where a is."
        if a: raise Odd(a)
        def inner(): raise Odd(b)

def g(
    a, # an error where it is 0
): raise ValueError(a)
def h():
    "Measure the standard error."
    raise ValueError
def _i(): raise ValueError
"""


def test_style_is_measured(tmp_path):
    (tmp_path/"x.py").write_text(STYLED)
    (tmp_path/"hand.py").write_text(f"z = '{'a'*160}'\n")
    now = style.measure(tmp_path)
    expected = dict(cells=2, cell_median=7, cell_90=12, cell_longest=12, lines=15, over_120=6.7, over_160=6.7, joined=66.7, functions=5, many_parameters=1,
                    most_parameters=7, most_of="f", private_imports=1, raising=3, said=2, silent=1)
    assert now == expected
    assert "x.py:18: h raises and does not say so" in style.where(tmp_path)
    with pytest.raises(ValueError, match="no modules under"): style.measure(tmp_path/"nothing")


def test_the_ratchet_turns_one_way(tmp_path):
    kept = dict.fromkeys(style.HIGHER_IS_WORSE, 2)
    assert style.worse(kept, kept) == [] == style.worse(dict.fromkeys(kept, 1), kept)
    for k in kept:
        [sentence] = style.worse(kept | {k: 3}, kept)
        assert sentence.startswith(style.HIGHER_IS_WORSE[k][0]) and "2 before, 3 now" in sentence
    [sentence] = style.worse(kept, {k: v for k, v in kept.items() if k != "joined"})
    assert "has no joined" in sentence
    style.write(kept, at := tmp_path/"style.json")
    with pytest.raises(ValueError, match="nothing was written to style.json"): style.write(kept | dict(silent=3), at)
    style.write(kept | dict(silent=1), at)
    assert json.loads(at.read_text())["silent"] == 1
