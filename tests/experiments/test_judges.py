"""Each claim's judge: numbers for which the claim holds, and numbers whose arms are exchanged."""

import numpy as np
import pytest

from torchstone.experiments import figures
from torchstone.experiments.claims import (
    adamw_decoupled,
    augmentation,
    batchnorm_stabilizes,
    cosine,
    data_quality,
    decay,
    dropout,
    early_stopping,
    label_smoothing,
    learning_rate,
    momentum_valley,
    translation,
    weight_sharing,
)

JITTER = (-1.0, 0.0, 1.0)  # of three seeds


def seeds_of(make):
    """A row for each seed from `make(by)`, whose numbers differ a little."""
    return [make(by) for by in JITTER]


@pytest.mark.parametrize(
    ("module", "plain", "better"),
    [
        (dropout, "plain", "dropout"),
        (decay, "plain", "decay"),
        (early_stopping, "last", "best"),
        (label_smoothing, "plain", "smoothed"),
    ],
)
def test_regularizers_hold_if_the_gap_closes_and_tests_gain(module, plain, better):
    def rows(first, second):
        def make(by):
            wide = {"train": [1.0, 1.0], "val": [0.9, 0.9], "test": [0.88 + 0.001 * by, 0.94]}
            narrow = {"train": [0.99, 0.99], "val": [0.95, 0.95], "test": [0.92, 0.96 + 0.001 * by]}
            extra = {"strong decay": {"train": [0.5, 0.5], "val": [0.5, 0.5], "test": [0.5, 0.5]}}
            return {first: wide, second: narrow} | (extra if module is decay else {})

        return seeds_of(make)

    assert module.judge(rows(plain, better)).outcome == "holds"
    exchanged = [{k: r[k] for k in (plain, better, *r)} for r in rows(better, plain)]
    if module is decay:  # the better decay by validation is judged
        for row in exchanged:
            row["strong decay"]["val"] = [0.0, 0.0]
    assert module.judge(exchanged).outcome == "not seen here"


def test_adamw_decoupled_wants_a_better_test_and_a_steadier_decay():
    def make(by):
        steady = {"val": [[0.1, 0.9, 0.2]] * 4, "test": [[0.5, 0.95 + 0.001 * by, 0.5]] * 4}
        moving = {"val": np.roll(np.eye(4)[:, :3], 1, 0).tolist(), "test": [[0.9, 0.9, 0.9]] * 4}
        moving["val"] = [[0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.9, 0.1, 0.1], [0.1 + 1e-3 * by, 0.1, 0.9]]
        return {"adamw": steady, "adam": moving}

    rows = seeds_of(make)
    assert adamw_decoupled.judge(rows).outcome == "holds"
    exchanged = [{"adamw": row["adam"], "adam": row["adamw"]} for row in rows]
    assert adamw_decoupled.judge(exchanged).outcome == "not seen here"


def test_augmentation_must_make_robust_and_the_wrong_one_must_not_help():
    def rows(affine, mirrored):
        def make(by):
            return {
                "none": {"clean": [0.95, 0.97], "transformed": [0.8, 0.85]},
                "affine": {"clean": [0.96, 0.98], "transformed": [affine + 0.001 * by] * 2},
                "mirrored": {"clean": [mirrored + 0.001 * by] * 2, "transformed": [0.7, 0.7]},
            }

        return seeds_of(make)

    assert augmentation.judge(rows(0.95, 0.9)).outcome == "holds only when"
    assert augmentation.judge(rows(0.7, 0.9)).outcome == "not seen here"
    assert augmentation.judge(rows(0.95, 0.99)).outcome == "not seen here"


def test_batchnorm_stabilizes_names_small_batches_where_it_harms():
    def rows(fast, slow, small):
        def make(by):
            def arm(steps, accuracy):
                return {"steps": [steps + by] * 7, "accuracy": accuracy}

            return {
                "plain": arm(slow, [0.9] * 3 + [0.1] * 4),
                "batch norm": arm(fast, [0.9] * 7),
                "batch norm, then noise": arm(fast + 10, [0.9] * 7),
                "plain, batches of 2": arm(800, [0.6] * 7),
                "norm, batches of 2": arm(800, [small + 0.001 * by] * 7),
            }

        rows = seeds_of(make)
        for by, row in zip(JITTER, rows, strict=True):  # one seed trains at one rate more
            row["plain"]["accuracy"][3] = 0.9 if by > 0 else 0.1
            row["batch norm"]["steps"] = [fast - by] * 7
        return rows

    assert batchnorm_stabilizes.judge(rows(70, 200, 0.3)).outcome == "holds only when"
    assert batchnorm_stabilizes.judge(rows(70, 200, 0.9)).outcome == "holds"
    assert batchnorm_stabilizes.judge(rows(200, 70, 0.3)).outcome == "not seen here"


def test_cosine_takes_the_rate_that_is_best_by_validation():
    def rows(best):
        def make(by):
            def arm(test):
                return {"val": [0.5, 0.9, 0.1], "test": [1.0, test, 1.0]}

            low = {name: arm(0.96) for name in cosine.SCHEDULES if name != "cosine"}
            return low | {"cosine": arm(best + 0.001 * by)}

        return seeds_of(make)

    assert cosine.judge(rows(0.98)).outcome == "holds"
    assert cosine.judge(rows(0.95)).outcome == "not seen here"


def test_data_quality_wants_labels_to_harm_more_than_copies():
    def rows(wrong, copies):
        def make(by):
            return {
                "wrong labels": [0.97, 0.9, 0.9, 0.9, wrong + 0.001 * by],
                "copies": [0.97] * 4 + [copies],
            }

        return seeds_of(make)

    assert data_quality.judge(rows(0.8, 0.95)).outcome == "holds"
    assert data_quality.judge(rows(0.8, 0.7)).outcome == "not seen here"
    assert data_quality.judge(rows(0.97, 0.99)).outcome == "not seen here"


def test_learning_rate_wants_both_sides_worse():
    valley = [10.0, 3, 1, 0.3, 0.1, 0.3, 1, 10]

    def rows(losses):
        return seeds_of(
            lambda by: {name: [x * (1 + 0.01 * by) for x in losses] for name in learning_rate.OPTIMIZERS}
        )

    def uneven(losses):
        rows_ = rows(losses)
        rows_[0] = {name: [x * (1 + 0.02 * i) for i, x in enumerate(v)] for name, v in rows_[0].items()}
        return rows_

    assert learning_rate.judge(uneven(valley)).outcome == "holds"
    assert learning_rate.judge(uneven(sorted(valley))).outcome == "not seen here"


def test_momentum_valley_wants_narrow_valleys_crossed_and_round_ones_alike():
    def rows(momentum, network):
        def make(by):
            return {
                "plain": [1, 20 + by, 200 + by, 2000 + by, 20_000 + by],
                "momentum": [1, *(value + by * (1 + i) for i, value in enumerate(momentum))],
                "network": {
                    "plain": {"steps": 100, "rate": 1},
                    "momentum": {"steps": network + by, "rate": 1},
                },
            }

        return seeds_of(make)

    assert momentum_valley.judge(rows([18, 40, 130, 400], 50)).outcome == "holds"
    assert momentum_valley.judge(rows([18, 40, 130, 400], 120)).outcome == "holds only when"
    assert momentum_valley.judge(rows([18, 300, 3000, 30_000], 50)).outcome == "not seen here"


def test_translation_is_less_sensitive_and_not_invariant():
    def rows(pooling, change):
        def make(by):
            def arm(value):
                return {"accuracy": [value + 0.001 * by] * len(translation.SHIFTS), "change": change}

            arms = {"stride": arm(0.5), "pooling": arm(pooling), "pooling, augmented": arm(0.9)}
            arms["pooling"]["accuracy"] = [pooling] * len(translation.SHIFTS)
            return arms | {"stride, augmented": arm(0.4 if change == 0 else 0.9)}

        return seeds_of(make)

    assert translation.judge(rows(0.7, 0.05)).outcome == "holds only when"
    assert translation.judge(rows(0.7, 0)).outcome == "holds"
    assert translation.judge(rows(0.3, 0.05)).outcome == "not seen here"


def test_weight_sharing_counts_parameters_and_accuracy():
    def rows(local):
        def make(by):
            numbers = {name: {"parameters": 300_000, "accuracy": 0.9} for name in weight_sharing.NETWORKS}
            numbers[weight_sharing.CONVOLUTION] = {"parameters": 18_000, "accuracy": 0.96 + 0.001 * by}
            numbers[weight_sharing.LOCAL] = {"parameters": 270_000, "accuracy": local}
            return numbers

        return seeds_of(make)

    assert weight_sharing.judge(rows(0.9)).outcome == "holds"
    assert weight_sharing.judge(rows(0.96)).outcome == "holds only when"
    assert weight_sharing.judge(rows(0.99)).outcome == "not seen here"


def test_figures_have_a_panel_for_each_entry_and_a_line_for_each_name():
    lines = {"a": [[1.0, 2.0], [2.0, 3.0]], "b": [[0.0, 1.0], [0.0, 1.0]]}
    figure = figures.curves({"first": lines, "second": lines}, [1, 2], "x", ylim=(0, 5))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["first", "second"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.5, 2.5]
    figure = figures.bars({"only": {"a": [1.0, 3.0], "b": [2.0]}})
    assert [patch.get_height() for patch in figure.axes[0].patches] == [2.0, 2.0]
