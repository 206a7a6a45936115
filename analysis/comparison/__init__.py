"""The experiment: rules and tuned baselines on the same tasks."""
