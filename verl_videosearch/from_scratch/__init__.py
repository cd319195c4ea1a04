"""What only a model of random weights needs: a tiny model, and captions that teach it to see."""
