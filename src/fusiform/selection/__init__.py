"""The most accurate network within milliseconds and megabytes, found by measuring and training.

Speed and size hang on a network's shape alone, so every network, input size and precision is measured first, with
random weights. Of those that fit, the promising ones are trained by successive halving (arXiv 1502.07943): all for a
quarter of the epochs, the better half in full. The finalists are exported, verified and measured again; what does not
hold the budget then is not chosen.
"""
