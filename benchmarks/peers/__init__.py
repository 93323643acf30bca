"""How do other methods do on the same networks, images and costs?  Used by benchmarks only."""
