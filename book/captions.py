"""A Sphinx extension: a live figure has a number, a caption and an address, as a plot has.

Both say them alike, in the cell's metadata: ``{"mystnb": {"figure": {"name": ..., "caption": ...}}}``. MyST-NB reads that
for images alone.
"""

from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform


class Captions(SphinxTransform):
    """Frame the live figures whose cell has a caption."""

    default_priority = 400  # before names become labels

    def apply(self, **kwargs: Any) -> None:
        for cell in [*self.document.findall(nodes.container)]:
            said = cell.get("cell_metadata", {}).get("mystnb", {}).get("figure")
            if not said or any(cell.findall(nodes.figure)):
                continue
            bundle = next(
                part
                for part in cell.findall(nodes.container)
                if part.get("nb_element") == "mime_bundle"
                and "data-lmc-state" in part.astext()
            )
            figure = nodes.figure(names=[said["name"]])
            bundle.replace_self(figure)
            figure += [bundle, nodes.caption("", said["caption"])]
            self.document.note_explicit_target(figure)


def setup(app: Any) -> dict[str, bool]:
    app.add_transform(Captions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
