"""Low-precision variants of a bundle. No torch."""
