"""Intervals, scores, shares and times to a target."""
