"""The five printed reports, rebuilt from their own tables."""
