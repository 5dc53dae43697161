"""One recommender for many product domains that share users."""

__version__ = "0.1.0"
