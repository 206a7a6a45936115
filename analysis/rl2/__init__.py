"""Trials of policies that adapt in context, and reference learners beside them."""
