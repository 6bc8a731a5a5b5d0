"""Whether less of a metric is better: by its legend, or the words of its name."""

from torchstone.parts.metrics.legend import legend

# words in the name of a metric without a legend
LESS = (
    *("loss", "error", "errors", "perplexity", "bits", "nll", "mse", "mae", "rmse", "fid", "kl", "distance"),
    *("entropy", "dimension", "gap", "collapse"),
)


def is_lower_better(metric: str) -> bool:
    """Of `val/cross_entropy` and `frechet_distance` less is better, of `accuracy` and `return` more."""
    meaning = legend(metric)
    if meaning is not None and meaning.better:
        return meaning.better == "lower"
    words = metric.lower().replace("/", "_").replace("-", "_").split("_")
    return any(word in LESS for word in words)
