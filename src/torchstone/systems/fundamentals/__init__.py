"""Where it began: the perceptron, back-propagation, the multi-layer perceptron."""
