"""Samples in the eyes of Inception: an independent formula of the same features, and what is no weights file is refused."""

import pytest
import torch
from torch import nn

from torchstone import references
from torchstone.data.vision.dataset import Pictures
from torchstone.errors import BadInput
from torchstone.metrics import inception
from torchstone.parts.metrics import fidelity_diversity


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random ones, scaled so that signals neither vanish nor grow on their way."""
    references.torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            return None

    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, file)
    torch.manual_seed(0)
    network = Blank("blank", ["2048"], str(file))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def network(weights):
    return inception.inception(weights)


def pictures(count, seed, channels=1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    return (nn.functional.interpolate(coarse, (28, 28), mode="bicubic").clamp(0, 1) * 255).byte()


def split(images):
    return Pictures(torch.zeros(len(images), dtype=torch.long), images)


def test_the_distance_is_that_of_the_networks_features(weights, network):
    """tr (Σ Σ')^½ is the sum of singular values of A Bᵀ / √((n − 1)(m − 1)), of the centred features: no
    square root of a matrix, and exact where pictures are fewer than features."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    real, made = pictures(6, 0), pictures(5, 1) // 2
    found = inception.by_inception(made, [split(real[:2]), split(real[2:])], network)
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(weights))
    a, b = (torch.cat([theirs(p.repeat(1, 3, 1, 1))[0] for p in each.split(1)]).double()
            for each in (made, real))  # fmt: skip
    mean = (a.mean(0) - b.mean(0)).square().sum()
    spread = a.var(0).sum() + b.var(0).sum()
    a_, b_ = ((each - each.mean(0)) / (len(each) - 1) ** 0.5 for each in (a, b))
    wanted = float(mean + spread - 2 * torch.linalg.svdvals(a_ @ b_.mT).sum())
    print(f"distance {found['inception_distance']:.8g}, by singular values {wanted:.8g}")
    assert abs(found["inception_distance"] / wanted - 1) < 1e-4
    shares = [float(each) for each in fidelity_diversity.precision_recall(a, b)]
    assert [found["inception_precision"], found["inception_recall"]] == shares
    assert wanted > 0.1, "sets that differ are told apart"


def test_the_same_pictures_have_no_distance_and_colour_matters(network):
    grey, colour = pictures(5, 2), pictures(5, 2, channels=3)
    same = inception.by_inception(grey, [split(grey)], network)
    other = inception.by_inception(colour, [split(grey)], network)
    print(f"same pictures {same['inception_distance']:.2e}, in colour {other['inception_distance']:.3g}")
    assert same["inception_distance"] < 1e-6 * other["inception_distance"]
    assert (same["inception_precision"], same["inception_recall"]) == (1.0, 1.0)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_are_no_weights_are_refused(weights, tmp_path, capsys):
    empty, code, others = (tmp_path / name for name in ("empty.pth", "code.pth", "others.pth"))
    empty.touch()
    torch.save({"a": Evil()}, code)
    torch.save(nn.Linear(2, 2).state_dict(), others)
    with pytest.raises(BadInput, match="there is no file"):
        inception.inception(tmp_path / "none.pth")
    for file in (empty, code, others):
        with pytest.raises(BadInput, match="holds no weights of this Inception") as caught:
            inception.inception(file)
        print(caught.value)
        assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out
