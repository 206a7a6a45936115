"""Studies and makers of stored data, outside the installed package."""
