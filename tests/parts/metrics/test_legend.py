"""Legends: found by any name that a metric goes by, and whole."""

import pytest

from torchstone.parts.metrics.legend import FAMILIES, LEGENDS, NUMBERED, OF_SYSTEMS, legend
from torchstone.systems.metric_names import METRICS


@pytest.mark.parametrize(
    ("metric", "system", "line"),
    [
        ("accuracy", None, "accuracy, fraction that is right; higher is better; chance 1/classes"),
        ("test/loss", "gpt", "cross-entropy, nats per token; lower is better; chance ln(vocabulary size)"),
        ("val/loss", "gan", "loss of the generator, of its game with the discriminator"),
        ("linear_mse", "gru", "mean squared error of a linear model, to compare with, squared units"),
        ("guided_1.5_recall", "ddpm", "recall of samples at guidance scale 1.5, fraction"),
        ("gradient/12", "rnn", "gradient of 12, norm"),
        (
            "iou_red car",
            "deeplab",
            "intersection over union of red car, fraction from 0 to 1; higher is better",
        ),
    ],
)
def test_legend_is_found_by_name_split_and_family(metric, system, line):
    found = legend(metric, system)
    assert found is not None
    print(metric, system, "->", found.line())
    assert found.line().startswith(line)


def test_legend_of_an_unknown_metric_is_none():
    unknown = ["rate", "linear_rate", "guided_x_recall", "gradient"]
    print([legend(name) for name in unknown])
    assert [legend(name) for name in unknown] == [None] * len(unknown)


def test_a_loss_is_a_cross_entropy_of_classes_only_where_there_is_an_accuracy():
    """A system whose loss is another thing says what: the common legend would be wrong for it."""
    common = [name for name in METRICS if legend("loss", name) is LEGENDS["loss"]]
    print(common)
    wrong = [
        name
        for name in common
        if "loss" in METRICS[name].split() and not any(m.endswith("accuracy") for m in METRICS[name].split())
    ]
    assert not wrong


def test_legends_are_whole_and_short():
    every = {**LEGENDS, **{"/".join(key): value for key, value in OF_SYSTEMS.items()}, **NUMBERED}
    print(f"{len(every)} legends, {len(FAMILIES)} families")
    for name, each in every.items():
        assert each.title, name
        assert each.unit, name
        assert len(each.title) <= 60, name
        assert not any(text.endswith((".", ";")) for text in (each.title, each.unit, each.chance)), name
    assert len({(each.title, each.unit) for each in LEGENDS.values()}) >= len(LEGENDS) - 1
