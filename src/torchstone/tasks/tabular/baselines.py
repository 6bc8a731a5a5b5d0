"""What a network on a table is held against: scikit-learn's linear model and gradient boosting."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray as Array

from torchstone.data.tabular.encoding import CategoryColumn, NumberColumn
from torchstone.data.tabular.mixed import MixedTable

SEED = 0
ITERATIONS = 2000  # of the logistic regression, at most


def predict_baselines(table: MixedTable, *, balanced: bool) -> dict[str, Array]:
    """Predictions for the test rows of models fitted to the training rows, with scikit-learn's defaults.

    `linear` is logistic or ridge regression on standardized numbers and one-hot categories, `boosting`
    histogram gradient boosting, which reads missing values and categories itself.

    Args:
        balanced: weigh classes by one over their frequency.

    Returns:
        Class numbers, or values in regression, of each test row.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    columns = table.schema.columns
    (train, y), (test, _) = (
        (x.double().numpy(), labels.numpy()) for x, labels in map(table.rows_of, ("train", "test"))
    )
    settings: dict[str, Any] = {"categorical_features": [isinstance(c, CategoryColumn) for c in columns]}
    if table.classes:
        weights = "balanced" if balanced else None
        linear: Any = LogisticRegression(max_iter=ITERATIONS, class_weight=weights)
        boosting: Any = HistGradientBoostingClassifier(random_state=SEED, class_weight=weights, **settings)
    else:
        linear, boosting = Ridge(), HistGradientBoostingRegressor(random_state=SEED, **settings)
    linear.fit(_one_hot(train, columns), y)
    boosting.fit(_with_gaps(train, columns), y)
    return {
        "linear": linear.predict(_one_hot(test, columns)),
        "boosting": boosting.predict(_with_gaps(test, columns)),
    }


def _one_hot(x: Float64[Array, "rows columns"], columns: Sequence[Any]) -> Float64[Array, "rows inputs"]:
    """Standardized numbers, with the median where they are missing and a column that says so; and a column
    for each category."""
    inputs = []
    for values, column in zip(x.T, columns, strict=True):
        if isinstance(column, NumberColumn):
            missing = np.isnan(values)
            inputs.append((np.where(missing, column.median, values) - column.mean) / column.std)
            inputs += [missing.astype(float)] * column.has_missing
        else:
            inputs += [(values == code).astype(float) for code in range(1, len(column.values) + 1)]
    return np.column_stack(inputs)


def _with_gaps(x: Float64[Array, "rows columns"], columns: Sequence[Any]) -> Float64[Array, "rows columns"]:
    """NaN for a category that is missing, as for a number."""
    is_category = np.array([isinstance(column, CategoryColumn) for column in columns])
    return np.where(is_category & (x == 0), np.nan, x)
