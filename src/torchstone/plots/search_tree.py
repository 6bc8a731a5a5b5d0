"""A picture of a tree search: visits and values of the moves, and the line that it expects."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from torchstone.parts.rl.mcts import Tree
from torchstone.plots.canvas import PALETTE, canvas, plain, save

CHILDREN, MOVES = (7, 3, 2, 2, 1), 24  # children of a node that are shown, by its depth; moves in the bars
FEWEST = 0.02  # share of the root's visits below which a node is left out


@dataclass
class Branch:
    """A node that is shown, and the move that leads to it."""

    name: str
    visits: int
    q: float  # in the view of the player who made the move
    is_expected: bool  # on the line that the search expects
    children: list["Branch"] = field(default_factory=list)
    x: float = 0.0


def branches(tree: Tree, name: Callable[[int, int], str]) -> Branch:
    """The most visited part of the first tree.

    Args:
        name: node, action -> notation of the move.
    """
    visits, q, children = tree.visits[0], tree.q[0], tree.children[0]
    total = float(visits[0].sum())

    def grow(node: int, into: Branch, depth: int) -> None:
        if node < 0 or depth == len(CHILDREN):
            return
        most, actions = visits[node].sort(descending=True, stable=True)
        shown = zip(most[: CHILDREN[depth]].tolist(), actions.tolist(), strict=False)
        for rank, (count, action) in enumerate(shown):
            expected = into.is_expected and rank == 0 and count > 0
            if count >= max(1.0, FEWEST * total) or expected:
                child = Branch(name(node, action), int(count), float(q[node, action]), expected)
                into.children.append(child)
                grow(int(children[node, action]), child, depth + 1)

    root = Branch("", int(total), float(tree.root_value[0]), True)
    grow(0, root, 0)
    return root


def place(branch: Branch, left: float = 0.0) -> float:
    """Give each node its x, leaves side by side; the width that they take."""
    if not branch.children:
        branch.x = left
        return 1.0
    width = 0.0
    for child in branch.children:
        width += place(child, left + width)
    branch.x = (branch.children[0].x + branch.children[-1].x) / 2
    return width


def draw_search_tree(
    tree: Tree, name: Callable[[int, int], str], file: Path, title: str, *, board: str = ""
) -> None:
    """The first tree of `tree`: the board, the root's moves as bars, and the tree below them.

    Args:
        name: node, action -> notation of the move in the node's state.
        board: of the root, as text.
    """
    root = branches(tree, name)
    width = place(root)
    figure = canvas(4.2 + max(5.5, 0.78 * width), 5.6)
    panels = figure.add_gridspec(2, 2, width_ratios=(3.6, max(5.5, 0.78 * width)), height_ratios=(1, 1.2))
    figure.suptitle(plain(title, 90), fontsize=11, fontweight="bold", x=0.01, ha="left")
    _draw_board(figure.add_subplot(panels[0, 0]), board)
    _draw_moves(figure.add_subplot(panels[1, 0]), tree, name)
    _draw_tree(figure.add_subplot(panels[:, 1]), root, width)
    save(figure, file)


def _draw_board(axes, board: str) -> None:
    axes.set_axis_off()
    lines = board.splitlines()
    size = min(12.0, 150 / max(len(lines), 1), 330 / max([len(line) for line in lines] or [1]))
    axes.text(0, 1, plain(board, 4000), family="monospace", fontsize=size, va="top", transform=axes.transAxes)


def _draw_moves(axes, tree: Tree, name: Callable[[int, int], str]) -> None:
    prior = tree.prior[0, 0]
    visits, q = tree.root_visits[0], tree.root_q[0]
    moves = [a for a in visits.sort(descending=True, stable=True).indices.tolist() if prior[a] > 0][:MOVES]
    share = visits / visits.sum().clamp(min=1)
    positions = torch.arange(len(moves)).float()
    axes.bar((positions - 0.2).tolist(), share[moves].tolist(), 0.4, color=PALETTE[0], label="visits")
    axes.bar((positions + 0.2).tolist(), prior[moves].tolist(), 0.4, color=PALETTE[5], label="prior")
    for x, action in enumerate(moves):
        if visits[action] > 0 and len(moves) <= 9:
            height = max(float(share[action]), float(prior[action]))
            axes.text(x, height, f"{float(q[action]):+.2f}", ha="center", va="bottom", fontsize=7)
    axes.set_xticks(positions.tolist(), [plain(name(0, action), 8) for action in moves], fontsize=8)
    if len(moves) > 9:
        axes.tick_params(axis="x", rotation=90, labelsize=6)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title("moves: share of visits, prior; value above", loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.18)
    axes.legend(frameon=False, fontsize=8)


def _draw_tree(axes, root: Branch, width: float) -> None:
    axes.set_axis_off()
    axes.set_title("visits and values of the search; the line it expects", loc="left", fontsize=9)
    deepest = 0

    def draw(branch: Branch, depth: int) -> None:
        nonlocal deepest
        deepest = max(deepest, depth)
        for child in branch.children:
            color = PALETTE[1] if child.is_expected else "0.6"
            line = 0.6 + 5 * child.visits / max(root.visits, 1)
            axes.plot((branch.x, child.x), (-depth, -depth - 1), color=color, linewidth=line, zorder=1)
            draw(child, depth + 1)
        text = f"{plain(branch.name, 8)}\n{branch.visits}\n{branch.q:+.2f}" if depth else f"{root.visits}"
        edge = PALETTE[1] if branch.is_expected else "0.6"
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": edge, "linewidth": 1}
        axes.text(branch.x, -depth, text, ha="center", va="center", fontsize=7, bbox=box, zorder=2)

    draw(root, 0)
    axes.set(xlim=(-0.7, width - 0.3), ylim=(-deepest - 0.5, 0.4))
