"""Makes web pages of this folder: `nox -s docs`."""  # noqa: INP001 - Sphinx wants it so

from gateway_queue import __version__

project = "Gateway Queue"
project_copyright = "The Gateway Queue contributors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "source_repository": "https://github.com/gateway-queue/gateway-queue",
    "source_branch": "main",
    "source_directory": "docs/",
}

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# What is copied is what one types, without the prompt and the output.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"
