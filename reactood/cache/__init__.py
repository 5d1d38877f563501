"""Keep features on disk, so that no image goes through a model twice."""

from reactood.cache._feature_cache import FeatureCache

__all__ = [
    "FeatureCache",
]
