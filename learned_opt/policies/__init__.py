"""Networks of B learners side by side, and the distributions of actions that they parametrise."""
