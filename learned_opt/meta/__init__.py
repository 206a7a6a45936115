"""Meta-training: how update rules are learned."""
