"""The five printed reports rebuilt, with the original's own fitting procedures."""
