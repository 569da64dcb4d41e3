"""One base in several precisions: what coarser weights do to a trait's vector."""
