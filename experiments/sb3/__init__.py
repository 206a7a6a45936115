"""The shipped rule inside Stable-Baselines3, beside Adam: real clients, on which nothing was ever tuned."""
