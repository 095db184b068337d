"What is wrong with a built site: dead links, missing images, pages without a title or with lines of their front matter. `make docs` ends with it."
import re, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FRONT = re.compile(r"^(skip_exec|skip_showdoc|default_exp|output-file|execute|title|description): ?\S*$")

class Page(HTMLParser):
    "title, anchors, links (what, where) and lines of text of one page"
    def __init__(self, text):
        super().__init__()
        self.title, self.ids, self.links, self.lines, self.within = "", set(), [], [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.within.append(tag)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag in ("a", "link") and a.get("href"): self.links.append(("link", a["href"]))
        if tag in ("img", "script") and a.get("src"): self.links.append(("image" if tag == "img" else "script", a["src"]))
    def handle_endtag(self, tag):
        while self.within and self.within.pop() != tag: pass
    def handle_data(self, data):
        if "title" in self.within and "svg" not in self.within: self.title += data
        if not {"script", "style", "pre", "title"} & set(self.within): self.lines += data.splitlines()

def faults(
    site, # folder of a built site
)->list: # of sentences; empty: nothing is wrong
    "Each link and image within the site that leads nowhere, each page without a title, each line of front matter that is printed."
    site, out = Path(site).resolve(), []
    pages = {p: Page(p.read_text()) for p in sorted(site.rglob("*.html"))}
    if not pages: return [f"{site} holds no page: make docs builds it"]
    for p, page in pages.items():
        at = p.relative_to(site)
        if not page.title.strip(): out.append(f"{at} has no title")
        out += [f"{at} prints the line {l.strip()!r}" for l in page.lines if FRONT.match(l.strip())]
        for what, where in dict.fromkeys(page.links):
            u = urlsplit(where)
            if u.scheme or u.netloc: continue
            to = (site/unquote(u.path).lstrip("/") if u.path.startswith("/") else (p.parent/unquote(u.path)).resolve()) if u.path else p
            if to.is_dir(): to = to/"index.html"
            if not to.is_relative_to(site) or not to.exists(): out.append(f"{at}: {what} {where} leads nowhere")
            elif u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids:
                out.append(f"{at}: {what} {where}: there is no such place on the page")
    return out

if __name__ == "__main__":
    found = faults(sys.argv[1] if len(sys.argv) > 1 else "_site")
    print("\n".join(found) or "every link and image of the site is there")
    sys.exit(bool(found))
