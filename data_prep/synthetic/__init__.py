"""Parts of the programs that make pairs with a known truth: defects, clips, lossless files."""
