"""Makers of the reference returns that task families store."""
