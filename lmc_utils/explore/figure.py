"""The mechanism of all interactive figures: one vanilla ES module, live as a widget and alone in a page.

Python prepares the state (plain arrays as JSON), a module without imports draws it. A notebook gets a widget where
anywidget is installed, as in the book's environment and in Colab. Everywhere else it shows the ``text/html`` of the
same bundle, which holds module and state, needs neither kernel nor network, and carries a static twin with the numbers
for readers without scripts.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from ..storage import replacing
from ..style import GRID, MUTED

try:
    import traitlets
    from anywidget import AnyWidget
except ImportError:

    class Shown:
        """The state of a figure that is shown as HTML alone."""

        def __init__(self, state: str) -> None:
            self.state = state

        def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            return {}, {}

else:

    class Shown(AnyWidget):
        """The state of a figure that is a widget as well."""

        state = traitlets.Unicode().tag(sync=True)
        _ipython_display_ = None  # ipywidgets 7, which Colab has, would display the widget by it and leave the HTML out


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as StaticFigure

FOLDER = Path(__file__).parent / "web"
STATE_LIMIT = 150_000  # bytes; a page carries several figures
SIDE = 32  # pixels; larger images are made smaller
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<link rel="icon" href="data:,"><style>
:root {{ color-scheme: light dark }}
:root[data-theme="light"] {{ color-scheme: light }} :root[data-theme="dark"] {{ color-scheme: dark }}
body {{ margin: 0; font: 16px/1.5 system-ui, sans-serif; background: light-dark(#fff, #14181e) }}
main {{ max-width: 56rem; margin: auto; padding: 1rem }}
@media print {{ :root {{ color-scheme: light !important }} }}
</style></head>
<body><main>{body}</main></body>
</html>
"""


def script(kind: str) -> str:
    """The ES module of a kind of figure: the shared helpers, then its own file; comments and indentation left out."""
    source = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in ("shared.js", f"{kind}.js"))
    source = re.sub(r"/\*\*.*?\*/", "", source, flags=re.DOTALL)  # types are for those who change it
    lines = (line.strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def stylesheet(kind: str) -> str:
    """The style sheet of all figures, then that of a kind if it has its own; comments and indentation left out."""
    files = (FOLDER / name for name in ("figure.css", f"{kind}.css"))
    source = "\n".join(file.read_text(encoding="utf-8") for file in files if file.exists())
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    return "\n".join(line.strip() for line in source.splitlines() if line.strip())


def digits(values: Any) -> list[float]:
    """Numbers for the state: a flat array as floats of five significant digits, rounding noise below 1e-9 as zero."""
    return [0.0 if abs(x) < 1e-9 else float(f"{x:.5g}") for x in map(float, values)]


def show(x: float) -> str:
    """A number as the figures print it: three significant digits, at most five decimals (as in shared.js)."""
    if x == 0:
        return "0"
    places = min(5, max(0, 2 - math.floor(math.log10(abs(x)))))
    text = str(Decimal(x).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP))
    return "0" if not text.strip("-0.") else text.replace("-", "−")


def power(x: float) -> str:
    """A number that may be tiny: as :func:`show`, but below 1e-4 one digit and a power of ten (as in shared.js)."""
    if x == 0 or abs(x) >= 1e-4:
        return show(x)
    digit, exponent = f"{x:.0e}".split("e")
    return f"{digit.replace('-', '−')}·10" + str(int(exponent)).translate(RAISED)


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def png(image: Image.Image) -> str:
    """An image as a data URI, which needs no file beside the page."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def sprite(images: Tensor) -> str:
    """Images (n, C, H, W), scaled to the full range of 8 bits, side by side in a PNG as a data URI."""
    pixels = images.float()
    if not pixels.isfinite().all():
        raise ValueError(f"images to show must be finite, but those of shape {tuple(images.shape)} are not")
    if max(pixels.shape[2:]) > SIDE:
        factor = SIDE / max(pixels.shape[2:])
        size = [max(1, round(factor * side)) for side in pixels.shape[2:]]
        pixels = torch.nn.functional.interpolate(pixels, size, mode="area")
    low, high = pixels.min(), pixels.max()
    pixels = ((pixels - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    return png(Image.fromarray(torch.cat(list(pixels), dim=2).permute(1, 2, 0).squeeze(-1).numpy()))


def quiet(axes: Axes) -> None:
    """The look of plots in static twins: no frame, faint lines at the numbers."""
    axes.tick_params(colors=MUTED, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.spines[:].set_visible(False)


class Figure(Shown):
    """An interactive figure.

    A kind of figure is a subclass with ``kind``, :attr:`summary`, :meth:`static` and :meth:`table`, and the files
    ``kind.js`` and, if it needs one, ``kind.css``. Its module exports ``default { render({ model, el }) }`` and reads
    the state with ``JSON.parse(model.get("state"))``.

    Parameters
    ----------
    state
        Plain lists, numbers and texts. Sent as one JSON text: widget managers hand objects back with sorted keys.

    Raises
    ------
    ValueError
        If the state holds NaN or infinity, or is larger than 150 kB.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "kind" in vars(cls):  # not where anywidget derives a class of its own from a kind
            cls._esm, cls._css = script(cls.kind), stylesheet(cls.kind)
        super().__init_subclass__(**kwargs)

    def __init__(self, state: dict[str, Any]) -> None:
        text = json.dumps({"kind": self.kind, **state}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode())
        if size > STATE_LIMIT:
            raise ValueError(
                f"this figure would put {size / 1000:.0f} kB into the page, more than {STATE_LIMIT // 1000} kB: "
                "show fewer methods or splits, or curves with fewer points"
            )
        super().__init__(state=text)
        self.shown = json.loads(text)  # as a reader's script sees it

    @property
    def summary(self) -> str:
        """One line that says what the figure shows, without numbers that could move between machines."""
        raise NotImplementedError

    def static(self) -> StaticFigure:
        """The twin in matplotlib, for print and for readers without scripts."""
        raise NotImplementedError

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Header and rows of the numbers that the page shows without scripts."""
        raise NotImplementedError

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page, for slides and other sites.

        Parameters
        ----------
        path
            File to write; an older file is replaced as a whole or not at all.

        Raises
        ------
        FileNotFoundError
            If the folder does not exist.
        OSError
            If the page cannot be written.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
        page = PAGE.format(title=html.escape(self.summary), body=self._fragment())
        with replacing(path) as place:
            place.write_text(page, encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return self.summary

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # The metadata are anywidget's: Colab finds its widget manager there.
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return {**data, "text/plain": self.summary, "text/html": self._fragment()}, metadata

    def _fragment(self) -> str:
        """Return the figure as a piece of a page: style sheet, fallback, state, module, and a call that starts it.

        A hash of the state tells the script its place. Style sheet and module come with every figure, so that one in a
        notebook is alive wherever it is opened; they carry the name of their version, by which a page that holds
        several figures can load them once (:mod:`lmc_utils.explore.once`).
        """
        name = hashlib.sha256(self.state.encode()).hexdigest()[:12]
        module = script(self.kind).replace("export default", "return")
        version = f"{self.kind}-{hashlib.sha256((module + self._css).encode()).hexdigest()[:8]}"
        loaded = f'(window.lmc ??= {{}})["{version}"] ??= (() => {{\n{module}\n}})()'
        started = (
            f"""const state = document.querySelector('[data-lmc-state="{name}"]').textContent;\n"""
            f"""for (const el of document.querySelectorAll('[data-lmc="{name}"]:not([data-live])')) {{\n"""
            f'el.dataset.live = ""; lmc["{version}"].render({{ model: {{ get: () => state }}, el }});\n}}'
        )
        inert = self.state.replace("<", "\\u003c")
        return (
            f'<style data-lmc-style="{version}">{self._css}</style>\n'
            f'<div data-lmc="{name}">{self._fallback()}</div>\n'
            f'<script type="application/json" data-lmc-state="{name}">{inert}</script>\n'
            f'<script data-lmc-script="{version}">{loaded}</script>\n'
            f"<script>(() => {{\n{started}\n}})()</script>"
        )

    def _fallback(self) -> str:
        """The static twin and the numbers."""
        import matplotlib

        image = io.BytesIO()
        look = {
            "svg.hashsalt": "lmc",
            "svg.fonttype": "none",
            "font.sans-serif": ["DejaVu Sans"],
        }  # each text names all
        with matplotlib.rc_context(look):
            self.static().savefig(image, format="svg", metadata={"Date": None, "Creator": None})
        source = base64.b64encode(image.getvalue()).decode()
        header, rows = self.table()
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
        body = "".join(
            f'<tr><th scope="row">{html.escape(first)}</th>'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
            + "</tr>"
            for first, *rest in rows
        )
        return (
            f'<figure class="lmc-figure tex2jax_ignore" data-kind="{self.kind}">'
            f'<img alt="{html.escape(self.summary)}" src="data:image/svg+xml;base64,{source}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></figure>"
        )
