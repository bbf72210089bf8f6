"""The proof: the pruned model computes what the original does with the removed parts masked."""
