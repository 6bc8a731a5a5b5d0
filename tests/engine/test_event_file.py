"""TensorBoard reads what is written without it."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchstone.engine.event_file import EventFile, crc32c


def read(folder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_event_file_is_read_by_tensorboard(tmp_path):
    file, values = EventFile(tmp_path), [0.0, 1.5, -3e-20, 1e30, float("inf")]
    for step, value in zip((0, 1, 127, 128, 3_000_000_000), values, strict=True):
        file.add_scalar("train/loss", value, step)
    file.add_scalar("val/Genauigkeit ä", 0.25, 300)
    file.close()
    found = read(tmp_path)
    print(found)
    assert [step for step, _ in found["train/loss"]] == [0, 1, 127, 128, 3_000_000_000]
    assert [value for _, value in found["train/loss"]] == np.float32(values).tolist()
    assert found["val/Genauigkeit ä"] == [(300, 0.25)]


def test_event_file_purges_what_is_written_again(tmp_path):
    first = EventFile(tmp_path)
    for step in range(10):
        first.add_scalar("loss", 1.0, step)
    first.close()
    second = EventFile(tmp_path, purge_step=6)
    for step in range(6, 9):
        second.add_scalar("loss", 2.0, step)
    second.close()
    found = read(tmp_path)["loss"]
    print(found)
    assert found == [(step, 1.0) for step in range(6)] + [(step, 2.0) for step in range(6, 9)]


def test_crc32c_of_published_vectors():
    # RFC 3720, appendix B.4
    vectors = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E}
    print({data[:2].hex(): hex(crc32c(data)) for data in vectors})
    assert all(crc32c(data) == value for data, value in vectors.items())
