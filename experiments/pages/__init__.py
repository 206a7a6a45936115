"""Pages of results: prose beside tables that are computed from the stored results."""
