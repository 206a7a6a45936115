"""The shipped rule inside Stable-Baselines3, beside Adam: a real library, on which nothing was ever tuned."""
