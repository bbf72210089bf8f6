"""What needs PyTorch, the optional extra `torch`: imported only where it is asked for."""
