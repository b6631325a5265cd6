"""The site: `pip install -e ".[docs]" && python -m sphinx -W -b html docs site`."""

import fastbn

project = "fastbn"
author = "the fastbn developers"
copyright = author
release = fastbn.__version__
version = release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # the build needs no network

html_theme = "furo"
html_title = f"fastbn {release}"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_theme_options = {
    "source_repository": "https://github.com/fastbn/fastbn",
    "source_branch": "main",
    "source_directory": "docs/",
}

root_doc = "index"
exclude_patterns = ["README.md", "pictures/*.py"]  # README.md is the same index, for those who read the folder

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_typehints = "none"  # the docstrings give types and shapes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
