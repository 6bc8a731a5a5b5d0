"""Judges of the claims about networks: numbers for which each holds, with a condition, and exchanged arms."""

import copy

import pytest

from torchstone.experiments.claims import (
    attention_translates,
    bidirectional,
    channel_attention,
    compound_scaling,
    depth_vgg,
    dilation_field,
    distilled,
    exploding_clip,
    features_hierarchy,
    features_learned,
    few_shot,
    global_context,
    gru_comparable,
    inception_cheap,
    lstm_remembers,
    parallel,
    positions_needed,
    residual_depth,
    rnn_forgets,
    separable_cheap,
    sharing_albert,
    sparse_linear,
    vit_data,
)


def seeds_of(row, spread=1e-3):
    """Three rows around `row`, whose numbers differ a little, each by another amount."""

    def shifted(value, by):
        if isinstance(value, dict):
            return {key: shifted(each, by * (1 + 0.1 * i)) for i, (key, each) in enumerate(value.items())}
        if isinstance(value, list):
            return [shifted(each, by * (1 + 0.1 * i)) for i, each in enumerate(value)]
        return value + by if isinstance(value, float) else value

    return [shifted(row, by * spread) for by in (-1.0, 0.0, 1.0)]


def with_changes(row, changes):
    """A copy with values at paths changed: {("a", 0): value}."""
    row = copy.deepcopy(row)
    for path, value in changes.items():
        at = row
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
    return row


def arm(**values):
    return values


RESIDUAL = {
    "shortcuts": {"loss": [0.3, 0.3, 0.4], "accuracy": [0.95, 0.95, 0.93]},
    "plain": {"loss": [0.31, 0.9, 2.0], "accuracy": [0.95, 0.7, 0.2]},
}
CHANNEL = {
    "no gate": arm(accuracy=0.95, loss=0.2, parameters=100, macs=1000),
    "gate": arm(accuracy=0.97, loss=0.1, parameters=105, macs=1001),
    "blind gate": arm(accuracy=0.951, loss=0.19, parameters=105, macs=1001),
}
DEPTH = {
    depth_vgg.DEEP: arm(accuracy=0.97, parameters=16_794, macs=1_000_000),
    depth_vgg.LARGE: arm(accuracy=0.95, parameters=17_000, macs=900_000),
    depth_vgg.SHALLOW: arm(accuracy=0.93, parameters=17_000, macs=900_000),
}
INCEPTION = {
    inception_cheap.MODULES: arm(accuracy=0.965, macs=1_500_000),
    inception_cheap.WIDE: arm(accuracy=0.965, macs=5_000_000),
    inception_cheap.EQUAL: arm(accuracy=0.94, macs=1_500_000),
}
SEPARABLE = {
    separable_cheap.FULL: arm(accuracy=0.97, macs=7_000_000, milliseconds=70.0),
    separable_cheap.SEPARABLE: arm(accuracy=0.969, macs=900_000, milliseconds=9.0),
    separable_cheap.NARROW: arm(accuracy=0.94, macs=900_000, milliseconds=12.0),
}
COMPOUND = {
    name: arm(accuracy=0.98 if name == "together" else 0.95, macs=1_000_000) for name in compound_scaling.ARMS
}
DILATION = {
    dilation_field.PLAIN: arm(miou=0.5, parameters=9, pixels=841, square=841),
    dilation_field.DILATED: arm(miou=0.6, parameters=9, pixels=3721, square=3721),
    dilation_field.GRID: arm(miou=0.5, parameters=9, pixels=11_025, square=16_641),
}
HIERARCHY = {
    "trained": {"class": [0.8, 0.85, 0.9, 0.95, 0.97], "edge": [0.8, 0.75, 0.7, 0.65, 0.6]},
    "untrained": {"class": [0.8, 0.8, 0.8, 0.8, 0.8], "edge": [0.8, 0.79, 0.78, 0.77, 0.76]},
}
LEARNED = {"LeNet-5": [0.9, 0.95, 0.98], "HOG, linear": [0.85, 0.9, 0.95], "pixels, linear": [0.7, 0.8, 0.9]}
VIT = {
    "LeNet-5": {"none": [0.8, 0.9, 0.97], "affine": [0.85, 0.95, 0.98]},
    "ViT": {"none": [0.6, 0.8, 0.94], "affine": [0.7, 0.9, 0.975]},
}
FORGETS = {
    "RNN": [0.2, 0.5, 0.9, 1.0],
    "RNN, rotation": [0.2, 0.4, 0.8, 0.9],
    "LSTM": [0.1, 0.1, 0.1, 0.2],
    "gradient": {"RNN": 1e-4, "RNN, rotation": 1e-2, "LSTM": 1.0},
}
REMEMBERS = {"LSTM": [0.1, 0.2, 0.9, 1.0], "RNN": [0.9, 0.95, 1.0]}
GRU = {
    name: dict.fromkeys(gru_comparable.TASKS, 0.5 if name == "RNN" else 0.8) for name in gru_comparable.ARMS
}
BOTH_WAYS = {
    bidirectional.ONE: arm(f1=0.6, whole=2.0, end=2.0),
    bidirectional.BOTH: arm(f1=0.8, whole=0.1, end=2.5),
}
TRANSLATES = {"attention": [0.9, 0.9, 0.9, 0.9, 0.9], "single vector": [0.9, 0.85, 0.6, 0.4, 0.3]}
CLIP = {
    "clipped": [[0.1, 0.1, 0.1, 0.1], [0.17, 0.17, 0.17, 0.17]],
    "not clipped": [[0.1, 0.1, 0.1, 0.1], [0.17, 0.9, 0.9, 0.9]],
    "gradient": [1.0, 1000.0],
}
CONTEXT = {
    "attention": [1.0, 1.0, 1.0, 1.0],
    "window of 8": [1.0, 1.0, 0.13, 0.12],
    "LSTM": [1.0, 0.9, 0.6, 0.3],
    "RNN": [1.0, 0.6, 0.2, 0.13],
}
POSITIONS = {
    positions_needed.MIRROR: {"with": 0.99, "without": 0.13},
    positions_needed.FREQUENT: {"with": 0.99, "without": 0.98},
    positions_needed.CAUSAL: {"with": 0.99, "without": 0.14},
}
PARALLEL = {"GPT": [30.0] * 4, "LSTM": [20.0, 19.0, 15.0, 10.0], "RNN": [30.0] * 4}
SPARSE = {
    name: arm(milliseconds=[1.0, 2.0, 4.0], megabytes=[1.0, 4.0, 16.0], near=0.1, far=0.1)
    for name in sparse_linear.NAMES
} | {"dense": arm(milliseconds=[2.0, 20.0, 200.0], megabytes=[1.0, 4.0, 16.0], near=0.0, far=0.0)}
SHOTS = {
    few_shot.LARGE: [0.12, 0.3, 0.5, 0.7, 0.9, 0.98],
    few_shot.NARROW: [0.12, 0.3, 0.5, 0.7, 0.8, 0.9],
    few_shot.SHALLOW: [0.12, 0.2, 0.3, 0.5, 0.6, 0.7],
}
SHARING = {
    sharing_albert.OWN: arm(gain=0.2, parameters=60_000, milliseconds=40.0),
    sharing_albert.SHARED: arm(gain=0.195, parameters=25_000, milliseconds=40.0),
    sharing_albert.ONE: arm(gain=0.1, parameters=22_000, milliseconds=15.0),
}
DISTILLED = {
    distilled.TEACHER: arm(gain=0.2, parameters=60_000),
    distilled.DISTILLED: arm(gain=0.195, parameters=42_000),
    distilled.LAYERS: arm(gain=0.18, parameters=42_000),
    distilled.ALONE: arm(gain=0.1, parameters=42_000),
}

# claim, a row, and what changes of it lead to which outcome
CASES = [
    (residual_depth, RESIDUAL, {}, "holds only when"),
    (residual_depth, RESIDUAL, {("plain", "accuracy", 0): 0.8, ("plain", "loss", 0): 0.8}, "holds"),
    (residual_depth, RESIDUAL, {("shortcuts", "accuracy", 2): 0.2}, "not seen here"),
    (channel_attention, CHANNEL, {}, "holds"),
    (channel_attention, CHANNEL, {("gate", "accuracy"): 0.94, ("gate", "loss"): 0.3}, "not seen here"),
    (
        channel_attention,
        CHANNEL,
        {("blind gate", "accuracy"): 0.98, ("blind gate", "loss"): 0.05},
        "not seen here",
    ),
    (depth_vgg, DEPTH, {}, "holds"),
    (depth_vgg, DEPTH, {(depth_vgg.DEEP, "accuracy"): 0.94}, "not seen here"),
    (depth_vgg, DEPTH, {(depth_vgg.SHALLOW, "accuracy"): 0.98}, "not seen here"),
    (inception_cheap, INCEPTION, {}, "holds"),
    (inception_cheap, INCEPTION, {(inception_cheap.EQUAL, "accuracy"): 0.97}, "not seen here"),
    (inception_cheap, INCEPTION, {(inception_cheap.WIDE, "accuracy"): 0.99}, "not seen here"),
    (separable_cheap, SEPARABLE, {}, "holds"),
    (separable_cheap, SEPARABLE, {(separable_cheap.SEPARABLE, "milliseconds"): 40.0}, "holds only when"),
    (separable_cheap, SEPARABLE, {(separable_cheap.SEPARABLE, "accuracy"): 0.93}, "not seen here"),
    (compound_scaling, COMPOUND, {}, "holds"),
    (compound_scaling, COMPOUND, {("resolution", "accuracy"): 0.98}, "holds only when"),
    (compound_scaling, COMPOUND, {("resolution", "accuracy"): 0.99}, "not seen here"),
    (dilation_field, DILATION, {}, "holds only when"),
    (dilation_field, DILATION, {(dilation_field.GRID, "miou"): 0.7}, "holds"),
    (dilation_field, DILATION, {(dilation_field.DILATED, "miou"): 0.4}, "not seen here"),
    (dilation_field, DILATION, {(dilation_field.DILATED, "parameters"): 10}, "not seen here"),
    (features_hierarchy, HIERARCHY, {}, "holds"),
    (features_hierarchy, HIERARCHY, {("trained", "edge", 4): 0.9}, "holds only when"),
    (features_hierarchy, HIERARCHY, {("untrained", "class", 4): 0.99}, "not seen here"),
    (features_learned, LEARNED, {}, "holds"),
    (features_learned, LEARNED, {("LeNet-5", 0): 0.8}, "holds only when"),
    (features_learned, LEARNED, {("pixels, linear", 0): 0.9}, "not seen here"),
    (vit_data, VIT, {}, "holds only when"),
    (vit_data, VIT, {("ViT", "affine", 2): 0.9}, "holds"),
    (vit_data, VIT, {("ViT", "none", 0): 0.85}, "not seen here"),
    (vit_data, VIT, {("ViT", "none", 2): 0.5}, "not seen here"),
    (rnn_forgets, FORGETS, {}, "holds"),
    (rnn_forgets, FORGETS, {("RNN, rotation", 3): 0.1}, "holds only when"),
    (rnn_forgets, FORGETS, {("RNN", 3): 0.3}, "not seen here"),
    (rnn_forgets, FORGETS, {("LSTM", 3): 0.9}, "not seen here"),
    (lstm_remembers, REMEMBERS, {}, "holds only when"),
    (lstm_remembers, REMEMBERS, {("LSTM", 2): 0.1, ("LSTM", 3): 0.2}, "holds"),
    (lstm_remembers, REMEMBERS, {("RNN", 0): 0.05, ("RNN", 1): 0.05}, "not seen here"),
    (gru_comparable, GRU, {}, "holds"),
    (gru_comparable, GRU, {("GRU", "copying"): 0.6}, "holds only when"),
    (gru_comparable, GRU, {(name, "copying"): 0.6 for name in gru_comparable.ARMS[1:3]}, "not seen here"),
    (gru_comparable, GRU, {("GRU", "copying"): 0.75}, "holds only when"),
    (gru_comparable, GRU, {("RNN",): dict.fromkeys(gru_comparable.TASKS, 0.9)}, "not seen here"),
    (bidirectional, BOTH_WAYS, {}, "holds only when"),
    (bidirectional, BOTH_WAYS, {(bidirectional.BOTH, "end"): 1.5}, "holds"),
    (bidirectional, BOTH_WAYS, {(bidirectional.BOTH, "f1"): 0.5}, "not seen here"),
    (attention_translates, TRANSLATES, {}, "holds"),
    (attention_translates, TRANSLATES, {("attention", 1): 1.9}, "holds only when"),
    (attention_translates, TRANSLATES, {("attention", 4): 0.2}, "not seen here"),
    (attention_translates, TRANSLATES, {("single vector", 1): 0.2}, "not seen here"),
    (global_context, CONTEXT, {}, "holds"),
    (global_context, CONTEXT, {("LSTM", 3): 1.01}, "holds only when"),
    (global_context, CONTEXT, {("attention", 3): 0.2}, "not seen here"),
    (global_context, CONTEXT, {("window of 8", 3): 0.9}, "not seen here"),
    (positions_needed, POSITIONS, {}, "holds"),
    (positions_needed, POSITIONS, {(positions_needed.CAUSAL, "without"): 0.9}, "holds only when"),
    (positions_needed, POSITIONS, {(positions_needed.MIRROR, "without"): 0.9}, "not seen here"),
    (positions_needed, POSITIONS, {(positions_needed.FREQUENT, "without"): 0.3}, "not seen here"),
    (parallel, PARALLEL, {}, "holds"),
    (parallel, PARALLEL, {("GPT", 0): 10.0}, "holds only when"),
    (parallel, PARALLEL, {("GPT",): [5.0] * 4}, "not seen here"),
    (sparse_linear, SPARSE, {}, "holds"),
    (sparse_linear, SPARSE, {("window", "far"): 1.0}, "holds only when"),
    (sparse_linear, SPARSE, {("window", "milliseconds", 0): 9.0}, "holds only when"),
    (sparse_linear, SPARSE, {("dense", "milliseconds", 2): 1.0}, "not seen here"),
    (few_shot, SHOTS, {}, "holds"),
    (few_shot, SHOTS, {(few_shot.SHALLOW, 5): 0.3}, "holds only when"),
    (few_shot, SHOTS, {(name, 5): 0.2 for name in few_shot.SIZES}, "not seen here"),
    (sharing_albert, SHARING, {}, "holds"),
    (sharing_albert, SHARING, {(sharing_albert.SHARED, "gain"): 0.12}, "not seen here"),
    (sharing_albert, SHARING, {(sharing_albert.ONE, "gain"): 0.21}, "not seen here"),
    (distilled, DISTILLED, {}, "holds"),
    (distilled, DISTILLED, {(distilled.LAYERS, "gain"): 0.21}, "holds only when"),
    (distilled, DISTILLED, {(distilled.DISTILLED, "gain"): 0.12}, "not seen here"),
    (distilled, DISTILLED, {(distilled.ALONE, "gain"): 0.21}, "not seen here"),
]


def case_id(case):
    return getattr(case, "__name__", str(case)).rpartition(".")[2] if not isinstance(case, dict) else "row"


@pytest.mark.parametrize(("module", "row", "changes", "outcome"), CASES, ids=case_id)
def test_verdict_follows_from_the_numbers(module, row, changes, outcome):
    rows = seeds_of(with_changes(row, changes))
    if module is parallel:
        rows = seeds_of(with_changes(row, changes), 0.05)
    verdict = module.judge(rows)
    print(verdict)
    assert verdict.outcome == outcome
    assert verdict.differences


def test_exploding_clip_counts_failed_runs_of_long_sequences():
    def rows(short, long):
        made = []
        for seed in range(3):  # failures of different rates, so that the share has a spread
            row = copy.deepcopy(CLIP)
            for i, count in enumerate((short, long)):
                failing = min(4, count + (seed == 2)) if count else 0
                row["not clipped"][i] = [0.1] * (4 - failing) + [1e6] * failing
            row["gradient"] = [1.0 + seed, 1000.0]
            made.append(row)
        return made

    judge = exploding_clip.judge
    assert judge(rows(0, 2)).outcome == "holds"
    assert judge(rows(2, 2)).outcome == "holds only when"
    assert judge(rows(2, 0)).outcome == "not seen here"
