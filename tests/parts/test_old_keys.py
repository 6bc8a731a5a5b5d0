"""State dicts of earlier versions."""

import torch
from torch import nn

from torchstone.parts.old_keys import accept_old_keys, rename_old_keys


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.new = nn.Linear(2, 2)
        accept_old_keys(self, {"old.": "new."})


def test_load_state_dict_accepts_old_keys_of_nested_modules():
    first, second = (nn.ModuleDict({"a": Part()}) for _ in range(2))
    old = {key.replace("new.", "old."): value for key, value in first.state_dict().items()}
    assert "a.old.weight" in old
    second.load_state_dict(old)
    assert torch.equal(second["a"].new.weight, first["a"].new.weight)
    assert "a.old.weight" in old, "the caller's tensors are left alone"


def test_rename_old_keys_gives_names_of_today():
    model = nn.ModuleDict({"a": Part(), "b": nn.Linear(2, 2)})
    old = {key.replace("new.", "old."): value for key, value in model.state_dict().items()}
    renamed = rename_old_keys(model, old)
    assert set(renamed) == set(model.state_dict())
    assert set(rename_old_keys(model, renamed)) == set(renamed)
