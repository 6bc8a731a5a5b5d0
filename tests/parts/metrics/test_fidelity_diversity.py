"""Distances between sets against scipy, torchmetrics, closed forms and double loops."""

import pytest
import torch
from scipy.linalg import sqrtm

from torchstone.errors import BadInput
from torchstone.parts.metrics import fidelity_diversity
from torchstone.references.vision import import_torchmetrics


def sets(n: int = 60, m: int = 50, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    turn = torch.randn(d, d, generator=generator).double()
    a = torch.randn(n, d, generator=generator).double() @ turn
    return a, torch.randn(m, d, generator=generator).double() * 1.5 + 0.7


def by_hand(a: torch.Tensor, b: torch.Tensor) -> float:
    """The formula with scipy's square root of a matrix."""
    covs = [torch.cov(x.T).numpy() for x in (a, b)]
    root = sqrtm(covs[0] @ covs[1]).real
    apart = float((a.mean(0) - b.mean(0)).square().sum())
    return apart + covs[0].trace() + covs[1].trace() - 2 * root.trace()


def test_frechet_distance_matches_formula():
    a, b = sets()
    said, wanted = float(fidelity_diversity.frechet_distance(a, b)), by_hand(a, b)
    print(f"{said} and {wanted}")
    assert said == pytest.approx(wanted, rel=1e-6)
    assert float(fidelity_diversity.frechet_distance(b, a)) == pytest.approx(wanted, rel=1e-6)
    assert float(fidelity_diversity.frechet_distance(a, a)) == pytest.approx(0, abs=1e-6)


class Flat(torch.nn.Module):
    """Features that are the pixels themselves."""

    num_features = 12

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1).double()


def test_frechet_distance_matches_torchmetrics():
    torch.manual_seed(0)
    a, b = torch.rand(40, 3, 2, 2), torch.rand(30, 3, 2, 2) ** 2
    fid = import_torchmetrics().image.fid.FrechetInceptionDistance
    theirs = fid(feature=Flat(), normalize=True).set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    said, wanted = (
        float(fidelity_diversity.frechet_distance(b.flatten(1), a.flatten(1))),
        float(theirs.compute()),
    )
    print(f"{said} and {wanted}")
    assert said == pytest.approx(wanted, rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    """Of independent numbers: Σ (μ − μ')² + (σ − σ')²."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double()
    a, b = corners * torch.tensor([1.0, 2.0]), corners * torch.tensor([3.0, 2.0]) + 5
    deviation = (4 / 3) ** 0.5  # unbiased, of ±1 in a set of four
    wanted = 2 * 25 + (2 * deviation) ** 2
    assert float(fidelity_diversity.frechet_distance(a, b)) == pytest.approx(wanted, rel=1e-9)


def test_frechet_distance_with_fewer_images_than_features():
    a, b = sets(6, 5, 20)
    assert float(fidelity_diversity.frechet_distance(a, b)) == pytest.approx(by_hand(a, b), rel=1e-5)
    assert float(fidelity_diversity.frechet_distance(a, a)) == pytest.approx(0, abs=1e-5)
    with pytest.raises(BadInput, match="at least 2 images in each set, not 1"):
        fidelity_diversity.frechet_distance(a[:1], b)


def test_frechet_floor_is_the_distance_of_halves_of_each_class():
    features = sets(12, 5, 3)[0]
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 2, 0, 1, 1, 0, 2])
    halves: list[list[int]] = [[], []]
    for number in range(3):
        for place, row in enumerate((labels == number).nonzero()[:, 0].tolist()):
            halves[place % 2].append(row)
    wanted = by_hand(features[halves[0]], features[halves[1]])
    floor = float(fidelity_diversity.frechet_floor(features, labels))
    other = float(fidelity_diversity.frechet_floor(features, torch.zeros(12, dtype=torch.long)))
    print(f"{floor}, by hand {wanted}; halves without regard to classes {other}")
    assert floor == pytest.approx(wanted, rel=1e-6)
    assert abs(other / wanted - 1) > 0.01
    with pytest.raises(BadInput, match="at least 2 images in each set, not 1"):
        fidelity_diversity.frechet_floor(features[:3], labels[:3])


@pytest.mark.parametrize("rows", [1000, 7])
def test_precision_recall_match_definition(rows, monkeypatch):
    monkeypatch.setattr(fidelity_diversity, "CHUNK_SIZE", rows)  # in one piece, and in several
    a, b = sets(40, 31, 3)
    for k in (1, 3):

        def inside(point, members, k=k):
            for i, centre in enumerate(members):
                others = sorted(float((centre - o).norm()) for j, o in enumerate(members) if j != i)
                if float((point - centre).norm()) <= others[k - 1]:
                    return True
            return False

        wanted = (sum(inside(p, b) for p in a) / len(a), sum(inside(p, a) for p in b) / len(b))
        said = tuple(map(float, fidelity_diversity.precision_recall(a, b, k)))
        print(f"k = {k}: {said} and {wanted}")
        assert said == pytest.approx(wanted)
        assert 0.01 < wanted[1] < 0.95
        assert wanted[1] != wanted[0] > 0.9
    with pytest.raises(BadInput, match="more than 3"):
        fidelity_diversity.precision_recall(a[:3], b)


def test_precision_recall_detect_copies():
    """Copies of one good picture: precision is full, recall and variety are not."""
    _, real = sets(2, 400, 4)
    one = real[:1] + 1e-3 * torch.randn(400, 4).double()
    precision, recall = fidelity_diversity.precision_recall(one, real)
    assert float(precision) == 1.0
    assert float(recall) < 0.05
    assert float(fidelity_diversity.relative_variance(one, real)) < 1e-4
    assert float(fidelity_diversity.relative_variance(real[:200], real)) == pytest.approx(1, abs=0.15)


def test_class_frequencies_coverage_and_label_accuracy():
    labels = torch.tensor([0, 0, 2, 2, 2, 2, 2, 2, 2, 2])
    shares = fidelity_diversity.class_frequencies(labels, 4)
    assert shares.tolist() == [0.2, 0.0, 0.8, 0.0]
    real = torch.tensor([0.5, 0.3, 0.2, 0.0]).double()
    assert fidelity_diversity.covered_classes(shares, real).tolist() == [True, False, True, False]
    assert fidelity_diversity.covered_classes(shares, real, min_ratio=0.5).tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert float(fidelity_diversity.label_accuracy(labels, torch.tensor([0] * 5 + [2] * 5))) == 0.7


def test_nearest_neighbor_matches_brute_force():
    a, b = sets(20, 30, 3)
    wanted = [min(range(30), key=lambda j, p=p: float((p - b[j]).norm())) for p in a]
    assert fidelity_diversity.nearest_neighbor(a, b).tolist() == wanted
