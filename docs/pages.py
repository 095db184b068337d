"""The processed notebooks (_proc/) as Sphinx reads them: nbdev writes them for Quarto, which takes title and opening text from a raw cell, and hides code by `#|` lines."""
import re, sys
from pathlib import Path
import nbformat

def page(processed, source):
    "A processed notebook with the opening cell of its source, no code where only the result is to be seen, and links that stay within the site."
    nb = nbformat.from_dict(processed)
    if nb.cells and nb.cells[0].cell_type == "raw": nb.cells[0] = nbformat.from_dict(source.cells[0])
    nb.cells = [c for c in nb.cells if not c.source.startswith("<!-- WARNING")]
    for c in nb.cells:
        if c.cell_type == "code" and re.search(r"^#\| *echo: *false", c.source, re.M): c.metadata.tags = [*c.metadata.get("tags", []), "remove-input"]
        if c.cell_type == "markdown": c.source = re.sub(r"\]\(nbs/([^)#]+\.ipynb)", r"](\1", c.source)
        else:
            c.source = re.sub(r"^#\|.*\n?", "", c.source, flags=re.M)
            for data in (o.data for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})): data["text/markdown"] = re.sub(r"\{target=\"_blank\"[^}]*\}|^---$", "", data["text/markdown"], flags=re.M)
    return nb

def children(index):
    "A cell that hangs a folder's files under its first page in the sidebar."
    files = sorted(p.stem for p in index.parent.glob("[0-9]*.ipynb"))
    return nbformat.v4.new_markdown_cell("\n".join(["```{toctree}", ":maxdepth: 1", "", *files, "```"]))

def main(processed="_proc", sources="nbs"):
    for p in sorted(Path(processed).rglob("*.ipynb")):
        source = Path(sources)/p.relative_to(processed)
        nb = page(nbformat.read(p, 4), nbformat.read(source, 4))
        if p.name == "index.ipynb" and p.parent != Path(processed): nb.cells.append(children(p))
        nbformat.write(nb, p)

if __name__ == "__main__": main(*sys.argv[1:])
