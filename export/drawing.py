"""Drawings as SVG that take their ink from the page, so that they suit a light and a dark one."""

import io
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A colour that nothing else has; it becomes the page's own.
INK = "#010203"
BLUE, ORANGE, GREY = "#3b82d6", "#d97706", "#8a8f98"


def new_figure(width: float, height: float) -> tuple["Figure", Any]:
    """A figure and its axes; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(INK)
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def explain(axes: Any, x: str, y: str = "", **legend: Any) -> None:
    """Names the axes, and what is drawn where that has labels; `legend` is matplotlib's."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, **legend)


def as_svg(figure: "Figure", title: str) -> str:
    """A figure as an SVG element for a page, the same for the same figure."""
    import matplotlib

    store = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mnv3", "font.family": "sans-serif"}):
        figure.savefig(store, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = store.getvalue()
    text = text[text.index("<svg"):].replace(INK, "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1)
    return text.replace(">", f"><title>{title}</title>", 1)


def render_page(package: str, template: str, **values: Any) -> str:
    """A page from a package's template, with the style sheet of all pages: light and dark, wide and narrow, all of it inside."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(loader=PackageLoader(package, "."), autoescape=select_autoescape(["html", "j2"]), trim_blocks=True,
                              lstrip_blocks=True)
    style = resources.files("mnv3_tf.export").joinpath("page_style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **values)
