"""`eval_mode` puts back the mode of every submodule."""

import pytest
from torch import nn

from torchstone.parts.modes import eval_mode


def test_eval_mode_restores_each_submodule():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model.train()
    model[1][0].eval()  # as a frozen backbone is
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    fail = nn.Sequential(model, nn.Linear(2, 2))
    with eval_mode(fail), pytest.raises(TypeError):
        fail(None)
    assert [m.training for m in (model, model[0], model[1], model[1][0], model[1][1])] == [
        True, True, True, False, True
    ]  # fmt: skip
