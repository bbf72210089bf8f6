"""One file per op family: what each op couples, sums over, factors, and costs."""
