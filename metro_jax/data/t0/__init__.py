"""The T0 data: which tasks there are, from where their text comes, and how they become prepared records (spec 6, 7)."""
