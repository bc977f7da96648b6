"""Draw how SecViT groups tokens: score, sort, cut, attend, put back. Makes docs/images/method.png."""

import argparse

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from mmsec import ops
from mmsec.datasets.shapes import make_scene
from mmsec.ops.grouping.semantic import SemanticGrouping, semantic_scores

SIDE, CLUSTERS, SIZE = 12, 4, 192  # tokens in a row of the image, clusters, pixels of the image
COLORS = ('#440154', '#31688e', '#35b779', '#fde725')


def draw(seed: int) -> Figure:
    """The five steps on a generated image, whose tokens have their mean colour as query, key and value."""
    image = make_scene(np.random.default_rng(seed), SIZE).image[..., ::-1]
    patch = SIZE // SIDE
    tokens = (
        torch.tensor(image / 255).unflatten(0, (SIDE, patch)).unflatten(2, (SIDE, patch)).mean((1, 3)).flatten(0, 1)
    )
    key = (tokens - 0.5)[None, :, None]  # (B, N, h, d)
    scores = semantic_scores(key)[0, 0]
    given = ops.Tokens(torch.stack([key] * 3, dim=2), key, (SIDE, SIDE))
    order = SemanticGrouping()(given, CLUSTERS).order[0, 0]
    cluster = torch.arange(len(order)) * CLUSTERS // len(order)  # of each place in the sorted list
    back = torch.empty_like(order).scatter_(0, order, cluster).view(SIDE, SIDE)
    colors = ListedColormap(COLORS)

    figure = Figure(figsize=(12, 2.9), dpi=100, layout='constrained')
    axes = figure.subplots(1, 6)
    axes[0].imshow(image)
    axes[0].set(title='tokens')
    for line in range(1, SIDE):
        axes[0].axhline(line * patch, color='white', linewidth=0.4)
        axes[0].axvline(line * patch, color='white', linewidth=0.4)
    axes[1].imshow(scores.view(SIDE, SIDE), cmap='magma')
    axes[1].set(title='1. score\ncosine with the mean')
    axes[2].bar(range(len(order)), scores[order] - scores.min(), width=1, color=tokens[order].numpy())
    axes[2].set(title='2. sort\nby the score', xlim=(0, len(order)))
    axes[3].bar(range(len(order)), scores[order] - scores.min(), width=1, color=colors(cluster.numpy()))
    axes[3].set(title='3. cut\ninto equal clusters', xlim=(0, len(order)))
    axes[4].imshow(np.where(cluster[:, None] == cluster, cluster, np.nan), cmap=colors)
    axes[4].set(title='4. attend\ninside each cluster', xlabel='keys', ylabel='queries')
    axes[5].imshow(image)
    axes[5].imshow(back, cmap=colors, alpha=0.75, extent=(0, SIZE, SIZE, 0))
    axes[5].set(title='5. put back\nwhere tokens were')
    for each in axes:
        each.set(xticks=[], yticks=[], box_aspect=1)
    return figure


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='docs/images/method.png', metavar='PNG', help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of the image (default: %(default)s)')
    args = parser.parse_args()
    draw(args.seed).savefig(args.out)


if __name__ == '__main__':
    main()
