"""Games that a system learns by playing itself: training, arena, and play against a person."""
