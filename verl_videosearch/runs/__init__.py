"""Playing many pairs: what was played (`record`), how many are played (`jobs`), where it lies
(`folder`), what it was (`identity`)."""
