"""What does every step of the method bring?  The pieces of ``benchmarks/ablation.py``."""
