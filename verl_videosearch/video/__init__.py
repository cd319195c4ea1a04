"""What pixels a pair has: `container` (is the file whole?), `decode` (the only decoder), `store`
(decoded once), `pair` (both videos)."""
