"""StyleGAN's equations in plain loops: all configurations, of which `verify` takes some."""

import pytest

from torchstone import systems
from torchstone.references.stylegan1 import CASES, discriminator_cases, generator_cases
from torchstone.systems.generative import stylegan1
from torchstone.verify import verify


@pytest.mark.sweep
@pytest.mark.parametrize("number", range(CASES))
@pytest.mark.parametrize(
    ("cases", "network"), [(generator_cases, "Generator"), (discriminator_cases, "Discriminator")]
)
def test_network_equals_its_reference(cases, network, number, monkeypatch):
    monkeypatch.setattr(stylegan1, "FACTS", [])
    make = getattr(stylegan1, network)
    monkeypatch.setattr(stylegan1, "reference", lambda: cases(make, (number,)))
    checks = verify(systems.find("stylegan1")[0])
    assert len(checks) == 3  # output, gradients, three steps of AdamW
    assert all(check.passed for check in checks), checks
