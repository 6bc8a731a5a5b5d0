"""StyleGAN2 against spandrel's generator and the discriminator's equations, in every configuration."""

import pytest

from torchstone import systems
from torchstone.references.stylegan import CASES, discriminator_cases, generator_cases
from torchstone.systems.generative import stylegan
from torchstone.verify import verify


@pytest.mark.sweep
@pytest.mark.parametrize("number", range(CASES))
@pytest.mark.parametrize(
    ("cases", "network"), [(generator_cases, "Generator"), (discriminator_cases, "Discriminator")]
)
def test_network_equals_its_reference(cases, network, number, monkeypatch):
    monkeypatch.setattr(stylegan, "FACTS", [])
    make = getattr(stylegan, network)
    monkeypatch.setattr(stylegan, "reference", lambda: cases(make, (number,)))
    checks = verify(systems.find("stylegan")[0])
    assert len(checks) == 3  # output, gradients, three steps of AdamW
    assert all(check.passed for check in checks), checks


def test_spandrels_files_are_read_without_its_package():
    import sys

    next(iter(generator_cases(stylegan.Generator, (0,))))()
    assert "spandrel" not in sys.modules
