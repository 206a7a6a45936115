"""Tables, figures, pages and videos."""
