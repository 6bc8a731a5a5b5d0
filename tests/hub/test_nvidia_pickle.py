"""The authors' pickles: their tensors come out, and nothing that they name is constructed or run."""

import fractions
import pickle
import types

import pytest
import torch
from hub.stylegan_files import nvidia_state, write_nvidia_pickle

from torchstone.errors import BadInput
from torchstone.hub.nvidia_pickle import RECORDS, Maker, read_nvidia_pickle
from torchstone.systems.generative.stylegan import Generator


@pytest.fixture
def model():
    return Generator(size=8, latent_dim=4, style_dim=4, mapping_layers=2, channel_base=32, channel_max=4)


def test_tensors_come_out_by_their_names(model, tmp_path, monkeypatch):
    tensors = nvidia_state(model)
    write_nvidia_pickle(tmp_path / "net.pkl", tensors, monkeypatch)
    read = read_nvidia_pickle(tmp_path / "net.pkl")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_views_keep_their_place_in_a_storage(tmp_path, monkeypatch):
    base = torch.arange(24.0).view(4, 6)
    write_nvidia_pickle(tmp_path / "net.pkl", {"a": base[1:3, 2:5].T}, monkeypatch)
    assert torch.equal(read_nvidia_pickle(tmp_path / "net.pkl")["a"], base[1:3, 2:5].T)


@pytest.mark.parametrize("thing", [fractions.Fraction(1, 2), types.SimpleNamespace(a=1), len, complex(1, 2)])
def test_anything_else_is_refused_by_its_name(thing, tmp_path, monkeypatch):
    write_nvidia_pickle(tmp_path / "net.pkl", {"a": torch.zeros(2)}, monkeypatch, extra=thing)
    kind = thing if callable(thing) else type(thing)
    with pytest.raises(
        BadInput, match=rf"holds {kind.__module__}\.{kind.__name__}, which is not loaded here: in a"
    ) as raised:
        read_nvidia_pickle(tmp_path / "net.pkl")
    assert "\n" not in str(raised.value)


def test_no_class_of_the_file_is_constructed(tmp_path, monkeypatch):
    class Counted(dict):
        __module__, __qualname__ = "hub.test_nvidia_pickle", "Counted"
        constructed = 0

        def __new__(cls, *args):
            cls.constructed += 1
            return super().__new__(cls)

    monkeypatch.setattr("hub.test_nvidia_pickle.Counted", Counted, raising=False)
    thing = Counted()
    write_nvidia_pickle(tmp_path / "net.pkl", {"a": torch.zeros(2)}, monkeypatch, extra=thing)
    with pytest.raises(BadInput, match="Counted"):
        read_nvidia_pickle(tmp_path / "net.pkl")
    assert Counted.constructed == 1  # by this test


def test_what_stands_for_a_name_cannot_be_changed():
    for make in RECORDS.values():
        if isinstance(make, Maker):
            assert not hasattr(make, "__dict__")
            with pytest.raises(pickle.UnpicklingError):
                make.make = len
        else:
            assert make in (dict, set)


def test_the_tensorflow_release_is_refused_with_the_way_round(tmp_path):
    (tmp_path / "old.pkl").write_bytes(b"cdnnlib.tflib.network\nNetwork\n.")
    with pytest.raises(BadInput, match=r"TensorFlow release: convert it by legacy\.py"):
        read_nvidia_pickle(tmp_path / "old.pkl")


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04K\x01.", b"\x80\x04}."])
def test_damaged_or_other_pickles_are_refused(content, tmp_path):
    (tmp_path / "net.pkl").write_bytes(content)
    with pytest.raises(BadInput, match=r"net\.pkl"):
        read_nvidia_pickle(tmp_path / "net.pkl")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path, monkeypatch):
    larger = torch.zeros(2)
    monkeypatch.setattr(
        torch.Tensor,
        "__reduce_ex__",
        lambda self, protocol: (torch._utils._rebuild_tensor_v2, (self.storage(), 1, (2,), (1,), False, {})),
    )
    write_nvidia_pickle(tmp_path / "net.pkl", {"w_avg": larger}, monkeypatch)
    with pytest.raises(BadInput, match="larger than its storage"):
        read_nvidia_pickle(tmp_path / "net.pkl")
