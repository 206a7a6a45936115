"""Compiled code on plain arrays; it knows no reinforcement learning."""
