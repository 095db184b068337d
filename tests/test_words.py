"What people read: every line that a command says goes through one function and fits the terminal, the honest limit and the summary come first."
import ast

import pytest

from catscans.study.cli import main
from fakes import ROOT

PRINTED = {"tell": 1, "_doctor": 2, "_audit": 1, "main_rank": 1}   # function -> its calls of `print`: the one outlet, and JSON


def printing(tree):
    "name of the function -> how many calls of `print` it holds"
    found = {}
    for f in ast.walk(tree):
        if not isinstance(f, ast.FunctionDef): continue
        n = sum(isinstance(c, ast.Call) and isinstance(c.func, ast.Name) and c.func.id == "print" for c in ast.walk(f))
        if n: found[f.name] = n
    return found


def test_one_function_says_everything():
    "and JSON is printed as it is"
    found = {}
    for f in sorted((ROOT/"catscans").glob("*/*.py")): found |= printing(ast.parse(f.read_text()))
    assert found == PRINTED


@pytest.mark.wrapped
@pytest.mark.parametrize("line", ["data list", "status --profile lite", "data where isic2018", "rank nowhere", "run --profile tyo", "data add photos"])
def test_every_line_fits(capsys, monkeypatch, line):
    for k in ("COLUMNS", "CATSCANS_DATA"): monkeypatch.delenv(k, raising=False)
    main(line.split())
    for width in (100, 72):
        said = capsys.readouterr()
        lines = (said.out + said.err).splitlines()
        assert lines
        # what is longer is one word, such as an address
        assert not [l for l in lines if len(l) > width and len(l.split()) > 1 + l.startswith(" ")], (width, lines)
        monkeypatch.setenv("COLUMNS", "72")
        main(line.split())
