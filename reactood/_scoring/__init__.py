"""From features to scores: heads, the clip, exact percentiles, scores."""
