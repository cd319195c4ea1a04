"""Static pages: tables, plots and text in one HTML file that asks nobody for anything."""
