"""Which of two videos is better, why, and what was looked at."""
