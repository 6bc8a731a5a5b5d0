"""From next-token probabilities to text: sampling and beam search."""
