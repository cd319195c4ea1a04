"""Parts of the programs that make traces: teachers, players, filters, selection, reports."""
