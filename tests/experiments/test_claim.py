"""Verdicts: what the numbers must be for each, and that they are computed from the numbers alone."""

import pytest

from torchstone.errors import BadInput
from torchstone.experiments import catalogue, page, running
from torchstone.experiments.claim import paired
from torchstone.experiments.claims import (
    adam_faster,
    data_dependency,
    leaky_alive,
    relu_cures,
    sgd_generalizes,
    sigmoid_vanishes,
    xavier_he,
)
from torchstone.experiments.overfitting import judge_gaps

OUTCOMES = ("holds", "holds only when", "not seen here")


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_claim_module_holds_what_it_should_and_names_itself(name):
    module = catalogue.read_claim(name)
    assert module.CLAIM.name == name
    assert len(module.CLAIM.seeds) >= 3
    assert all(callable(each) for each in (module.measure, module.judge, module.draw))


def test_claim_has_a_record_or_a_reason_why_not():
    recorded = {name for name in catalogue.NAMES if running.record_of(name) is not None}
    print(f"{len(recorded)} of {len(catalogue.NAMES)} measured")
    assert recorded == set(catalogue.NAMES) - catalogue.UNMEASURED.keys(), "python -m torchstone.tools.claims"


@pytest.mark.parametrize("name", sorted(set(catalogue.NAMES) - catalogue.UNMEASURED.keys()))
def test_claim_record_of_three_seeds_has_a_verdict_and_a_figure(name):
    record = running.record_of(name)
    assert record is not None, f"python -m torchstone.tools.claims {name}"
    assert len(record.seeds) == len(record.rows) == len(record.core_seconds) >= 3
    verdict = record.verdict()
    print(f"{name}: {verdict}")
    assert verdict.outcome in OUTCOMES
    assert verdict.differences
    assert page.figure_of(name).exists()
    assert f"| [{name}](#{name}) |" in page.page()


def test_claim_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match=r"no claim 'relu-cure': did you mean relu-cures"):
        catalogue.read_claim("relu-cure")


def test_paired_differences_keep_their_sign_and_want_equal_counts():
    above, below = (
        paired("d", [3.0, 3.1, 2.9], [1.0, 1.2, 0.8]),
        paired("d", [1.0, 1.2, 0.8], [3.0, 3.1, 2.9]),
    )
    assert (above.is_above_zero, above.is_below_zero) == (True, False)
    assert (below.is_above_zero, below.is_below_zero) == (False, True)
    assert not paired("d", [3.0], [1.0]).is_above_zero  # one seed shows nothing
    assert not paired("d", [3.0, 1.0, 1.0], [1.0, 1.0, 2.0]).is_above_zero
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired("d", [1.0, 2.0], [1.0])


def rows_of(values: dict, count: int = 3) -> list[dict]:
    """Rows that differ by a little, so that differences have a spread."""

    def shifted(value, by):
        if isinstance(value, dict):
            return {key: shifted(each, by) for key, each in value.items()}
        if isinstance(value, list):
            return [shifted(each, by * (1 + 0.1 * i)) for i, each in enumerate(value)]
        return value + by

    return [
        {
            key: shifted(value, 1e-4 * seed * (1 + number))
            for number, (key, value) in enumerate(values.items())
        }
        for seed in range(count)
    ]


def test_sigmoid_vanishes_holds_only_if_the_others_keep_their_gradients():
    falls, stays = [-1.0, -3, -6, -12, -18], [0.0, 0, 0, 0, 0]
    names = list(sigmoid_vanishes.NETWORKS)
    judge = sigmoid_vanishes.judge
    assert judge(rows_of(dict(zip(names, [falls, stays, stays], strict=True)))).outcome == "holds"
    # the control: if all fall, the experiment cannot blame the sigmoid
    assert judge(rows_of(dict.fromkeys(names, falls))).outcome == "not seen here"
    assert judge(rows_of(dict.fromkeys(names, stays))).outcome == "not seen here"


def test_relu_cures_depends_on_initialization_if_the_small_one_fails():
    fine, fails = [0.95] * 5, [0.95, 0.9, 0.5, 0.2, 0.1]
    row = {"sigmoid, Xavier": fails, "tanh, Xavier": fine, "ReLU, He": fine, "ReLU, 1/fan-in": fails}
    assert relu_cures.judge(rows_of(row)).outcome == "holds only when"
    assert relu_cures.judge(rows_of(row | {"ReLU, 1/fan-in": fine})).outcome == "holds"
    assert relu_cures.judge(rows_of(row | {"ReLU, He": fails})).outcome == "not seen here"


def test_leaky_alive_holds_only_when_the_rate_is_high():
    def arm(still_off):
        return {"off": still_off, "still off": still_off, "accuracy": [0.9] * 4}

    high = {"ReLU": arm([0.05, 0.3, 0.4, 0.8]), "leaky ReLU": arm([0.05, 0.1, 0.1, 0.2])}
    assert leaky_alive.judge(rows_of(high)).outcome == "holds only when"
    always = {"ReLU": arm([0.3, 0.3, 0.4, 0.8]), "leaky ReLU": arm([0.05, 0.1, 0.1, 0.2])}
    assert leaky_alive.judge(rows_of(always)).outcome == "holds"
    never = {"ReLU": arm([0.1] * 4), "leaky ReLU": arm([0.1] * 4)}
    assert leaky_alive.judge(rows_of(never)).outcome == "not seen here"


def test_xavier_he_wants_the_scale_kept_and_lost():
    row = {
        "ratio": {"He, 2/in": 1.1, "Xavier, 2/(in + out)": 5e-5, "1/in": 5e-5},
        "accuracy": {"He, 2/in": 0.96, "1/in": 0.1},
        "accuracy with batch norm": {"He, 2/in": 0.97, "1/in": 0.97},
    }
    assert xavier_he.judge([row] * 3).outcome == "holds only when"
    without = row | {"accuracy with batch norm": {"He, 2/in": 0.97, "1/in": 0.4}}
    assert xavier_he.judge([without] * 3).outcome == "holds"
    grows = row | {"ratio": row["ratio"] | {"He, 2/in": 30.0}}
    assert xavier_he.judge([grows] * 3).outcome == "not seen here"


def test_data_dependency_names_the_largest_size_at_which_the_network_is_behind():
    row = {
        "LeNet-5": [0.3, 0.6, 0.85, 0.95, 0.98],
        "logistic regression": [0.5, 0.7, 0.8, 0.86, 0.9],
        "nearest neighbor": [0.5, 0.7, 0.8, 0.86, 0.9],
    }
    verdict = data_dependency.judge(rows_of(row))
    assert verdict.outcome == "holds only when"
    assert "at most 100 examples" in verdict.finding
    ahead = row | {"LeNet-5": [0.9] * 5}
    assert data_dependency.judge(rows_of(ahead)).outcome == "not seen here"


def optimizer_rows(steps: dict, test: dict) -> list[dict]:
    return rows_of(
        {
            network: {
                name: {
                    "steps": [s] * 6,
                    "val": [0.5, 0.9, 0.5, 0.5, 0.5, 0.5],
                    "test": [0.99, t, 0.99, 0.99, 0.99, 0.99],
                }
                for name, s, t in zip(("sgd", "adam"), steps[network], test[network], strict=True)
            }
            for network in adam_faster.LEVELS
        }
    )


def test_adam_faster_and_sgd_generalizes_take_the_rate_that_is_best_by_validation():
    equal = {"LeNet-5": (0.9, 0.9), "transformer": (0.9, 0.9)}
    both = optimizer_rows({"LeNet-5": (90, 50), "transformer": (200, 80)}, equal)
    one = optimizer_rows(
        {"LeNet-5": (50, 50), "transformer": (200, 80)}, {**equal, "transformer": (0.8, 0.9)}
    )
    assert adam_faster.judge(both).outcome == "holds"
    assert adam_faster.judge(one).outcome == "holds only when"
    # 0.99 of a rate that validation does not choose counts for nothing
    assert sgd_generalizes.judge(both).outcome == "holds"
    assert sgd_generalizes.judge(one).outcome == "holds only when"


def test_gaps_must_close_and_tests_must_gain():
    def row(gap, test):
        return {"train": [t + g for g, t in zip(gap, test, strict=True)], "val": test, "test": test}

    plain = row([0.1, 0.05], [0.9, 0.95])
    assert (
        judge_gaps(rows_of({"p": plain, "r": row([0.02, 0.01], [0.93, 0.97])}), "p", "r").outcome == "holds"
    )
    few = judge_gaps(rows_of({"p": plain, "r": row([0.02, 0.05], [0.93, 0.95])}), "p", "r")
    assert few.outcome == "holds only when"
    assert "few" in few.finding
    closes = judge_gaps(rows_of({"p": plain, "r": row([0.0, 0.0], [0.8, 0.9])}), "p", "r")
    assert closes.outcome == "not seen here"
    assert "gain nothing" in closes.finding
