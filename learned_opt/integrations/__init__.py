"""What tells a LearnedOptimizer inside a library what only the library knows; each module needs its library.

`stable_baselines3` has a callback and `torchrl` a hook for its trainer. Both are optional: without them
every rule works, and knows neither how long training will be nor where rollouts begin.
"""
