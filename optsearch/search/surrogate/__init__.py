"""What designs that were not tried are likely to come to: conditional spaces as numbers, kernels on them, models."""
