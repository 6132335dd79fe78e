"""Drawings of an embedding space on axes that the caller made: for notebooks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_similarity(axes: "Axes", matrix: Tensor, rows: Sequence[str], columns: Sequence[str]) -> None:
    """A cosine matrix [N, M] as a heat map with the cosines' own scale beside it."""
    image = axes.imshow(matrix.numpy(), cmap="viridis")
    axes.set_xticks(range(len(columns)), labels=columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.figure.colorbar(image, ax=axes, label="cosine", shrink=0.8)


def draw_map(axes: "Axes", points: Tensor, groups: Sequence[str], explained: Tensor) -> None:
    """Points [N, 2], coloured and marked by group, with the share of variance of each axis."""
    markers = "osD^vP*X<>"
    for i, group in enumerate(dict.fromkeys(groups)):
        rows = [row for row, name in enumerate(groups) if name == group]
        x, y = points[rows].T.numpy()
        axes.scatter(x, y, s=18, alpha=0.75, label=group, color=f"C{i % 10}", marker=markers[i % 10])
    axes.set_xlabel(f"component 1 ({explained[0]:.0%} of variance)")
    axes.set_ylabel(f"component 2 ({explained[1]:.0%})")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
