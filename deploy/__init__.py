"""Shipping: export, quantise, measure and serve segmentation networks."""
