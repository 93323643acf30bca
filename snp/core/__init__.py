"""What is the mathematics of subspace node pruning?  Pure functions of tensors; torch is their only import."""
