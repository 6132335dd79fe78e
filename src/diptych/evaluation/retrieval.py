"""Image-text retrieval: Recall@k both ways, several captions an image allowed (CLIP paper, appendix E).

Pure: tensors in, numbers out; the similarities are made a chunk of queries at a time, never N × M at once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.evaluation.features import rank_of, similarity, unit
from diptych.launch import distributed

KS = (1, 5, 10)
MOST = 2**25  # scores at once: 128 MB, whatever the number of rows


def recall(
    image: Tensor,
    text: Tensor,
    image_of_text: Tensor,
    ks: Sequence[int] = KS,
    chunk: int | None = None,
    alike: Tensor | None = None,
) -> dict[str, dict[str, float] | int]:
    """image [N, D], text [M, D], image_of_text int64 [M] (the row of `image` each text describes) ->
    {"image_to_text": {"R@1", …}, "text_to_image": {"R@1", …}, "n": N, "captions": M}, shares 0–1, and "median_rank":
    {"image_to_text", "text_to_image"}, from 1.

    alike: int64 [M], equal where texts are the same; None where all are different
    A text is found when an image that has it is among the first k images: its own, or another's of the same text. An
    image is found when a text that is the same as one of its own is among the first k texts. Equal scores are ordered
    by row. Where there are ranks, each brings the same features and answers a share of the queries. Memory: a copy of
    the features, and a few arrays of `chunk` × max(N, M), of which None makes 128 MB each.
    Raises UserError where features are not finite, a text names no image, or an image has no text.
    """
    image, text = unit(image, "image features"), unit(text, "text features")
    owner = image_of_text.to(image.device)
    _check_owner(owner, len(image), len(text))
    chunk = chunk or max(1, min(1024, MOST // max(len(image), len(text))))
    each = torch.arange(len(text), device=owner.device)
    kind = each if alike is None else alike.to(owner.device).unique(return_inverse=True)[1]
    ways = {
        "image_to_text": _ranks(image, text, _Having(owner, kind), _Having(kind, each), chunk),
        "text_to_image": _ranks(text, image, _Having(each, kind), _Having(kind, owner), chunk),
    }
    return {
        **{way: _shares(ranks, ks) for way, ranks in ways.items()},
        "median_rank": {way: ranks.double().quantile(0.5).item() + 1 for way, ranks in ways.items()},
        "n": len(image),
        "captions": len(text),
    }


class _Having:
    """Which rows belong to which, several of the second to one of the first; int64 [P] and [P], from 0 on."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        pairs = torch.stack([first, second], dim=1).unique(dim=0)  # sorted by the first
        self.second, self.counts = pairs[:, 1], torch.bincount(pairs[:, 0])
        self.begins = self.counts.cumsum(0) - self.counts

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows int64 [n] -> of everything that belongs to them the place in `rows`, and what it is."""
        counts = self.counts[rows]
        places = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        within = torch.arange(len(places), device=rows.device) - (counts.cumsum(0) - counts)[places]
        return places, self.second[self.begins[rows][places] + within]


def _ranks(queries: Tensor, found: Tensor, kinds: _Having, right: _Having, chunk: int) -> Tensor:
    """For each query the rank of the best of its right answers among all of `found`, int64. kinds: query -> kinds of
    texts; right: kind -> rows of `found`"""
    most = int(kinds.counts.max() * right.counts.max())
    chunk = max(1, min(chunk, MOST // 8 // most))  # where many are right, their numbers take the memory

    def ranks(part: slice) -> Tensor:
        scores = similarity(queries[part], found)  # n × all
        here = torch.arange(part.start, part.start + len(scores), device=queries.device)
        query, kind = kinds.of(here)
        place, answer = right.of(kind)
        wrong = torch.ones_like(scores, dtype=torch.bool)
        wrong[query[place], answer] = False
        return rank_of(scores, scores.masked_fill(wrong, -torch.inf).argmax(dim=1))

    return _shared_out(len(queries), chunk, ranks, queries.device)


def _shared_out(count: int, chunk: int, ranks_of: Callable[[slice], Tensor], device: torch.device) -> Tensor:
    """int64 [count], of which every process computes its share of the chunks, and has all at the end.

    They go into one array: small ones left between large temporaries would keep the heap from taking those back.
    """
    ranks = torch.zeros(count, dtype=torch.float64, device=device)
    for start in range(distributed.rank() * chunk, count, distributed.world_size() * chunk):
        part = slice(start, start + chunk)
        ranks[part] = ranks_of(part).double()
    return (distributed.mean_over_ranks(ranks) * distributed.world_size()).round().long()


def _shares(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    return {f"R@{k}": int((ranks < k).sum()) / len(ranks) for k in ks}


def _check_owner(owner: Tensor, images: int, texts: int) -> None:
    if len(owner) != texts:
        raise UserError(f"There are {texts} texts but {len(owner)} image numbers: each text needs one.")
    if owner.min() < 0 or owner.max() >= images:
        outside = int(owner[(owner < 0) | (owner >= images)][0])
        raise UserError(f"A text belongs to image {outside}, but the images are 0…{images - 1}.")
    lonely = (torch.bincount(owner, minlength=images) == 0).nonzero()
    if len(lonely):
        raise UserError(
            f"{len(lonely)} images have no text, the first is image {int(lonely[0])}: "
            "they can never be found, so leave them out."
        )
