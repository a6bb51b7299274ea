"""Phase 2: the token block learned with the contexts frozen."""
