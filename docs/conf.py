"""Makes web pages of this folder: `nox -s docs`."""  # noqa: INP001 - Sphinx wants it so

from gateway_queue import __version__

project = "Gateway Queue"
project_copyright = "The Gateway Queue contributors"
release = __version__
extensions = ["myst_parser"]
html_theme = "furo"
myst_heading_anchors = 3
