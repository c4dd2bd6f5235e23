"""Evaluation: rank classification and its reports."""
