"""The site: processed notebooks (nbdev.serve.proc_nbs), Sphinx, myst-nb, furo. `make docs` builds it in _site/."""
project = "catscans"
author = copyright = "The catscans developers"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "catscans"
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build", "README.md", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header", "myst.xref_missing", "mystnb.unknown_mime_type", "toc.not_included"]   # the tables of figures/ are reached by links
root_doc = "contents"
