"""From torch functions of a task family to a program that compiled code runs."""
