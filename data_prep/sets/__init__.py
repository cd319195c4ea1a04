"""Parts of the programs that read and prepare data sets."""
