"""Inception metrics against an independent formula of the same features; other files are rejected."""

import pytest
import torch
from torch import nn

from torchstone.data.vision.dataset import ImageSplit
from torchstone.errors import BadInput
from torchstone.hub.inception import load_inception
from torchstone.metrics.inception import inception_metrics
from torchstone.parts.metrics import fidelity_diversity
from torchstone.parts.optional_imports import import_torchvision


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random ones, scaled so that signals neither vanish nor grow on their way."""
    import_torchvision()
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


def pictures(count, seed, channels=1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    return (nn.functional.interpolate(coarse, (28, 28), mode="bicubic").clamp(0, 1) * 255).byte()


def split(images):
    return ImageSplit(torch.zeros(len(images), dtype=torch.long), images)


@pytest.mark.sweep
def test_inception_metrics_match_singular_value_formula(weights):
    """tr (Σ Σ')^½ is the sum of singular values of A Bᵀ / √((n − 1)(m − 1)), of the centred features: no
    square root of a matrix, and exact where pictures are fewer than features."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    real, fake = pictures(5, 0), pictures(4, 1) // 2
    network = load_inception(weights)
    metrics = inception_metrics(fake, [split(real[:2]), split(real[2:])], network)
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(weights))
    a, b = (torch.cat([theirs(p.repeat(1, 3, 1, 1))[0] for p in each.split(1)]).double()
            for each in (fake, real))  # fmt: skip
    mean = (a.mean(0) - b.mean(0)).square().sum()
    spread = a.var(0).sum() + b.var(0).sum()
    a_, b_ = ((each - each.mean(0)) / (len(each) - 1) ** 0.5 for each in (a, b))
    wanted = float(mean + spread - 2 * torch.linalg.svdvals(a_ @ b_.mT).sum())
    print(f"distance {metrics['inception_frechet_distance']:.8g}, by singular values {wanted:.8g}")
    assert abs(metrics["inception_frechet_distance"] / wanted - 1) < 1e-4
    shares = [float(each) for each in fidelity_diversity.precision_recall(a, b)]
    assert [metrics["inception_precision"], metrics["inception_recall"]] == shares
    assert wanted > 0.1, "sets that differ are told apart"


@pytest.mark.sweep
def test_inception_frechet_distance_of_same_images_is_zero(weights):
    network = load_inception(weights)
    grey, colour = pictures(4, 2), pictures(4, 2, channels=3)
    same = inception_metrics(grey, [split(grey)], network)
    other = inception_metrics(colour, [split(grey)], network)
    print(
        f"same images {same['inception_frechet_distance']:.2e}, "
        f"in color {other['inception_frechet_distance']:.3g}"
    )
    assert same["inception_frechet_distance"] < 1e-6 * other["inception_frechet_distance"]
    assert (same["inception_precision"], same["inception_recall"]) == (1.0, 1.0)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_load_inception_rejects_other_files(weights, tmp_path, capsys):
    empty, code, others = (tmp_path / name for name in ("empty.pth", "code.pth", "others.pth"))
    empty.touch()
    torch.save({"a": Evil()}, code)
    torch.save(nn.Linear(2, 2).state_dict(), others)
    with pytest.raises(BadInput, match="there is no file"):
        load_inception(tmp_path / "none.pth")
    for file in (empty, code, others):
        with pytest.raises(BadInput, match="holds no weights of this Inception") as caught:
            load_inception(file)
        print(caught.value)
        assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out
