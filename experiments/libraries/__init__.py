"""LearnedOptimizer in each library: what works, found by running it."""
