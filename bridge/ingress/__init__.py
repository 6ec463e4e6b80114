"""Stage 1: HTTP request to Delivery."""
