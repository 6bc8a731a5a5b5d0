"""Whether less of a metric is better, by the words of its name."""

LESS = (
    *("loss", "error", "errors", "perplexity", "bits", "nll", "mse", "mae", "rmse", "fid", "kl", "distance"),
    *("entropy", "dimension", "gap", "collapse"),
)


def is_lower_better(metric: str) -> bool:
    """Of `val/cross_entropy` and `frechet_distance` less is better, of `accuracy` and `return` more."""
    words = metric.lower().replace("/", "_").replace("-", "_").split("_")
    return any(word in LESS for word in words)
