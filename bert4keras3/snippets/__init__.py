"""Helpers of the documents for text and data."""
