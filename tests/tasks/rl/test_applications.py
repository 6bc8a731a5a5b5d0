"""Which environments are of an application, and what its module has."""

import inspect

import pytest

from torchstone.envs.make import PREFIXES
from torchstone.tasks.rl import cooling, traffic, treatment
from torchstone.tasks.rl.applications import APPLICATIONS, application


@pytest.mark.parametrize(
    ("spec", "module"),
    [
        ("sumo:cologne1", traffic),
        ("energyplus:2zone_datacenter:test", cooling),
        ("CartPole-v1", None),
        ("ICU-Sepsis-v2", treatment),
    ],
)
def test_application_is_found_by_the_prefix(spec, module):
    assert application(spec) is module


def test_every_application_draws_by_the_same_signature():
    for prefix in APPLICATIONS:
        module = application(f"{prefix}:any" if prefix in PREFIXES else prefix)
        assert len(inspect.signature(module.report).parameters) == 4
        assert len(inspect.signature(module.picture).parameters) == 4
