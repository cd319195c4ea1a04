"""Programs that turn public or synthetic preference data into training rows: `python -m
data_prep.NAME --help`."""
