"""What a rule does: its response curves."""
