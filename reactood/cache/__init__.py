"""Keep features on disk, so that each image goes through a model only once."""

from reactood.cache._feature_cache import FeatureCache

__all__ = [
    "FeatureCache",
]
