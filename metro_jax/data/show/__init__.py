"""Looking at data: decoded examples in colour, and figures on lengths, padding and truncation."""
