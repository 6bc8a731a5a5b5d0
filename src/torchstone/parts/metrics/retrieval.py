"""How high a search ranks what belongs to a query."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor


def retrieval_ranks(
    similarity: Float[Tensor, "queries items"], relevant: Bool[Tensor, "queries items"]
) -> Int64[Tensor, " queries"]:
    """How many items that do not belong to a query are at least as similar to it as the most similar one that
    does: 0 where that comes first. Ties count against the search, so that one that tells nothing apart ranks
    last. Each query has a relevant item."""
    best = similarity.masked_fill(~relevant, -float("inf")).amax(1, keepdim=True)
    return ((similarity >= best) & ~relevant).sum(1)


def recall_at(ranks: Int64[Tensor, " queries"], k: int) -> float:
    """Share of the queries with a relevant item among the first k; by chance k / items, where one belongs to
    each."""
    return (ranks < k).double().mean().item()


def mean_reciprocal_rank(ranks: Int64[Tensor, " queries"]) -> float:
    """Mean of 1 / (1 + rank): 1 where each query finds its own first."""
    return (1 / (1 + ranks.double())).mean().item()
