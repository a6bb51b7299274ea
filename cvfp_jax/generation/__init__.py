"""Phase 1: the context block learned by fixed-point iteration."""
