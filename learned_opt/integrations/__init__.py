"""What tells a LearnedOptimizer inside a library what only the library knows; each module needs its library.

`stable_baselines3` and `lightning` have a callback and `torchrl` a hook for its trainer; `skrl` and `rsl_rl`
exchange the optimizers of agents that take no class; `optax` has the rules for JAX. All are optional:
without them every rule works, and knows neither how long training will be nor where rollouts begin.
"""
