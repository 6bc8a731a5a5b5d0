"""From next-token probabilities to text: sampling, greedy search and beam search."""
