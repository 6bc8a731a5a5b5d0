"""Ranks of a search against sorting, ties, and queries to which several items belong."""

import torch

from torchstone.parts.metrics.retrieval import mean_reciprocal_rank, recall_at, retrieval_ranks


def test_retrieval_ranks_are_places_in_the_sorted_list():
    torch.manual_seed(0)
    similarity = torch.randn(30, 30)
    order = similarity.argsort(1, descending=True)
    places = [row.tolist().index(i) for i, row in enumerate(order)]
    ranks = retrieval_ranks(similarity, torch.eye(30, dtype=torch.bool))
    assert ranks.tolist() == places
    assert recall_at(ranks, 10) == sum(place < 10 for place in places) / 30
    expected = sum(1 / (1 + place) for place in places) / 30
    assert abs(mean_reciprocal_rank(ranks) - expected) < 1e-12


def test_retrieval_ranks_of_what_tells_nothing_apart_are_last():
    ranks = retrieval_ranks(torch.zeros(4, 4), torch.eye(4, dtype=torch.bool))
    assert ranks.tolist() == [3, 3, 3, 3]


def test_retrieval_ranks_count_the_best_of_several_and_none_that_belongs():
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    relevant = torch.tensor([[False, True, True, False]])
    assert retrieval_ranks(similarity, relevant).tolist() == [1]
    assert retrieval_ranks(similarity, ~relevant).tolist() == [0]
